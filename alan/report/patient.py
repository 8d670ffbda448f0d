"""Page of one patient of an analysis: numbers, doubts, and for each loop its outlines, beats and parcels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from alan.analysis.exports import (
    MASKS,
    MEASUREMENTS,
    NEIGHBOURS,
    NIFTI,
    OVERLAY,
    SEGMENTATION,
    key_frames,
)
from alan.analysis.quality import NOTES, serious
from alan.analysis.results import (
    PARASTERNAL_METHOD,
    RATE_SOURCES,
    SIMULATED_ONLY,
    BeatResult,
    LoopResult,
    Measure,
    PatientResult,
)
from alan.analysis.tables import LOOP_FOLDER, MEASURES, PARCELS
from alan.data.sample import PARASTERNAL
from alan.data.structures import label_colour, structure_name
from alan.report.analysis_figures import loop_curve
from alan.report.html import write_page
from alan.report.pictures import embed_picture
from alan.report.table import Cell, Column, Row, Section, Table
from alan.report.words import UNDEFINED, number, phase_name
from alan.words import plural, sentence

PATIENT_FOLDER = "patients"
#: Longest side of the pictures in pixels.
_LONGEST = 560
QUALITIES = {"good": "Good", "doubtful": "Doubtful", "none": "Not measured"}


@dataclass
class Overview:
    """Counts over several loops, which are added one after the other."""

    n_loops: int = 0
    simulated: int = 0
    names: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    doubts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    parasternal: int = 0
    models: dict[str, list[str]] = field(default_factory=dict)

    @property
    def reasons(self) -> dict[str, list[str]]:
        """Map each patient to the reasons why loops were left out."""
        known = dict(self.left_out)
        return {patient: [known[name] for name in names if name in known] for patient, names in self.names.items()}

    def add(self, loop: LoopResult) -> None:
        """Count one more loop."""
        self.n_loops += 1
        self.simulated += loop.simulated
        self.names.setdefault(loop.patient, []).append(loop.loop)
        if loop.status != "measured":
            self.left_out.append((loop.loop, loop.reason))
        elif loop.view and loop.view.view in PARASTERNAL:
            self.parasternal += 1
        for flag in loop.flags:
            self.doubts[flag.code] += 1
            self.examples.setdefault(flag.code, flag.reason)
        for name, value in loop.provenance.items():
            values = self.models.setdefault(name, [])
            if value not in values:
                values.append(value)


def write_patient_page(
    root: Path, patient: PatientResult, loops: Sequence[LoopResult], record: Mapping[str, Any]
) -> None:
    """Write ``patients/<patient>/report.html``.

    Args:
        root: Folder of the results.
        patient: The patient.
        loops: All loops of the patient.
        record: Provenance of the page.
    """
    overview = Overview()
    for loop in loops:
        overview.add(loop)
    measured = [loop for loop in loops if loop.status == "measured"]

    def _order(loop: LoopResult) -> tuple[bool, bool]:
        return loop.loop not in patient.loops, loop.view is None or loop.view.view != "A4C"

    beats = plural(patient.n_beats, "beat") if patient.n_beats else "no complete beat"
    basis = sentence(f"{patient.method}, {beats}") if patient.method else ""
    write_page(
        root / PATIENT_FOLDER / patient.patient,
        "patient.html.j2",
        {
            "title": f"Patient {patient.patient}",
            "provenance": record,
            "simulated": overview.simulated,
            "patient": patient,
            "quality": QUALITIES[patient.quality],
            "basis": basis,
            "intervals": has_intervals(patient),
            "apical": patient.ef_percent.known,
            "parasternal": sentence(SIMULATED_ONLY) if overview.parasternal else "",
            "numbers": _numbers(patient),
            "doubts": _doubts(patient),
            "clips": [_clip(root, loop, used=loop.loop in patient.loops) for loop in sorted(measured, key=_order)],
            "left_out": left_out_table([Row(name, [Cell(reason)]) for name, reason in overview.left_out]),
            "models": overview.models,
        },
    )


def _numbers(result: PatientResult) -> list[dict[str, str]]:
    found = []
    for name, (title, unit, _, decimals) in MEASURES.items():
        measure: Measure = getattr(result, name)
        if measure.known or (name == "ef_percent" and result.method != PARASTERNAL_METHOD):
            shown = (number(measure.value, decimals), unit) if measure.known else (UNDEFINED, "")
            by = f" ({result.method})" if name == "ef_percent" and result.method else ""
            found.append(
                {"title": title + by, "text": shown[0], "unit": shown[1], "detail": _ends(measure, decimals)}
            )
    return found


def _doubts(result: PatientResult | LoopResult) -> list[str]:
    """Write the doubts as sentences, and after them the notes."""
    doubts = [flag.reason for flag in serious(result.flags)]
    notes = [f"Note: {flag.reason}" for flag in result.flags if flag.code in NOTES]
    return [sentence(text) for text in (*doubts, *notes)]


def _clip(root: Path, loop: LoopResult, *, used: bool) -> dict[str, Any]:
    """Collect what the page of a patient shows of one loop, which its numbers use or do not."""
    view = loop.view.view if loop.view else "Unknown view"
    out = loop_folder(root, loop.loop)
    parcel_rows = _parcel_rows(out / PARCELS)
    names = {frame: name for name, frame in key_frames(loop).items()}
    pictures, parcels = [], []
    for frame, name in names.items():
        words = f"Frame {frame}, {phase_name(name.upper())}" if name != "frame" else f"Frame {frame}"
        pictures.append(embed_picture(out / f"{name}.png", _LONGEST, f"{words}, with outlines", words))
        alternative = f"{words}, with the borders of all parcels; those of the structures are tinted"
        parcels.append(embed_picture(out / f"{name}_parcels.png", _LONGEST, alternative, words))
    written = [name for name in (OVERLAY, NIFTI, SEGMENTATION, MEASUREMENTS) if (out / name).is_file()]
    written += [f"{MASKS}/{name}.png" for name in names.values() if (out / MASKS / f"{name}.png").is_file()]
    return {
        "title": f"{view}: {loop.loop}",
        "view": view,
        "used": used,
        "facts": _facts(loop),
        "doubts": _doubts(loop),
        "neighbours": embed_picture(out / NEIGHBOURS, _LONGEST, "The labelled frames that named the view"),
        "legend": [(structure_name(name), label_colour(value)) for value, name in enumerate(loop.structures, 1)],
        "pictures": [picture for picture in pictures if picture is not None],
        "parcel_pictures": [picture for picture in parcels if picture is not None],
        "parcel_tables": _parcel_tables(parcel_rows),
        "labelled": bool((parcel_rows["labelled_images"] > 0).any()),
        "curve": loop_curve(loop),
        "beats": _beat_table(loop),
        "still": loop.n_frames == 1,
        "notes": [sentence(note) for note in loop.notes],
        "folder": f"{LOOP_FOLDER}/{loop.loop}",
        "files": written,
    }


def _facts(loop: LoopResult) -> list[tuple[str, str]]:
    facts = []
    if loop.view is not None:
        share = f"{loop.view.view}, {number(100 * loop.view.share, 0)}% of the votes"
        facts.append(("View", f"{loop.view.view}, given" if loop.view.given else share))
        if loop.view.neighbours:
            facts.append(("Nearest labelled frames", ", ".join(loop.view.neighbours[:5])))
    rate = "unknown rate" if loop.frame_rate_hz is None else f"{number(loop.frame_rate_hz, 0)} per second"
    facts.append(("Frames", f"{loop.n_frames}, {rate}"))
    if loop.rate_source:
        facts.append(("Heart rate from", f"the {RATE_SOURCES[loop.rate_source]}"))
    size = "unknown" if loop.pixel_mm is None else " × ".join(f"{side:.3g}" for side in loop.pixel_mm) + " mm"
    facts.append(("Pixel", size))
    facts.append(
        ("Sector", f"{loop.box[3]} × {loop.box[2]} of {loop.screen_shape[1]} × {loop.screen_shape[0]} pixels")
    )
    if loop.stage.isdecimal():
        facts.append(("Stage of the stress test", loop.stage))
    if loop.jump_share:
        facts.append(("Frames whose outline jumped", f"{number(100 * loop.jump_share, 0)}%"))
    return facts


def _beat_table(loop: LoopResult) -> Table:
    names = [name for name in MEASURES if any(getattr(beat, name, Measure()).known for beat in loop.beats)]
    rows = []
    for n, beat in enumerate(loop.beats, 1):
        kind = "incomplete" if beat.end is None else "regular" if beat.regular else "irregular"
        cells = [Cell(f"{beat.ed} – {beat.es}"), *(measure_cell(beat, name) for name in names)]
        rows.append(Row(str(n), cells, detail=kind))
    columns = [Column("Beat", number=False), Column("Frames ED – ES")]
    columns += [Column(f"{MEASURES[name].title}, {MEASURES[name].unit}") for name in names]
    return Table("Beats", columns, [Section(rows)], small=True)


def has_intervals(result: PatientResult) -> bool:
    """Return whether a measure of a patient has an interval."""
    return any(math.isfinite(getattr(result, name).low) for name in MEASURES)


def measure_cell(result: PatientResult | BeatResult, name: str) -> Cell:
    """Return the cell of a measure with its interval."""
    measure, decimals = getattr(result, name), MEASURES[name].decimals
    return Cell(number(measure.value, decimals), _ends(measure, decimals)) if measure.known else Cell(UNDEFINED)


def _parcel_rows(path: Path) -> pd.DataFrame:
    """Read ``parcels.csv`` without parcels that hardly contribute; no row if there is no such file."""
    if not path.is_file():
        return pd.DataFrame({"labelled_images": [], "structure": [], "phase": []})
    table = pd.read_csv(path, dtype={"structure": str, "phase": str})
    return table[table["chosen"] | (table["of_segment"] >= 0.01)]


def _parcel_tables(table: pd.DataFrame) -> list[Table]:
    """Make one table for each structure and phase; labelled images have a column if there are any."""
    found = []
    for (name, phase), part in table.groupby(["structure", "phase"], sort=False):
        labelled = bool((part["labelled_images"] > 0).any())
        columns = [Column("Parcel"), Column("Listed", number=False), Column("Of outline, %"), Column("Inside, %")]
        columns += [Column("Prior, %"), *[Column("Labelled images: inside of present")] * labelled]
        rows = [_parcel_row(row, labelled=labelled) for row in part.to_dict("records")]
        title = (
            f"{structure_name(str(name)).capitalize()} at {phase_name(str(phase))}: {plural(len(rows), 'parcel')}"
        )
        found.append(
            Table(title + _weights(part), [*columns, Column("Posterior, %")], [Section(rows)], small=True)
        )
    return found


def _weights(part: pd.DataFrame) -> str:
    """Describe the weights of the priors of a table, in pixels; empty without priors."""
    known = part["prior_pixels"].dropna()
    ends = dict.fromkeys(number(end, 0) for end in (known.min(), known.max())) if len(known) else ()
    return f", prior weight {' to '.join(ends)} pixels" if ends else ""


def _parcel_row(row: Mapping[Any, Any], *, labelled: bool) -> Row:
    images = f"{row['labelled_inside']} of {row['labelled_images']}" if row["labelled_images"] else "no labels"
    cells = [
        Cell("yes" if row["chosen"] else "no"),
        *(_share(row[name]) for name in ("of_segment", "inside", "prior_share")),
        *[Cell(images)] * labelled,
        _share(row["posterior_share"]),
    ]
    return Row(str(row["parcel"]), cells)


def _share(value: float) -> Cell:
    return Cell(UNDEFINED if math.isnan(value) else number(100 * value, 0))


def left_out_table(rows: Sequence[Row]) -> Table:
    """Return the table of loops that were left out, with their reasons in the last column."""
    columns = [Column("Loop", number=False), Column("Reason", number=False)]
    return Table(f"Left out: {plural(len(rows), 'file or loop', 'files or loops')}", columns, [Section(rows)])


def _ends(measure: Measure, decimals: int = 0) -> str:
    if not (math.isfinite(measure.low) and math.isfinite(measure.high)):
        return ""
    return f"{number(measure.low, decimals)} to {number(measure.high, decimals)}"


def loop_folder(root: Path, loop: str) -> Path:
    """Return the folder of a loop."""
    return root / LOOP_FOLDER / loop
