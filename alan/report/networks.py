"""Rows of the report's tables of supervised networks and ensembles: text only, ready to be shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alan.report.words import PHASES, STRUCTURES, UNDEFINED, difference, interval, listed, number, percent


def network_part(summary: Mapping[str, Any]) -> dict[str, Any]:
    """All that the page shows of the networks beside their rows in the tables of structures.

    Args:
        summary: the ``segmentation`` part of ``results.json``.

    Returns:
        ``costs`` (a row a network: ``method``, ``kind``, ``origin``, ``parameters``, ``ms``, ``peak``,
        ``accuracy``), ``cost_note``, ``accuracy`` (whether any row has one) and ``ensembles`` (each with
        ``members`` and ``gains``); empty lists where there is no network.
    """
    accuracy = {row["method"]: row["accuracy"] for row in summary.get("accuracy", [])}
    rows = []
    for one in summary.get("networks", []):
        cost = one["cost"]
        rows.append(
            {
                "method": one["method"],
                "kind": one["kind"],
                "origin": one["origin"],
                "parameters": f"{cost['parameters'] / 1e6:.2f}",
                "ms": number(cost["ms"]),
                "peak": number(cost["peak_mib"], 0),
                "accuracy": interval(accuracy.get(one["method"])),
            }
        )
    return {
        "costs": rows,
        "cost_note": _cost_note(summary["networks"][0]["cost"]) if rows else "",
        "accuracy": bool(accuracy),
        "ensembles": [_ensemble(one, summary) for one in summary.get("ensembles", [])],
    }


def _cost_note(cost: Mapping[str, Any]) -> str:
    where = f"{cost['threads']} CPU thread(s)" if cost["device"] == "cpu" else str(cost["device"])
    return (
        f"Time and memory of inference in batches of {cost['batch_size']} frames of {cost['size']} × "
        f"{cost['size']} px on {where}, measured while this report was made; memory is what tensors took beside "
        "the weights."
    )


def _ensemble(one: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    costs = {row["method"]: row["cost"] for row in summary["networks"]}
    whole, validation = costs[one["method"]], one["validation"]
    members = [
        {
            "name": member["name"],
            "weight": f"{member['weight']:.3f}",
            "validation": percent(member["validation"], 2),
            "best": member["best"],
            "slower": _ratio(whole, costs.get(member["method"]), "ms"),
            "larger": _ratio(whole, costs.get(member["method"]), "parameters"),
            "gains": [
                {
                    "structure": STRUCTURES.get(gain["structure"], gain["structure"]),
                    "phase": gain["phase"],
                    "dice": interval(gain["dice"], "signed"),
                    "iou": interval(gain["iou"], "signed"),
                }
                for gain in one["gains"]
                if gain["member"] == member["method"]
            ],
        }
        for member in one["members"]
    ]
    return {"method": one["method"], "members": members, "note": _weights_note(validation)}


def _ratio(whole: Mapping[str, Any], part: Mapping[str, Any] | None, name: str) -> str:
    return f"{whole[name] / part[name]:.1f}×" if part and part[name] else UNDEFINED


def _weights_note(validation: Mapping[str, Any] | None) -> str:
    if validation is None:
        return "The file does not say how the weights were found, so no member is known to be the best one."
    name = {"iou": "IoU", "dice": "Dice"}[validation["objective"]]
    how = {
        "searched": f"searched ({validation['sampler']}, {validation['trials']} trials)",
        "equal": "equal",
    }.get(str(validation["weights"]), "given")
    return (
        f"Weights {how} on {validation['frames']} frames of {validation['patients']} patients of the split "
        f"“{validation['split']}”. Mean {name} there: ensemble {percent(validation['score'], 2)}%, equal weights "
        f"{percent(validation['equal'], 2)}%. The best member is the one that is best there; the test frames "
        "had no say in it."
    )


def network_headline(summary: Mapping[str, Any]) -> list[str]:
    """One paragraph for each ensemble: what it adds to its best member, and for what.

    Args:
        summary: the ``segmentation`` part of ``results.json``.
    """
    paragraphs = []
    for one in summary.get("ensembles", []):
        best = next((member for member in one["members"] if member["best"] and member["method"]), None)
        gains = [gain for gain in one["gains"] if gain["best"]]
        if best is None or not gains:
            continue
        verdicts = [
            f"{difference(gain['dice'])} for the {STRUCTURES.get(gain['structure'], gain['structure'])} at "
            f"{PHASES.get(gain['phase'], gain['phase'])}"
            for gain in gains
        ]
        costs = {row["method"]: row["cost"] for row in summary["networks"]}
        slower = _ratio(costs[one["method"]], costs[best["method"]], "ms")
        paragraphs.append(
            f"{one['method'].capitalize()} against its best member ({best['method']}, chosen on validation "
            f"frames): {listed(verdicts)}. It takes {slower} the time."
        )
    return paragraphs
