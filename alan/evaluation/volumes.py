"""Metrics of volumes: the slices of a patient at one phase are one case, as cardiac MR is measured.

Masks are compared at the original resolution. A slice in which a structure is neither annotated nor predicted is
part of its volume and changes no score, so nothing is undefined unless the structure is in no slice at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alan.data.sample import SLICE_MM
from alan.data.store.reader import FrameStore
from alan.errors import DataError
from alan.evaluation.intervals import bootstrap_interval
from alan.evaluation.metrics import distances
from alan.evaluation.scoring import ManualMasks, Metric
from alan.overlap import dice_of_counts, iou_of_counts

#: Name of the rows that take the volumes of all phases together.
ALL = "both"
_NAN = float("nan")
#: Column of ``per_volume.csv`` to its metric, in order.
VOLUME_METRICS = {
    "dice": Metric("Dice", "", "Dice score of the volumes; undefined if both are empty", main=True),
    "iou": Metric("IoU", "", "Intersection over union of the volumes; undefined if both are empty"),
    "hd95_mm": Metric(
        "95% Hausdorff",
        "mm",
        "95% Hausdorff distance of the surfaces of the volumes; undefined if one is empty or a size is unknown",
        main=True,
    ),
    "asd_mm": Metric(
        "Surface distance",
        "mm",
        "Average symmetric surface distance of the volumes; undefined like hd95_mm",
        main=True,
    ),
    "error_ml": Metric(
        "Volume error",
        "ml",
        "Predicted minus manual volume; undefined if the size of a voxel is unknown",
        main=True,
    ),
}


def score_volumes(
    predicted: NDArray[np.bool_], manual: ManualMasks, store: FrameStore, table: pd.DataFrame
) -> pd.DataFrame:
    """Measure predicted masks by volume.

    Args:
        predicted: (n, S, S) bool at the size of the store.
        manual: Manual masks of the same n slices.
        store: Frame store, which restores the original resolution and knows the distance of the slices.
        table: The n rows of ``store.labelled``.

    Returns:
        One row per patient, study and phase, without the names of the method, see :mod:`alan.evaluation.columns`.
        Undefined values are NaN.

    Raises:
        DataError: The slices of a volume have different sizes.
    """
    rows = []
    places = table.reset_index(drop=True)
    for (patient, study, phase), group in places.groupby(["patient", "study", "phase"], sort=True):
        index = group.index.to_numpy()
        first = store.sequences[int(group["sequence"].iloc[0])]
        truth = [manual.original[i] for i in index]
        if len({(mask.shape, manual.spacing[i]) for mask, i in zip(truth, index, strict=True)}) > 1:
            raise DataError(
                f"{store.path}: the slices of {patient} at {phase} have different sizes: set volumes to false"
            )
        shape, pixel = truth[0].shape, manual.spacing[index[0]]
        masks = store.preprocessing.restore(predicted[index], shape, pixel)
        step = first.attributes.get(SLICE_MM)
        voxel = None if pixel is None or step is None else (float(step), *pixel)
        identity = {
            "id": patient if not study else f"{patient} {study}",
            "patient": patient,
            "study": study,
            "phase": phase,
            "slices": len(index),
        }
        rows.append({**identity, **_compare(masks, np.stack(truth), voxel)})
    return pd.DataFrame(rows)


def _compare(
    a: NDArray[np.bool_], b: NDArray[np.bool_], voxel: tuple[float, float, float] | None
) -> dict[str, float | bool]:
    """Compare two volumes (D, H, W); ``voxel`` is the size of a voxel in mm."""
    both, total = np.array((a & b).sum()), np.array(a.sum() + b.sum())
    hd95, asd = distances(a, b, voxel) if voxel else (_NAN, _NAN)
    ml = np.prod(voxel) / 1000 if voxel else _NAN
    volume, manual = float(a.sum() * ml), float(b.sum() * ml)
    return {
        "dice": float(dice_of_counts(both, total)),
        "iou": float(iou_of_counts(both, total)),
        "hd95_mm": hd95,
        "asd_mm": asd,
        "error_ml": volume - manual,
        "volume": volume,
        "volume_manual": manual,
        "empty": not a.any(),
    }


def summarise_volumes(volumes: pd.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    """Average the metrics of volumes, with intervals over patients.

    Args:
        volumes: One row per measured volume.
        names: Columns that identify methods and structures.

    Returns:
        One row per method, structure and phase, and one for all phases together (:data:`ALL`): the names,
        ``phase``, ``empty`` (number of volumes in which nothing was predicted) and ``metrics``: name to interval.
    """
    rows = []
    for keys, group in volumes.groupby(list(names), sort=False):
        for phase in (*sorted(set(group["phase"])), ALL):
            part = group if phase == ALL else group[group["phase"] == phase]
            metrics = {name: bootstrap_interval(part[name], part["patient"]).to_dict() for name in VOLUME_METRICS}
            labels = {**dict(zip(names, keys, strict=True)), "phase": phase}
            rows.append({**labels, "empty": int(part["empty"].sum()), "metrics": metrics})
    return rows
