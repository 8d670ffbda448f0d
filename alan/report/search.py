"""Report of an architecture search: history, best trials next to the paper's, importances and failures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from alan.columns import file_columns
from alan.data.structures import structure_name
from alan.report import search_figures as figures
from alan.report.export import write_files
from alan.report.html import write_page
from alan.report.pictures import Picture, PictureWriter
from alan.report.table import Cell, Column, Row, Section, Table
from alan.report.words import UNDEFINED, join_words, number, percent
from alan.search.results import AXES, read_search
from alan.words import plural

#: EDNAS paper, Table I: rank, IoU in percent on its test set, batch size, learning rate, encoder, architecture.
PUBLISHED = (
    ("1", "87.00", "4", "4e-5", "timm-skresnet34", "Linknet"),
    ("1", "86.95", "4", "1e-5", "timm-regnety-120", "PAN"),
    ("3", "86.85", "8", "5e-5", "timm-resnet50d-1s4x24d", "UnetPlusPlus"),
    ("4", "86.75", "8", "5e-4", "vgg16-bn", "UnetPlusPlus"),
    ("5", "86.68", "8", "1e-5", "se-resnext50-32x4d", "DeepLabV3"),
)
_POINT = (
    Column("Encoder", number=False),
    Column("Decoder", number=False),
    Column("Depth"),
    Column("Learning rate"),
    Column("Batch size"),
)
_SCORES = tuple(map(Column, ("Dice, %", "Weights, million", "Latency, ms", "Minutes")))


def write_search_report(run: str | os.PathLike[str]) -> Path:
    """Write ``report.html``, ``summary.csv``, ``summary.tex`` and ``columns.csv`` of a search.

    Args:
        run: Run folder of :func:`alan.search.run_search`.

    Returns:
        Path of the page. The figures are also in ``figures/`` as PNG files.

    Raises:
        DataError: The folder has no search.
    """
    folder = Path(run)
    results = read_search(folder)
    trials, stores = results["trials"], results["stores"]
    best = _best_table(results["best"])
    front = _trial_table("Pareto front", [row for row in trials if row["trial"] in set(results["pareto"])])
    every = _trial_table("All trials", trials)
    simulated = [store["name"] for store in stores if store["simulated"]]
    shared = {"data": ", ".join(store["name"] for store in stores), "simulated": bool(simulated)}
    tables = [table for table in (best, front) if table.rows]
    write_files(folder, [{**shared, **row} for row in trials], tables, file_columns("search"))
    return write_page(
        folder,
        "search.html.j2",
        {
            **results,
            "title": f"Architecture search: {results['study']['name']}",
            "simulated": simulated,
            "headline": _headline(results),
            "facts": _facts(results),
            "best_table": best if results["best"] else None,
            "front_table": front if front.rows else None,
            "failed_table": _failed_table(results["failed"]) if results["failed"] else None,
            "trial_table": every,
            "pictures": _pictures(PictureWriter(folder, simulated=bool(simulated)), results),
        },
    )


def _point(row: Mapping[str, Any]) -> list[Cell]:
    values = {**{axis: row[axis] for axis in AXES}, "lr": None if row["lr"] is None else f"{row['lr']:g}"}
    return [Cell(UNDEFINED if values[axis] is None else str(values[axis])) for axis in AXES]


def _cells(row: Mapping[str, Any]) -> list[Cell]:
    """Make the cells of a trial: IoU, its point, and its other scores."""
    weights, seconds = row.get("parameters"), row["seconds"]
    scores = [
        Cell(percent(row.get("val_dice"))),
        Cell(number(None if weights is None else weights / 1e6)),
        _latency_cell(row),
        Cell(number(None if seconds is None else seconds / 60)),
    ]
    return [Cell(percent(row["iou"]), strong=True), *_point(row), *scores]


def _latency_cell(row: Mapping[str, Any]) -> Cell:
    """Show the median in ms, with the quartiles where they were recorded."""
    values = [row.get(name) for name in ("latency", "latency_low", "latency_high")]
    median, low, high = (number(None if value is None else 1e3 * value) for value in values)
    return Cell(median, "" if low == UNDEFINED else f"{low} to {high}")


def _best_table(best: Sequence[Mapping[str, Any]]) -> Table:
    rows = [Row(str(rank), _cells(row), highlight=rank == 1) for rank, row in enumerate(best, 1)]
    published = [
        Row(
            rank,
            [Cell(text) for text in (iou, encoder, architecture, UNDEFINED, lr, batch)],
            note="published, EDNAS paper Table I",
        )
        for rank, iou, batch, lr, encoder, architecture in PUBLISHED
    ]
    sections = [Section(rows), Section(published, published=True)] if rows else []
    columns = [Column("Rank"), Column("IoU, %"), *_POINT, *_SCORES]
    return Table("The best five", columns, sections, small=True)


def _trial_table(title: str, trials: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        Row(str(row["trial"]), _cells(row), detail="" if row["state"] == "complete" else row["state"])
        for row in trials
    ]
    return Table(title, [Column("Trial"), Column("IoU, %"), *_POINT, *_SCORES], [Section(rows)], small=True)


def _failed_table(trials: Sequence[Mapping[str, Any]]) -> Table:
    rows = [Row(str(row["trial"]), [*_point(row), Cell(row["reason"] or "")]) for row in trials]
    columns = [Column("Trial"), *_POINT, Column("Reason", number=False)]
    return Table("Failed trials", columns, [Section(rows)], small=True)


def _headline(results: Mapping[str, Any]) -> list[str]:
    counts = _states(results["trials"])
    states = [f"{n:,} {state}" for state, n in counts.items() if n]
    lines = [f"{plural(len(results['trials']), 'trial')}: {join_words(states) if states else 'none yet'}."]
    if not results["best"]:
        return [*lines, "No trial has finished, so there is no best network."]
    best = results["best"][0]
    names = [structure_name(name) for name in results["training"]["structures"]]
    lines.append(f"The best validation IoU is {percent(best['iou'])}% ({join_words(names)}), by {_setting(best)}.")
    return [
        *lines,
        "The best trial is chosen on the validation frames, so expect a lower score on other frames.",
    ]


def _setting(row: Mapping[str, Any]) -> str:
    return (
        f"{row['decoder']} on {row['encoder']} with depth {row['depth']}, learning rate {row['lr']:g} and batch "
        f"size {row['batch_size']}"
    )


def _states(trials: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    words = {"complete": "finished", "pruned": "stopped early", "failed": "failed"}
    words |= {"running": "running", "waiting": "queued"}
    return {word: sum(row["state"] == state for row in trials) for state, word in words.items()}


def _facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    space, study, training = results["space"], results["study"], results["training"]
    axes = " × ".join(str(len(values)) for values in space["axes"].values())
    pairs = len(space["impossible"])
    left = f" without {plural(pairs, 'pair')} that cannot be built" if pairs else ""
    sampler = {"random": "random", "tpe": "TPE", "nsga2": "NSGA-II"}[study["sampler"]]
    return [
        ("Space", f"{axes} = {plural(space['size'], 'point')}{left}"),
        ("Sampler", sampler + ("" if study["pruner"] == "none" else f", {study['pruner']} pruner")),
        *(
            [("Saved by stopping early", f"{percent(results['pruning']['saved'], 0)}% of the steps")]
            if results["pruning"]["pruned"]
            else []
        ),
        ("Objective", " and ".join({"iou": "IoU", "latency": "latency"}[name] for name in study["objectives"])),
        ("Training", f"{training['length']} per trial"),
        (
            "Labels",
            plural(training["label_patients"], "patient") if training["label_patients"] else "all patients",
        ),
        ("Scored on", f"split {training['val_split']}"),
    ]


def _pictures(writer: PictureWriter, results: Mapping[str, Any]) -> dict[str, Picture]:
    """Draw the figures for which there are trials."""
    trials, found = results["trials"], {}
    done = sorted((row for row in trials if row["state"] == "complete"), key=lambda row: row["trial"])

    def add(name: str, figure: Figure, caption: str, alternative: str) -> None:
        found[name] = writer.write(figure, name, caption, alternative)

    if trials:
        scores = [row["iou"] for row in done]
        ends = (
            f", from {percent(scores[0])}% in the first to {percent(max(scores))}% in the best" if scores else ""
        )
        add(
            "history",
            figures.history(trials),
            "Mean validation IoU of each trial, in the order in which they started, and the best so far.",
            f"Chart of the IoU by trial, with the best so far: {plural(len(done), 'finished trial')}{ends}.",
        )
    if results["best"]:
        best = results["best"][0]
        add(
            "parallel",
            figures.parallel(trials, results["space"]["axes"]),
            "Each line is a finished trial, from its value on each axis to its IoU. Darker lines are better; the "
            "thick orange line is the best. Values without a finished trial are left out.",
            f"Parallel coordinates of the finished trials. Best: {_setting(best)}, IoU {percent(best['iou'])}%.",
        )
    if results["importances"]:
        shares = sorted(results["importances"].items(), key=lambda item: -item[1])
        parts = [f"{figures.AXIS_TITLES[name]} {percent(share, 0)}%" for name, share in shares]
        add(
            "importances",
            figures.importance_bars(results["importances"]),
            f"Share of the variance of the IoU that each axis explains. {results['importances_note']}",
            f"Bar chart of the importance of each axis: {', '.join(parts)}.",
        )
    if results["pareto"]:
        front = [row for row in done if row["trial"] in set(results["pareto"])]
        parts = [f"{percent(row['iou'])}% at {number(1e3 * row['latency'])} ms" for row in front]
        add(
            "pareto",
            figures.pareto_front(trials, results["pareto"]),
            "Validation IoU against the time for one frame. No trial is better than one of the front in both.",
            f"Scatter plot of IoU and latency. Pareto front: {', '.join(parts)}.",
        )
    return found
