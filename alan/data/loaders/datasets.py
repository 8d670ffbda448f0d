"""Frames of one or several stores as data sets that read a batch at once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.utils.data import Dataset

from alan.data.sample import ByteArray, IntArray
from alan.data.store.reader import FrameStore, StoredSequence
from alan.errors import DataError, ParameterError, SplitLeakError

Batch = dict[str, torch.Tensor]


class StoreSet:
    """Several frame stores as one: frame ``i`` of store ``s`` has the index ``offsets[s] + i``.

    Args:
        paths: the files, at least one, all of the same frame size.

    Attributes:
        stores: the stores, opened.
        offsets: (len(stores),) int64.
        size: side of the frames in pixels.

    Raises:
        ParameterError: no path is given.
        DataError: a store cannot be read, is given twice, or has frames of another size.
        SplitLeakError: a patient of one archive stands on one side in one store and on another in the next.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        if not paths:
            raise ParameterError("stores is empty: give at least one frame store, written by `alan prepare`")
        self.stores = tuple(FrameStore(path) for path in paths)
        first = self.stores[0]
        self.size = first.size
        for store in self.stores:
            if store.size != first.size:
                raise DataError(
                    f"{store.path} has frames of {store.size} px, {first.path} of {first.size} px: "
                    "prepare both with the same size"
                )
        if len({store.path.resolve() for store in self.stores}) < len(self.stores):
            raise DataError(f"a frame store is given twice: {', '.join(str(store.path) for store in self.stores)}")
        self._check_split()
        self.offsets: IntArray = np.cumsum([0, *(len(store) for store in self.stores)], dtype=np.int64)[:-1]

    def _check_split(self) -> None:
        seen: dict[tuple[str, str], tuple[str, FrameStore]] = {}
        for store in self.stores:
            for s in store.sequences:
                if store.leaks or not s.split:
                    continue
                side, other = seen.setdefault((store.name, s.patient), (s.split, store))
                if side != s.split:
                    raise SplitLeakError(
                        f"patient {s.patient!r} of {store.name} is {side!r} in {other.path} and {s.split!r} in "
                        f"{store.path}: prepare both with the same split"
                    )

    def select(self, split: str | None, views: Sequence[str] | None) -> list[StoredSequence]:
        """Sequences of all stores, with ``start``, ``ed`` and ``es`` counted through all of them.

        Raises:
            ParameterError: the name of the split or of a view is unknown.
            DataError: a store has none of them.
        """
        return [
            _shift(sequence, int(offset))
            for store, offset in zip(self.stores, self.offsets, strict=True)
            for sequence in store.select(split, views)
        ]

    def frames(self, indices: ArrayLike) -> ByteArray:
        """Read frames (n, S, S) uint8 by their indices (n,) through all stores."""
        index = np.asarray(indices, np.int64)
        owner = np.searchsorted(self.offsets, index, side="right") - 1
        out = np.empty((len(index), self.size, self.size), np.uint8)
        for number in np.unique(owner):
            mine = owner == number
            out[mine] = self.stores[number].frames(index[mine] - self.offsets[number])
        return out


def _shift(sequence: StoredSequence, offset: int) -> StoredSequence:
    ed = None if sequence.ed is None else sequence.ed + offset
    es = None if sequence.es is None else sequence.es + offset
    return replace(sequence, start=sequence.start + offset, ed=ed, es=es)


class FrameDataset(Dataset[Batch]):
    """Single frames, a batch at a time.

    Args:
        stores: where the frames are.
        indices: (n,) int64, the frames in question.

    Attributes:
        fingerprint: SHA-256 of the stores and the indices.
    """

    def __init__(self, stores: StoreSet, indices: IntArray) -> None:
        self.stores = stores
        self.indices = indices
        self.fingerprint = _fingerprint(stores, indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> Batch:
        return {name: tensor[0] for name, tensor in self.__getitems__([item]).items()}

    def __getitems__(self, items: Sequence[int]) -> Batch:
        index = self.indices[np.asarray(items, np.int64) % len(self)]
        return {"frames": torch.from_numpy(self.stores.frames(index)), "index": torch.from_numpy(index)}


class SequenceDataset(Dataset[Batch]):
    """One run of frames of each sequence, at a random place, a batch at a time.

    Args:
        stores: where the frames are.
        runs: (n, 4) int64: first frame, number of places where a run may start, number of frames, step; the step
            may be negative.
        seed: the place is drawn from (seed, epoch, item).

    Attributes:
        fingerprint: SHA-256 of the stores and the runs.
    """

    def __init__(self, stores: StoreSet, runs: IntArray, seed: int) -> None:
        self.stores = stores
        self.runs = runs
        self.seed = seed
        self.fingerprint = _fingerprint(stores, runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, item: int) -> Batch:
        return {name: tensor[0] for name, tensor in self.__getitems__([item]).items()}

    def __getitems__(self, items: Sequence[int]) -> Batch:
        index = np.stack([self._run(item) for item in items])
        frames = self.stores.frames(index.ravel()).reshape(*index.shape, self.stores.size, self.stores.size)
        return {"frames": torch.from_numpy(frames), "index": torch.from_numpy(index)}

    def _run(self, item: int) -> IntArray:
        epoch, sequence = divmod(item, len(self))
        first, places, n_frames, step = self.runs[sequence].tolist()
        start = int(np.random.default_rng([self.seed, epoch, sequence]).integers(places))
        run: IntArray = first + start + step * np.arange(n_frames, dtype=np.int64)
        return run


def _fingerprint(stores: StoreSet, indices: IntArray) -> str:
    digest = hashlib.sha256("".join(store.fingerprint for store in stores.stores).encode())
    digest.update(indices.astype("<i8").tobytes())
    return digest.hexdigest()
