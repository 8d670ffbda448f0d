"""The label-efficiency part of a report: its figure, tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alan.data.structures import structure_name
from alan.drawing import STYLE
from alan.report.figures import show_percent
from alan.report.table import Cell, Column, Row, Section, Table
from alan.report.words import UNDEFINED, join_words, origin, patients, percent, phase_name
from alan.words import plural

#: Okabe and Ito's colours and related ones for each family of methods; markers distinguish its members.
FAMILIES = {
    "parcels": ("#0072B2", "#56B4E9", "#003A5C"),
    "probe": ("#009E73", "#5B8C00", "#00594A"),
    "network": ("#D55E00", "#E69F00", "#CC79A7"),
    "fixed": ("#000000", "#6B4C9A", "#8C564B"),
    "atlas": ("#8A939B",),
}
_MARKERS = "osD^vP"


def _looks(methods: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Choose colour, marker and line of every method."""
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
    """Return the measured rows of one line, from few patients to many."""
    rows = [
        row
        for row in summary["rows"]
        if (row["method"], row["structure"], row["phase"]) == (method, structure, phase)
        and row["mean"] is not None
    ]
    return sorted(rows, key=lambda row: row["label_patients"])


@mpl.rc_context(STYLE)
def efficiency_figure(summary: Mapping[str, Any]) -> Figure:
    """Draw the mean test Dice against the number of labelled patients, with one panel per structure.

    Args:
        summary: The ``label_efficiency`` part of ``results.json``.

    Returns:
        The figure. A line is the mean over seeds, and its band reaches from the lowest to the highest seed. The
        legend lists the methods by their last value. The atlas is grey; a fixed network, which learns from no
        label, is a dotted line; a method that also works without labels begins at 0, left of the logarithmic axis.
    """
    structures, phase = summary["structures"], summary["phases"][-1]
    numbers = sorted({row["label_patients"] for row in summary["rows"]} - {0}) or [1]
    fixed = {method["method"] for method in summary["methods"] if method["family"] == "fixed"}
    unlabelled = any(row["label_patients"] == 0 and row["method"] not in fixed for row in summary["rows"])
    places = {n: float(n) for n in numbers} | ({0: numbers[0] / 2} if unlabelled else {})
    looks = _looks(summary["methods"])
    height = max(3.6, 1.4 + 0.21 * len(summary["methods"]))
    figure = Figure(figsize=(2.4 + 3.8 * len(structures), height), layout="constrained")
    panels = figure.subplots(1, len(structures), squeeze=False)[0]
    for axes, structure in zip(panels, structures, strict=True):
        for method in summary["methods"]:
            if rows := _series(summary, method["method"], structure, phase):
                _line(axes, rows, method, looks[method["method"]], places)
        axes.set_xscale("log")
        axes.set_xticks(list(places.values()), [str(n) for n in places])
        axes.minorticks_off()
        axes.set_xlim(min(places.values()) / 1.12, numbers[-1] * 1.12)
        axes.set_title(structure_name(structure).capitalize())
        axes.set_xlabel("labelled patients")
        show_percent(axes.yaxis)
        axes.grid()
    panels[0].set_ylabel("Dice (%), mean over test frames")
    lines = {line.get_label(): line for axes in reversed(panels) for line in axes.get_lines()}
    order = sorted(lines.values(), key=lambda line: float(np.asarray(line.get_ydata())[-1]), reverse=True)
    figure.legend(handles=order, loc="outside right upper", fontsize=8)
    return figure


def _line(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    method: Mapping[str, Any],
    look: dict[str, Any],
    places: Mapping[int, float],
) -> None:
    """Draw one method."""
    if method["family"] == "fixed":
        axes.axhline(rows[0]["mean"], color=look["color"], ls=":", lw=1.6, label=method["method"])
        return
    x = [places[row["label_patients"]] for row in rows]
    low, high = ([row[end] for row in rows] for end in ("lowest", "highest"))
    back: dict[str, Any] = {"zorder": 1.5} if method["family"] == "atlas" else {}
    axes.fill_between(x, low, high, color=look["color"], alpha=0.13, lw=0, **back)
    axes.plot(x, [row["mean"] for row in rows], ms=4, lw=1.6, mew=0, label=method["method"], **look, **back)


