"""Rows of the report's tables, out of ``results.json``: text only, ready to be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alan.evaluation.published import MARK_SEGMENTATION, MARK_VIEWS, published_dice, published_views
from alan.report.words import KINDS, PHASES, RULES, STRUCTURES, interval, listed, number, percent, plural

_LONG = (
    ("dice", "percent"),
    ("iou", "percent"),
    ("dice_original", "percent"),
    ("iou_original", "percent"),
    ("hd95_mm", "number"),
    ("asd_mm", "number"),
)

_PARTS = ("segmentation", "views", "label_efficiency")


def segmentation_tables(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One table for each structure.

    Args:
        summary: the ``segmentation`` part of ``results.json``.

    Returns:
        Dictionaries of ``structure``, ``name``, ``phases``, ``rows`` (``method``, ``kind``, ``rule``, ``shown``,
        ``reason``, and by phase ``dice``, ``against``, ``hd95``, ``empty``), ``published`` and ``long`` (all
        metrics).
    """
    phases = list(summary["test"]["phases"])
    structures = list(dict.fromkeys(row["structure"] for row in summary["rows"]))
    return [
        {
            "structure": structure,
            "name": STRUCTURES.get(structure, structure),
            "phases": phases,
            "rows": _methods(summary, structure, phases),
            "published": _published(summary, structure, phases),
            "long": _long(summary, structure),
        }
        for structure in structures
    ]


def _methods(summary: Mapping[str, Any], structure: str, phases: Sequence[str]) -> list[dict[str, Any]]:
    shown = summary["example_methods"].get(structure) or {}
    order = {kind: place for place, kind in enumerate(KINDS)}
    rules = list(RULES)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in summary["rows"]:
        if row["structure"] != structure:
            continue
        key = (row["method"], row["rule"])
        entry = found.setdefault(
            key,
            {
                "method": row["method"],
                "kind": row["kind"],
                "rule": RULES.get(row["rule"], row["rule"]),
                "shown": {"method": row["method"], "rule": row["rule"]} == shown,
                "reason": row["reason"],
                "dice": {},
                "hd95": {},
                "against": {},
                "empty": 0,
                "rank": (order.get(row["kind"], 9), row["method"], rules.index(row["rule"])),
            },
        )
        if row["metrics"]:
            entry["dice"][row["phase"]] = interval(row["metrics"]["dice"])
            entry["hd95"][row["phase"]] = interval(row["metrics"]["hd95_mm"], "number")
        entry["empty"] += row["empty"]
    for row in summary["against_atlas"]:
        if row["structure"] == structure:
            found[row["method"], row["rule"]]["against"][row["phase"]] = interval(row["dice"], "signed")
    nothing = interval(None)
    for entry in found.values():
        for part in ("dice", "hd95", "against"):
            entry[part] = [entry[part].get(phase, nothing) for phase in phases]
    return sorted(found.values(), key=lambda entry: entry["rank"])


def _published(summary: Mapping[str, Any], structure: str, phases: Sequence[str]) -> list[dict[str, Any]]:
    if not summary["published"]:
        return []
    cells = [cell for cell in published_dice(summary["published"]) if cell.structure == structure]
    rows = []
    for training, k in dict.fromkeys((cell.training, cell.k) for cell in cells):
        by_phase = {cell.phase: cell for cell in cells if (cell.training, cell.k) == (training, k)}
        dice = [
            {"mean": percent(by_phase[p].mean), "range": f"± {percent(by_phase[p].std)} SD"}
            if p in by_phase
            else interval(None)
            for p in phases
        ]
        rows.append({"method": f"ALAN trained on {training}, K = {k}", "n": cells[0].n, "dice": dice})
    return rows


def _long(summary: Mapping[str, Any], structure: str) -> list[dict[str, Any]]:
    rows = []
    for row in summary["rows"]:
        if row["structure"] != structure or not row["metrics"]:
            continue
        dice = row["metrics"]["dice"]
        rows.append(
            {
                "method": row["method"],
                "rule": RULES.get(row["rule"], row["rule"]),
                "phase": row["phase"],
                "cells": [interval(row["metrics"][name], style) for name, style in _LONG],
                "std": percent(dice["std"]),
                "n": dice["n"],
                "undefined": dice["undefined"],
                "empty": row["empty"],
            }
        )
    return rows


def published_note(summary: Mapping[str, Any]) -> str:
    """What the published rows are, and in what our side differs from them."""
    test = summary["test"]
    frames = listed([f"{n:,} {phase}" for phase, n in test["phases"].items()])
    note = (
        f"Rows marked “{MARK_SEGMENTATION}” are copied from the paper: mean ± standard deviation over its test "
        f"frames (n of each phase in the row). Ours were measured on {plural(test['patients'], 'patient')} "
        f"({frames} frames, {listed(list(test['views'])) or 'view unknown'})"
    )
    if summary["published"] == "camus":
        note += "; the paper’s were A2C and A4C together"
    return f"{note}."


