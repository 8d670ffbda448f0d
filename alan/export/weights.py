"""Weights of a parcel model in a folder of their own."""

from __future__ import annotations

from pathlib import Path

from alan.backbone.checkpoint import export_backbone, read_weights
from alan.backbone.load import split_source
from alan.parcels.model import ParcelModel, save_parcels
from alan.shipped import shipped_or_path

#: Names of the files.
BACKBONE, PARCELS = "backbone.safetensors", "parcels.safetensors"


def write_weights(model: ParcelModel, folder: Path) -> None:
    """Write ``backbone.safetensors``, and ``parcels.safetensors`` for :func:`alan.parcels.load_parcels`.

    Args:
        model: The parcel model.
        folder: The folder; it may be moved later.
    """
    source = shipped_or_path(split_source(model.source or "")[0])
    known = read_weights(source).provenance if source.is_file() and source.suffix == ".safetensors" else {}
    export_backbone(model.backbone.network, model.backbone.spec, folder / BACKBONE, known)
    moved = ParcelModel(
        model.backbone,
        model.head,
        sector_only=model.sector_only,
        source=str(folder / BACKBONE),
        refine=model.refine,
    )
    save_parcels(moved, folder / PARCELS)
