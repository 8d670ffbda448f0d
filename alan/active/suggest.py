"""Suggestions of the images to label next: a ranked list over a folder or a frame store."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from alan.active.acquisition import UNCERTAINTIES, check_functions, entropy, random
from alan.active.diversity import FrameFeatures, choose
from alan.active.dropout import MonteCarloDropout
from alan.active.pool import FolderPool, PartialScores, Pool, StorePool, score_pool
from alan.active.settings import RANDOM, Passes
from alan.arrays import ByteArray, FloatArray, IntArray
from alan.bounds import PositiveInt, Seed, bounded
from alan.data.store.reader import FrameStore
from alan.errors import DataError, ParameterError
from alan.files import fingerprint
from alan.progress import batches
from alan.supervised.segmenter import Segmenter, to_labels

_log = logging.getLogger(__name__)
#: Share of the largest possible entropy from which a network is taken for untrained.
_UNTRAINED = 0.9


@dataclass(frozen=True)
class Suggestion:
    """Images to label next, in the order of priority.

    Attributes:
        table: ``rank`` (from 1), ``image`` and further columns that identify it, and ``score``.
        frames: (m, S, S) uint8, the first m images.
        labels: (m, S, S) int64, their segmentation by the mean of the passes: 0 background, i + 1 for structure i.
        maps: (m, S, S) float32, their uncertainty at each pixel.
        function: Acquisition function of the maps; ``mfe`` where the choice is random.
        failures: Name and reason of each image that could not be read.
    """

    table: pd.DataFrame
    frames: ByteArray
    labels: NDArray[np.int64]
    maps: NDArray[np.float32]
    function: str
    failures: list[tuple[str, str]]


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
        images: Folder of pictures, or file of a frame store.
        size: Side in pixels of the pictures of a folder; None keeps their size.
        split: Split of a store; None uses all.
        views: Views of a store; None uses all.
        include_labelled: Include images that have masks already.

    Raises:
        DataError: There is no such folder or file, or nothing is left to label.
        ParameterError: ``split`` or ``views`` is given for a folder, or unknown to the store.
    """
    if not Path(images).is_file():
        if split is not None or views is not None:
            raise ParameterError(
                f"{images}: is a folder, which has no splits and views: leave split and views out"
            )
        return FolderPool(images, size, include_labelled=include_labelled)
    store = FrameStore(images)
    frames = store.choose_frames(split, views)
    if not include_labelled:
        frames = np.setdiff1d(frames, store.label_frames)
    if not len(frames):
        raise DataError(
            f"{images}: the pool is empty, every frame has a mask; set include_labelled to true to rank them"
        )
    return StorePool(store, frames)


@bounded
def suggest_images(
    segmenter: Segmenter,
    pool: Pool,
    n: PositiveInt = 50,
    function: str = "mfe",
    *,
    passes: Passes = 30,
    seed: Seed = 0,
    diversity: str | None = None,
    candidates: PositiveInt = 5,
    batch_size: PositiveInt = 16,
    shown: PositiveInt = 24,
    partial: Path | None = None,
) -> Suggestion:
    """Rank a pool by the uncertainty of a network; warns of one that is uncertain of nearly everything.

    Args:
        segmenter: Trained network with dropout; a random choice needs no dropout.
        pool: The images; they are read a batch at a time.
        n: Number of images to suggest.
        function: Acquisition function.
        passes: Number of stochastic passes, T.
        seed: Seed of the passes, or of the random choice.
        diversity: Features for a diverse choice, as in :class:`alan.active.ActiveLoop`.
        candidates: With ``diversity``, the n images are chosen among the ``candidates * n`` highest scores.
        batch_size: Images in memory at a time.
        shown: Number of images that are returned with picture, segmentation and map.
        partial: File in which scores are kept on the way; the same call continues from it after an interruption,
            and removes it at its end.

    Returns:
        The list, and the pictures of its head.

    Raises:
        ParameterError: ``n`` is larger than the pool, the function is unknown, or the network has no dropout.
        DataError: No image of the pool can be read.
    """
    (function,) = check_functions([function])
    if function not in (RANDOM, *UNCERTAINTIES):
        raise ParameterError(
            f"function is {function!r}, which `alan active run` measures: give one of "
            f"{', '.join((RANDOM, *UNCERTAINTIES))}"
        )
    if n > len(pool):
        raise ParameterError(f"n is {n}, but the pool holds {len(pool)} images: lower n")
    sampler = MonteCarloDropout(segmenter, passes, seed) if function != RANDOM else None
    compute = FrameFeatures(diversity, batch_size) if diversity and sampler else None
    if sampler is None:
        scores = random(len(pool), seed)
        for _ in pool.batches(batch_size):  # finds what cannot be read
            pass
        scores[list(pool.unreadable)] = np.nan
    else:
        key = fingerprint([segmenter.fingerprint, pool.fingerprint(), function, passes, seed])
        kept = PartialScores(partial, key) if partial else None
        scores = score_pool(sampler, pool, [function], batch_size, partial=kept)[function]

    def features(positions: IntArray) -> FloatArray:
        frames = (pool.read(positions[part]) for part in batches(len(positions), batch_size))
        return np.concatenate([compute(one, segmenter) for one in frames if compute])

    failures = _failures(pool, scores)
    chosen = choose(scores, n, features if compute else None, candidates=candidates)
    rows = [{"rank": rank, **pool.describe(int(p)), "score": scores[p]} for rank, p in enumerate(chosen, 1)]
    frames = pool.read(chosen[:shown])
    mapped = function if function in UNCERTAINTIES else "mfe"
    labels, maps = _predict(segmenter, sampler, frames, mapped, batch_size)
    if function in ("mfe", "cfe"):
        most = frames[0].size * math.log(max(segmenter.classes, 2))
        if (share := float(np.nanmean(scores)) / most) >= _UNTRAINED:
            _log.warning(
                "the entropy is %.0f%% of the largest possible one: the network has learnt hardly anything, the "
                "order says little: train it longer",
                100 * share,
            )
    if partial:
        partial.unlink(missing_ok=True)
    return Suggestion(pd.DataFrame(rows), frames, labels, maps, mapped, failures)


def _predict(
    segmenter: Segmenter, sampler: MonteCarloDropout | None, frames: ByteArray, function: str, batch_size: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Compute segmentation and uncertainty of frames; without a sampler, the entropy of a pass without dropout."""
    labels, maps = [], []
    for part in batches(len(frames), batch_size):
        batch = torch.from_numpy(frames[part])
        if sampler is None:
            mean = segmenter.probabilities(batch)
            mean = torch.cat([1 - mean, mean], 1) if mean.shape[1] == 1 else mean
            maps.append(entropy(mean))
        else:
            statistics = sampler.statistics(batch)
            mean = statistics.mean
            maps.append(statistics.map(function))
        labels.append(to_labels(mean))
    return torch.cat(labels).cpu().numpy(), torch.cat(maps).cpu().numpy()


def _failures(pool: Pool, scores: FloatArray) -> list[tuple[str, str]]:
    """Return name and reason of each image without a score.

    Raises:
        DataError: No image has a score.
    """
    missing = np.flatnonzero(np.isnan(scores)).tolist()
    names = [str(pool.describe(position)["image"]) for position in missing]
    reasons = [pool.unreadable.get(position, "could not be read in an earlier call") for position in missing]
    if len(missing) == len(pool):
        raise DataError(f"none of {len(pool)} images can be read, the first: {reasons[0]}")
    return list(zip(names, reasons, strict=True))
