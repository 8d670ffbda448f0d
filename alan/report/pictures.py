"""Figures of an evaluation's report with their captions and alternative texts."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from alan.arrays import load_arrays
from alan.data.structures import structure_name
from alan.drawing import DPI, png
from alan.evaluation.results import EXAMPLES
from alan.files import write_bytes
from alan.report import figures, label_efficiency
from alan.report.agreement import agreement_methods, bland_altman
from alan.report.evaluation_tables import structures_of
from alan.report.table import interval_cell
from alan.report.words import join_words, method_label, number, origin, percent, phase_name, where
from alan.words import plural

_PIXELS_PER_INCH = 118
#: Quality of JPEG pictures.
_QUALITY = 85


@dataclass(frozen=True)
class Picture:
    """Picture inside a page.

    Attributes:
        content: The PNG or JPEG file.
        caption: Text below the picture.
        alternative: Description of what the picture shows, for readers who cannot see it.
        width: Width on the page in CSS pixels.
        height: Height on the page in CSS pixels; None keeps the aspect ratio.
    """

    content: bytes
    caption: str
    alternative: str
    width: int
    height: int | None = None

    @property
    def data(self) -> str:
        """Address (URL) that contains the picture."""
        kind = "png" if self.content.startswith(b"\x89PNG") else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(self.content).decode()}"


def make_picture(figure: Figure, caption: str, alternative: str, *, simulated: bool) -> Picture:
    """Draw a figure for a page; type has one size in all figures.

    Args:
        figure: The figure.
        caption: Text below the figure.
        alternative: Description of what the figure shows.
        simulated: Whether the data are simulated; the figure then states this.
    """
    if simulated:
        figure.text(1, 0, "simulated data", ha="right", va="top", fontsize=8, color="#b42318")
    content = png(figure)
    width = int.from_bytes(content[16:20]) * _PIXELS_PER_INCH // DPI  # width in the PNG header
    return Picture(content, caption, alternative, width)


def embed_picture(path: Path, longest: int, alternative: str, caption: str = "") -> Picture | None:
    """Read a picture for a page, as JPEG of limited size.

    Args:
        path: The picture.
        longest: Longest side in pixels.
        alternative: Description of what it shows.
        caption: Text below it.

    Returns:
        The picture; None if there is no such file.
    """
    if not path.is_file():
        return None
    buffer = io.BytesIO()
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        small.save(buffer, format="JPEG", quality=_QUALITY, subsampling=0)
    return Picture(buffer.getvalue(), caption, alternative, *small.size)


class PictureWriter:
    """Writes the figures of a report.

    Args:
        folder: Run folder; the figures go to its ``figures``.
        simulated: Whether the data are simulated; each figure then states this.
    """

    def __init__(self, folder: Path, *, simulated: bool) -> None:
        self.folder, self.simulated = folder, simulated
        self.reference = origin({"simulated": simulated})

    def write(self, figure: Figure, name: str, caption: str, alternative: str, *, svg: bool = False) -> Picture:
        """Write a figure, and prepare it for the page.

        Args:
            figure: The figure.
            name: Name of its file, without suffix.
            caption: Text below the figure.
            alternative: Description of what the figure shows.
            svg: Whether to write it as SVG, too, for use elsewhere.
        """
        picture = make_picture(figure, caption, alternative, simulated=self.simulated)
        write_bytes(self.folder / "figures" / f"{name}.png", picture.content)
        if svg:
            write_bytes(self.folder / "figures" / f"{name}.svg", figures.svg(figure))
        return picture


def segmentation_pictures(writer: PictureWriter, summary: Mapping[str, Any], cases: pd.DataFrame) -> list[Picture]:
    """Draw the figures of the segmentation: all methods, histograms, agreement of ejection fractions, examples.

    Args:
        writer: Writer of the figures.
        summary: The ``segmentation`` part of ``results.json``.
        cases: Content of ``per_case.csv``.
    """
    found = [_methods(writer, summary)]
    if (histogram := figures.dice_histograms(cases, summary)) is not None:
        caption = (
            "Distribution of the Dice scores over the test frames, for the highlighted method and for the atlas "
            "(outline). The dashed line is the mean."
        )
        text = f"Histograms of the Dice score. {_spread(cases, summary)}"
        found.append(writer.write(histogram, "dice_histograms", caption, text))
    if (agreement := bland_altman(cases, summary, writer.reference)) is not None:
        caption = (
            f"Agreement of the ejection fraction from predicted and from {writer.reference} outlines (Bland and "
            "Altman). Each point is a loop. The solid line is the mean bias, the dashed lines are the limits of "
            "agreement; triangles are loops beyond the axis."
        )
        text = " ".join(_agreement(row) for row in agreement_methods(summary))
        text = f"Scatter plot of the error of the ejection fraction against its mean. {text}"
        found.append(writer.write(agreement, "bland_altman", caption, text))
    return found + _overlays(writer, summary)


def _methods(writer: PictureWriter, summary: Mapping[str, Any]) -> Picture:
    caption = (
        "Mean Dice score of every method with its 95% interval over patients. Filled circles are end-diastole, "
        "open squares end-systole. Blue: parcels under test; vermilion and pink: ensembles and networks trained "
        "on labels; green and orange: k-means on the same and on an untrained network; grey: atlas."
    )
    texts = []
    for structure in structures_of(summary):
        parts = [
            f"{method_label(row['method'], row['rule'])} at {phase_name(row['phase'])} "
            f"{percent(row['metrics']['dice']['mean'])}%"
            for row in summary["rows"]
            if row["structure"] == structure and row["metrics"]
        ]
        texts.append(f"{structure_name(structure).capitalize()}: {', '.join(parts)}.")
    alternative = f"Dot chart of the mean Dice score of every method. {' '.join(texts)}"
    return writer.write(figures.method_chart(summary), "methods", caption, alternative)


def _spread(cases: pd.DataFrame, summary: Mapping[str, Any]) -> str:
    """Describe the Dice scores of the example methods."""
    texts = []
    for structure, method in summary["example_methods"].items():
        for phase in summary["test"]["phases"]:
            at = (cases["structure"] == structure) & (cases["phase"] == phase)
            at &= (cases["method"] == method["method"]) & (cases["rule"] == method["rule"])
            values = cases.loc[at, "dice"].dropna()
            if len(values):
                texts.append(
                    f"{where(structure, phase).capitalize()}, {plural(len(values), 'frame')}: median "
                    f"{percent(values.median())}%, from {percent(values.min())}% to {percent(values.max())}%."
                )
    return " ".join(texts)


def _agreement(row: Mapping[str, Any]) -> str:
    bias = interval_cell(row["mean_bias"], "number")
    low, high = (number(row[f"{end}_limit_of_agreement"]["value"]) for end in ("lower", "upper"))
    return (
        f"{method_label(row['method'], row['rule'])}: mean bias {bias.text} points, limits of agreement {low} to "
        f"{high} points, {plural(row['n'], 'loop')}."
    )


def _overlays(writer: PictureWriter, summary: Mapping[str, Any]) -> list[Picture]:
    if not summary["examples"]:
        return []
    arrays = load_arrays(writer.folder / EXAMPLES)
    found = []
    for structure, method in summary["example_methods"].items():
        figure = figures.overlays(arrays, summary["examples"], structure, writer.reference)
        if figure is None:
            continue
        examples = [example for example in summary["examples"] if example["structure"] == structure]
        name, by = structure_name(structure), method_label(method["method"], method["rule"])
        below = "; below, the borders of all parcels with the predicted outline" if "maps" in arrays else ""
        cases = "; ".join(f"{e['phase']} {e['rank']}: {e['id']}" for e in examples)
        caption = (
            f"{name.capitalize()}: best, median and worst test frame of {by}. {writer.reference.capitalize()} "
            f"outline (blue), predicted outline (green, dashed) and their overlap (turquoise){below}. {cases}."
        )
        scores = [f"{e['rank']} {percent(e['dice'])}% at {phase_name(e['phase'])}" for e in examples]
        shown = f"{writer.reference} and the predicted outline of the {name}"
        alternative = f"Frames with the {shown}. Dice scores: {join_words(scores)}."
        found.append(writer.write(figure, f"overlays_{structure}", caption, alternative))
    return found


def confusion_picture(writer: PictureWriter, summary: Mapping[str, Any]) -> Picture:
    """Draw the confusion matrix of the backbone with the most neighbours.

    Args:
        writer: Writer of the figures.
        summary: The ``views`` part of ``results.json``.
    """
    row = next((row for row in reversed(summary["rows"]) if row["kind"] == "backbone"), summary["rows"][0])
    caption = (
        f"Confusion matrix of {row['method']} with k = {row['k']}. Each row is a true view, with the number of "
        "test images and their share of that view."
    )
    counts = np.asarray(row["confusion"])
    parts = [f"{view} {counts[i, i]} of {counts[i].sum()}" for i, view in enumerate(summary["views"])]
    alternative = f"Confusion matrix of the views. Recognised correctly: {', '.join(parts)}."
    return writer.write(figures.confusion_figure(summary, row), "confusion", caption, alternative)


def efficiency_picture(writer: PictureWriter, summary: Mapping[str, Any]) -> Picture:
    """Draw the label-efficiency figure, also as SVG for use elsewhere.

    Args:
        writer: Writer of the figures.
        summary: The ``label_efficiency`` part of ``results.json``.
    """
    figure = label_efficiency.efficiency_figure(summary)
    caption = (
        "Mean Dice score over all test frames against the number of labelled patients. A line is the mean over "
        "the draws of patients; its band reaches from the lowest to the highest draw. Blue: parcels; green: "
        "probes of frozen features; orange and pink: networks trained on the frames; grey: atlas, an average "
        "mask; dotted: a fixed network."
    )
    alternative = label_efficiency.efficiency_alternative(summary)
    return writer.write(figure, "label_efficiency", caption, alternative, svg=True)


def curve_pictures(writer: PictureWriter, curves: Mapping[str, str]) -> list[Picture]:
    """Draw the training curves of a run.

    Args:
        writer: Writer of the figures.
        curves: Mapping from the name of a training to its file in ``curves/``.
    """
    found = []
    for name, file in curves.items():
        path = writer.folder / "curves" / file
        metrics = figures.read_metrics(path)
        figure = figures.training_curve(metrics, name)
        if figure is not None:
            losses = [column for column in metrics.columns if "loss" in column and metrics[column].notna().any()]
            parts = [
                f"{c} from {metrics[c].dropna().iloc[0]:.3g} to {metrics[c].dropna().iloc[-1]:.3g}" for c in losses
            ]
            alternative = f"Line chart of the losses of {name} by step: {', '.join(parts)}."
            caption = f"Training of {name}: loss by step."
            found.append(writer.write(figure, f"curve_{path.stem}", caption, alternative))
    return found
