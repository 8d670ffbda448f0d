"""Pages of run folders: one self-contained HTML file, without scripts and without links to other files."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from alan.errors import DataError
from alan.evaluation.results import read_results
from alan.files import read_json, write_text
from alan.report import evaluation_tables as tables
from alan.report import label_efficiency, networks
from alan.report.evaluation_tables import structures_of
from alan.report.export import write_summary
from alan.report.label_efficiency import efficiency_headline
from alan.report.networks import network_headline
from alan.report.pictures import (
    PictureWriter,
    confusion_picture,
    curve_pictures,
    efficiency_picture,
    segmentation_pictures,
)
from alan.report.table import interval_cell
from alan.report.words import difference, join_words, origin, patients, percent, phase_name, structure_name
from alan.runs import CONFIG
from alan.words import plural

REPORT = "report.html"


def write_report(run: str | os.PathLike[str]) -> Path:
    """Write ``report.html``, its figures, ``summary.csv``, ``summary.tex`` and ``columns.csv`` of an evaluation.

    Args:
        run: Run folder of :func:`alan.evaluation.run_evaluation`.

    Returns:
        Path of the page. The figures are also in ``figures/`` as PNG files.

    Raises:
        DataError: The folder has no complete run.
    """
    folder = Path(run)
    results = read_results(folder)
    segmentation, views = results.get("segmentation"), results.get("views")
    efficiency = results.get("label_efficiency")
    write_summary(folder, results)
    return write_page(
        folder,
        "report.html.j2",
        {
            **results,
            "headline": headline(results),
            "simulated": simulated_stores(results),
            "segmentation": _segmentation(folder, segmentation) if segmentation else None,
            "views": _views(folder, views) if views else None,
            "efficiency": _efficiency(folder, efficiency) if efficiency else None,
            "curves": curve_pictures(PictureWriter(folder, simulated=False), results["curves"]),
            "skipped": tables.skipped_notes(results),
        },
    )


def write_page(folder: Path, template: str, content: Mapping[str, Any]) -> Path:
    """Render a template of this package to ``report.html`` of a folder.

    All values are escaped, and a missing value is an error.

    Args:
        folder: The folder; its configuration becomes part of the page, if it has one.
        template: File name of the template.
        content: Values for the template; ``title``, ``provenance`` and ``simulated`` (names of simulated data
            sets) are those of every page.

    Returns:
        Path of the page.
    """
    config = folder / CONFIG
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    write_text(folder / REPORT, _templates().get_template(template).render({"config": text, **content}))
    return folder / REPORT


@functools.cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("alan.report", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plural"] = plural
    return environment


def _writer(folder: Path, summary: Mapping[str, Any]) -> PictureWriter:
    return PictureWriter(folder, simulated=summary["store"]["simulated"])


def _segmentation(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    try:
        cases = pd.read_csv(folder / "per_case.csv", keep_default_na=False, na_values=[""], dtype={"rule": str})
    except FileNotFoundError as error:
        raise DataError(f"{folder / 'per_case.csv'}: no such file; run alan evaluate again") from error
    cases["rule"] = cases["rule"].fillna("")
    files = [box["file"] for box in summary["white_boxes"] if "file" in box]
    return {
        **summary,
        "tables": tables.segmentation_tables(summary),
        "metric_tables": tables.metric_tables(summary),
        "published_note": tables.published_note(summary),
        "volume_tables": tables.volume_tables(summary),
        "ejection_fraction": tables.ejection_fraction_tables(summary),
        "parcels": tables.parcel_tables(summary, {file: read_json(folder / "models" / file) for file in files}),
        "cost_table": networks.cost_table(summary),
        "cost_note": networks.cost_note(summary) if summary["networks"] else "",
        "ensemble_tables": networks.ensemble_tables(summary),
        "pictures": segmentation_pictures(_writer(folder, summary), summary, cases),
        "reference": origin(summary["store"]),
    }


def _views(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **summary,
        "table": tables.view_table(summary),
        "published_note": tables.published_views_note(summary),
        "confusion": confusion_picture(_writer(folder, summary), summary),
    }


def _efficiency(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **summary,
        "picture": efficiency_picture(_writer(folder, summary), summary),
        "tables": label_efficiency.efficiency_tables(summary),
        "cost_table": label_efficiency.time_table(summary),
        "failures": label_efficiency.failure_notes(summary),
    }


def headline(results: Mapping[str, Any]) -> list[str]:
    """Write plain sentences for a clinician, one list entry per paragraph.

    Args:
        results: Content of ``results.json``.

    Returns:
        Text without markup. Each mean has its interval, and the text states whether a method is better than the
        atlas.
    """
    paragraphs = []
    if results.get("segmentation"):
        paragraphs += _segmentation_lead(results["segmentation"])
    if results.get("views"):
        paragraphs += _views_lead(results["views"])
    if results.get("label_efficiency"):
        paragraphs += efficiency_headline(results["label_efficiency"])
    return paragraphs


def simulated_stores(results: Mapping[str, Any]) -> list[str]:
    """List the names of the simulated data sets of a run."""
    stores = [
        results[name]["store"] for name in ("segmentation", "views", "label_efficiency") if results.get(name)
    ]
    return list(dict.fromkeys(store["name"] for store in stores if store["simulated"]))


def _find(rows: list[dict[str, Any]], **wanted: str) -> dict[str, Any] | None:
    return next((row for row in rows if all(row[name] == value for name, value in wanted.items())), None)


def _segmentation_lead(summary: Mapping[str, Any]) -> list[str]:
    label, test, store = summary["label"], summary["test"], summary["store"]
    structures = structures_of(summary)
    names = join_words([f"the {structure_name(structure)}" for structure in structures])
    views = join_words(list(test["views"])) or "view unknown"
    others = patients(label["patients"], store, "other")
    lead = (
        f"{names[:1].upper()}{names[1:]} {'was' if len(structures) == 1 else 'were'} outlined on "
        f"{plural(test['frames'], 'test frame')} ({views}) of {patients(test['patients'], store)} "
        f"({store['name']}) "
    )
    networks, how = [row["method"] for row in summary["networks"]], origin(store)
    if summary["white_boxes"]:
        lead += (
            f"from parcels, image regions that a network found without labels. The {how} outlines of {others} "
            "determined which parcels were selected. "
        )
        if networks:
            lead += f"Networks trained on {how} outlines were also measured: {join_words(networks)}. "
    elif networks:
        lead += f"by networks that were trained on the {how} outlines of other patients: {join_words(networks)}. "
    else:
        lead += f"by the average outline of {others}. "
    lead += f"The Dice score measures how well an outline agrees with the {how} one; 100% is perfect."
    if summary["against_atlas"]:
        lead += " Each method is compared with the atlas, an average outline that ignores the image."
    return [lead, *(_structure(summary, structure) for structure in structures), *network_headline(summary)]


def _structure(summary: Mapping[str, Any], structure: str) -> str:
    name = structure_name(structure).capitalize()
    example = summary["example_methods"].get(structure)
    if example is None and not any(box["structure"] == structure for box in summary["white_boxes"]):
        return f"{name}: measured for the atlas only, see the tables."
    if example is None:
        return (
            f"{name}: no rule selected a parcel, so nothing was outlined. The tables show which threshold the "
            "nearest parcel missed."
        )
    parts, missing, verdicts = [], [], []
    for phase in summary["test"]["phases"]:
        row = _find(summary["rows"], structure=structure, phase=phase, **example)
        if row is None or not row["metrics"]:
            missing.append(phase_name(phase))
            continue
        cell = interval_cell(row["metrics"]["dice"])
        of = f" (95% interval {cell.detail})" if cell.detail else ""
        parts.append(f"{cell.text}% at {phase_name(phase)}{of}")
        against = _find(summary["against_atlas"], structure=structure, phase=phase, **example)
        if against is not None:
            verdicts.append(f"{difference(against['dice'])} at {phase_name(phase)}")
    by = "" if example["rule"] else f" by {example['method']}"
    text = f"{name}{by}: Dice {join_words(parts)}."
    if missing:
        text += f" At {join_words(missing)} no parcel was selected."
    if verdicts:
        text += f" Compared with the atlas: {join_words(verdicts)}."
    return text


def _views_lead(summary: Mapping[str, Any]) -> list[str]:
    own = [row for row in summary["rows"] if row["kind"] == "backbone"]
    if not own:
        return []
    row, test = own[-1], summary["test"]
    cell = interval_cell(row["total"])
    of = f" (95% interval {cell.detail})" if cell.detail else ""
    text = (
        f"The view of {plural(test['images'], 'test image')} of {patients(test['patients'], summary['store'])} "
        f"was recognised in {cell.text}%{of} by comparison with the {row['k']} most similar training images. The "
        f"mean over the views is {percent(row['balanced']['mean'])}%."
    )
    for kind, what in (("pixels", "plain pixels without a network"), ("random", "an untrained network")):
        other = [other for other in summary["rows"] if other["kind"] == kind and other["k"] == row["k"]]
        if other:
            text += f" {what.capitalize()}: {percent(other[0]['total']['mean'])}%."
    return [text]
