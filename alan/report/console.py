"""The main figures of a run as lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alan.report.tables import segmentation_tables, view_table
from alan.report.words import PHASES, UNDEFINED


def figure_lines(results: Mapping[str, Any]) -> list[str]:
    """Dice and accuracy of every method beside its baselines, in columns.

    Args:
        results: content of ``results.json``.

    Returns:
        Lines for a terminal; percentages, with 95% intervals over patients.
    """
    lines: list[str] = []
    segmentation = results.get("segmentation")
    if segmentation:
        phases = [PHASES.get(phase, phase) for phase in segmentation["test"]["phases"]]
        for table in segmentation_tables(segmentation):
            lines += ["", _row(f"Dice, {table['name']}", phases)]
            for method in table["rows"]:
                rule = f", {method['rule']} rule" if method["rule"] != UNDEFINED else ""
                cells = (
                    ["nothing chosen"] * len(phases) if method["reason"] else [_cell(c) for c in method["dice"]]
                )
                lines.append(_row(f"  {method['method']}{rule}", cells))
    if results.get("views"):
        table = view_table(results["views"])
        lines += ["", _row("Views named correctly", ["all", "mean of views"])]
        lines += [
            _row(f"  {row['method']}, k = {row['k']}", [_cell(cell) for cell in row["cells"][-2:]])
            for row in table["rows"]
        ]
    return lines


def _cell(value: Mapping[str, str]) -> str:
    return f"{value['mean']} ({value['range']})" if value["range"] else value["mean"]


def _row(name: str, cells: list[str]) -> str:
    return f"{name:<40}" + "".join(f"{cell:<24}" for cell in cells).rstrip()
