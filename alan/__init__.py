"""ALAN, the Adaptive Locked Agnostic Network: a locked backbone, parcels, and white-box models on top.

The public names below are imported when they are first used, so ``import alan`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from alan._version import __version__

if TYPE_CHECKING:
    from alan.backbone.load import load_backbone
    from alan.downstream.neighbors import WeightedKNNClassifier
    from alan.downstream.readouts.decoder import DecoderReadout
    from alan.downstream.readouts.linear import LinearReadout
    from alan.downstream.whitebox.prior import ParcelPrior
    from alan.downstream.whitebox.segmenter import ParcelSegmenter
    from alan.downstream.whitebox.selection import ParcelSelector
    from alan.parcels.heads import RaptorHead
    from alan.parcels.kmeans import KMeansParcels
    from alan.parcels.model import load_parcels
    from alan.supervised.ensemble import EnsembleSegmenter

__all__ = [
    "DecoderReadout",
    "EnsembleSegmenter",
    "KMeansParcels",
    "LinearReadout",
    "ParcelPrior",
    "ParcelSegmenter",
    "ParcelSelector",
    "RaptorHead",
    "WeightedKNNClassifier",
    "__version__",
    "load_backbone",
    "load_parcels",
]

_HOME = {
    "DecoderReadout": "alan.downstream.readouts.decoder",
    "EnsembleSegmenter": "alan.supervised.ensemble",
    "KMeansParcels": "alan.parcels.kmeans",
    "LinearReadout": "alan.downstream.readouts.linear",
    "ParcelPrior": "alan.downstream.whitebox.prior",
    "ParcelSegmenter": "alan.downstream.whitebox.segmenter",
    "ParcelSelector": "alan.downstream.whitebox.selection",
    "RaptorHead": "alan.parcels.heads",
    "WeightedKNNClassifier": "alan.downstream.neighbors",
    "load_backbone": "alan.backbone.load",
    "load_parcels": "alan.parcels.model",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'alan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
