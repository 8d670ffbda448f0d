"""Tables of an analysis: one row per patient, loop, beat and frame, and a dictionary of their columns."""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from alan.analysis import evidence, reference
from alan.analysis.results import BeatResult, Flag, FrameResult, LoopResult, Measure, PatientResult
from alan.data.structures import STRUCTURES
from alan.errors import DataError, damaged
from alan.evaluation.columns import ColumnEntry
from alan.files import atomic, write_rows
from alan.runs import FAILURES

PATIENTS, LOOPS, BEATS, FRAMES, DICTIONARY = "patients.csv", "loops.csv", "beats.csv", "frames.csv", "columns.csv"
#: Everything that :func:`write_tables` writes into its folder.
TABLES = (PATIENTS, LOOPS, BEATS, FRAMES, DICTIONARY)
#: Folder of the loops, and the file of each that holds its result.
LOOP_FOLDER, RESULT, PARCELS = "loops", "result.json", "parcels.csv"


class MeasureEntry(NamedTuple):
    """How a measure is shown: heading, unit, and description in ``columns.csv``."""

    title: str
    unit: str
    description: str


#: Measures of a beat, and of a loop and a patient by the median over the beats.
MEASURES = {
    "ef_percent": MeasureEntry("Ejection fraction", "%", "Ejection fraction of the left ventricle"),
    "edv_ml": MeasureEntry(
        "End-diastolic volume", "ml", "End-diastolic volume of the left ventricle by the method of disks"
    ),
    "esv_ml": MeasureEntry(
        "End-systolic volume", "ml", "End-systolic volume of the left ventricle by the method of disks"
    ),
    "stroke_volume_ml": MeasureEntry("Stroke volume", "ml", "End-diastolic minus end-systolic volume"),
    "area_change_percent": MeasureEntry(
        "Fractional area change", "%", "Fractional area change of the left ventricle; needs no pixel size"
    ),
    "shortening_percent": MeasureEntry(
        "Outline shortening (experimental)", "%", "Shortening of the outline of the left ventricle (experimental)"
    ),
    "heart_rate_bpm": MeasureEntry("Heart rate", "bpm", "Heart rate by the median duration of the complete beats"),
    "la_volume_ml": MeasureEntry(
        "Left atrial volume", "ml", "Volume of the left atrium at end-systole by the area-length formula"
    ),
    "lv_mass_g": MeasureEntry(
        "Left ventricular mass", "g", "Mass of the myocardium of the left ventricle at end-diastole"
    ),
}
_UNKNOWN = "missing if it cannot be measured"


def _measures(names: Iterable[str]) -> tuple[ColumnEntry, ...]:
    entries = []
    for name in names:
        _, unit, description = MEASURES[name]
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


_PATIENT = ColumnEntry("patient", "", "Pseudonymous key of the patient")
_LOOP = ColumnEntry(
    "loop", "", "Pseudonymous name of the loop; its files are in the folder of this name in loops/"
)
_FLAGS = (
    ColumnEntry("flags", "", "Codes of the doubts, separated by spaces"),
    ColumnEntry("reasons", "", "The doubts in words"),
)
_BEAT_FRAMES = (
    ColumnEntry("ed_frame", "index", "End-diastolic frame; the first frame of the loop is 0"),
    ColumnEntry("es_frame", "index", "End-systolic frame"),
    ColumnEntry("end_frame", "index", "Next end-diastolic frame; missing if the loop ends before it"),
)
#: File to its columns; areas per structure follow those of ``frames.csv``.
COLUMNS: dict[str, tuple[ColumnEntry, ...]] = {
    PATIENTS: (
        _PATIENT,
        ColumnEntry("quality", "", "good, doubtful (a flag concerns the result) or none (nothing was measured)"),
        ColumnEntry(
            "method", "", "biplane, single plane A4C or single plane A2C; missing if nothing was measured"
        ),
        ColumnEntry("loops", "count", "Number of loops, including those that were left out"),
        ColumnEntry("used_loops", "", "Names of the loops that contributed, separated by spaces"),
        ColumnEntry(
            "beats", "count", "Number of complete beats that were measured; 0 if the loops show parts only"
        ),
        *_measures(MEASURES),
        *_FLAGS,
    ),
    LOOPS: (
        _LOOP,
        _PATIENT,
        ColumnEntry("status", "", "measured, or left out"),
        ColumnEntry("reason", "", "Why the loop was left out; missing otherwise"),
        ColumnEntry("view", "", "Recognised or given view; missing if the loop was left out before"),
        ColumnEntry("view_share", "share", "Share of the votes for the view; 1 if it was given"),
        ColumnEntry("view_given", "", "True if the user gave the view"),
        ColumnEntry("frames", "count", "Number of frames"),
        ColumnEntry("screen_height", "px", "Height of the frames of the file"),
        ColumnEntry("screen_width", "px", "Width of the frames of the file"),
        ColumnEntry("box_top", "px", "First row of the box around the sector"),
        ColumnEntry("box_left", "px", "First column of the box around the sector"),
        ColumnEntry("box_height", "px", "Height of the box around the sector"),
        ColumnEntry("box_width", "px", "Width of the box around the sector"),
        ColumnEntry("row_mm", "mm", "Height of a pixel of the file; missing if unknown"),
        ColumnEntry("column_mm", "mm", "Width of a pixel of the file; missing if unknown"),
        ColumnEntry("frame_rate_hz", "1/s", "Frames per second; missing if unknown"),
        ColumnEntry("beats", "count", "Number of beats, including those that the loop shows in part"),
        *_measures(MEASURES),
        ColumnEntry("jump_share", "share", "Share of the frames whose outline jumped; repaired unless above 0.5"),
        *_FLAGS,
        ColumnEntry("notes", "", "Conversions and assumptions of the reader, in words"),
        ColumnEntry("study", "", "Pseudonym of the study of a DICOM file; missing for other files"),
    ),
    BEATS: (
        _LOOP,
        _PATIENT,
        ColumnEntry("beat", "count", "Number of the beat in its loop, from 1"),
        *_BEAT_FRAMES,
        ColumnEntry("complete", "", "True if the loop shows the whole beat"),
        ColumnEntry("regular", "", "True if the duration is within 20% of the median"),
        *_measures(MEASURES),
    ),
    FRAMES: (
        _LOOP,
        _PATIENT,
        ColumnEntry("frame", "index", "Frame; the first frame of the loop is 0"),
        ColumnEntry("time_s", "s", "Time of the frame; missing if unknown"),
        ColumnEntry("phase", "share", "1 at end-diastole, 0 at end-systole, by the area of the left ventricle"),
        ColumnEntry("repaired", "", "True if the outline jumped and was interpolated from neighbouring frames"),
        ColumnEntry("length_cm", "cm", "Long axis of the left ventricle; missing without a pixel size"),
        ColumnEntry(
            "volume_ml", "ml", "Volume of the left ventricle (method of disks); missing without a pixel size"
        ),
    ),
}


