"""Pages of an analysis: one for the folder and one for each patient, self-contained and without scripts."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from alan.analysis.quality import NOTES, serious
from alan.analysis.reference import read_agreement
from alan.analysis.results import PARASTERNAL_METHOD, SIMULATED_ONLY, Measure, PatientResult
from alan.analysis.tables import MEASURES, read_loops, read_patients
from alan.report.agreement import agreement_figure
from alan.report.html import write_page
from alan.report.patient import (
    PATIENT_FOLDER,
    QUALITIES,
    Overview,
    has_intervals,
    left_out_table,
    loop_folder,
    measure_cell,
    write_patient_page,
)
from alan.report.pictures import embed_picture, make_picture
from alan.report.table import Cell, Column, Row, Section, Table, interval_cell
from alan.report.words import UNDEFINED, number
from alan.runs import FAILURES, provenance
from alan.words import plural, sentence

#: Longest side of the pictures of the first page in pixels, and number of patients whose picture it shows.
_THUMBNAIL, _SHOWN = 300, 24
#: Columns of the table of patients if none has an ejection fraction.
_PARASTERNAL = {"lvidd_cm": "LVIDd, cm", "fractional_shortening_percent": "FS, %", "area_change_percent": "FAC, %"}
#: Explanations of the abbreviations in the table of patients.
_TERMS = {
    "LVEF": "LVEF: ejection fraction of the left ventricle",
    "LVEDV": "LVEDV, LVESV: its volume at end-diastole and end-systole by the method of disks",
    "LVIDd": "LVIDd: internal diameter of the left ventricle at end-diastole",
    "FS": "FS: fractional shortening",
    "FAC": "FAC: fractional area change",
}
#: Order of the rows of the table of patients by their quality: what needs a look comes first.
_FIRST = ("doubtful", "none", "good")


def write_analysis_report(run: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` of an analysis and ``patients/<patient>/report.html`` of each of its patients.

    Args:
        run: Folder of the results, with ``patients.csv`` and ``loops/<loop>/result.json``.

    Returns:
        Path of the first page.

    Raises:
        DataError: The tables or results are missing or damaged.
    """
    root = Path(run)
    patients = sorted(read_patients(root), key=lambda patient: _FIRST.index(patient.quality))
    overview = Overview()
    for loop in read_loops(root):
        overview.add(loop)
    record = provenance({}) | {"command": "", "inputs": {}}  # the command names files, which may name patients
    for patient in patients:
        loops = list(read_loops(root, overview.names.get(patient.patient, [])))
        write_patient_page(root, patient, loops, record)
    known = {name for names in overview.names.values() for name in names}
    failures = [(name, reason) for name, reason in _failures(root) if name not in known]
    rows = [Row(name, [Cell(reason)]) for name, reason in overview.left_out]
    rows += [Row(name, [Cell(reason)]) for name, reason in failures]
    table = _patient_table(patients, overview.reasons)
    return write_page(
        root,
        "analysis.html.j2",
        {
            "title": "Echocardiograms",
            "provenance": record,
            "config": "",
            "simulated": overview.simulated,
            "n_loops": overview.n_loops,
            "headline": _headline(patients, overview, len(failures)),
            "patient_table": table,
            "terms": explain_terms(table),
            "unsized": any(patient.ef_percent.known and not patient.edv_ml.known for patient in patients),
            "intervals": any(has_intervals(patient) for patient in patients),
            "apical": any(patient.ef_percent.known for patient in patients),
            "parasternal": overview.parasternal,
            "gallery": _gallery(root, patients),
            "more": _more(patients),
            "doubt_table": _doubt_table(overview),
            "agreement": _agreement(root, bool(overview.simulated)),
            "left_out": left_out_table(rows),
            "models": overview.models,
        },
    )


def _failures(root: Path) -> list[tuple[str, str]]:
    path = root / FAILURES
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [(row[0], row[1]) for row in list(csv.reader(file))[1:] if len(row) > 1]


