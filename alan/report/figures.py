"""Figures of evaluations and trainings, legible in grey and for colour-blind readers; no display is needed."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alan.data.structures import structure_name
from alan.drawing import INK, STYLE, draw_outline
from alan.errors import DataError, damaged
from alan.evaluation.published import MARK_SEGMENTATION, published_dice
from alan.files import atomic
from alan.report.evaluation_tables import structures_of
from alan.report.words import KIND_COLOURS, method_label, where
from alan.runs import METRICS

LOSSES = "losses.png"
PHASE_MARKERS = {"ED": "o", "ES": "s"}
#: Blue, green and turquoise, as in Figs. 4 and 5 of the paper.
MANUAL, PREDICTED, OVERLAP = "#4da3ff", "#4ade80", "#2dd4bf"
_DASHED = (0, (3, 1.2))


def svg(figure: Figure) -> bytes:
    """Draw a figure as SVG, identical from run to run, with text as text."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "alan"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", pad_inches=0.08, metadata={"Date": None})
    return buffer.getvalue()


def show_percent(axis: mpl.axis.Axis) -> None:
    """Label the ticks of an axis of shares in percent, without the sign."""
    axis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0, symbol=""))


@mpl.rc_context(STYLE)
def method_chart(summary: Mapping[str, Any]) -> Figure:
    """Draw the Dice of every method with its interval, one panel per structure; published rows are diamonds.

    Args:
        summary: The ``segmentation`` part of ``results.json``.
    """
    structures = structures_of(summary)
    measured = [row for row in summary["rows"] if row["metrics"]]
    order = {kind: number for number, kind in enumerate(KIND_COLOURS)}
    names = sorted(
        dict.fromkeys((row["kind"], row["method"], row["rule"]) for row in measured),
        key=lambda name: order.get(name[0], 9),
    )
    published = published_dice(summary["published"]) if summary["published"] else ()
    extra = list(dict.fromkeys((cell.training, cell.k) for cell in published))
    labels = [method_label(method, rule) for _, method, rule in names]
    labels += [f"ALAN ({training}, K = {k}), published" for training, k in extra]
    figure = Figure(figsize=(2.6 + 2.9 * len(structures), 0.9 + 0.3 * len(labels)), layout="constrained")
    panels = figure.subplots(1, len(structures), sharey=True, squeeze=False)[0]
    for axes, structure in zip(panels, structures, strict=True):
        axes.set_title(structure_name(structure).capitalize())
        axes.grid(axis="x")
        for row in measured:
            if row["structure"] == structure:
                place = names.index((row["kind"], row["method"], row["rule"]))
                _dot(axes, row["metrics"]["dice"], place, row["phase"], KIND_COLOURS.get(row["kind"], INK))
        for cell in published:
            if cell.structure == structure:
                place = len(names) + extra.index((cell.training, cell.k))
                y = place + (-0.14 if cell.phase == "ED" else 0.14)
                axes.plot(cell.mean, y, "D", ms=5, mfc="white" if cell.phase == "ES" else INK, mec=INK, mew=1.1)
        axes.set_xlim(0, 1)
        show_percent(axes.xaxis)
        axes.set_xlabel("Dice (%), 95% interval over patients")
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.4, -0.6)
    handles = [
        mpl.lines.Line2D(
            [], [], color=INK, ls="", marker=PHASE_MARKERS[p], mfc=INK if p == "ED" else "white", label=p
        )
        for p in PHASE_MARKERS
    ]
    if extra:
        handles.append(
            mpl.lines.Line2D([], [], color=INK, ls="", marker="D", mfc="white", label=MARK_SEGMENTATION)
        )
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), handletextpad=0.2)
    return figure


def _dot(axes: Axes, value: Mapping[str, Any], place: float, phase: str, colour: str) -> None:
    if value["mean"] is None:
        return
    y = place + (-0.14 if phase == "ED" else 0.14)
    if value["low"] is not None:
        axes.plot([value["low"], value["high"]], [y, y], color=colour, lw=1.6, solid_capstyle="butt")
    face = "white" if phase == "ES" else colour
    axes.plot(value["mean"], y, PHASE_MARKERS.get(phase, "o"), ms=5, mfc=face, mec=colour, mew=1.3)


