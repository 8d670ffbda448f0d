"""Metrics of predicted masks against manual ones, at the stored and at the original resolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from alan.arrays import BoolArray
from alan.cardiac.areas import area_cm2
from alan.cardiac.volumes import ejection_fraction, simpson_volume
from alan.data.store.reader import FrameStore
from alan.data.structures import parts
from alan.evaluation.metrics import dice, distances, iou


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


#: Column of ``per_case.csv`` to its metric, in order.
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
#: Views that show the left ventricle along its long axis from the apex, as a volume by disks needs it.
APICAL = ("A2C", "A4C")
#: Pixel size for archives without one: volumes are then in cubic pixels.
_UNIT_MM = (10.0, 10.0)
_NAN = float("nan")


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
