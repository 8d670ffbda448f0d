"""Which unlabelled images to label next: a ranked list over a folder or a frame store."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from alan.active.acquisition import RANDOM, UNCERTAINTIES, check_functions, random
from alan.active.diversity import Describe, FloatArray, choose
from alan.active.dropout import MonteCarloDropout
from alan.active.pool import FolderPool, PartialScores, Pool, StorePool, score_pool
from alan.data.sample import ByteArray, IntArray
from alan.data.store.reader import FrameStore
from alan.errors import AlanWarning, DataError, ParameterError
from alan.files import fingerprint
from alan.supervised.segmenter import Segmenter, to_labels


@dataclass(frozen=True)
class Suggestion:
    """Images to label next, the most wanted first.

    Attributes:
        table: ``rank`` (from 1), ``image`` and what else names it, ``score`` (of the function asked for).
        frames: (m, S, S) uint8, the first m of them.
        labels: (m, S, S) int64, what the mean of the passes says of them: 0 background, i + 1 a structure.
        maps: (m, S, S) float32, their uncertainty pixel by pixel.
        function: whose uncertainty it is; the entropy of the mean where the choice is random.
    """

    table: pd.DataFrame
    frames: ByteArray
    labels: NDArray[np.int64]
    maps: NDArray[np.float32]
    function: str


def open_pool(
    images: str,
    size: int | None,
    *,
    split: str | None = None,
    views: tuple[str, ...] | None = None,
    include_labelled: bool = False,
) -> Pool:
    """Open a folder of pictures or a frame store as a pool.

    Args:
        images: a folder, or a frame store (a file).
        size: side in pixels of the pictures of a folder; None takes them as they come.
        split: side of a store, or None for all.
        views: views of a store, or None for all.
        include_labelled: also images that have masks already.

    Raises:
        DataError: nothing there, or nothing left to label.
        ParameterError: ``split`` or ``views`` for a folder, or an unknown one of a store.
    """
    if not Path(images).is_file():
        if split is not None or views is not None:
            raise ParameterError(
                f"{images}: split and views are of a frame store, a folder has none: leave them out"
            )
        return FolderPool(images, size, include_labelled=include_labelled)
    store = FrameStore(images)
    indices = [np.arange(s.start, s.start + s.length) for s in store.select(split, views)]
    frames: IntArray = np.concatenate(indices)
    if not include_labelled:
        frames = np.setdiff1d(frames, store.label_frames)
    if not len(frames):
        raise DataError(
            f"{images}: the pool is empty, every frame has a mask; set include_labelled to true to rank them "
            "all the same"
        )
    return StorePool(store, frames)


def suggest(
    segmenter: Segmenter,
    pool: Pool,
    n: int = 50,
    function: str = "mfe",
    *,
    passes: int = 30,
    seed: int = 0,
    diversity: str | None = None,
    candidates: int = 5,
    batch_size: int = 16,
    shown: int = 24,
    partial: Path | None = None,
) -> Suggestion:
    """Rank a pool by what the network is least sure of.

    Args:
        segmenter: a trained network with dropout (for a random choice: any).
        pool: the images; they are read a batch at a time.
        n: how many to suggest.
        function: an acquisition function.
        passes: T, stochastic passes.
        seed: of the passes, or of the random choice.
        diversity: None, ``encoder``, or a backbone; as in :class:`alan.active.ActiveLoop`.
        candidates: with diversity, the n are picked among ``candidates * n``.
        batch_size: images in memory at a time.
        shown: how many come back with picture, prediction and map.
        partial: file in which scores are noted on the way: the same call goes on from there after an interruption,
            and takes the file away at its end.

    Returns:
        The list, and the pictures of its head.

    Raises:
        ParameterError: a value out of range, an unknown function, or a network without dropout.
        DataError: no image of the pool can be read.
    """
    (function,) = check_functions([function])
    for name, value in (("n", n), ("candidates", candidates), ("batch_size", batch_size)):
        if value < 1:
            raise ParameterError(f"{name}={value}: must be 1 or more")
    if n > len(pool):
        raise ParameterError(f"n={n}, but the pool holds {len(pool)} images: lower n")
    sampler = MonteCarloDropout(segmenter, passes, seed) if function != RANDOM else None
    describe = Describe(diversity, batch_size) if diversity and sampler else None
    if sampler is None:
        scores = random(len(pool), seed)
    else:
        key = fingerprint([segmenter.fingerprint, pool.fingerprint(), function, passes, seed])
        notes = PartialScores(partial, key) if partial else None
        scores = score_pool(sampler, pool, [function], batch_size, partial=notes)[function]
        _say_unreadable(pool, scores)

    def features(positions: IntArray) -> FloatArray:
        rows = [pool.read(positions[i : i + batch_size]) for i in range(0, len(positions), batch_size)]
        return np.concatenate([describe(frames, segmenter) for frames in rows if describe])

    chosen = choose(scores, n, features if describe else None, candidates=candidates)
    rows = [{"rank": rank, **pool.describe(int(p)), "score": scores[p]} for rank, p in enumerate(chosen, 1)]
    frames = pool.read(chosen[:shown])
    mapped = function if function in UNCERTAINTIES else "mfe"
    labels, maps = _look(segmenter, sampler, frames, mapped, batch_size)
    if partial:
        partial.unlink(missing_ok=True)
    return Suggestion(pd.DataFrame(rows), frames, labels, maps, mapped)


def _look(
    segmenter: Segmenter, sampler: MonteCarloDropout | None, frames: ByteArray, function: str, batch_size: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Prediction and uncertainty of frames pixel by pixel; without a sampler the entropy of one plain pass."""
    labels, maps = [], []
    for start in range(0, len(frames), batch_size):
        batch = torch.from_numpy(frames[start : start + batch_size])
        if sampler is None:
            mean = segmenter.probabilities(batch)
            mean = torch.cat([1 - mean, mean], 1) if mean.shape[1] == 1 else mean
            maps.append(torch.special.entr(mean).sum(1))
        else:
            running = sampler.acquisition(batch)
            mean = running.mean
            maps.append(running.maps(function))
        labels.append(to_labels(mean))
    return torch.cat(labels).cpu().numpy(), torch.cat(maps).cpu().numpy()


def _say_unreadable(pool: Pool, scores: FloatArray) -> None:
    """Warn of what was left out.

    Raises:
        DataError: nothing could be read.
    """
    missing = np.flatnonzero(np.isnan(scores))
    if not len(missing):
        return
    first = pool.unreadable.get(int(missing[0])) or pool.describe(int(missing[0]))["image"]
    if len(missing) == len(pool):
        raise DataError(f"none of {len(pool)} images can be read, the first: {first}")
    warnings.warn(
        f"left out {len(missing)} of {len(pool)} images that cannot be read, the first: {first}",
        AlanWarning,
        stacklevel=2,
    )
