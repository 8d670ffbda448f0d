"""Frames for a bank of views, drawn from simulated archives, and frames of a real archive for its shift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from alan.analysis.view_bank_file import OTHER
from alan.arrays import ByteArray
from alan.data.preprocessing import resize_frames
from alan.data.sample import VIEWS
from alan.data.simulator.others import other_frames
from alan.data.store.reader import FrameStore
from alan.errors import DataError


def draw_bank(
    stores: Sequence[FrameStore], n_frames: int | Mapping[str, int], n_other: int, size: int, seed: int
) -> tuple[ByteArray, list[str]]:
    """Draw the frames of a bank of views: one frame per training sequence drawn, and pictures of other things.

    Args:
        stores: Stores of simulated archives.
        n_frames: Number of frames per view, or view to its number; fewer where there are fewer sequences.
        n_other: Number of pictures of other things.
        size: Side of the frames in pixels.
        seed: Seed of the draw.

    Returns:
        Frames (N, size, size) uint8 and the names of their views.

    Raises:
        DataError: No store has a training sequence of a requested view.
    """
    rng = np.random.default_rng(seed)
    frames: list[ByteArray] = []
    views: list[str] = []
    wanted = dict.fromkeys(VIEWS, n_frames) if isinstance(n_frames, int) else dict(n_frames)
    for view, n in wanted.items():
        known = [
            (store, sequence)
            for store in stores
            for sequence in store.sequences
            if sequence.view == view and sequence.split in ("train", None)
        ]
        if not known:
            if isinstance(n_frames, int):
                continue
            raise DataError(f"bank_frames names {view}, but no store has a training sequence of it")
        for i in rng.permutation(len(known))[:n]:
            store, sequence = known[i]
            row = sequence.start + int(rng.integers(sequence.length))
            frames.append(resize_frames(store.frames(np.array([row])), (size, size)))
            views.append(view)
    if not frames:
        raise DataError("bank: no store has a training sequence of a known view; give simulated stores")
    if n_other:
        frames.append(other_frames(n_other, size, seed))
        views += [OTHER] * n_other
    return np.concatenate(frames), views


def draw_archive(stores: Sequence[FrameStore], split: str | None, size: int, seed: int) -> ByteArray:
    """Draw one frame of each sequence of an archive; its labels and views are not read.

    Args:
        stores: Stores of the archive.
        split: Split of the sequences; None takes all.
        size: Side of the frames in pixels.
        seed: Seed of the draw.

    Returns:
        (N, size, size) uint8.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for store in stores:
        rows = [s.start + int(rng.integers(s.length)) for s in store.select(split)]
        drawn.append(resize_frames(store.frames(np.array(rows)), (size, size)))
    return np.concatenate(drawn)
