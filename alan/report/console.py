"""Main figures of an evaluation as lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alan.report.evaluation_tables import ejection_fraction_table, segmentation_tables, view_table
from alan.report.headline import simulated_stores
from alan.report.table import Cell, Table, interval_cell
from alan.report.words import join_words, phase_name, structure_name


def figure_lines(results: Mapping[str, Any]) -> list[str]:
    """Write Dice and accuracy of every method and baseline in columns.

    Args:
        results: Content of ``results.json``.

    Returns:
        Lines for a terminal: percentages with 95% intervals over patients.
    """
    simulated = simulated_stores(results)
    lines = [f"Simulated data ({join_words(simulated)}): these patients do not exist."] if simulated else []
    if segmentation := results.get("segmentation"):
        phases = list(segmentation["test"]["phases"])
        lines += _volume_lines(segmentation)
        for table in segmentation_tables(segmentation):
            head = _line(f"Dice, {table.title.lower()}", [phase_name(phase) for phase in phases])
            lines += ["", head, *_rows(table, "Dice, %")]
    if views := results.get("views"):
        table = view_table(views)
        lines += ["", _line("Views recognised", ["all", "mean of views"])]
        lines += [
            _line(f"  {row.name}, k = {row.cells[0].text}", [_cell(cell) for cell in row.cells[-2:]])
            for row in table.sections[0].rows
        ]
    return lines


def _volume_lines(segmentation: Mapping[str, Any]) -> list[str]:
    """Write the Dice score of volumes, and the error of the ejection fraction."""
    volumes = segmentation.get("volumes") or {"rows": [], "ejection_fraction": []}
    methods: dict[tuple[str, str], dict[str, Any]] = {}
    for row in volumes["rows"]:
        methods.setdefault((row["structure"], row["method"]), {})[row["phase"]] = row
    lines, last = [], None
    for (structure, method), by_phase in methods.items():
        if structure != last:
            lines += ["", _line(f"Dice of volumes, {structure_name(structure)}", list(by_phase))]
            last = structure
        cells = [_cell(interval_cell(row["metrics"]["dice"])) for row in by_phase.values()]
        lines.append(_line(f"  {method}", cells))
    if table := ejection_fraction_table(volumes):
        lines += ["", _line("Ejection fraction of volumes, points", ["bias", "limits of agreement"])]
        lines += [_line(f"  {row.name}", [_cell(cell) for cell in row.cells[:2]]) for row in table.rows]
    return lines


def _rows(table: Table, group: str) -> list[str]:
    """Write the columns with a shared heading, row by row."""
    places = [place for place, column in enumerate(table.columns[1:]) if column.group == group]
    lines = []
    for row in table.sections[0].rows:
        cells = ["no parcel selected"] if row.note else [_cell(row.cells[place]) for place in places]
        lines.append(_line("  " + ", ".join(filter(None, (row.name, row.detail))), cells))
    return lines


def _cell(value: Cell) -> str:
    return f"{value.text} ({value.detail})" if value.detail else value.text


def _line(name: str, cells: list[str]) -> str:
    return f"{name:<40}" + "".join(f"{cell:<24}" for cell in cells).rstrip()
