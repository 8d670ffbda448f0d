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
from alan.report.export import write_summary
from alan.report.headline import headline, simulated_stores
from alan.report.pictures import (
    PictureWriter,
    confusion_picture,
    curve_pictures,
    efficiency_picture,
    segmentation_pictures,
)
from alan.report.words import origin
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
