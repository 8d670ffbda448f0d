"""A run folder to one self-contained page: no script, no outside file, every figure inside."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alan.errors import DataError
from alan.evaluation.results import EXAMPLES, read_results
from alan.files import atomic, read_json, write_text
from alan.report import figures, label_efficiency, tables
from alan.report.headline import headline
from alan.report.networks import network_part
from alan.report.words import PHASES, RULES, STRUCTURES
from alan.runs import CONFIG

TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class Picture:
    """A figure in the page.

    Attributes:
        file: its name in ``figures/``.
        data: the PNG as base64 text.
        caption: text under it.
        alternative: what it shows, for those who cannot see it.
    """

    file: str
    data: str
    caption: str
    alternative: str


def write_report(run: str | os.PathLike[str]) -> Path:
    """Draw the figures of a run and write its ``report.html``.

    Args:
        run: a run folder of :func:`alan.evaluation.run_evaluation`.

    Returns:
        The path of the page. The figures also lie in ``figures/`` as PNG files.

    Raises:
        DataError: the folder holds no whole run.
    """
    folder = Path(run)
    results = read_results(folder)
    segmentation, views = results.get("segmentation"), results.get("views")
    measured = results.get("label_efficiency")
    page = {
        "title": results["title"],
        "headline": headline(results),
        "segmentation": _segmentation_part(folder, segmentation) if segmentation else None,
        "views": _views_part(folder, views) if views else None,
        "efficiency": _efficiency_part(folder, measured) if measured else None,
        "curves": _curves(folder, results["curves"]),
        "skipped": tables.skipped_notes(results),
        "provenance": results["provenance"],
        "config": (folder / CONFIG).read_text(encoding="utf-8"),
        "phase_names": PHASES,
    }
    out = folder / "report.html"
    write_text(out, template(TEMPLATE).render(page))
    return out


def template(name: str) -> Template:
    """A page's template: everything is escaped, and a missing value is an error."""
    environment = Environment(
        loader=PackageLoader("alan.report", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def make_picture(folder: Path, figure: Figure, name: str, caption: str, alternative: str) -> Picture:
    """Write a figure to ``figures/`` of a run folder, and make it ready for the page."""
    content = figures.png(figure)
    with atomic(folder / "figures" / name) as temporary:
        temporary.write_bytes(content)
    return Picture(name, base64.b64encode(content).decode(), caption, alternative)


def _segmentation_part(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """All that the page shows of the segmentation."""
    try:
        cases = pd.read_csv(folder / "per_case.csv", keep_default_na=False, na_values=[""], dtype={"rule": str})
    except FileNotFoundError as error:
        raise DataError(f"{folder / 'per_case.csv'}: no such file; run alan evaluate again") from error
    cases["rule"] = cases["rule"].fillna("")
    models = {
        box["file"]: read_json(folder / "models" / box["file"]) for box in summary["white_boxes"] if "file" in box
    }
    pictures = {
        "methods": make_picture(
            folder,
            figures.method_chart(summary),
            "methods.png",
            "Mean Dice score of every method with its 95% interval over patients. Filled circles are end "
            "diastole, open squares end systole; blue are the parcels under test, vermilion and pink ensembles "
            "and networks that learnt from labels, green and orange the k-means baselines on the same and on an "
            "untrained network, grey the atlas.",
            "Dot chart of the mean Dice score of every method",
        )
    }
    histogram = figures.dice_histograms(cases, summary)
    if histogram is not None:
        pictures["histograms"] = make_picture(
            folder,
            histogram,
            "dice_histograms.png",
            "How the Dice scores spread over the test frames, for the method shown in this report and the "
            "atlas (outline); the dashed line is the mean.",
            "Histograms of the Dice score by structure and phase",
        )
    return {
        **summary,
        "tables": tables.segmentation_tables(summary),
        "published_note": tables.published_note(summary) if summary["published"] else "",
        "ejection_fraction": tables.ejection_fraction_rows(summary),
        "parcels": tables.parcel_tables(summary, models),
        "supervised": network_part(summary),
        "pictures": pictures,
        "overlays": _overlays(folder, summary),
    }


def _overlays(folder: Path, summary: Mapping[str, Any]) -> list[Picture]:
    if not summary["examples"]:
        return []
    with np.load(folder / EXAMPLES, allow_pickle=False) as file:
        arrays: dict[str, NDArray[Any]] = {name: file[name] for name in file.files}
    pictures = []
    for structure, method in summary["example_methods"].items():
        figure = figures.overlays(arrays, summary["examples"], structure)
        if figure is not None:
            name = STRUCTURES.get(structure, structure)
            cases = "; ".join(
                f"{e['phase']} {e['rank']}: {e['id']}" for e in summary["examples"] if e["structure"] == structure
            )
            rule = f", {RULES[method['rule']]} rule" if method["rule"] else ""
            below = "; below, the borders of all parcels with the predicted outline" if "maps" in arrays else ""
            caption = (
                f"{name.capitalize()}: best, median and worst test frame by {method['method']}{rule}. The manual "
                "outline (blue), the predicted one (green, dashed) and their overlap (turquoise)"
                f"{below}. {cases}."
            )
            pictures.append(
                make_picture(
                    folder, figure, f"overlays_{structure}.png", caption, f"Example outlines of the {name}"
                )
            )
    return pictures


def _views_part(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """All that the page shows of the views."""
    row = next((row for row in reversed(summary["rows"]) if row["kind"] == "backbone"), summary["rows"][0])
    picture = make_picture(
        folder,
        figures.confusion_figure(summary, row),
        "confusion.png",
        f"Confusion matrix of {row['method']} with k = {row['k']}: each row is a true view; the number of test "
        "images and their share of that view.",
        "Confusion matrix of the views",
    )
    return {**summary, "table": tables.view_table(summary), "confusion": picture}


def _efficiency_part(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """All that the page shows of label efficiency; the figure is also there as SVG, for use elsewhere."""
    figure = label_efficiency.efficiency_figure(summary)
    with atomic(folder / "figures" / "label_efficiency.svg") as temporary:
        temporary.write_bytes(figures.svg(figure))
    caption = (
        "Mean Dice score over the test frames of both phases against the number of labelled patients. A line is "
        "the mean over the draws of the patients, its band reaches from the lowest to the highest draw. Blue: "
        "parcels; green: read-outs of frozen features; orange and pink: networks trained on the frames; grey: the "
        "atlas, an average mask; dotted: a fixed network."
    )
    picture = make_picture(
        folder, figure, "label_efficiency.png", caption, "Dice score against the number of labelled patients"
    )
    return {
        **summary,
        "picture": picture,
        "tables": label_efficiency.efficiency_tables(summary),
        "costs": label_efficiency.cost_rows(summary),
        "failures": label_efficiency.failure_notes(summary),
    }


def _curves(folder: Path, curves: Mapping[str, str]) -> list[Picture]:
    pictures = []
    for name, file in curves.items():
        path = folder / "curves" / file
        metrics = pd.read_csv(path) if path.suffix == ".csv" else pd.read_json(path, lines=True)
        figure = figures.training_curve(metrics, name)
        if figure is not None:
            caption = f"Training of {name}: the loss by step."
            pictures.append(
                make_picture(folder, figure, f"curve_{path.stem}.png", caption, f"Training curve of {name}")
            )
    return pictures
