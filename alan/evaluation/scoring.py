"""Metrics of predicted masks against manual ones, frame by frame and as volumes of slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from alan.arrays import BoolArray
from alan.cardiac.areas import area_cm2
from alan.cardiac.volumes import ejection_fraction, simpson_volume
from alan.data.sample import SLICE_MM
from alan.data.store.reader import FrameStore
from alan.data.structures import parts
from alan.errors import DataError
from alan.evaluation.intervals import bootstrap_interval
from alan.evaluation.metrics import dice, distances, iou
from alan.overlap import dice_of_counts, iou_of_counts

#: Views that show the left ventricle along its long axis from the apex, as a volume by disks needs it.
APICAL = ("A2C", "A4C")
#: Pixel size for archives without one: volumes are then in cubic pixels.
_UNIT_MM = (10.0, 10.0)
_NAN = float("nan")
#: Name of the rows that take all phases together.
ALL = "both"


@dataclass(frozen=True)
class Metric:
    """Metric of a mask: a column of ``per_case.csv`` and of the report.

    Attributes:
        title: Heading in the report.
        unit: Unit of the stored values; an empty string marks a share, 0 to 1, which the report shows in percent.
        description: Description in the dictionary of columns.
        main: Whether the main table of the report shows it; the table of all metrics shows every one.
    """

    title: str
    unit: str
    description: str
    main: bool = False


#: Mapping from the column of ``per_case.csv`` to its metric, in order.
METRICS = {
    "dice": Metric("Dice", "", "Dice score at the stored size; undefined if both masks are empty", main=True),
    "iou": Metric("IoU", "", "Intersection over union at the stored size; undefined if both masks are empty"),
    "dice_original": Metric("Dice, original", "", "Dice score at the original resolution"),
    "iou_original": Metric("IoU, original", "", "Intersection over union at the original resolution"),
    "hd95_mm": Metric(
        "95% Hausdorff",
        "mm",
        "95% Hausdorff distance of the outlines at the original resolution; undefined if a mask is empty or the "
        "pixel size is unknown",
        main=True,
    ),
    "asd_mm": Metric(
        "Surface distance",
        "mm",
        "Average symmetric surface distance of the outlines at the original resolution; undefined like hd95_mm",
    ),
}


@dataclass(frozen=True)
class ManualMasks:
    """Manual masks of one structure.

    Attributes:
        structure: Name of the structure, or a union of names.
        stored: (n, S, S) bool at the size of the store.
        original: n masks (H, W) bool at the original resolution.
        spacing: n times (row, column) size of an original pixel in mm, or None where unknown.
        volumes: (n,) volumes in ml, or in cubic pixels where the pixel size is unknown; NaN for structures and
            views without an LV volume.
    """

    structure: str
    stored: BoolArray
    original: list[BoolArray]
    spacing: list[tuple[float, float] | None]
    volumes: NDArray[np.float64]


def read_manual(store: FrameStore, table: pd.DataFrame, structure: str) -> ManualMasks:
    """Read the manual masks of a structure.

    Args:
        store: Frame store.
        table: Rows of ``store.labelled``.
        structure: Name of the structure, or a union such as ``lv+myo``.
    """
    names = parts(structure)
    original = [
        np.logical_or.reduce([store.original_mask(int(label), name) for name in names]) for label in table["label"]
    ]
    spacing = [store.sequences[int(index)].spacing for index in table["sequence"]]
    volumes = [
        _volume(mask, size, structure, view)
        for mask, size, view in zip(original, spacing, table["view"], strict=True)
    ]
    stored = store.label_maps(table["label"].to_numpy(), [structure]) > 0
    return ManualMasks(structure, stored, original, spacing, np.array(volumes))


def _volume(mask: BoolArray, spacing: tuple[float, float] | None, structure: str, view: str) -> float:
    return simpson_volume(mask, spacing or _UNIT_MM) if structure == "lv" and view in APICAL else _NAN


def score(
    predicted: BoolArray, manual: ManualMasks, store: FrameStore, table: pd.DataFrame, title: str
) -> pd.DataFrame:
    """Measure predicted masks.

    Args:
        predicted: (n, S, S) bool at the size of the store.
        manual: Manual masks of the same n frames.
        store: Frame store, which restores the original resolution.
        table: The n rows of ``store.labelled``.
        title: Title of the progress bar.

    Returns:
        n rows of ``per_case.csv``, without the names of the method, see :mod:`alan.evaluation.columns`. Undefined
        values are NaN.
    """
    rows = table[["id", "patient", "study", "view", "phase", "frame"]].reset_index(drop=True)
    measured = []
    for i, mask in enumerate(tqdm(manual.original, desc=f"measure: {title}", unit="frame", leave=False)):
        spacing = manual.spacing[i]
        restored = store.preprocessing.restore(predicted[i : i + 1], mask.shape, spacing)[0]
        hd95, asd = distances(restored, mask, spacing) if spacing else (_NAN, _NAN)
        measured.append(
            {
                "dice_original": float(dice(restored, mask)),
                "iou_original": float(iou(restored, mask)),
                "hd95_mm": hd95,
                "asd_mm": asd,
                "area_cm2": float(area_cm2(restored, spacing)) if spacing else _NAN,
                "area_cm2_manual": float(area_cm2(mask, spacing)) if spacing else _NAN,
                "volume": _volume(restored, spacing, manual.structure, str(rows["view"][i])),
                "volume_manual": manual.volumes[i],
                "volume_unit": "ml" if spacing else "px3",
            }
        )
    overlap = {"dice": dice(predicted, manual.stored), "iou": iou(predicted, manual.stored)}
    empty = {"empty": ~predicted.any(axis=(1, 2))}
    tables = (rows, pd.DataFrame(overlap), pd.DataFrame(measured), pd.DataFrame(empty))
    return pd.concat(tables, axis=1)


def ejection_fractions(cases: pd.DataFrame) -> pd.DataFrame:
    """Compute ejection fractions from the LV volumes of one method and from the manual ones.

    Args:
        cases: Rows of :func:`score` for the LV.

    Returns:
        One row per sequence with both phases: ``id``, ``patient``, ``ef`` and ``ef_manual`` in percent (NaN if a
        mask is empty).
    """
    rows = []
    for name, group in cases.groupby("id", sort=True):
        by_phase = group.drop_duplicates("phase").set_index("phase")
        if not {"ED", "ES"} <= set(by_phase.index):
            continue
        ef, manual = (
            ejection_fraction(float(by_phase[column]["ED"]), float(by_phase[column]["ES"]))
            for column in ("volume", "volume_manual")
        )
        rows.append({"id": name, "patient": group["patient"].iloc[0], "ef": ef, "ef_manual": manual})
    return pd.DataFrame(rows, columns=["id", "patient", "ef", "ef_manual"])


#: Mapping from the column of ``per_volume.csv`` to its metric, in order.
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
        store: Frame store, with the original resolution and the distance between slices.
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
