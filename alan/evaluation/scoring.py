"""Predicted masks against manual ones, at the stored and at the original resolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from alan.cardiac.areas import area_cm2
from alan.cardiac.volumes import ejection_fraction, simpson_volume
from alan.data.store.reader import FrameStore
from alan.data.structures import parts
from alan.evaluation.metrics import dice, distances, iou

BoolArray = NDArray[np.bool_]

#: Columns that are measured, in the order of the CSV.
METRICS = ("dice", "iou", "dice_original", "iou_original", "hd95_mm", "asd_mm")
#: Views in which the left ventricle is seen along its long axis from the apex, so that a volume can be had.
APICAL = ("A2C", "A4C")
#: Spacing at which a volume comes out in cubic pixels, for archives without spacing.
_UNIT_MM = (10.0, 10.0)
_NAN = float("nan")


@dataclass(frozen=True)
class Truth:
    """Manual masks of one structure.

    Attributes:
        structure: its name, or a union of names.
        stored: (n, S, S) bool at the store's size.
        original: n masks (H, W) bool at the original resolution.
        spacing: n times (row, column) in mm at the original resolution, or None where unknown.
        volumes: (n,) ml, or cubic pixels where the spacing is unknown; NaN where the view gives no LV volume.
    """

    structure: str
    stored: BoolArray
    original: list[BoolArray]
    spacing: list[tuple[float, float] | None]
    volumes: NDArray[np.float64]


def read_truth(store: FrameStore, table: pd.DataFrame, structure: str) -> Truth:
    """Read the manual masks of one structure, or of a union (``lv+myo``), for rows of ``store.labelled``."""
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
    return Truth(structure, stored, original, spacing, np.array(volumes))


def _volume(mask: BoolArray, spacing: tuple[float, float] | None, structure: str, view: str) -> float:
    return simpson_volume(mask, spacing or _UNIT_MM) if structure == "lv" and view in APICAL else _NAN


def score(predicted: BoolArray, truth: Truth, store: FrameStore, table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Measure predicted masks.

    Args:
        predicted: (n, S, S) bool at the store's size.
        truth: the manual masks of the same n rows.
        store: the frame store, which knows the way back to the original resolution.
        table: the n rows of ``store.labelled``.
        name: what the progress bar says.

    Returns:
        n rows: ``id``, ``patient``, ``study``, ``view``, ``phase``, ``frame``, :data:`METRICS`, ``area_cm2``,
        ``area_cm2_manual``, ``volume``, ``volume_manual``, ``volume_unit`` and ``empty`` (nothing was predicted).
        What is undefined is NaN: overlap of two empty masks, a distance to an empty mask or without spacing.
    """
    rows = table[["id", "patient", "study", "view", "phase", "frame"]].reset_index(drop=True)
    columns: dict[str, list[float]] = {key: [] for key in (*METRICS[2:], "area_cm2", "area_cm2_manual", "volume")}
    for i, manual in enumerate(tqdm(truth.original, desc=f"measure: {name}", unit="frame", leave=False)):
        restored = store.preprocessing.restore(predicted[i : i + 1], manual.shape)[0]
        spacing = truth.spacing[i]
        hd95, asd = distances(restored, manual, spacing) if spacing else (_NAN, _NAN)
        areas = [float(area_cm2(mask, spacing)) if spacing else _NAN for mask in (restored, manual)]
        volume = _volume(restored, spacing, truth.structure, str(rows["view"][i]))
        values = (float(dice(restored, manual)), float(iou(restored, manual)), hd95, asd, *areas, volume)
        for key, value in zip(columns, values, strict=True):
            columns[key].append(value)
    return rows.assign(
        dice=dice(predicted, truth.stored),
        iou=iou(predicted, truth.stored),
        **columns,
        volume_manual=truth.volumes,
        volume_unit=["ml" if spacing else "px3" for spacing in truth.spacing],
        empty=np.asarray(~predicted.any(axis=(1, 2))),
    )


def ejection_fractions(cases: pd.DataFrame) -> pd.DataFrame:
    """Ejection fractions of one method's LV cases, from its masks and from the manual ones by the same formula.

    Args:
        cases: rows of :func:`score` for the LV.

    Returns:
        One row for each sequence with both phases: ``id``, ``patient``, ``ef`` and ``ef_manual`` in percent (NaN
        where a mask is empty).
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
