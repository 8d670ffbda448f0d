"""The label-efficiency part of the report: one figure, one table, a few sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alan.report.figures import STYLE
from alan.report.words import PHASES, STRUCTURES, UNDEFINED, listed, percent, plural

#: Okabe and Ito's colours and related ones for each family of methods; markers tell its members apart.
FAMILIES = {
    "parcels": ("#0072B2", "#56B4E9", "#003A5C"),
    "probe": ("#009E73", "#5B8C00", "#00594A"),
    "network": ("#D55E00", "#E69F00", "#CC79A7"),
    "fixed": ("#000000", "#6B4C9A", "#8C564B"),
    "atlas": ("#8A939B",),
}
_MARKERS = "osD^vP"


def _looks(methods: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Colour, marker and line of every method."""
    counts: dict[str, int] = {}
    looks = {}
    for method in methods:
        family = FAMILIES[method["family"]]
        number = counts.get(method["family"], 0)
        counts[method["family"]] = number + 1
        looks[method["method"]] = {
            "color": family[number % len(family)],
            "marker": _MARKERS[number % len(_MARKERS)],
            "ls": "--" if number >= len(family) else "-",
        }
    return looks


def _series(summary: Mapping[str, Any], method: str, structure: str, phase: str) -> list[Mapping[str, Any]]:
    """Measured rows of one line, from few patients to many."""
    rows = [
        row
        for row in summary["rows"]
        if (row["method"], row["structure"], row["phase"]) == (method, structure, phase)
        and row["mean"] is not None
    ]
    return sorted(rows, key=lambda row: row["label_patients"])


def efficiency_figure(summary: Mapping[str, Any]) -> Figure:
    """Mean test Dice against the number of labelled patients, a panel for each structure, both phases together.

    Args:
        summary: the ``label_efficiency`` part of ``results.json``.

    Returns:
        The figure: a line is the mean over seeds, its band reaches from the lowest to the highest seed; every line
        bears its name. The atlas is grey; a fixed network, which learns from no label here, is a dotted line; a
        rule that starts from a prior begins at 0, left of the logarithmic axis.
    """
    structures, phase = summary["structures"], summary["phases"][-1]
    numbers = sorted({row["label_patients"] for row in summary["rows"]} - {0}) or [1]
    fixed = {method["method"] for method in summary["methods"] if method["family"] == "fixed"}
    unlabelled = any(row["label_patients"] == 0 and row["method"] not in fixed for row in summary["rows"])
    places = {n: float(n) for n in numbers} | ({0: numbers[0] / 2} if unlabelled else {})
    looks = _looks(summary["methods"])
    with mpl.rc_context(STYLE):
        height = max(3.6, 1.4 + 0.21 * len(summary["methods"]))
        figure = Figure(figsize=(0.4 + 4.4 * len(structures), height), layout="constrained")
        panels = figure.subplots(1, len(structures), squeeze=False)[0]
        for axes, structure in zip(panels, structures, strict=True):
            ends = []
            for method in summary["methods"]:
                rows = _series(summary, method["method"], structure, phase)
                if rows:
                    ends.append(_line(axes, rows, method, looks[method["method"]], places))
            axes.set_xscale("log")
            axes.set_xticks(list(places.values()), [str(n) for n in places])
            axes.minorticks_off()
            axes.set_xlim(min(places.values()) / 1.12, numbers[-1] * 1.12)
            axes.set_title(STRUCTURES.get(structure, structure).capitalize())
            axes.set_xlabel("labelled patients")
            axes.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{100 * value:.0f}"))
            axes.grid()
            _names(axes, ends)
        panels[0].set_ylabel("Dice (%), mean over test frames")
    return figure


def _line(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    method: Mapping[str, Any],
    look: dict[str, Any],
    places: Mapping[int, float],
) -> tuple[float, str, str]:
    """Draw one method; its height at the right end, its name and its colour."""
    if method["family"] == "fixed":
        axes.axhline(rows[0]["mean"], color=look["color"], ls=":", lw=1.6)
        return rows[0]["mean"], method["method"], look["color"]
    x = [places[row["label_patients"]] for row in rows]
    low, high = ([row[end] for row in rows] for end in ("lowest", "highest"))
    back: dict[str, Any] = {"zorder": 1.5} if method["family"] == "atlas" else {}
    axes.fill_between(x, low, high, color=look["color"], alpha=0.13, lw=0, **back)
    axes.plot(x, [row["mean"] for row in rows], ms=4, lw=1.6, mew=0, **look, **back)
    return rows[-1]["mean"], method["method"], look["color"]