@mpl.rc_context(STYLE)
def dice_histograms(cases: pd.DataFrame, summary: Mapping[str, Any]) -> Figure | None:
    """Draw histograms of the Dice scores of the example methods, with the atlas as an outline (paper, Fig. 3).

    Args:
        cases: Content of ``per_case.csv``.
        summary: The ``segmentation`` part of ``results.json``.

    Returns:
        The figure; None if there is no example method.
    """
    examples = summary["example_methods"]
    phases = list(summary["test"]["phases"])
    if not examples:
        return None
    bins = np.linspace(0, 1, 21)
    figure = Figure(figsize=(1.4 + 4.0 * len(phases), 0.5 + 1.6 * len(examples)), layout="constrained")
    grid = figure.subplots(len(examples), len(phases), sharex=True, squeeze=False)
    for panels, (structure, method) in zip(grid, examples.items(), strict=True):
        for axes, phase in zip(panels, phases, strict=True):
            at = (cases["structure"] == structure) & (cases["phase"] == phase)
            mine = at & (cases["method"] == method["method"]) & (cases["rule"] == method["rule"])
            values = cases.loc[mine, "dice"].dropna()
            atlas = cases.loc[at & (cases["kind"] == "atlas"), "dice"].dropna()
            kind = next((r["kind"] for r in summary["rows"] if r["method"] == method["method"]), "parcels")
            axes.hist(values, bins=bins, color=KIND_COLOURS[kind], alpha=0.85, label=kind)
            if len(atlas):
                axes.hist(atlas, bins=bins, histtype="step", color=INK, lw=1.3, label="atlas")
            if len(values):
                axes.axvline(values.mean(), color=KIND_COLOURS[kind], lw=1.4, ls="--", label="mean")
            axes.set_title(where(structure, phase).capitalize())
            axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(4, integer=True))
            axes.grid(axis="y")
            show_percent(axes.xaxis)
        panels[0].set_ylabel("frames")
    for axes in grid[-1]:
        axes.set_xlabel("Dice (%)")
    grid[0, 0].legend(loc="upper left")
    return figure


