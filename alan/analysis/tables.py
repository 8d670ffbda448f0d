"""Tables of an analysis: one row per patient, loop, beat and frame, and a dictionary of their columns."""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from alan.analysis.results import BeatResult, Flag, FrameResult, LoopResult, Measure, PatientResult
from alan.columns import DICTIONARY, ColumnEntry, file_columns
from alan.data.structures import STRUCTURES
from alan.errors import DataError, damaged
from alan.files import atomic, write_rows

PATIENTS, LOOPS, BEATS, FRAMES = "patients.csv", "loops.csv", "beats.csv", "frames.csv"
#: Agreement with a reference.
AGREEMENT, STATISTICS = "agreement.csv", "agreement_statistics.csv"
#: Everything that :func:`write_tables` writes into its folder.
TABLES = (PATIENTS, LOOPS, BEATS, FRAMES, DICTIONARY)
#: Folder of the state of each file, from which an interrupted run continues.
SOURCES = "sources"
#: Folder of the loops, and the file of each that holds its result.
LOOP_FOLDER, RESULT, PARCELS = "loops", "result.json", "parcels.csv"


class MeasureEntry(NamedTuple):
    """How a measure is shown: heading, unit, description in ``columns.csv``, and decimals on pages."""

    title: str
    unit: str
    description: str
    decimals: int = 0


#: Measures of a beat, and of a loop and a patient by the median over the beats.
MEASURES = {
    "ef_percent": MeasureEntry("LV ejection fraction", "%", "Ejection fraction of the left ventricle"),
    "edv_ml": MeasureEntry(
        "LV end-diastolic volume", "ml", "End-diastolic volume of the left ventricle by the method of disks"
    ),
    "esv_ml": MeasureEntry(
        "LV end-systolic volume", "ml", "End-systolic volume of the left ventricle by the method of disks"
    ),
    "stroke_volume_ml": MeasureEntry("LV stroke volume", "ml", "End-diastolic minus end-systolic volume"),
    "area_change_percent": MeasureEntry(
        "LV fractional area change", "%", "Fractional area change of the left ventricle; needs no pixel size"
    ),
    "shortening_percent": MeasureEntry(
        "LV outline shortening (experimental)",
        "%",
        "Shortening of the outline of the left ventricle (experimental)",
    ),
    "heart_rate_bpm": MeasureEntry(
        "Heart rate", "bpm", "Heart rate by R waves, or by the area of the left ventricle"
    ),
    "la_volume_ml": MeasureEntry(
        "LA volume, end-systole", "ml", "Volume of the left atrium at end-systole by the area-length formula"
    ),
    "lv_mass_g": MeasureEntry(
        "LV mass, method of disks", "g", "Mass of the myocardium of the left ventricle at end-diastole"
    ),
    "lvidd_cm": MeasureEntry(
        "LV internal diameter, end-diastole (LVIDd)",
        "cm",
        "Internal diameter of the left ventricle at end-diastole in PLAX, 1.5 to 2.5 cm from its base",
        1,
    ),
    "lvids_cm": MeasureEntry(
        "LV internal diameter, end-systole (LVIDs)",
        "cm",
        "Internal diameter of the left ventricle at end-systole in PLAX, 1.5 to 2.5 cm from its base",
        1,
    ),
    "fractional_shortening_percent": MeasureEntry(
        "LV fractional shortening", "%", "Relative change of the internal diameter of the left ventricle in PLAX"
    ),
    "ivsd_cm": MeasureEntry(
        "Septum, end-diastole (IVSd)", "cm", "Thickness of the interventricular septum at end-diastole in PLAX", 1
    ),
    "lvpwd_cm": MeasureEntry(
        "Posterior wall, end-diastole (LVPWd)", "cm", "Thickness of the posterior wall at end-diastole in PLAX", 1
    ),
    "lv_mass_linear_g": MeasureEntry(
        "LV mass, linear method",
        "g",
        "Mass of the left ventricle by the cube formula from diameter, septum and posterior wall in PLAX",
    ),
    "la_diameter_cm": MeasureEntry(
        "LA diameter, end-systole", "cm", "Anteroposterior diameter of the left atrium at end-systole in PLAX", 1
    ),
    "wall_thickness_cm": MeasureEntry(
        "LV wall thickness, end-diastole",
        "cm",
        "Mean thickness of the wall of the left ventricle at end-diastole in PSAX",
        1,
    ),
}
_UNKNOWN = "missing if it cannot be measured"


def _measures(names: Iterable[str]) -> tuple[ColumnEntry, ...]:
    entries = []
    for name in names:
        _, unit, description, _ = MEASURES[name]
        entries.append(ColumnEntry(name, unit, f"{description}; {_UNKNOWN}"))
        entries += [
            ColumnEntry(
                f"{name}_{end}",
                unit,
                f"{word} end of the nominal 90% interval of {name}; missing if there is none",
            )
            for end, word in (("low", "Lower"), ("high", "Upper"))
        ]
    return tuple(entries)


def _area_columns() -> Iterator[ColumnEntry]:
    for name in STRUCTURES:
        yield ColumnEntry(
            f"{name}_area_px", "px", f"Area of {name} in pixels of the file; missing if not outlined"
        )
        yield ColumnEntry(
            f"{name}_area_cm2", "cm2", f"Area of {name}; missing if not outlined or without a pixel size"
        )


#: Mapping from file to its columns; ``frames.csv`` ends in two columns with the areas of each structure.
COLUMNS = file_columns("analyze", {"measures": _measures(MEASURES)})
COLUMNS[FRAMES] = (*COLUMNS[FRAMES], *_area_columns())


class _Writer(Protocol):
    def writerow(self, row: Iterable[Any], /) -> Any: ...


