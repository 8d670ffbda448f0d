from . import (
    active,
    analysis,
    backbone,
    cache,
    cardiac,
    data,
    downstream,
    evaluation,
    export,
    parcels,
    report,
    search,
    supervised,
)
from ._version import __version__
from .backbone.load import load_backbone
from .downstream.neighbors import WeightedKNNClassifier
from .downstream.probes.decoder import DecoderProbe
from .downstream.probes.linear import LinearProbe
from .downstream.whitebox.prior import ParcelPrior
from .downstream.whitebox.segmenter import ParcelSegmenter
from .downstream.whitebox.selection import ParcelSelector
from .downstream.whitebox.several import load_white_boxes
from .downstream.whitebox.steps import PostProcessing
from .parcels.heads import RaptorHead
from .parcels.kmeans import KMeansParcels
from .parcels.model import load_parcels
from .supervised.ensemble import EnsembleSegmenter

__all__ = [
    "DecoderProbe",
    "EnsembleSegmenter",
    "KMeansParcels",
    "LinearProbe",
    "ParcelPrior",
    "ParcelSegmenter",
    "ParcelSelector",
    "PostProcessing",
    "RaptorHead",
    "WeightedKNNClassifier",
    "__version__",
    "active",
    "analysis",
    "backbone",
    "cache",
    "cardiac",
    "data",
    "downstream",
    "evaluation",
    "export",
    "load_backbone",
    "load_parcels",
    "load_white_boxes",
    "parcels",
    "report",
    "search",
    "supervised",
]
