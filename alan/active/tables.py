"""What a run says: a row a phase, the curves over the seeds, the labels needed, and how alike the picks are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alan.active.acquisition import RANDOM
from alan.active.protocol import ActiveFrames, ActiveLoop, PoolData
from alan.active.state import SCHEMA, Record, State
from alan.data.sample import ByteArray
from alan.files import atomic, write_json
from alan.runs import plain, provenance

#: Side of the pictures whose likeness is measured.
_THUMBNAIL = 16
#: Shares of Random's last score for which the labels needed are counted.
_SHARES = (0.95, 0.98, 1.0)


def write_phases(folder: Path, state: State, frames: ActiveFrames) -> pd.DataFrame:
    """Write ``phases.csv`` and, for each loop, ``labelled/FUNCTION_SEED.csv``: what it labelled, in order.

    Args:
        folder: the run folder.
        state: the records.
        frames: the frames.

    Returns:
        One row a record: ``function``, ``seed``, ``phase``, ``n_labels``, ``n_patients``, the scores, ``stopped``,
        ``known_patients``, ``likeness`` and ``chosen`` (names of the images labelled after the phase).
    """
    thumbnails = _Thumbnails(frames)
    rows = []
    for record in state.records:
        before = _labelled_before(state, record)
        patients = frames.pool_table["patient"].to_numpy()
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
                "likeness": thumbnails.likeness(before, record.chosen),
                "chosen": " ".join(str(frames.pool.describe(p)["image"]) for p in record.chosen),
            }
        )
    table = pd.DataFrame(rows)
    _write_csv(folder / "phases.csv", table)
    for function, seed in dict.fromkeys((record.function, record.seed) for record in state.records):
        positions = state.labelled(function, seed)
        _write_csv(
            folder / "labelled" / f"{function}_{seed}.csv", pd.DataFrame(map(frames.pool.describe, positions))
        )
    return table


def write_results(
    folder: Path, state: State, frames: ActiveFrames, data: PoolData, loop: ActiveLoop, *, title: str
) -> None:
    """Write ``results.json``: the curves and tables of the report; it is written last.

    Args:
        folder: the run folder.
        state: the records.
        frames: the frames.
        data: which frames they are.
        loop: the loop.
        title: heading of the report.
    """
    table = write_phases(folder, state, frames)
    side = "test" if data.test_split else "val"
    curve = curves(table, f"{side}_iou")
    summary = {
        "schema": SCHEMA,
        "title": title,
        "measured": {"side": side, "split": data.test_split or data.val_split, "chosen_on": data.val_split},
        "structures": list(frames.structures),
        "pool": {"images": len(frames.pool), "patients": int(frames.pool_table["patient"].nunique())},
        "store": {"name": frames.store.name, "size": frames.store.size},
        "loop": asdict(loop),
        "curves": curve.to_dict("records"),
        "last": last_scores(table, side, frames.structures),
        "needed": labels_needed(table, f"{side}_iou", levels(table, f"{side}_iou", loop.stop_iou)),
        "redundancy": redundancy(table),
        "provenance": provenance({data.store: frames.store.fingerprint}),
    }
    write_json(folder / "results.json", plain(summary))


def curves(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """Mean and spread over the seeds at each number of labels.

    Args:
        table: rows of :func:`write_phases`.
        score: the column.

    Returns:
        Columns ``function``, ``n_labels``, ``mean``, ``std`` (divided by n), ``low`` and ``high`` (the least and
        the largest seed) and ``seeds``.
    """
    groups = table.groupby(["function", "n_labels"], sort=False)[score]
    found = groups.agg(mean="mean", std=lambda x: x.std(ddof=0), low="min", high="max", seeds="count")
    return found.reset_index()


def last_scores(table: pd.DataFrame, side: str, structures: Sequence[str]) -> list[dict[str, Any]]:
    """Scores of the last phase of each function, means over the seeds: labels, IoU, Dice of each structure."""
    rows = []
    for function, group in table.groupby("function", sort=False):
        last = group.sort_values("phase").groupby("seed").tail(1)
        dice = {name: float(last[f"{side}_dice_{name}"].mean()) for name in structures}
        iou = last[f"{side}_iou"]
        spread = {"iou": float(iou.mean()), "low": float(iou.min()), "high": float(iou.max())}
        rows.append({"function": function, "n_labels": float(last["n_labels"].mean()), **spread, "dice": dice})
    return rows


def levels(table: pd.DataFrame, score: str, stop: float | None) -> list[float]:
    """Scores worth asking for: shares of Random's last one (of the best without it), and the threshold."""
    last = table.sort_values("phase").groupby(["function", "seed"], sort=False).tail(1)
    means = last.groupby("function")[score].mean()
    reference = float(means[RANDOM] if RANDOM in means else means.max())
    return sorted({round(share * reference, 4) for share in _SHARES} | ({stop} if stop else set()))


def labels_needed(table: pd.DataFrame, score: str, wanted: Sequence[float]) -> list[dict[str, Any]]:
    """Labels at which a function first has a score.

    Args:
        table: rows of :func:`write_phases`.
        score: the column.
        wanted: the scores.

    Returns:
        One row a function and score: ``function``, ``score``, ``labels`` (mean over the seeds that get there, None
        where none does), ``reached`` and ``seeds``.
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
    """How alike the picks of each function are, means over phases and seeds: ``known_patients``, ``likeness``."""
    picks = table[table["chosen"] != ""]
    means = picks.groupby("function", sort=False)[["known_patients", "likeness"]].mean()
    return [{str(key): value for key, value in row.items()} for row in means.reset_index().to_dict("records")]


class _Thumbnails:
    """Small pictures of the pool, standardised, so that a product is a correlation."""

    def __init__(self, frames: ActiveFrames) -> None:
        rows = [_thumbnail(batch) for _, batch in frames.pool.batches(256)]
        self._rows: NDArray[np.float32] = np.concatenate(rows)

    def likeness(self, before: Sequence[int], chosen: Sequence[int]) -> float:
        """Mean over the picks of the highest correlation with any other labelled image; NaN without picks."""
        if not len(chosen):
            return float("nan")
        others = self._rows[[*before, *chosen]]
        alike = self._rows[list(chosen)] @ others.T
        itself = np.arange(len(chosen))
        alike[itself, len(before) + itself] = -np.inf
        return float(alike.max(1).mean())


def _thumbnail(frames: ByteArray) -> NDArray[np.float32]:
    step = max(1, frames.shape[1] // _THUMBNAIL)
    side = frames.shape[1] // step
    blocks = frames[:, : side * step, : side * step].reshape(len(frames), side, step, side, step)
    small = blocks.mean((2, 4)).reshape(len(frames), -1)  # (n, side * side)
    small = small - small.mean(1, keepdims=True)
    length = np.linalg.norm(small, axis=1, keepdims=True)
    return np.asarray(np.divide(small, length, out=np.zeros_like(small), where=length > 0), np.float32)


def _known_share(before: NDArray[Any], chosen: NDArray[Any]) -> float:
    """Share of the picks whose patient has a label already, or an earlier pick; NaN without picks."""
    known, found = set(before), []
    for patient in chosen:
        found.append(patient in known)
        known.add(patient)
    return float(np.mean(found)) if found else float("nan")


def _labelled_before(state: State, record: Record) -> list[int]:
    return state.labelled(record.function, record.seed)[: record.n_labels]


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
