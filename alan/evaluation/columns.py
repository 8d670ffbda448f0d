"""Dictionary of the columns of an evaluation's CSV files, with their units."""

from __future__ import annotations

from typing import NamedTuple

from alan.evaluation.scoring import METRICS
from alan.evaluation.volumes import VOLUME_METRICS


class ColumnEntry(NamedTuple):
    """Entry of the dictionary.

    Attributes:
        column: Name of the column.
        unit: Unit; ``share`` for numbers from 0 to 1, empty for text.
        description: Meaning, and when a value is missing.
    """

    column: str
    unit: str
    description: str


#: Origin of a row, in summaries that may have several data sets.
DATA = (
    ColumnEntry("data", "", "Data set"),
    ColumnEntry("simulated", "", "True if the data are simulated, so that the patients do not exist"),
)
_CASE = (
    ColumnEntry("id", "", "Sequence"),
    ColumnEntry("patient", "", "Patient"),
    ColumnEntry("study", "", "Study, if known"),
    ColumnEntry("view", "", "View"),
)
_METHOD = (
    ColumnEntry("method", "", "Method"),
    ColumnEntry("kind", "", "Kind of the method"),
)
_SEGMENT = (
    *_METHOD,
    ColumnEntry("rule", "", "Rule that selects parcels; missing for networks and the atlas"),
    ColumnEntry("structure", "", "Structure"),
)
_PHASE = ColumnEntry("phase", "", "ED (end-diastole) or ES (end-systole)")
#: File of a run folder to its columns.
COLUMNS: dict[str, tuple[ColumnEntry, ...]] = {
    "per_case.csv": (
        *_SEGMENT,
        *_CASE,
        _PHASE,
        ColumnEntry("frame", "index", "Frame in the frame store"),
        *(ColumnEntry(name, metric.unit or "share", metric.description) for name, metric in METRICS.items()),
        ColumnEntry("area_cm2", "cm2", "Area of the predicted mask; missing if the pixel size is unknown"),
        ColumnEntry(
            "area_cm2_manual",
            "cm2",
            "Area of the manual (or simulated) mask; missing without pixel size",
        ),
        ColumnEntry("volume", "see volume_unit", "Single-plane LV volume of the predicted mask (apical views)"),
        ColumnEntry("volume_manual", "see volume_unit", "Single-plane LV volume of the manual or simulated mask"),
        ColumnEntry("volume_unit", "", "ml, or px3 (cubic pixels) if the pixel size is unknown"),
        ColumnEntry("empty", "", "True if nothing was predicted"),
    ),
    "per_volume.csv": (
        *_SEGMENT,
        ColumnEntry("id", "", "Patient, and study if known"),
        *_CASE[1:3],
        _PHASE,
        ColumnEntry("slices", "count", "Number of slices of the volume"),
        *(
            ColumnEntry(name, metric.unit or "share", metric.description)
            for name, metric in VOLUME_METRICS.items()
        ),
        ColumnEntry("volume", "ml", "Predicted volume; missing if the size of a voxel is unknown"),
        ColumnEntry("volume_manual", "ml", "Manual or simulated volume; missing without voxel size"),
        ColumnEntry("empty", "", "True if nothing was predicted"),
    ),
    "per_image_views.csv": (
        ColumnEntry("method", "", "Features"),
        ColumnEntry("k", "count", "Number of neighbours"),
        *_CASE,
        ColumnEntry("predicted", "", "Predicted view"),
        ColumnEntry("votes", "share", "Share of the votes for the predicted view"),
        ColumnEntry("correct", "", "True if the prediction is right"),
    ),
    "label_efficiency.csv": (
        *_METHOD,
        ColumnEntry("label_patients", "count", "Number of labelled patients"),
        ColumnEntry("seed", "", "Seed of the draw of patients and of the training"),
        ColumnEntry("structure", "", "Structure"),
        ColumnEntry("phase", "", "ED, ES, or both together"),
        ColumnEntry("dice", "share", "Mean Dice score over the test frames in which it is defined"),
        ColumnEntry("frames", "count", "Number of these frames"),
        ColumnEntry("empty", "count", "Number of frames of both phases in which nothing was predicted"),
        ColumnEntry("seconds", "s", "Time of the fit and the prediction on one thread"),
        ColumnEntry("reason", "", "Why nothing was selected, or why the cell failed"),
    ),
}
