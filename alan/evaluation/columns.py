"""Columns of the CSV files of an evaluation, with its metrics."""

from __future__ import annotations

from collections.abc import Mapping

from alan.columns import ColumnEntry, file_columns
from alan.evaluation.scoring import METRICS, VOLUME_METRICS, Metric


def _entries(metrics: Mapping[str, Metric]) -> list[ColumnEntry]:
    return [ColumnEntry(name, metric.unit or "share", metric.description) for name, metric in metrics.items()]


#: File of a run folder to its columns.
COLUMNS = file_columns("evaluate", {"metrics": _entries(METRICS), "volume metrics": _entries(VOLUME_METRICS)})