_FAILURES = (
    ColumnEntry("file", "", "Pseudonym of a file or loop that was left out or cannot be decoded"),
    ColumnEntry("reason", "", "Why, and what to do"),
)


class _Writer(Protocol):
    def writerow(self, row: Iterable[Any], /) -> Any: ...


def write_tables(
    folder: Path,
    loops: Iterable[LoopResult],
    patients: Iterable[PatientResult],
    structures: Sequence[str] = STRUCTURES,
) -> None:
    """Write ``patients.csv``, ``loops.csv``, ``beats.csv``, ``frames.csv`` and ``columns.csv``.

    Each file is written atomically. The loops are read once, one after the other, so that with an iterator such as
    :func:`read_loops` memory does not grow with the number of loops. Missing values are empty.

    Args:
        folder: Folder of the results.
        loops: The loops, including those left out.
        patients: The patients.
        structures: Structures that may occur; ``frames.csv`` has two columns with the areas of each.
    """
    columns = COLUMNS | {FRAMES: (*COLUMNS[FRAMES], *_area_columns(structures))}
    with contextlib.ExitStack() as stack:
        writers = {name: _open(stack, folder / name, columns[name]) for name in (PATIENTS, LOOPS, BEATS, FRAMES)}
        for patient in patients:
            writers[PATIENTS].writerow(cells(_patient_row(patient)))
        for loop in loops:
            writers[LOOPS].writerow(cells(_loop_row(loop)))
            for number, beat in enumerate(loop.beats, 1):
                writers[BEATS].writerow(cells(_beat_row(loop, number, beat)))
            for frame in loop.frames:
                writers[FRAMES].writerow(cells(_frame_row(loop, frame, structures)))
    others = {
        reference.AGREEMENT: reference.COLUMNS,
        reference.STATISTICS: reference.STATISTICS_COLUMNS,
        f"{LOOP_FOLDER}/*/{PARCELS}": evidence.COLUMNS,
        FAILURES: _FAILURES,
    }
    rows = ((name, *entry) for name, entries in (columns | others).items() for entry in entries)
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
        quality=row["quality"],
        flags=tuple(Flag(code, reason) for code, reason in zip(codes, reasons, strict=False)),
        **measures,
    )


def _area_columns(structures: Sequence[str]) -> Iterator[ColumnEntry]:
    for name in structures:
        yield ColumnEntry(
            f"{name}_area_px", "px", f"Area of {name} in pixels of the file; missing if not outlined"
        )
        yield ColumnEntry(
            f"{name}_area_cm2", "cm2", f"Area of {name}; missing if not outlined or without a pixel size"
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


def _beat_row(loop: LoopResult, number: int, beat: BeatResult) -> Iterator[Any]:
    yield from (loop.loop, loop.patient, number, beat.ed, beat.es, beat.end, beat.end is not None, beat.regular)
    yield from _ends(beat, MEASURES)


def _frame_row(loop: LoopResult, frame: FrameResult, structures: Sequence[str]) -> Iterator[Any]:
    yield from (loop.loop, loop.patient, frame.frame, frame.time_s, frame.phase, frame.repaired)
    yield from (frame.length_cm, frame.volume_ml)
    for name in structures:
        yield from (frame.area_px.get(name), frame.area_cm2.get(name))