def _names(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each name beside the end of its line, apart from its neighbours, with a thin line to it."""
    if not ends:
        return
    low, high = axes.get_ylim()
    step = (high - low) * 0.056
    order = sorted(ends)
    places = spread_apart([end[0] for end in order], step, low, high)
    for (value, name, colour), place in zip(order, places, strict=True):
        axes.annotate(
            name,
            xy=(1.0, value),
            xycoords=("axes fraction", "data"),
            xytext=(1.07, place),
            textcoords=("axes fraction", "data"),
            color=colour,
            fontsize=8,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "lw": 0.7,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 0,
            },
        )


def spread_apart(values: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Move ascending values apart, at least ``step`` from one to the next, as little as their order allows.

    Args:
        values: ascending.
        step: the least distance.
        low: the least place.
        high: the largest place; where there is no room, places go beyond it.

    Returns:
        The places, ascending.
    """
    shift = np.arange(len(values)) * step
    wanted = np.asarray(values, np.float64) - shift
    blocks: list[list[float]] = []  # pool adjacent violators: sum and number of each block of equal places
    for value in wanted:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, n = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += n
    places = np.concatenate([np.full(int(n), total / n) for total, n in blocks]) if blocks else np.zeros(0)
    room = max(high - (len(values) - 1) * step, low)
    return [float(place) for place in places.clip(low, room) + shift]


def efficiency_tables(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A table for each phase (both first): ``phase``, ``numbers``, and ``structures`` with their ``rows``.

    A row has ``method``, ``what``, ``colour`` and ``cells``: ``mean`` and ``range`` (± sd over seeds), one for
    each number of patients; a fixed network has one cell, at 0 patients.
    """
    numbers = sorted({row["label_patients"] for row in summary["rows"]})
    looks = _looks(summary["methods"])
    found = {
        (row["method"], row["structure"], row["phase"], row["label_patients"]): row for row in summary["rows"]
    }
    return [
        {
            "phase": "both phases" if phase == "both" else PHASES.get(phase, phase),
            "numbers": numbers,
            "structures": [
                {
                    "name": STRUCTURES.get(structure, structure),
                    "rows": [
                        {
                            "method": method["method"],
                            "what": method["label"],
                            "colour": looks[method["method"]]["color"],
                            "cells": [_cell(found.get((method["method"], structure, phase, n))) for n in numbers],
                        }
                        for method in summary["methods"]
                    ],
                }
                for structure in summary["structures"]
            ],
        }
        for phase in reversed(summary["phases"])
    ]


def _cell(row: Mapping[str, Any] | None) -> dict[str, str]:
    if row is None:
        return {"mean": "", "range": ""}
    return {"mean": percent(row["mean"]), "range": "" if row["sd"] is None else f"± {percent(row['sd'])}"}


def cost_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Seconds of a cell on one thread, by method: ``method`` and ``cells``, one for each number of patients."""
    numbers = sorted({row["label_patients"] for row in summary["rows"]})

    def seconds(value: float | None) -> str:
        return UNDEFINED if value is None else f"{value:,.1f}" if value < 10 else f"{value:,.0f}"

    return [
        {
            "method": method["method"],
            "cells": [seconds(method["seconds"][str(n)]) if str(n) in method["seconds"] else "" for n in numbers],
        }
        for method in summary["methods"]
    ]


def failure_notes(summary: Mapping[str, Any]) -> list[str]:
    """One sentence for each method and structure in which a cell chose nothing or failed."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for note in summary["notes"]:
        groups.setdefault((note["method"], note["structure"]), []).append(note)
    sentences = []
    for (method, structure), notes in groups.items():
        where = "; ".join(
            f"{plural(n, 'patient')}: seed {listed([str(x['seed']) for x in notes if x['label_patients'] == n])}"
            for n in sorted({note["label_patients"] for note in notes})
        )
        what = (
            f"{STRUCTURES.get(structure, structure)}: nothing outlined, Dice 0"
            if structure
            else "failed, no value"
        )
        sentences.append(f"{method}, {what} ({where}). First reason: {notes[0]['reason']}")
    return sentences


def efficiency_headline(summary: Mapping[str, Any]) -> list[str]:
    """Plain sentences: what was compared, and from how many labels on a plain network is ahead."""
    test, label = summary["test"], summary["label"]
    lead = (
        f"{plural(len(summary['methods']), 'method')} learnt from the manual outlines of up to "
        f"{plural(label['patients'], 'patient')} of {summary['store']['name']} and "
        f"were measured on {plural(test['frames'], 'frame')} of {plural(test['patients'], 'other patient')}: how "
        "good is each with how many labelled patients? Agreement is given as the Dice score (100% is perfect), "
        f"the mean over {plural(len(summary['seeds']), 'draw')} of the labelled patients."
    )
    networks = [m["method"] for m in summary["methods"] if m["family"] == "network" and not m["pretrained"]]
    others = [m["method"] for m in summary["methods"] if m["family"] in ("parcels", "probe")]
    if not networks or not others:
        return [lead]
    plain = networks[0]
    phase = summary["phases"][-1]
    paragraphs = [lead]
    for structure in summary["structures"]:
        parts = [_overtaken(summary, plain, other, structure, phase) for other in others]
        name = STRUCTURES.get(structure, structure).capitalize()
        paragraphs.append(f"{name}: {plain} is ahead of {'; '.join(part for part in parts if part)}.")
    return paragraphs


def _overtaken(summary: Mapping[str, Any], plain: str, other: str, structure: str, phase: str) -> str:
    """From which number of patients on one method's mean is above another's, at all larger numbers, too."""
    mine = {row["label_patients"]: row["mean"] for row in _series(summary, plain, structure, phase)}
    theirs = {row["label_patients"]: row["mean"] for row in _series(summary, other, structure, phase)}
    shared = sorted(set(mine) & set(theirs))
    ahead = None
    for n in reversed(shared):
        if mine[n] <= theirs[n]:
            break
        ahead = n
    if not shared:
        return ""
    if ahead is None:
        return f"{other} at no number of patients measured up to {shared[-1]}"
    return f"{other} from {plural(ahead, 'patient')} on" if ahead > shared[0] else f"{other} throughout"