@mpl.rc_context(STYLE)
def overlays(
    arrays: Mapping[str, NDArray[Any]],
    examples: Sequence[Mapping[str, Any]],
    structure: str,
    reference: str = "manual",
) -> Figure | None:
    """Draw the best, median and worst cases of a structure: outlines, and below them parcels (Figs. 4 and 5).

    Args:
        arrays: ``frames``, ``manual``, ``predicted`` and, for parcels, ``maps``, each (e, S, S), as in
            ``examples.npz``.
        examples: The e descriptions in ``results.json``.
        structure: Structure to draw.
        reference: Who drew the outlines to compare with: ``manual`` or ``simulated``.

    Returns:
        The figure; None if there is no example of the structure.
    """
    places = [i for i, example in enumerate(examples) if example["structure"] == structure]
    if not places:
        return None
    parcels = "maps" in arrays
    figure = Figure(figsize=(1.75 * len(places), 4.05 if parcels else 2.35), layout="constrained")
    grid = figure.subplots(1 + parcels, len(places), squeeze=False)
    for column, i in enumerate(places):
        top = grid[0, column]
        for axes in grid[:, column]:
            axes.imshow(arrays["frames"][i], cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
            axes.set_axis_off()
        _masks(top, arrays["manual"][i], arrays["predicted"][i])
        if parcels:
            _parcel_contours(grid[1, column], arrays["maps"][i], arrays["predicted"][i])
        example = examples[i]
        title = f"{example['phase']}, {example['rank']}\nDice {100 * example['dice']:.1f}%"
        top.set_title(title, loc="center", fontsize=9, fontweight="normal")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)  # type: ignore[union-attr, call-arg]
    handles = [
        mpl.lines.Line2D([], [], color=MANUAL, lw=2, label=reference),
        mpl.lines.Line2D([], [], color=PREDICTED, lw=2, ls=_DASHED, label="predicted"),
        mpl.patches.Patch(color=OVERLAP, alpha=0.5, label="overlap"),
    ]
    if parcels:
        handles.append(mpl.lines.Line2D([], [], color="#f0c040", lw=1, label="parcel borders"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _masks(axes: Axes, manual: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> None:
    fill = np.zeros((*manual.shape, 4))
    for mask, colour, alpha in ((manual & ~predicted, MANUAL, 0.28), (predicted & ~manual, PREDICTED, 0.28)):
        fill[mask] = mpl.colors.to_rgba(colour, alpha)
    fill[manual & predicted] = mpl.colors.to_rgba(OVERLAP, 0.3)
    axes.imshow(fill, interpolation="nearest")
    draw_outline(axes, manual, MANUAL, linewidths=1.4)
    draw_outline(axes, predicted, PREDICTED, linewidths=1.4, linestyles=[_DASHED])


def _parcel_contours(axes: Axes, parcels: NDArray[np.integer[Any]], predicted: NDArray[np.bool_]) -> None:
    """Draw the borders of parcels between pixels, and the predicted outline above them."""
    size = parcels.shape[0]
    across = np.argwhere(parcels[:, 1:] != parcels[:, :-1])  # border to the right of (row, column)
    down = np.argwhere(parcels[1:] != parcels[:-1])  # border below
    vertical = [((c + 0.5, r - 0.5), (c + 0.5, r + 0.5)) for r, c in across]
    horizontal = [((c - 0.5, r + 0.5), (c + 0.5, r + 0.5)) for r, c in down]
    lines = mpl.collections.LineCollection(vertical + horizontal, colors="#f0c040", linewidths=0.7, alpha=0.9)
    axes.add_collection(lines)
    axes.set_xlim(-0.5, parcels.shape[1] - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    draw_outline(axes, predicted, PREDICTED, linewidths=1.4, linestyles=[_DASHED])


@mpl.rc_context(STYLE)
def confusion_figure(summary: Mapping[str, Any], row: Mapping[str, Any]) -> Figure:
    """Draw the confusion matrix of one row of the view table: shares of each true view, with counts.

    Args:
        summary: The ``views`` part of ``results.json``.
        row: One of its rows.
    """
    counts = np.asarray(row["confusion"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    views = summary["views"]
    figure = Figure(figsize=(0.9 + 0.75 * len(views), 0.9 + 0.62 * len(views)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), count in np.ndenumerate(counts):
        colour = "white" if shares[i, j] > 0.55 else INK
        axes.text(j, i, f"{count}\n{100 * shares[i, j]:.0f}%", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(views)), views)
    axes.set_yticks(range(len(views)), views)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"{row['method']}, k = {row['k']}")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def read_metrics(path: Path) -> pd.DataFrame:
    """Read the metrics of a training by step, CSV or one JSON object a line.

    Raises:
        DataError: The file is missing or damaged.
    """
    with damaged(DataError, f"{path}: cannot be read", "run the training again"):
        return pd.read_csv(path) if path.suffix == ".csv" else pd.read_json(path, lines=True)


@mpl.rc_context(STYLE)
def training_curve(metrics: pd.DataFrame, name: str) -> Figure | None:
    """Draw the losses of a training by step.

    Args:
        metrics: Columns ``step`` and one for each metric; those with ``loss`` in their name are drawn.
        name: Title of the figure.

    Returns:
        The figure; None if there is no loss.
    """
    columns = [c for c in metrics.columns if "loss" in c and metrics[c].notna().any()]
    if "step" not in metrics.columns or not columns:
        return None
    figure = Figure(figsize=(5.6, max(2.4, 0.18 * len(columns))), layout="constrained")  # the legend fits
    axes = figure.subplots()
    palette = (*dict.fromkeys(KIND_COLOURS.values()), "#56B4E9")
    for column, colour in zip(columns, itertools.cycle(palette), strict=False):
        part = metrics[["step", column]].dropna()
        axes.plot(part["step"], part[column], color=colour, lw=1.3, label=column)
    axes.set_title(name)
    axes.set_xlabel("step")
    axes.grid(axis="y")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def write_losses(folder: Path) -> Path:
    """Draw the losses of a training by step into ``losses.png`` of its run folder.

    Args:
        folder: Run folder of ``alan fit``; the training may be running.

    Returns:
        Path of the picture.

    Raises:
        DataError: The metrics are missing or damaged, or have no loss.
    """
    path = folder / METRICS
    figure = training_curve(read_metrics(path), folder.resolve().name)
    if figure is None:
        raise DataError(f"{path}: has no loss; give the folder of a training that logs one")
    with atomic(folder / LOSSES) as temporary:
        figure.savefig(temporary, format="png", dpi=160)
    return folder / LOSSES
