"""Runs of cached tokens in place of frames, so that token heads train without running the backbone again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alan.arrays import IntArray
from alan.cache.reader import FeatureCache
from alan.data.loaders.modules import Batch, SequenceDataModule, SequenceDataset, StoreSet
from alan.data.store.layout import StoredSequence


class TokenSequenceDataset(SequenceDataset):
    """One run of cached tokens per sequence, at a random place, a batch at a time.

    Args:
        stores: The single frame store.
        rows: (n, 4) int64 as in :class:`alan.data.loaders.modules.SequenceDataset`, counted in cached frames in
            ascending order.
        seed: Seed of the places, which are drawn from (seed, epoch, item).
        cache: Cache with the tokens.
    """

    def __init__(self, stores: StoreSet, rows: IntArray, seed: int, cache: FeatureCache) -> None:
        super().__init__(stores, rows, seed)
        self.cache = cache
        self.cached = np.sort(cache.index)

    def __getitems__(self, items: Sequence[int]) -> Batch:
        index = self.cached[self._runs(items)]
        tokens = self.cache.read("tokens", index.ravel()).astype(np.float32)
        batch: dict[str, NDArray[Any]] = {"tokens": tokens, "index": index.ravel()}
        if "sector" in self.cache.names:
            batch["sector"] = self.cache.read("sector", index.ravel())
        return {name: torch.from_numpy(x.reshape(*index.shape, *x.shape[1:])) for name, x in batch.items()}


class TokenSequenceDataModule(SequenceDataModule):
    """Runs of cached tokens, to train a token head from a cache.

    A batch is ``{"tokens": (B, F, h, w, D) float32, "sector": (B, F, h, w) bool, "index": (B, F) int64}``; the
    index is global in the store. Runs are drawn like those of :class:`alan.data.SequenceDataModule`, but over the
    cached frames: if 16 evenly spread frames of a sequence are cached, the sequence consists of these 16. If all
    frames are cached, both modules give the same runs for the same seed.

    Args:
        cache: Cache with tokens.
        store: Frame store from which the cache was written.
        split: Split of the store (train, val or test); null for all.
        **settings: Further arguments of :class:`alan.data.SequenceDataModule`; ``period`` counts cached frames.

    Raises:
        ParameterError: A value is out of its bounds.
        CacheError: In ``setup``: the cache belongs to another store, has no tokens, or is not complete.
        DataError: In ``setup``: no sequence has enough cached frames.
    """

    def __init__(
        self,
        cache: str | os.PathLike[str],
        store: str | os.PathLike[str],
        split: str | None = "train",
        **settings: Any,
    ) -> None:
        super().__init__([os.fspath(store)], split, **settings)
        self.cache_path = os.fspath(cache)

    @cached_property
    def cache(self) -> FeatureCache:
        """The opened cache; ``cache.manifest.backbone`` identifies the backbone of the tokens."""
        (store,) = StoreSet(self.stores).stores
        cache = FeatureCache(self.cache_path, store=store)
        cache.read("tokens", cache.index[:0])  # raises an error if there are none
        return cache

    @cached_property
    def dataset(self) -> TokenSequenceDataset:
        """The chosen sequences."""
        of_frames = super().dataset
        return TokenSequenceDataset(of_frames.stores, of_frames.rows, self.seed, self.cache)

    def _row(self, sequence: StoredSequence) -> tuple[int, int, int, int] | None:
        """Return the runs of a sequence, counted in cached frames in ascending order."""
        first, end = np.searchsorted(self._cached, (sequence.start, sequence.start + sequence.length)).tolist()
        places = {int(frame): first + i for i, frame in enumerate(self._cached[first:end])}
        ed, es = (None if frame is None else places.get(frame) for frame in (sequence.ed, sequence.es))
        return super()._row(replace(sequence, start=first, length=end - first, ed=ed, es=es))

    @cached_property
    def _cached(self) -> IntArray:
        return np.sort(self.cache.index)
