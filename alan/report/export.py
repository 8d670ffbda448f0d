"""Summaries of runs as files for other programs: ``summary.csv``, ``summary.tex`` and a dictionary of columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from alan.columns import DICTIONARY, ColumnEntry
from alan.evaluation.columns import COLUMNS
from alan.evaluation.scoring import METRICS, VOLUME_METRICS
from alan.evaluation.summary import EF_STATISTICS
from alan.files import write_rows, write_table, write_text
from alan.report import evaluation_tables as tables
from alan.report import label_efficiency, networks
from alan.report.table import Table, to_latex

SUMMARY, SUMMARY_TEX = "summary.csv", "summary.tex"


def write_files(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    written: Sequence[Table],
    columns: Mapping[str, Sequence[ColumnEntry]],
) -> None:
    """Write the summary of a run.

    Args:
        folder: Run folder.
        rows: Rows of ``summary.csv``.
        written: Tables of ``summary.tex``.
        columns: Mapping from file name to its columns, for ``columns.csv``; those of ``summary.csv`` set its
            order.
    """
    names = [entry.column for entry in columns[SUMMARY]]
    write_table(folder / SUMMARY, pd.DataFrame(list(rows), columns=names))
    write_text(folder / SUMMARY_TEX, to_latex(written))
    entries = [(file, *entry) for file, part in columns.items() for entry in part]
    write_rows(folder / DICTIONARY, ("file", *ColumnEntry._fields), entries)


def write_summary(folder: Path, results: Mapping[str, Any]) -> None:
    """Write the summary of an evaluation.

    Args:
        folder: Run folder.
        results: Content of ``results.json``.
    """
    rows: list[dict[str, Any]] = []
    written: list[Table] = []
    if summary := results.get("segmentation"):
        rows += _rows("segmentation", summary, _segmentation(summary))
        more = [*tables.ejection_fraction_tables(summary), networks.cost_table(summary)]
        more += [ensemble["table"] for ensemble in networks.ensemble_tables(summary)]
        measured = [*tables.volume_tables(summary), *tables.segmentation_tables(summary)]
        written += _add_data_names([*measured, *filter(None, more)], summary)
    if summary := results.get("views"):
        rows += _rows("views", summary, _views(summary))
        written += _add_data_names([tables.view_table(summary)], summary)
    if summary := results.get("label_efficiency"):
        rows += _rows("label_efficiency", summary, _efficiency(summary))
        written += _add_data_names(label_efficiency.efficiency_tables(summary), summary)
    columns = {file: entries for file, entries in COLUMNS.items() if file == SUMMARY or (folder / file).exists()}
    write_files(folder, rows, written, columns)


def _add_data_names(written: Sequence[Table], summary: Mapping[str, Any]) -> list[Table]:
    """Add the dataset to the titles, so that a quoted table states whether it is simulated."""
    return [replace(table, title=f"{table.title} ({summary['store']['name']})") for table in written]


def _rows(protocol: str, summary: Mapping[str, Any], rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    store = summary["store"]
    return [{"protocol": protocol, "data": store["name"], "simulated": store["simulated"], **row} for row in rows]


def _interval(value: Mapping[str, Any]) -> dict[str, Any]:
    """Name the parts of an interval as in ``summary.csv``."""
    names = {"mean": "value", "std": "sd", "groups": "patients"}
    return {names.get(key, key): part for key, part in value.items()}


def _segmentation(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    names = ("method", "kind", "rule", "structure", "phase")
    for row in summary["rows"]:
        for metric, value in row["metrics"].items():
            labels = {"metric": metric, "unit": METRICS[metric].unit or "share", "empty": row["empty"]}
            yield {**{name: row[name] for name in names}, **labels, **_interval(value)}
    for row in summary["against_atlas"]:
        labels = {"metric": "dice_minus_atlas", "unit": "share"}
        yield {**{name: row[name] for name in names}, **labels, **_interval(row["dice"])}
    kinds = {row["method"]: row["kind"] for row in summary["rows"]}
    volumes = summary.get("volumes") or {"rows": [], "ejection_fraction": []}
    for row in volumes["rows"]:
        for metric, value in row["metrics"].items():
            unit = VOLUME_METRICS[metric].unit or "share"
            labels = {"metric": f"volume_{metric}", "unit": unit, "empty": row["empty"]}
            yield {**{name: row[name] for name in names}, **labels, **_interval(value)}
    for prefix, part in (("ef", summary), ("volume_ef", volumes)):
        for row in part["ejection_fraction"]:
            labels = {
                "method": row["method"],
                "kind": kinds[row["method"]],
                "rule": row["rule"],
                "structure": "lv",
            }
            counts = {"n": row["n"], "undefined": row["undefined"]}
            for statistic in EF_STATISTICS:
                unit = "" if statistic == "correlation" else "points"
                yield {**labels, "metric": f"{prefix}_{statistic}", "unit": unit, **row[statistic], **counts}
    for row in summary["accuracy"]:
        labels = {"method": row["method"], "kind": row["kind"], "metric": "pixel_accuracy", "unit": "share"}
        yield {**labels, **_interval(row["accuracy"])}


def _views(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row in summary["rows"]:
        values = {**row["by_view"], "all": row["total"], "balanced": row["balanced"]}
        for view, value in values.items():
            labels = {name: row[name] for name in ("method", "kind", "k")}
            yield {**labels, "view": view, "metric": "accuracy", "unit": "share", **_interval(value)}


def _efficiency(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row in summary["rows"]:
        labels = {name: row[name] for name in ("method", "kind", "label_patients", "structure", "phase")}
        values = {"value": row["mean"], "sd": row["sd"], "low": row["low"], "high": row["high"], "n": row["seeds"]}
        yield {**labels, "metric": "dice", "unit": "share", **values}
