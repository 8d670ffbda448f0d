"""Columns of the CSV files that commands write, with their units and meanings, from ``columns.csv`` beside it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

#: The copy of the entries that lies in a run folder.
DICTIONARY = "columns.csv"


class ColumnEntry(NamedTuple):
    """Entry of the dictionary.

    Attributes:
        column: Name of the column.
        unit: Unit; ``share`` for numbers from 0 to 1, empty for text.
        description: Meaning, and when a value is missing.
    """

    column: str
    unit: str
    description: str


def file_columns(
    command: str, groups: Mapping[str, Iterable[ColumnEntry]] = MappingProxyType({})
) -> dict[str, tuple[ColumnEntry, ...]]:
    """Read the columns of the files of a command.

    Args:
        command: evaluate, search, active or analyze.
        groups: Mapping from the name of a group to its entries, which replace the row with the name in braces.

    Returns:
        Mapping from file name to its columns, in their order.
    """
    found: dict[str, list[ColumnEntry]] = {}
    with Path(__file__).with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row.pop("command") == command:
                entry = ColumnEntry(row["column"], row["unit"], row["description"])
                group = groups.get(entry.column.strip("{}")) if entry.column.startswith("{") else [entry]
                found.setdefault(row["file"], []).extend(group or ())
    return {name: tuple(entries) for name, entries in found.items()}
