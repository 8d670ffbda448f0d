"""Tables of an active learning run: phases, curves over the seeds, labels needed, redundancy of the choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alan.active.comparison import compare_functions
from alan.active.protocol import ActiveFrames
from alan.active.settings import RANDOM, ActiveLoop, PoolData
from alan.active.state import SCHEMA, State
from alan.files import write_json, write_table
from alan.runs import plain, provenance

#: Shares of Random's last score for which the labels needed are counted.
_SHARES = (0.95, 0.98, 1.0)


def write_phases(folder: Path, state: State, frames: ActiveFrames) -> pd.DataFrame:
    """Write ``phases.csv`` and, for each loop, ``labelled/FUNCTION_SEED.csv``: the images it labelled, in order.

    Args:
        folder: Run folder.
        state: Finished phases.
        frames: Frames of the run.

    Returns:
        One row per finished phase: ``function``, ``seed``, ``phase``, ``n_labels``, ``n_patients``, the scores,
        ``stopped``, ``known_patients``, ``likeness`` and ``chosen`` (names of the images labelled after the
        phase).
    """
    rows = []
    patients = frames.pool_table["patient"].to_numpy()
    for record in state.finished:
        before = state.labelled(record.function, record.seed)[: record.n_labels]
        rows.append(
            {
                "function": record.function,
                "seed": record.seed,
                "phase": record.phase,
                "n_labels": record.n_labels,
                "n_patients": len(set(patients[before])),
                **record.scores,
                "stopped": record.stopped,
                "known_patients": _known_share(patients[before], patients[record.chosen]),
                "likeness": _likeness(frames.thumbnails, before, record.chosen),
                "chosen": " ".join(str(frames.pool.describe(p)["image"]) for p in record.chosen),
            }
        )
    table = pd.DataFrame(rows)
    write_table(folder / "phases.csv", table)
    for function, seed in dict.fromkeys((record.function, record.seed) for record in state.finished):
        positions = state.labelled(function, seed)
        write_table(
            folder / "labelled" / f"{function}_{seed}.csv", pd.DataFrame(map(frames.pool.describe, positions))
        )
    return table


def write_results(
    folder: Path, state: State, frames: ActiveFrames, data: PoolData, loop: ActiveLoop, *, title: str
) -> None:
    """Write ``results.json``, the curves and tables of the report; it is written last.

    Args:
        folder: Run folder.
        state: Finished phases.
        frames: Frames of the run.
        data: Frames of the pool and of the measured splits.
        loop: Settings of the loop.
        title: Heading of the report.
    """
    table = write_phases(folder, state, frames)
    prefix = "test" if data.test_split else "val"
    curve = curves(table, f"{prefix}_iou")
    summary = {
        "schema": SCHEMA,
        "title": title,
        "measured": {"split": data.test_split or data.val_split, "chosen_on": data.val_split},
        "structures": list(frames.structures),
        "pool": {"images": len(frames.pool), "patients": int(frames.pool_table["patient"].nunique())},
        "store": {
            "name": frames.store.name,
            "size": frames.store.size,
            "simulated": frames.store.simulated,
        },
        "loop": asdict(loop),
        "curves": curve.to_dict("records"),
        "last": last_scores(table, prefix, frames.structures),
        "needed": labels_needed(table, f"{prefix}_iou", levels(table, f"{prefix}_iou", loop.stop_iou)),
        "comparison": compare_functions(state, loop.functions, frames.measured_patients, loop.targets),
        "redundancy": redundancy(table),
        "provenance": provenance({data.store: frames.store.fingerprint}),
    }
    write_json(folder / "results.json", plain(summary))


def curves(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """Compute the mean and spread over the seeds in each phase.

    Args:
        table: Rows of :func:`write_phases`.
        score: Column of the score.

    Returns:
        Columns ``function``, ``n_labels`` (the mean over the seeds, rounded), ``mean``, ``std`` (divided by n),
        ``low`` and ``high`` (over the seeds) and ``seeds``.
    """
    groups = table.groupby(["function", "phase"], sort=False)
    found = groups[score].agg(mean="mean", std=lambda x: x.std(ddof=0), low="min", high="max", seeds="count")
    found.insert(0, "n_labels", groups["n_labels"].mean().round().astype(int))
    return found.reset_index().drop(columns="phase")


def last_scores(table: pd.DataFrame, prefix: str, structures: Sequence[str]) -> list[dict[str, Any]]:
    """Average the scores of the last phase over the seeds: labels, IoU, Dice of each structure."""
    rows = []
    for function, group in table.groupby("function", sort=False):
        last = group.sort_values("phase").groupby("seed").tail(1)
        dice = {name: float(last[f"{prefix}_dice_{name}"].mean()) for name in structures}
        iou = last[f"{prefix}_iou"]
        spread = {"iou": float(iou.mean()), "low": float(iou.min()), "high": float(iou.max())}
        rows.append({"function": function, "n_labels": float(last["n_labels"].mean()), **spread, "dice": dice})
    return rows


def levels(table: pd.DataFrame, score: str, stop: float | None) -> list[float]:
    """Return the target scores: shares of Random's last one (of the best without it), and the threshold."""
    last = table.sort_values("phase").groupby(["function", "seed"], sort=False).tail(1)
    means = last.groupby("function")[score].mean()
    reference = float(means[RANDOM] if RANDOM in means else means.max())
    return sorted({round(share * reference, 4) for share in _SHARES} | ({stop} if stop else set()))


def labels_needed(table: pd.DataFrame, score: str, wanted: Sequence[float]) -> list[dict[str, Any]]:
    """Return the number of labels at which a function first reaches a score.

    Args:
        table: Rows of :func:`write_phases`.
        score: Column of the score.
        wanted: Scores to reach.

    Returns:
        One row per function and score: ``function``, ``score``, ``labels`` (mean over the seeds that reach it,
        None where none does), ``reached`` and ``seeds``.
    """
    rows = []
    for function, group in table.groupby("function", sort=False):
        loops = [loop.sort_values("phase") for _, loop in group.groupby("seed")]
        for level in wanted:
            first = [loop.loc[loop[score] >= level, "n_labels"] for loop in loops]
            labels = [int(found.iloc[0]) for found in first if len(found)]
            mean = float(np.mean(labels)) if labels else None
            rows.append(
                {
                    "function": function,
                    "score": level,
                    "labels": mean,
                    "reached": len(labels),
                    "seeds": len(loops),
                }
            )
    return rows


def redundancy(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Average the redundancy of the choices over phases and seeds: known patients, likeness."""
    choices = table[table["chosen"] != ""]
    means = choices.groupby("function", sort=False)[["known_patients", "likeness"]].mean()
    return [{str(key): value for key, value in row.items()} for row in means.reset_index().to_dict("records")]


def _likeness(thumbnails: NDArray[np.float32], before: Sequence[int], chosen: Sequence[int]) -> float:
    """Average the highest correlation of each chosen image with another labelled one; NaN without any."""
    if not len(chosen):
        return float("nan")
    alike = thumbnails[list(chosen)] @ thumbnails[[*before, *chosen]].T
    itself = np.arange(len(chosen))
    alike[itself, len(before) + itself] = -np.inf
    return float(alike.max(1).mean())


def _known_share(before: NDArray[Any], chosen: NDArray[Any]) -> float:
    """Compute the share of chosen images whose patient has a labelled or earlier chosen image; NaN for none."""
    known, found = set(before), []
    for patient in chosen:
        found.append(patient in known)
        known.add(patient)
    return float(np.mean(found)) if found else float("nan")
