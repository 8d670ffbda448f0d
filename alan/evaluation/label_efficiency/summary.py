"""Summary of label-efficiency cells: means and spreads over seeds, and intervals over patients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alan.evaluation.intervals import bootstrap_interval
from alan.evaluation.label_efficiency.protocol import GridCell
from alan.evaluation.scoring import ALL


def phases_of(test: pd.DataFrame) -> list[str]:
    """List the phases of the test frames, and :data:`~alan.evaluation.scoring.ALL` if there are several."""
    phases = [phase for phase in ("ED", "ES") if (test["phase"] == phase).any()]
    return [*phases, ALL] if len(phases) > 1 else phases


def _scores(result: Mapping[str, Any], structure: str) -> NDArray[np.float64]:
    """Return the Dice score of each test frame, NaN where undefined."""
    return np.array([math.nan if x is None else x for x in result["dice"][structure]], np.float64)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def cell_rows(
    cells: Sequence[GridCell], results: Sequence[Mapping[str, Any]], test: pd.DataFrame, structures: Sequence[str]
) -> pd.DataFrame:
    """Make the table of all cells, with one row per cell, structure and phase.

    Args:
        cells: The cells.
        results: Their results.
        test: Rows of the test split.
        structures: The structures.

    Returns:
        The columns of ``label_efficiency.csv``, see :data:`alan.evaluation.columns.COLUMNS`.
    """
    rows = []
    for cell, result in zip(cells, results, strict=True):
        for structure in structures:
            for phase in phases_of(test):
                part = np.full(0, math.nan)
                if not result["failed"]:
                    part = _scores(result, structure)[_at(test, phase)]
                rows.append(
                    {
                        "method": cell.method.name,
                        "kind": cell.method.kind,
                        "label_patients": result["patients"],
                        "seed": cell.seed,
                        "structure": structure,
                        "phase": phase,
                        "dice": _mean(part),
                        "frames": int((~np.isnan(part)).sum()),
                        "empty": result["empty"].get(structure),
                        "seconds": result["seconds"],
                        "reason": result["failed"] or result["reasons"].get(structure, ""),
                    }
                )
    return pd.DataFrame(rows)


def _at(test: pd.DataFrame, phase: str) -> NDArray[np.bool_]:
    return np.ones(len(test), bool) if phase == ALL else (test["phase"] == phase).to_numpy()


def summarise_cells(
    cells: Sequence[GridCell], results: Sequence[Mapping[str, Any]], test: pd.DataFrame, structures: Sequence[str]
) -> dict[str, Any]:
    """Average the cells over seeds, and collect what went wrong.

    Returns:
        ``phases``; ``methods``: ``method``, ``kind``, ``label`` and ``family`` (see :class:`Method`),
        ``pretrained``, and ``seconds`` (number of labelled patients to the mean time of a cell); ``rows``, one
        for each method, number of patients, structure and phase: ``mean`` over seeds of the mean test Dice, ``sd``
        over seeds (divided by n - 1), ``lowest`` and ``highest`` of the seeds, ``seeds`` (their number), and
        ``low`` and ``high``, the 95% bootstrap interval over patients of the mean over seeds; and ``notes``, one
        for each cell in which nothing was selected or that failed.
    """
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    methods: dict[str, dict[str, Any]] = {}
    notes = []
    for cell, result in zip(cells, results, strict=True):
        name, n = cell.method.name, int(result["patients"])
        described = {key: getattr(cell.method, key) for key in ("kind", "label", "family", "pretrained")}
        methods.setdefault(name, {"method": name, **described})
        groups.setdefault((name, n), []).append(result)
        where = {"method": name, "label_patients": n, "seed": cell.seed}
        notes += [{**where, "structure": s, "reason": why} for s, why in result["reasons"].items()]
        if result["failed"]:
            notes.append({**where, "structure": "", "reason": result["failed"]})
    rows = [
        {
            "method": name,
            "kind": methods[name]["kind"],
            "label_patients": n,
            "structure": structure,
            "phase": phase,
        }
        | _over_seeds([_scores(r, structure)[_at(test, phase)] for r in done if not r["failed"]], test, phase)
        for (name, n), done in sorted(
            groups.items(), key=lambda item: (list(methods).index(item[0][0]), item[0][1])
        )
        for structure in structures
        for phase in phases_of(test)
    ]
    for (name, n), done in groups.items():
        seconds = [r["seconds"] for r in done if not r["failed"]]
        methods[name].setdefault("seconds", {})[str(n)] = float(np.mean(seconds)) if seconds else None
    return {"phases": phases_of(test), "methods": list(methods.values()), "rows": rows, "notes": notes}


def _over_seeds(scores: Sequence[NDArray[np.float64]], test: pd.DataFrame, phase: str) -> dict[str, Any]:
    means = np.array([_mean(one) for one in scores])
    means = means[~np.isnan(means)]
    if not len(means):
        return {"mean": None, "sd": None, "lowest": None, "highest": None, "seeds": 0, "low": None, "high": None}
    interval = bootstrap_interval(np.mean(scores, axis=0), test["patient"].to_numpy()[_at(test, phase)])
    return {
        "mean": float(means.mean()),
        "sd": float(means.std(ddof=1)) if len(means) > 1 else None,
        "lowest": float(means.min()),
        "highest": float(means.max()),
        "seeds": len(means),
        "low": interval.low,
        "high": interval.high,
    }
