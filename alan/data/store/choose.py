"""Choice of frames of a store: all, the annotated ones, or some of each sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from alan.arrays import IntArray
from alan.bounds import PositiveInt, bounded
from alan.data.store.reader import FrameStore
from alan.errors import DataError


@bounded
def choose_frames(
    store: FrameStore,
    split: str | None = None,
    views: Sequence[str] | None = None,
    frames: Literal["all", "annotated"] | PositiveInt = "all",
) -> IntArray:
    """Choose frames of a store.

    Args:
        store: The frame store.
        split: As in :meth:`alan.data.FrameStore.select`.
        views: As in :meth:`alan.data.FrameStore.select`.
        frames: ``all``; ``annotated`` for the frames with masks and those at ED and ES; or n for n frames of each
            sequence, evenly spread from its first to its last (all of a shorter sequence; the middle one for 1).

    Returns:
        (n,) int64 global frame indices, ascending, each once.

    Raises:
        DataError: No frame is left.
    """
    chosen = store.select(split, views)
    if frames == "annotated":
        marked = {frame for s in chosen for frame in (s.ed, s.es) if frame is not None}
        every = np.union1d(store.label_frames, np.array(sorted(marked), np.int64))
        index = np.concatenate([every[(every >= s.start) & (every < s.start + s.length)] for s in chosen])
        if not len(index):
            raise DataError(
                f"{store.path}: no annotated frame in split {split!r}: cache 'all' or a number instead"
            )
        return index
    if frames == "all":
        return np.concatenate([np.arange(s.start, s.start + s.length) for s in chosen])
    return np.concatenate([s.start + evenly_spread(s.length, frames) for s in chosen])


def evenly_spread(length: int, n: int) -> IntArray:
    """Choose ``min(n, length)`` different positions in 0..length - 1: first, last, and even steps between."""
    if n == 1:
        return np.array([length // 2])
    return np.linspace(0, length - 1, min(n, length)).round().astype(np.int64)
