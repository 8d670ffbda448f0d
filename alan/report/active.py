"""Report of an active learning run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from alan.active.acquisition import ACQUISITIONS
from alan.active.settings import RANDOM
from alan.active.state import SCHEMA
from alan.columns import file_columns
from alan.data.structures import structure_name
from alan.drawing import STYLE
from alan.evaluation.results import RESULTS
from alan.files import read_entry
from alan.report.export import write_files
from alan.report.html import write_page
from alan.report.pictures import PictureWriter
from alan.report.table import Cell, Column, Row, Section, Table, interval_cell
from alan.report.words import number, percent
from alan.words import plural

# Okabe and Ito's colours, each with a marker of its own, in the order of the acquisition functions.
_LOOKS = (
    ("#009E73", "s"), ("#0072B2", "o"), ("#D55E00", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"),
    ("#882255", "*"), ("#332288", "X"),
)  # fmt: skip


def write_active_report(run: str | os.PathLike[str]) -> Path:
    """Write ``report.html``, ``summary.csv``, ``summary.tex`` and ``columns.csv`` of active learning.

    Args:
        run: Run folder of :func:`alan.active.run_active`.

    Returns:
        Path of the page; its chart is also in ``figures/``.

    Raises:
        DataError: The folder has no complete run.
    """
    folder = Path(run)
    results = read_entry(folder / RESULTS, SCHEMA, "run alan active run again")
    seeds, store = len(results["loop"]["seeds"]), results["store"]
    caption = (
        "IoU against the number of labelled images: the mean over "
        + (f"{seeds} seeds, with a band from the lowest to the highest seed" if seeds > 1 else "one seed")
        + (", and without a band where fewer seeds are finished." if _unfinished(results) else ".")
        + " Random, the baseline that uses no network, is dashed."
    )
    tables = {
        "last_table": _last_table(results),
        "needed_table": _needed_table(results["needed"]),
        "comparison_table": _comparison_table(results["comparison"]),
        "redundancy_table": _redundancy_table(results),
    }
    writer = PictureWriter(folder, simulated=store["simulated"])
    shared = {"data": store["name"], "simulated": store["simulated"], "split": results["measured"]["split"]}
    rows = [{**shared, **row} for row in results["curves"]]
    write_files(folder, rows, list(tables.values()), file_columns("active"))
    return write_page(
        folder,
        "active.html.j2",
        {
            **{key: value for key, value in results.items() if key != "loop"},
            **tables,
            "simulated": [store["name"]] if store["simulated"] else [],
            "protocol": results["loop"],
            "structure_names": [structure_name(name) for name in results["structures"]],
            "picture": writer.write(curve_chart(results), "curves", caption, _alternative(results)),
        },
    )


def _unfinished(results: Mapping[str, Any]) -> bool:
    """Return whether some point of the curves is the mean of fewer seeds than there are."""
    return any(row["seeds"] < len(results["loop"]["seeds"]) for row in results["curves"])


def _alternative(results: Mapping[str, Any]) -> str:
    """Describe the chart: the IoU of each function at its lowest and highest number of labels."""
    parts = []
    for name in dict.fromkeys(row["function"] for row in results["curves"]):
        rows = sorted((r for r in results["curves"] if r["function"] == name), key=lambda r: r["n_labels"])
        ends = rows[:: max(len(rows) - 1, 1)]
        values = [f"{percent(row['mean'])}% with {row['n_labels']}" for row in ends]
        parts.append(f"{ACQUISITIONS[name].title} {' and '.join(values)}")
    return f"Line chart of the IoU against the number of labelled images: {'; '.join(parts)}."


def _last_table(results: Mapping[str, Any]) -> Table:
    columns = [Column("Function", number=False), Column("Labels"), Column("IoU, %")]
    columns += [Column(f"Dice, {structure_name(name)}, %") for name in results["structures"]]
    rows = []
    for row in results["last"]:
        spread = f"{percent(row['low'])} to {percent(row['high'])}" if len(results["loop"]["seeds"]) > 1 else ""
        iou = Cell(percent(row["iou"]), spread, strong=True)
        dice = [Cell(percent(value)) for value in row["dice"].values()]
        rows.append(Row(ACQUISITIONS[row["function"]].title, [Cell(number(row["n_labels"], 0)), iou, *dice]))
    return Table("After the last phase", columns, [Section(rows)])


def _needed_table(needed: Sequence[Mapping[str, Any]]) -> Table:
    scores = sorted({row["score"] for row in needed})
    cells: dict[str, list[Cell]] = {}
    for row in sorted(needed, key=lambda row: scores.index(row["score"])):
        part = "" if row["reached"] == row["seeds"] else f" ({row['reached']} of {plural(row['seeds'], 'seed')})"
        text = "not reached" if row["labels"] is None else f"{number(row['labels'], 0)}{part}"
        cells.setdefault(row["function"], []).append(Cell(text))
    columns = [Column("Function", number=False), *(Column(f"{percent(score)}%") for score in scores)]
    rows = [Row(ACQUISITIONS[name].title, row) for name, row in cells.items()]
    return Table("Labels needed for a given IoU", columns, [Section(rows)])


def _comparison_table(comparison: Sequence[Mapping[str, Any]]) -> Table:
    targets = [one["score"] for one in comparison[0]["needed"]] if comparison else []
    columns = [Column("Function", number=False), Column("Mean IoU over the curve, %")]
    columns += [Column("Difference to Random, points")]
    columns += [Column(f"Labels for {percent(score)}%") for score in targets]
    rows = []
    for row in comparison:
        cells = [interval_cell(row["area"], strong=True), interval_cell(row["area_gain"], "signed")]
        for one in row["needed"]:
            text = "not reached" if one["value"] is None else number(one["value"], 0)
            spread = "" if one["low"] is None else f"{number(one['low'], 0)} to {number(one['high'], 0)}"
            if spread and one["reached"] < 1:
                spread += f" ({percent(one['reached'], 0)}% of resamples)"
            cells.append(Cell(text, spread))
        rows.append(Row(ACQUISITIONS[row["function"]].title, cells))
    return Table("Comparison with Random", columns, [Section(rows)])


def _redundancy_table(results: Mapping[str, Any]) -> Table:
    """Show the similarity of the choices and, unless whole patients are chosen, the share of known patients."""
    columns = [Column("Function", number=False), Column("From known patients, %"), Column("Similarity")]
    rows = []
    for row in results["redundancy"]:
        cells = [Cell(percent(row["known_patients"], 0)), Cell(number(row["likeness"], 3))]
        rows.append((ACQUISITIONS[row["function"]].title, cells))
    if results["loop"].get("unit") == "patient":  # all images but the first show a known patient
        columns, rows = [columns[0], columns[2]], [(title, cells[1:]) for title, cells in rows]
    return Table("Similarity of the selected images", columns, [Section([Row(*row) for row in rows])])


@mpl.rc_context(STYLE)
def curve_chart(results: Mapping[str, Any]) -> Figure:
    """Draw the IoU against the number of labels for every function: mean and spread over the seeds.

    Args:
        results: Content of ``results.json``.
    """
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
        whole = [row["seeds"] == len(results["loop"]["seeds"]) for row in rows]
        axes.fill_between(labels, low, high, where=whole, color=colour, alpha=0.12, lw=0)
    measured = results["measured"]
    axes.set_xlabel("labelled images")
    axes.set_ylabel(f"IoU (%), {', '.join(map(structure_name, results['structures']))}, split {measured['split']}")
    axes.grid(axis="y")
    axes.legend(fontsize=8)
    return figure