def _headline(patients: Sequence[PatientResult], overview: Overview, n_failures: int) -> list[str]:
    lost = len(overview.left_out) + n_failures
    kind = "simulated patient" if overview.simulated == overview.n_loops else "patient"
    n_measured = overview.n_loops - len(overview.left_out)
    omitted = {name for name, _ in overview.left_out}
    n_patients = sum(bool(set(names) - omitted) for names in overview.names.values())
    verb = "was" if n_measured == 1 else "were"
    text = f"{plural(n_measured, 'loop')} of {plural(n_patients, kind)} {verb} measured"
    text = text if n_measured else "No loop was measured"
    paragraphs = [
        f"{text}; {plural(lost, 'file or loop was', 'files or loops were')} left out." if lost else f"{text}."
    ]
    values = [patient.ef_percent.value for patient in patients if patient.ef_percent.known]
    if overview.parasternal:
        verb = "is" if overview.parasternal == 1 else "are"
        paragraphs.append(
            f"{plural(overview.parasternal, 'loop')} {verb} in PLAX or PSAX. {sentence(SIMULATED_ONLY)}"
        )
    if not values:
        why = "it needs an apical view" if overview.parasternal == n_measured else "the reasons are below"
        return [*paragraphs, f"No ejection fraction was measured; {why}."]
    middle, low, high = (number(float(value), 0) for value in (np.median(values), min(values), max(values)))
    spread = f"median {middle}%, from {low}% to {high}%" if len(values) > 1 else f"{middle}%"
    biplane = sum(patient.method == "biplane" for patient in patients)
    planes = {0: "single plane", len(values): "biplane"}.get(biplane, f"{biplane} biplane")
    text = f"The ejection fraction of {plural(len(values), 'patient')} was measured ({planes}): {spread}."
    doubtful = sum(patient.quality == "doubtful" for patient in patients)
    if doubtful:
        text += f" {plural(doubtful, 'result is', 'results are')} doubtful, for the reasons in the first rows."
    return [*paragraphs, text]


