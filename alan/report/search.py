"""The page of a search: history, best five beside the paper's, parallel coordinates, importances, failures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alan.files import write_text
from alan.report import search_figures as figures
from alan.report.html import Picture, make_picture, template
from alan.report.words import STRUCTURES, UNDEFINED, listed, number, percent, plural
from alan.runs import CONFIG
from alan.search.results import AXES, read_search

TEMPLATE = "search.html.j2"
#: EDNAS paper, Table I: IoU in percent on its test set, batch size, learning rate, encoder, architecture.
PUBLISHED = (
    ("87.00", "4", "4e-5", "timm-skresnet34", "Linknet"),
    ("86.95", "4", "1e-5", "timm-regnety-120", "PAN"),
    ("86.85", "8", "5e-5", "timm-resnet50d-1s4x24d", "UnetPlusPlus"),
    ("86.75", "8", "5e-4", "vgg16-bn", "UnetPlusPlus"),
    ("86.68", "8", "1e-5", "se-resnext50-32x4d", "DeepLabV3"),
)


def write_search_report(run: str | os.PathLike[str]) -> Path:
    """Draw the figures of a search and write its ``report.html``.

    Args:
        run: a run folder of :func:`alan.search.run_search`.

    Returns:
        The path of the page. The figures also lie in ``figures/`` as PNG files.

    Raises:
        DataError: the folder holds no search.
    """
    folder = Path(run)
    results = read_search(folder)
    trials = results["trials"]
    page = {
        **results,
        "title": f"Architecture search: {results['study']['name']}",
        "headline": _headline(results),
        "facts": _facts(results),
        "rows": [_row(row, rank) for rank, row in enumerate(results["best"], 1)],
        "front": [_row(row, "") for row in trials if row["trial"] in set(results["pareto"])],
        "every": [_row(row, row["trial"]) for row in trials],
        "published": PUBLISHED,
        "pictures": _pictures(folder, results),
        "config": (folder / CONFIG).read_text(encoding="utf-8"),
    }
    out = folder / "report.html"
    write_text(out, template(TEMPLATE).render(page))
    return out


def _headline(results: Mapping[str, Any]) -> list[str]:
    counts = _states(results["trials"])
    said = [f"{n:,} {state}" for state, n in counts.items() if n]
    lines = [f"{plural(len(results['trials']), 'trial')}: {listed(said) if said else 'none yet'}."]
    if not results["best"]:
        return [*lines, "No trial has finished: there is no best network."]
    best = results["best"][0]
    names = [STRUCTURES.get(name, name) for name in results["training"]["structures"]]
    lines.append(
        f"The best validation IoU is {percent(best['iou'])}% ({listed(names)}), by {best['decoder']} over "
        f"{best['encoder']} with depth {best['depth']}, learning rate {best['lr']:g} and batch size "
        f"{best['batch_size']}."
    )
    return [
        *lines,
        "The best of many is chosen on the validation frames, so its score there is too high for others.",
    ]


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
        ("Objective", " and ".join({"iou": "IoU", "latency": "latency"}[name] for name in study["objectives"])),
        ("Training", f"{training['length']} per trial"),
        (
            "Labels",
            plural(training["label_patients"], "patient") if training["label_patients"] else "all patients",
        ),
        ("Scored on", f"split {training['val_split']}"),
    ]


def _row(row: Mapping[str, Any], name: Any) -> dict[str, Any]:
    latency, weights, seconds = row["latency"], row.get("parameters"), row["seconds"]
    return {
        "name": name,
        "trial": row["trial"],
        "state": row["state"],
        **{axis: UNDEFINED if row[axis] is None else row[axis] for axis in AXES},
        "lr": UNDEFINED if row["lr"] is None else f"{row['lr']:g}",
        "iou": percent(row["iou"]),
        "dice": percent(row.get("val_dice")),
        "latency": number(None if latency is None else 1e3 * latency),
        "weights": number(None if weights is None else weights / 1e6),
        "minutes": number(None if seconds is None else seconds / 60),
        "reason": row["reason"] or "",
    }


def _pictures(folder: Path, results: Mapping[str, Any]) -> dict[str, Picture]:
    """The figures that the trials allow."""
    trials, pictures = results["trials"], {}
    if trials:
        pictures["history"] = make_picture(
            folder,
            figures.history(trials),
            "history.png",
            "Mean validation IoU of each trial, in the order in which they were started, and the best so far.",
            "IoU by trial, with the best so far",
        )
    if results["best"]:
        pictures["parallel"] = make_picture(
            folder,
            figures.parallel(trials, results["space"]["axes"]),
            "parallel.png",
            "Each line is a finished trial, from its value on each axis to its IoU: darker is better, the thick "
            "orange line is the best. Values that no finished trial has are not shown.",
            "Parallel coordinates of the finished trials",
        )
    if results["importances"]:
        pictures["importances"] = make_picture(
            folder,
            figures.importance_bars(results["importances"]),
            "importances.png",
            f"How much each axis explains of the IoU's variance. {results['importances_note']}",
            "Importance of each axis",
        )
    if results["pareto"]:
        pictures["pareto"] = make_picture(
            folder,
            figures.pareto_front(trials, results["pareto"]),
            "pareto.png",
            "Validation IoU against the time for one frame. No trial beats one of the front in both.",
            "Pareto front of IoU and latency",
        )
    return pictures
