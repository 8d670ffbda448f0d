"""The report of an active learning run, and the pictures of a list of suggestions."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alan.active.acquisition import ACQUISITIONS, RANDOM
from alan.active.state import SCHEMA
from alan.errors import DataError
from alan.evaluation.results import RESULTS
from alan.files import read_json, write_text
from alan.report.figures import STYLE
from alan.report.html import make_picture, template
from alan.report.words import number, percent
from alan.runs import CONFIG

# Okabe and Ito's colours, each with a marker of its own, in the order of the acquisition functions.
_LOOKS = (
    ("#009E73", "s"), ("#0072B2", "o"), ("#D55E00", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"),
)  # fmt: skip
_CONTOURS = ("#4ade80", "#4da3ff", "#f0c040", "#CC79A7", "#D55E00", "#56B4E9")


def write_active_report(run: str | os.PathLike[str]) -> Path:
    """Write the ``report.html`` of a run of :func:`alan.active.run_active`.

    Args:
        run: the run folder.

    Returns:
        The path of the page; its chart also lies in ``figures/``.

    Raises:
        DataError: the folder holds no whole run.
    """
    folder = Path(run)
    results = read_json(folder / RESULTS)
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        raise DataError(f"{folder / RESULTS}: not of the schema {SCHEMA}; run alan active run again")
    seeds = len(results["loop"]["seeds"])
    caption = (
        "IoU against the number of labelled images: the mean over "
        + (f"{seeds} seeds, and as a band the least and the largest." if seeds > 1 else "one seed.")
        + " Random, the baseline that asks no network, is dashed."
    )
    page = {
        **{key: value for key, value in results.items() if key != "loop"},
        "protocol": results["loop"],
        "picture": make_picture(folder, curve_chart(results), "curves.png", caption, "IoU against labels"),
        "last_rows": [_last_row(row) for row in results["last"]],
        "needed_table": _needed_table(results["needed"]),
        "redundancy_rows": [
            (ACQUISITIONS[r["function"]].title, percent(r["known_patients"], 0), number(r["likeness"], 3))
            for r in results["redundancy"]
        ],
        "config": (folder / CONFIG).read_text(encoding="utf-8"),
    }
    out = folder / "report.html"
    write_text(out, template("active.html.j2").render(page))
    return out


def _last_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": ACQUISITIONS[row["function"]].title,
        "labels": number(row["n_labels"], 0),
        "iou": percent(row["iou"]),
        "range": f"{percent(row['low'])} to {percent(row['high'])}",
        "dice": [percent(value) for value in row["dice"].values()],
    }


def _needed_table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row a function, a column a score."""
    scores = sorted({row["score"] for row in rows})
    cells: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: scores.index(row["score"])):
        part = "" if row["reached"] == row["seeds"] else f" ({row['reached']} of {row['seeds']} seeds)"
        text = "not reached" if row["labels"] is None else f"{number(row['labels'], 0)}{part}"
        cells.setdefault(row["function"], []).append(text)
    return {
        "scores": [percent(score) for score in scores],
        "rows": [(ACQUISITIONS[name].title, row) for name, row in cells.items()],
    }


def curve_chart(results: Mapping[str, Any]) -> Figure:
    """IoU against labels for every function, mean and spread over the seeds.

    Args:
        results: ``results.json`` of a run.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.subplots()
        for name in dict.fromkeys(row["function"] for row in results["curves"]):
            rows = sorted((r for r in results["curves"] if r["function"] == name), key=lambda r: r["n_labels"])
            labels = [row["n_labels"] for row in rows]
            mean, low, high = ([100 * row[key] for row in rows] for key in ("mean", "low", "high"))
            colour, marker = _LOOKS[list(ACQUISITIONS).index(name) % len(_LOOKS)]
            line = "-"
            if name == RANDOM:
                colour, marker, line = "#555555", "x", "--"
            style: dict[str, Any] = {"color": colour, "marker": marker, "label": ACQUISITIONS[name].title}
            axes.plot(labels, mean, line, ms=5, lw=1.5, **style)
            axes.fill_between(labels, low, high, color=colour, alpha=0.12, lw=0)
        measured = results["measured"]
        axes.set_xlabel("labelled images")
        axes.set_ylabel(f"IoU (%), {', '.join(results['structures'])}, split {measured['split']}")
        axes.grid(axis="y")
        axes.legend(fontsize=8)
    return figure


def uncertainty_sheet(
    frames: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    maps: NDArray[np.floating[Any]],
    titles: Sequence[str],
    heading: str,
) -> Figure:
    """Draw each frame with its predicted outlines beside the map of its uncertainty.

    Args:
        frames: (m, S, S) uint8.
        labels: (m, S, S) integers, 0 for background.
        maps: (m, S, S) floats, drawn on one scale.
        titles: m titles.
        heading: Heading of the figure.
    """
    columns = min(4, len(frames))
    rows = math.ceil(len(frames) / columns)
    top = float(maps.max()) or 1.0
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(0.3 + 3.1 * columns, 0.6 + 1.75 * rows), layout="constrained")
        grid = figure.subplots(rows, 2 * columns, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for place, (frame, label, uncertain, title) in enumerate(zip(frames, labels, maps, titles, strict=True)):
            row, column = divmod(place, columns)
            left, right = grid[row, 2 * column], grid[row, 2 * column + 1]
            left.imshow(frame, cmap="gray", vmin=0, vmax=255)
            _outlines(left, label)
            left.set_title(title, fontsize=7, fontweight="normal", loc="left")
            picture = right.imshow(uncertain, cmap="inferno", vmin=0, vmax=top)
        figure.colorbar(picture, ax=list(grid.flat), shrink=0.5, aspect=30, pad=0.01)
        figure.suptitle(heading, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def _outlines(axes: Axes, label: NDArray[np.integer[Any]]) -> None:
    for value in range(1, int(label.max()) + 1):
        mask = label == value
        if mask.any() and not mask.all():
            axes.contour(mask, levels=[0.5], colors=[_CONTOURS[(value - 1) % len(_CONTOURS)]], linewidths=1.1)