def ejection_fraction_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the ejection fraction table: names, ``absolute`` and ``bias`` as cells, and the counts."""

    def cell(quartiles: Mapping[str, float]) -> dict[str, str]:
        low, median, high = (number(quartiles[key]) for key in ("q25", "median", "q75"))
        return {"mean": median, "range": f"{low} to {high}"}

    return [
        {
            **row,
            "rule": RULES.get(row["rule"], row["rule"]),
            "absolute": cell(row["absolute_error_quartiles"]),
            "bias": cell(row["bias_quartiles"]),
        }
        for row in summary["ejection_fraction"]
    ]


def parcel_tables(summary: Mapping[str, Any], models: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each shown white box, why each parcel was or was not chosen.

    Args:
        summary: the ``segmentation`` part of ``results.json``.
        models: file name in ``models/`` to its content.
    """
    tables = []
    for box in summary["white_boxes"]:
        example = summary["example_methods"].get(box["structure"])
        if box["reason"] or example != {"method": box["method"], "rule": box["rule"]}:
            continue
        selector = models[box["file"]]["selector"]
        rows = sorted(
            selector["parcels"],
            key=lambda row: (row["role"] != "interior", -(row["mean_overlap"] or 0.0), row["id"]),
        )
        tables.append(
            {
                **box,
                "name": _box_name(box),
                "rule": RULES.get(box["rule"], box["rule"]),
                "images": selector["images"],
                "rows": [
                    {
                        **row,
                        "presence": percent(row["presence"], 0),
                        "consistency": percent(row["consistency"], 0),
                        "mean_overlap": percent(row["mean_overlap"], 0),
                    }
                    for row in rows
                    if row["present"]
                ],
            }
        )
    return tables


def _box_name(box: Mapping[str, Any]) -> str:
    """The structure of a white box, with the phase where it has one."""
    name = STRUCTURES.get(box["structure"], box["structure"])
    return f"{name} at {PHASES.get(box['phase'], box['phase'])}" if box.get("phase") else name


def view_table(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy by view: ``columns``, ``rows``, ``published`` rows and their note."""
    views = summary["views"]
    rows = []
    for row in summary["rows"]:
        cells = [interval(row["by_view"].get(view)) for view in views]
        cells += [interval(row["total"]), interval(row["balanced"])]
        rows.append({"method": row["method"], "kind": row["kind"], "k": row["k"], "cells": cells})
    published = []
    for line in published_views() if summary["published"] else ():
        cells = [{"mean": percent(line.accuracy.get(view)), "range": ""} for view in (*views, "total")]
        published.append(
            {
                "method": f"ALAN trained on {line.training}",
                "k": line.k,
                "cells": [*cells, interval(None)],
                "n": line.n,
            }
        )
    note = (
        f"Rows marked “{MARK_VIEWS}” are copied from the paper (n = 1,041 images). Its split is by image: every "
        "test image comes from a study that is also in training, so those figures are optimistic."
    )
    return {"columns": views, "rows": rows, "published": published, "note": note if published else ""}


def skipped_notes(results: Mapping[str, Any]) -> list[str]:
    """What was left out, is undefined, or found nothing: one sentence each."""
    notes = []
    parts = {name: results[name] for name in _PARTS if results.get(name)}
    for summary in parts.values():
        for reason, n in summary["store"]["skipped"].items():
            notes.append(
                f"{summary['store']['name']}: {plural(n, 'sample')} left out when the store was made ({reason})"
            )
    summary = parts.get("segmentation")
    if summary:
        for row in summary["rows"]:
            what = f"{row['method']}, {RULES.get(row['rule'], row['rule'])} rule" if row["rule"] else row["method"]
            where = (
                f"{STRUCTURES.get(row['structure'], row['structure'])}, {PHASES.get(row['phase'], row['phase'])}"
            )
            if row["empty"]:
                notes.append(
                    f"{what}: nothing predicted in {plural(row['empty'], 'frame')} ({where}); Dice 0 there"
                )
            undefined = row["metrics"]["dice"]["undefined"] if row["metrics"] else 0
            if undefined:
                notes.append(
                    f"{what}: Dice undefined in {plural(undefined, 'frame')} ({where}): no outline on either side"
                )
        for one in summary.get("networks", []):
            if one["missing"]:
                names = listed([STRUCTURES.get(structure, structure) for structure in one["missing"]])
                notes.append(f"{one['method']}: does not segment the {names}")
        for box in summary["white_boxes"]:
            if box["reason"]:
                rule, name = RULES.get(box["rule"], box["rule"]), _box_name(box)
                notes.append(f"{box['method']}, {rule} rule, {name}: nothing chosen. {box['reason']}")
    return list(dict.fromkeys(notes))
