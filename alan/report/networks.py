"""Tables and sentences about the cost of networks and the gain of ensembles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alan.data.structures import structure_name
from alan.evaluation.results import ALL_STRUCTURES
from alan.report.table import Cell, Column, Row, Section, Table, interval_cell
from alan.report.words import KIND_COLOURS, UNDEFINED, difference, join_words, number, percent, where
from alan.words import plural


def cost_table(summary: Mapping[str, Any]) -> Table | None:
    """Make the table of the networks' training data and cost; None if there is no network.

    Args:
        summary: The ``segmentation`` part of ``results.json``.
    """
    if not summary["networks"]:
        return None
    accuracy = {row["method"]: row["accuracy"] for row in summary["accuracy"]}
    rows = []
    for one in summary["networks"]:
        cost = one["cost"]
        texts = (one["origin"], f"{cost['parameters'] / 1e6:.2f}", number(cost["ms"]), number(cost["peak_mib"], 0))
        cells = [Cell(text) for text in texts]
        cells += [interval_cell(accuracy.get(one["method"]))] if accuracy else []
        rows.append(Row(one["method"], cells, colour=KIND_COLOURS[one["kind"]]))
    columns = [Column("Network", number=False), Column("Trained on", number=False)]
    columns += [Column("Parameters, million"), Column("Time per frame, ms"), Column("Peak memory, MiB")]
    columns += [Column("Pixel accuracy, %")] if accuracy else []
    return Table("Cost of the networks", columns, [Section(rows)], small=True)


def cost_note(summary: Mapping[str, Any]) -> str:
    """Explain how the cost was measured."""
    cost = summary["networks"][0]["cost"]
    device = plural(cost["threads"], "CPU thread") if cost["device"] == "cpu" else str(cost["device"])
    note = (
        f"Time and memory of inference in batches of {cost['batch_size']} frames of {cost['size']} × "
        f"{cost['size']} px on {device}, measured during this evaluation; memory is that of the tensors, without "
        "the weights."
    )
    if summary["accuracy"]:
        note += " Pixel accuracy counts the background, which is most of a frame: read it with the Dice scores."
    return note


def ensemble_tables(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Make the table of the gain of each ensemble over its members.

    Args:
        summary: The ``segmentation`` part of ``results.json``.

    Returns:
        For each ensemble its ``table`` and a ``note`` on its weights.
    """
    titles = ("Weight", "Alone on validation, %", "Time of the ensemble", "Size of the ensemble")
    columns = [Column("Member", number=False), *map(Column, titles)]
    columns += [Column("Structure", number=False), Column("Phase", number=False)]
    columns += [Column("Gain in Dice, points"), Column("Gain in IoU, points")]
    costs = {row["method"]: row["cost"] for row in summary["networks"]}
    found = []
    for one in summary["ensembles"]:
        rows = []
        for member in one["members"]:
            ratios = [
                _ratio(costs[one["method"]], costs.get(member["method"]), key) for key in ("ms", "parameters")
            ]
            texts = (f"{member['weight']:.3f}", percent(member["validation"], 2), *ratios)
            marks: dict[str, Any] = {"highlight": member["best"]}
            marks |= {"detail": "best on validation"} if member["best"] else {}
            gains = [gain for gain in one["gains"] if gain["member"] == member["method"]]
            for gain in gains:
                cells = [*texts, structure_name(gain["structure"]), gain["phase"]]
                both = [interval_cell(gain[metric], "signed") for metric in ("dice", "iou")]
                rows.append(Row(member["name"], [*map(Cell, cells), *both], **marks))
            if not gains:
                rows.append(
                    Row(member["name"], [Cell(text) for text in texts], note="not measured alone", **marks)
                )
        table = Table(f"Gain of {one['method']} over its members", columns, [Section(rows)], small=True)
        found.append({"table": table, "note": _weights_note(one["validation"])})
    return found


def _ratio(whole: Mapping[str, Any], part: Mapping[str, Any] | None, name: str) -> str:
    return f"{whole[name] / part[name]:.1f}×" if part and part[name] else UNDEFINED


def _weights_note(validation: Mapping[str, Any] | None) -> str:
    if validation is None:
        return "The file does not record how the weights were found, so the best member is unknown."
    name = {"iou": "IoU", "dice": "Dice"}[validation["objective"]]
    how = {
        "searched": f"searched ({validation['sampler']}, {validation['trials']} trials)",
        "equal": "equal",
    }.get(str(validation["weights"]), "given")
    gain = ""
    if held_out := validation.get("held_out"):
        points = [100 * held_out["gain"][key] for key in ("mean", "low", "high")]
        gain = (
            f" On each fold, with weights and best member chosen on the other folds, the gain over that member is "
            f"{points[0]:+.2f} points of {name} (95% interval over patients {points[1]:+.2f} to {points[2]:+.2f})."
        )
    folds = validation.get("folds")
    where = f"held out in turn by {folds} folds" if folds else f"of the split “{validation['split']}”"
    return (
        f"Weights: {how}, on {validation['frames']} frames of {validation['patients']} patients {where}. "
        f"Mean {name} there: ensemble {percent(validation['score'], 2)}%, equal weights "
        f"{percent(validation['equal'], 2)}%. The best member is the one that is best there, not on the test "
        f"frames.{gain}"
    )


def network_headline(summary: Mapping[str, Any]) -> list[str]:
    """Write one paragraph per ensemble on its gain over its best member, and on its cost.

    Args:
        summary: The ``segmentation`` part of ``results.json``.
    """
    costs = {row["method"]: row["cost"] for row in summary["networks"]}
    paragraphs = []
    for one in summary["ensembles"]:
        best = next((member for member in one["members"] if member["best"] and member["method"]), None)
        gains = [gain for gain in one["gains"] if gain["best"]]
        if best is None or not gains:
            continue
        verdicts = [
            f"{difference(gain['dice'])} for {'' if gain['structure'] == ALL_STRUCTURES else 'the '}"
            f"{where(gain['structure'], gain['phase'])}"
            for gain in gains
        ]
        slower = _ratio(costs[one["method"]], costs[best["method"]], "ms")
        paragraphs.append(
            f"{one['method'].capitalize()} compared with its best member ({best['method']}, chosen on validation "
            f"frames): {join_words(verdicts)}. It takes {slower} the time."
        )
    return paragraphs