def _patient_table(
    patients: Sequence[PatientResult], reasons: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> Table:
    def known(titles: dict[str, str]) -> dict[str, str]:
        return {name: title for name, title in titles.items() if any(getattr(p, name).known for p in patients)}

    names, volumes = {"ef_percent": "LVEF, %"}, {"edv_ml": "LVEDV, ml", "esv_ml": "LVESV, ml"}
    if known(volumes):  # a phone shows few columns
        names |= volumes
    elif not known(names):
        names = known(_PARASTERNAL) or names
    rows = []
    for patient in patients:
        method = patient.method.replace(" ", "\N{NO-BREAK SPACE}")
        beside = "" if set(_PARASTERNAL) & set(names) else _parasternal(patient)
        cells = [
            Cell(QUALITIES[patient.quality], badge=patient.quality),
            *(measure_cell(patient, name) for name in names),
            Cell(method or UNDEFINED, beside),
            Cell(str(patient.n_beats)),
        ]
        rows.append(Row(patient.patient, cells, link=_page(patient), below=_doubts(patient, reasons)))
    columns = [
        Column("Patient", number=False),
        Column("Quality", number=False),
        *map(Column, names.values()),
        Column("Method", number=False),
        Column("Beats"),
    ]
    return Table("Patients", columns, [Section(rows)])


def explain_terms(table: Table) -> str:
    """Explain the abbreviations that a table of patients contains."""
    shown = " ".join(
        [column.title for column in table.columns] + [cell.detail for row in table.rows for cell in row.cells]
    )
    words = set(shown.replace(",", " ").split())
    return " ".join(f"{text}." for term, text in _TERMS.items() if term in words)


def _doubts(patient: PatientResult, reasons: Mapping[str, Sequence[str]]) -> str:
    """Join the doubts of a patient, or the reasons why nothing was measured."""
    doubts = [flag.reason for flag in serious(patient.flags)]
    if patient.quality == "none" and not doubts:
        doubts = list(reasons.get(patient.patient, ()))
    return " ".join(map(sentence, dict.fromkeys(doubts)))


def _parasternal(patient: PatientResult) -> str:
    """Write the main measures of a patient without an apical view; empty for others."""
    if patient.method != PARASTERNAL_METHOD:
        return ""
    found = []
    for name, title in _PARASTERNAL.items():
        measure, (short, unit) = getattr(patient, name), title.split(", ")
        if measure.known:
            found.append(f"{short} {number(measure.value, MEASURES[name].decimals)} {unit}".replace(" %", "%"))
    return ", ".join(found)


def _page(patient: PatientResult) -> str:
    return f"{PATIENT_FOLDER}/{patient.patient}/report.html"


def _gallery(root: Path, patients: Sequence[PatientResult]) -> list[dict[str, Any]]:
    """Collect the pictures of the first measured patients."""
    found = []
    for patient in [patient for patient in patients if patient.loops][:_SHOWN]:
        what = f"LVEF {_text(patient.ef_percent, '%')}"
        what = _parasternal(patient) or patient.method if patient.method == PARASTERNAL_METHOD else what
        text = f"{what}, {QUALITIES[patient.quality].lower()}"
        for name in patient.loops[:1]:
            for file, moment in (("ed.png", "at end-diastole"), ("frame.png", "as a still")):
                alternative = f"Patient {patient.patient}, loop {name} {moment}, with outlines; {text}"
                picture = embed_picture(loop_folder(root, name) / file, _THUMBNAIL, alternative)
                if picture is not None:
                    caption = f"{patient.patient}: {text}"
                    found.append({"link": _page(patient), "picture": picture, "caption": caption})
                    break
    return found


def _more(patients: Sequence[PatientResult]) -> str:
    rest = sum(bool(patient.loops) for patient in patients) - _SHOWN
    return f"Pictures of {plural(rest, 'other patient')}" if rest > 0 else ""


def _doubt_table(overview: Overview) -> Table | None:
    if not overview.doubts:
        return None
    rows = [
        Row(
            f"{code.replace('_', ' ')}{' (note)' if code in NOTES else ''}",
            [Cell(str(count)), Cell(overview.examples[code])],
        )
        for code, count in overview.doubts.most_common()
    ]
    columns = [Column("Doubt", number=False), Column("Loops"), Column("For example", number=False)]
    return Table("Doubts", columns, [Section(rows)])


def _agreement(root: Path, simulated: bool) -> dict[str, Any] | None:
    found = read_agreement(root)
    if found is None:
        return None
    table, groups = found
    cells = [_statistics_cells(statistics) for _, statistics in groups.values()]
    rows = [Row(name, [column[name] for column in cells]) for name in cells[0]]
    statistics, n = groups["ef_percent", "all"][1], plural(len(table), "patient")
    panel = (n, statistics, table["ef_percent"], table["reference_ef_percent"])
    bias = number(statistics["mean_bias"]["value"])
    picture = make_picture(
        agreement_figure([panel], "reference"),
        "Agreement of the ejection fraction with the reference (Bland and Altman). Each point is a patient. The "
        "solid line is the mean bias, the dashed lines are the limits of agreement; triangles lie beyond it.",
        f"Scatter plot of the error of the ejection fraction against its mean, {n}: mean bias {bias} points.",
        simulated=simulated,
    )
    headings = {"all": "All patients", "good": "Good quality"}
    columns = [Column("Statistic", number=False)]
    columns += [
        Column(f"{headings[quality] if measure == 'ef_percent' else 'One length'} ({count})")
        for (measure, quality), (count, _) in groups.items()
    ]
    text = f"The reference gives an ejection fraction for {n} measured here. Intervals: 95%, over patients."
    if ("ef_shared_length_percent", "all") in groups:
        text += (
            " One length: biplane with the same length of the long axis in both phases, as the values of "
            "the CAMUS release are computed; they are lower by several points than those of the guideline."
        )
    return {"text": text, "table": Table("Agreement", columns, [Section(rows)]), "picture": picture}


def _statistics_cells(statistics: Mapping[str, Any]) -> dict[str, Cell]:
    """Return the cells of a column of the table of agreement by the names of their rows."""
    limits = [number(_finite(statistics[f"{end}_limit_of_agreement"]["value"])) for end in ("lower", "upper")]
    return {
        "Mean bias, points": interval_cell(_known(statistics["mean_bias"]), "number"),
        "Limits of agreement, points": Cell(" to ".join(limits)),
        "Mean absolute error, points": interval_cell(_known(statistics["mean_absolute_error"]), "number"),
        "Correlation": Cell(number(_finite(statistics["correlation"]["value"]), 2)),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _known(statistic: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in statistic.items()}


def _text(measure: Measure, unit: str) -> str:
    return f"{number(measure.value, 0)}{unit}" if measure.known else "not measured"