def efficiency_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Make one table per phase, that of both phases first.

    Args:
        summary: The ``label_efficiency`` part of ``results.json``.

    Returns:
        Tables with one section per structure and one column per number of patients. A cell is the mean over the
        draws of patients with their standard deviation; a fixed network has one cell, at 0 patients.
    """
    numbers, looks = _numbers(summary), _looks(summary["methods"])
    rows = {(row["method"], row["structure"], row["phase"], row["label_patients"]): row for row in summary["rows"]}
    columns = [Column("Method", number=False), *(Column(str(n), "Labelled patients") for n in numbers)]
    tables: list[Table] = []
    for phase in reversed(summary["phases"]):
        sections = [
            Section(
                [
                    Row(
                        method["method"],
                        [_cell(rows.get((method["method"], structure, phase, n))) for n in numbers],
                        detail=method["label"],
                        colour=looks[method["method"]]["color"],
                    )
                    for method in summary["methods"]
                ],
                structure_name(structure).capitalize(),
            )
            for structure in summary["structures"]
        ]
        title = "both phases" if phase == "both" else phase_name(phase)
        tables.append(Table(f"Dice, %, {title}", columns, sections, small=bool(tables)))
    return tables


def _numbers(summary: Mapping[str, Any]) -> list[int]:
    return sorted({row["label_patients"] for row in summary["rows"]})


def _cell(row: Mapping[str, Any] | None) -> Cell:
    if row is None:
        return Cell("")
    return Cell(percent(row["mean"]), "" if row["sd"] is None else f"± {percent(row['sd'])}")


def time_table(summary: Mapping[str, Any]) -> Table:
    """Make the table of the time of a cell on one thread, by method and number of patients."""
    numbers = _numbers(summary)

    def seconds(value: float | None) -> str:
        return UNDEFINED if value is None else f"{value:,.1f}" if value < 10 else f"{value:,.0f}"

    rows = []
    for method in summary["methods"]:
        times = method["seconds"]
        cells = [Cell(seconds(times[str(n)]) if str(n) in times else "") for n in numbers]
        rows.append(Row(method["method"], cells))
    columns = [Column("Method", number=False), *(Column(str(n), "Labelled patients") for n in numbers)]
    return Table("Time of a cell on one thread, s", columns, [Section(rows)], small=True)


def failure_notes(summary: Mapping[str, Any]) -> list[str]:
    """Write one sentence per method and structure in which a cell selected nothing or failed."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for note in summary["notes"]:
        groups.setdefault((note["method"], note["structure"]), []).append(note)
    sentences = []
    for (method, structure), notes in groups.items():
        cells = "; ".join(
            f"{plural(n, 'patient')}: seed "
            + join_words([str(note["seed"]) for note in notes if note["label_patients"] == n])
            for n in sorted({note["label_patients"] for note in notes})
        )
        what = f"{structure_name(structure)}: nothing outlined, Dice 0" if structure else "failed, no value"
        sentences.append(f"{method}, {what} ({cells}). First reason: {notes[0]['reason']}")
    return sentences


def efficiency_headline(summary: Mapping[str, Any]) -> list[str]:
    """Describe in plain sentences what was compared, and from how many labels on a plain network is better."""
    test, store = summary["test"], summary["store"]
    most = max((row["label_patients"] for row in summary["rows"]), default=0)
    lead = (
        "How good is each method, and how many labelled patients does it need? "
        f"{plural(len(summary['methods']), 'method')} learned from the {origin(store)} outlines of up to "
        f"{patients(most, store)} ({store['name']}) and were measured on "
        f"{plural(test['frames'], 'frame')} of {patients(test['patients'], store, 'other')}. The "
        f"Dice score measures how well an outline agrees with the {origin(store)} one; 100% is perfect. It is the "
        f"mean over {plural(len(summary['seeds']), 'draw')} of the labelled patients."
    )
    networks = [m["method"] for m in summary["methods"] if m["family"] == "network" and not m["pretrained"]]
    others = [m["method"] for m in summary["methods"] if m["family"] in ("parcels", "probe")]
    if not networks or not others:
        return [lead]
    names = [structure_name(structure).capitalize() for structure in summary["structures"]]
    texts = [_comparison(summary, networks[0], others, structure) for structure in summary["structures"]]
    return [lead, *(f"{name}: {text}" for name, text in zip(names, texts, strict=True))]


def _comparison(summary: Mapping[str, Any], plain: str, others: Sequence[str], structure: str) -> str:
    """State from which number of patients on a plain network is better than other methods."""
    phase = summary["phases"][-1]
    mine = {row["label_patients"]: row["mean"] for row in _series(summary, plain, structure, phase)}
    better: dict[int, list[str]] = {}
    never = []
    for other in others:
        theirs = {row["label_patients"]: row["mean"] for row in _series(summary, other, structure, phase)}
        ahead = None
        for n in sorted(set(mine) & set(theirs), reverse=True):
            if mine[n] <= theirs[n]:
                break
            ahead = n
        if ahead is not None:
            better.setdefault(ahead, []).append(other)
        elif set(mine) & set(theirs):
            never.append(other)
    parts = [
        f"than {_quote(names)} with {'any number of' if n == min(mine) else f'{n} or more'} labelled patients"
        for n, names in sorted(better.items())
    ]
    text = f"“{plain}” is better {'; '.join(parts)}." if parts else ""
    if never:
        subject = "It" if text else f"“{plain}”"
        text += (
            f" {subject} is not better than {_quote(never)} with up to {plural(max(mine), 'labelled patient')}."
        )
    return text.strip()


def _quote(names: Sequence[str]) -> str:
    return join_words([f"“{name}”" for name in names])


def efficiency_alternative(summary: Mapping[str, Any]) -> str:
    """Describe the figure: the Dice scores of each method at its lowest and highest number of patients."""
    phase, texts = summary["phases"][-1], []
    for structure in summary["structures"]:
        parts = []
        for method in summary["methods"]:
            rows = _series(summary, method["method"], structure, phase)
            if rows:
                ends = rows[:: max(len(rows) - 1, 1)]
                values = [f"{percent(row['mean'])}% with {row['label_patients']}" for row in ends]
                parts.append(f"{method['method']} {' and '.join(values)}")
        texts.append(f"{structure_name(structure).capitalize()}: {'; '.join(parts)}.")
    return f"Line chart of the Dice score against the number of labelled patients. {' '.join(texts)}"
