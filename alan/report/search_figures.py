"""Figures of a search: history, parallel coordinates, importances, Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alan.drawing import STYLE
from alan.report.figures import show_percent

#: Blue for trials, orange for the best, grey for the rest, by Okabe and Ito; they also differ in grey.
_TRIAL, _BEST, _REST, _INK = "#0072B2", "#D55E00", "#9aa5b1", "#1f2933"
AXIS_TITLES = {
    "encoder": "encoder",
    "decoder": "decoder",
    "depth": "depth",
    "lr": "learning rate",
    "batch_size": "batch size",
}
Trials = Sequence[Mapping[str, Any]]


@mpl.rc_context(STYLE)
def history(trials: Trials) -> Figure:
    """Draw the IoU of each trial in order, and the best so far; failed trials are at the bottom.

    Args:
        trials: Rows of ``results.json``.
    """
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    axes: Axes = figure.subplots()
    axes.grid(axis="y")
    last = trials[-1]["trial"]
    done = [(row["trial"], row["iou"]) for row in trials if row["state"] == "complete"]
    pruned = [(row["trial"], row["iou"]) for row in trials if row["state"] == "pruned" and row["iou"] is not None]
    failed = [row["trial"] for row in trials if row["state"] == "failed"]
    if done:
        numbers, scores = zip(*done, strict=True)
        best = np.maximum.accumulate(scores)
        axes.step([*numbers, last], [*best, best[-1]], where="post", color=_BEST, label="best so far")
        axes.plot(numbers, scores, "o", color=_TRIAL, ms=5, label="trial")
    if pruned:
        axes.plot(*zip(*pruned, strict=True), "o", mfc="white", mec=_TRIAL, ms=5, label="stopped early")
    if failed:
        axes.plot(
            failed,
            [0.02] * len(failed),
            "x",
            color=_INK,
            ms=6,
            transform=axes.get_xaxis_transform(),
            label="failed",
        )
    axes.set_xlim(trials[0]["trial"] - 0.6, last + 0.6)
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    show_percent(axes.yaxis)
    axes.set_xlabel("Trial")
    axes.set_ylabel("Validation IoU (%)")
    figure.legend(loc="outside upper right", ncols=4, handletextpad=0.3)
    return figure


@mpl.rc_context(STYLE)
def parallel(trials: Trials, values: Mapping[str, Sequence[Any]]) -> Figure:
    """Draw one line per finished trial through its value on each axis, coloured by its IoU; the best is thick.

    Args:
        trials: Rows of ``results.json``.
        values: Mapping from axis to the values of the space; axes with a single value are left out.
    """
    done = sorted((row for row in trials if row["state"] == "complete"), key=lambda row: row["iou"])
    names = [name for name in values if len(values[name]) > 1]
    scores = [row["iou"] for row in done]
    low, high = min(scores), max(scores)
    scale = mpl.colors.Normalize(low, high if high > low else low + 1e-3)
    colours = mpl.colormaps["cividis_r"]
    used = {name: [v for v in values[name] if any(row[name] == v for row in done)] for name in names}
    for name in ("depth", "lr", "batch_size"):
        if name in used:
            used[name] = sorted(used[name])
    tallest = max([len(column) for column in used.values()], default=1)
    figure = Figure(figsize=(9.2, min(max(3.2, 0.22 * tallest), 9.0)), layout="constrained")
    axes: Axes = figure.subplots()
    spread = np.random.default_rng(0)  # lines through the same value lie side by side
    for rank, row in enumerate(done):
        places = []
        for name in names:
            column = used[name]
            place = column.index(row[name]) / max(len(column) - 1, 1) if len(column) > 1 else 0.5
            places.append(place + spread.uniform(-1, 1) * 0.12 / max(len(column), 2))
        places.append((row["iou"] - low) / (high - low) if high > low else 0.5)
        best = rank == len(done) - 1
        axes.plot(
            range(len(places)),
            places,
            color=_BEST if best else colours(scale(row["iou"])),
            lw=2.4 if best else 1.1,
            alpha=1.0 if best else 0.8,
            zorder=3 if best else 2,
        )
    for at, name in enumerate(names):
        axes.axvline(at, color=_REST, lw=0.8, zorder=1)
        column = used[name]
        for number, value in enumerate(column):
            height = number / max(len(column) - 1, 1) if len(column) > 1 else 0.5
            text = f"{value:g}" if isinstance(value, float) else str(value)
            axes.annotate(
                text,
                (at, height),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                bbox={"fc": "white", "ec": "none", "alpha": 0.75, "pad": 0.5},
                zorder=4,
            )
    axes.axvline(len(names), color=_REST, lw=0.8, zorder=1)
    for height, value in ((0.0, low), (1.0, high)) if high > low else ((0.5, low),):
        axes.annotate(f"{100 * value:.1f}", (len(names), height), (4, 0), textcoords="offset points", va="center")
    axes.set_xticks(range(len(names) + 1), [*(AXIS_TITLES[name] for name in names), "IoU (%)"])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(names) + 0.25)
    axes.set_ylim(-0.06, 1.06)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


@mpl.rc_context(STYLE)
def importance_bars(shares: Mapping[str, float]) -> Figure:
    """Draw the share of each axis in the variance of the IoU, with the largest on top."""
    names = sorted(shares, key=lambda name: shares[name])
    figure = Figure(figsize=(5.6, 0.7 + 0.34 * len(names)), layout="constrained")
    axes: Axes = figure.subplots()
    bars = axes.barh(
        [AXIS_TITLES[name] for name in names], [shares[name] for name in names], color=_TRIAL, height=0.6
    )
    axes.bar_label(bars, [f"{100 * shares[name]:.0f}%" for name in names], padding=4)
    axes.set_xlim(0, max([*shares.values(), 0.01]) * 1.15)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("Share of the variance of the IoU")
    return figure


@mpl.rc_context(STYLE)
def pareto_front(trials: Trials, front: Sequence[int]) -> Figure:
    """Draw the IoU against the latency, with the front joined by a line.

    Args:
        trials: Rows of ``results.json``.
        front: Numbers of the trials than which no other is better in both.
    """
    done = [row for row in trials if row["state"] == "complete"]
    best = sorted((row for row in done if row["trial"] in set(front)), key=lambda row: row["latency"])
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes: Axes = figure.subplots()
    axes.grid()
    axes.plot([1e3 * row["latency"] for row in done], [row["iou"] for row in done], "o", color=_REST, ms=5)
    axes.step(
        [1e3 * row["latency"] for row in best],
        [row["iou"] for row in best],
        "o-",
        where="post",
        color=_BEST,
        ms=6,
        label="Pareto front",
    )
    for row in best:
        axes.annotate(
            f"{row['decoder']}, {row['encoder']}",
            (1e3 * row["latency"], row["iou"]),
            (5, -9),
            textcoords="offset points",
            fontsize=7,
        )
    show_percent(axes.yaxis)
    axes.set_xlabel("Latency per frame (ms)")
    axes.set_ylabel("Validation IoU (%)")
    figure.legend(loc="outside upper right")
    return figure
