"""Runs of cached tokens instead of frames, so that RAPTOR can train without running the backbone again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alan.cache.reader import FeatureCache
from alan.data.loaders.datasets import Batch, SequenceDataset, StoreSet
from alan.data.loaders.modules import SequenceDataModule
from alan.data.sample import IntArray
from alan.data.store.reader import StoredSequence


class TokenSequenceDataset(SequenceDataset):
    """One run of cached tokens of each sequence, at a random place, a batch at a time.

    Args:
        stores: the frame store, alone.
        runs: (n, 4) int64 as :class:`alan.data.loaders.datasets.SequenceDataset`, in places of the ascending
            cached frames.
        seed: the place is drawn from (seed, epoch, item).
        cache: holds the tokens.
    """

    def __init__(self, stores: StoreSet, runs: IntArray, seed: int, cache: FeatureCache) -> None:
        super().__init__(stores, runs, seed)
        self.cache = cache
        self.cached = np.sort(cache.index)

    def __getitems__(self, items: Sequence[int]) -> Batch:
        index = self.cached[np.stack([self._run(item) for item in items])]
        tokens = self.cache.tokens(index.ravel()).astype(np.float32)
        batch: dict[str, NDArray[Any]] = {"tokens": tokens, "index": index.ravel()}
        if "sector" in self.cache.names:
            batch["sector"] = self.cache.sector(index.ravel())
        return {name: torch.from_numpy(x.reshape(*index.shape, *x.shape[1:])) for name, x in batch.items()}


class TokenSequenceDataModule(SequenceDataModule):
    """Runs of cached tokens, for training the RAPTOR head from a cache.

    A batch is ``{"tokens": (B, F, h, w, D) float32, "sector": (B, F, h, w) bool, "index": (B, F) int64}``, the
    index global in the store. Runs are drawn as :class:`alan.data.SequenceDataModule` draws them, over the
    frames that the cache holds: of a sequence of which 16 evenly spread frames are cached, these 16 are the
    sequence. Where all frames are cached, both modules give the same runs for the same seed.

    Args:
        cache: a cache with ``tokens``.
        store: the frame store it was written from.
        split: side to take the sequences from, or None for all.
        views: views to take, or None for all.
        n_frames: frames F a run, 2 or more, or None for ED and ES.
        period: distance of two frames of a run among the cached ones, 1 or more.
        batch_size: sequences a batch and process, 2 or more.
        num_workers: processes that read.
        seed: of the order and of the starts.

    Raises:
        ParameterError: a value out of range.
        CacheError: (in ``setup``) the cache is of another store, holds no tokens, or is not whole.
        DataError: (in ``setup``) no sequence has enough cached frames.
    """

    def __init__(
        self,
        cache: str | os.PathLike[str],
        store: str | os.PathLike[str],
        split: str | None = "train",
        views: list[str] | None = None,
        *,
        n_frames: int | None = 16,
        period: int = 2,
        batch_size: int = 5,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            [os.fspath(store)],
            split,
            views,
            n_frames=n_frames,
            period=period,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
        )
        self.cache_path = os.fspath(cache)

    @cached_property
    def cache(self) -> FeatureCache:
        """The opened cache; ``cache.manifest.backbone`` says whose tokens these are."""
        (store,) = StoreSet(self.stores).stores
        cache = FeatureCache(self.cache_path, store=store)
        cache.tokens(cache.index[:0])  # says so if there are none
        return cache

    @cached_property
    def dataset(self) -> TokenSequenceDataset:
        """The chosen sequences."""
        of_frames = super().dataset
        return TokenSequenceDataset(of_frames.stores, of_frames.runs, self.seed, self.cache)

    def _row(self, sequence: StoredSequence) -> tuple[int, int, int, int] | None:
        """The runs of a sequence in places of the ascending cached frames."""
        first, end = np.searchsorted(self._cached, (sequence.start, sequence.start + sequence.length)).tolist()
        places = {int(frame): first + i for i, frame in enumerate(self._cached[first:end])}
        ed, es = (None if frame is None else places.get(frame) for frame in (sequence.ed, sequence.es))
        return super()._row(replace(sequence, start=first, length=end - first, ed=ed, es=es))

    @cached_property
    def _cached(self) -> IntArray:
        return np.sort(self.cache.index)