def write_tables(
    folder: Path,
    loops: Iterable[LoopResult],
    patients: Iterable[PatientResult],
) -> None:
    """Write ``patients.csv``, ``loops.csv``, ``beats.csv``, ``frames.csv`` and ``columns.csv``.

    Each file is written atomically. The loops are read once, one after the other, so that with an iterator such as
    :func:`read_loops` memory does not grow with the number of loops. Missing values are empty.

    Args:
        folder: Folder of the results.
        loops: The loops, including those left out.
        patients: The patients.
    """
    with contextlib.ExitStack() as stack:
        writers = {name: _open(stack, folder / name, COLUMNS[name]) for name in (PATIENTS, LOOPS, BEATS, FRAMES)}
        for patient in patients:
            writers[PATIENTS].writerow(cells(_patient_row(patient)))
        for loop in loops:
            writers[LOOPS].writerow(cells(_loop_row(loop)))
            for number, beat in enumerate(loop.beats, 1):
                writers[BEATS].writerow(cells(_beat_row(loop, number, beat)))
            for frame in loop.frames:
                writers[FRAMES].writerow(cells(_frame_row(loop, frame)))
    rows = ((name, *entry) for name, entries in COLUMNS.items() for entry in entries)
    write_rows(folder / DICTIONARY, ("file", *ColumnEntry._fields), rows)


def read_loops(folder: Path, names: Iterable[str] | None = None) -> Iterator[LoopResult]:
    """Read the results of loops of a folder, one after the other.

    Args:
        folder: Folder of the results.
        names: Names of the loops; None reads all of them, in the order of their names.

    Yields:
        The loops.

    Raises:
        DataError: A result is damaged.
    """
    root = folder / LOOP_FOLDER
    for name in sorted(path.parent.name for path in root.glob(f"*/{RESULT}")) if names is None else names:
        yield LoopResult.from_json(root / name / RESULT)


def read_patients(folder: Path) -> list[PatientResult]:
    """Read the patients of a folder from ``patients.csv``.

    Args:
        folder: Folder of the results.

    Raises:
        DataError: The table is missing or damaged.
    """
    path = folder / PATIENTS
    with damaged(DataError, f"{path}: cannot be read", "run alan analyze again"):
        return [_patient(row) for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))]


def _patient(row: dict[str, str]) -> PatientResult:
    codes, reasons = row["flags"].split(), row["reasons"].split("; ")
    measures = {
        name: Measure(*(float(row[f"{name}{end}"] or "nan") for end in ("", "_low", "_high"))) for name in MEASURES
    }
    return PatientResult(
        row["patient"],
        row["method"],
        tuple(row["used_loops"].split()),
        int(row["loops"]),
        int(row["beats"]),
        float(row["ef_shared_length_percent"] or "nan"),
        quality=row["quality"],
        flags=tuple(Flag(code, reason) for code, reason in zip(codes, reasons, strict=False)),
        **measures,
    )


def _open(stack: contextlib.ExitStack, path: Path, columns: Iterable[ColumnEntry]) -> _Writer:
    temporary = stack.enter_context(atomic(path))
    file = stack.enter_context(temporary.open("w", newline="", encoding="utf-8"))
    writer = csv.writer(file)
    writer.writerow(entry.column for entry in columns)
    return writer


def cells(values: Iterable[Any]) -> Iterator[Any]:
    """Format the cells of a row: numbers with six digits, missing values as empty text."""
    for value in values:
        if isinstance(value, float):
            yield f"{value:.6g}" if math.isfinite(value) else ""
        else:
            yield "" if value is None else value


def _ends(result: LoopResult | PatientResult | BeatResult, names: Iterable[str]) -> Iterator[float]:
    for name in names:
        measure: Measure = getattr(result, name)
        yield from (measure.value, measure.low, measure.high)


def _flags(flags: Sequence[Flag]) -> tuple[str, str]:
    return " ".join(flag.code for flag in flags), "; ".join(flag.reason.replace(";", ",") for flag in flags)


def _patient_row(patient: PatientResult) -> Iterator[Any]:
    yield from (patient.patient, patient.quality, patient.method, patient.n_loops, " ".join(patient.loops))
    yield patient.n_beats
    yield from _ends(patient, MEASURES)
    yield patient.ef_shared_length_percent
    yield from _flags(patient.flags)


def _loop_row(loop: LoopResult) -> Iterator[Any]:
    yield from (loop.loop, loop.patient, loop.status, loop.reason)
    yield from (None, None, None) if loop.view is None else (loop.view.view, loop.view.share, loop.view.given)
    yield loop.n_frames
    shown = loop.screen_shape != (0, 0)
    yield from (*loop.screen_shape, *loop.box) if shown else (None,) * 6
    yield from loop.pixel_mm or (None, None)
    yield from (loop.frame_rate_hz, len(loop.beats))
    yield from _ends(loop, MEASURES)
    yield loop.jump_share if loop.frames else None
    yield from _flags(loop.flags)
    yield "; ".join(loop.notes)
    yield loop.study
    yield loop.stage
    yield loop.rate_source


def _beat_row(loop: LoopResult, number: int, beat: BeatResult) -> Iterator[Any]:
    yield from (loop.loop, loop.patient, number, beat.ed, beat.es, beat.end, beat.end is not None, beat.regular)
    yield from _ends(beat, MEASURES)


def _frame_row(loop: LoopResult, frame: FrameResult) -> Iterator[Any]:
    yield from (loop.loop, loop.patient, frame.frame, frame.time_s, frame.phase, frame.repaired)
    yield from (frame.length_cm, frame.volume_ml, frame.lvid_cm)
    for name in STRUCTURES:
        yield from (frame.area_px.get(name), frame.area_cm2.get(name))
