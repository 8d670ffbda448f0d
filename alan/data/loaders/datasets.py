"""Torch datasets over one or several frame stores; each reads a whole batch at once."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.utils.data import Dataset

from alan.arrays import ByteArray, IntArray
from alan.data.store.layout import StoredSequence
from alan.data.store.reader import FrameStore
from alan.errors import DataError, ParameterError, SplitLeakError

Batch = dict[str, torch.Tensor]


class StoreSet:
    """Several frame stores addressed as one: frame ``i`` of store ``s`` has the index ``offsets[s] + i``.

    Args:
        paths: Paths of the frame stores, at least one, all with frames of the same size.
        structures: Names or unions of names that every store must annotate.

    Attributes:
        stores: The opened stores.
        offsets: (len(stores),) int64, index of the first frame of each store.
        size: Side of the frames in pixels.

    Raises:
        ParameterError: No path is given.
        DataError: A store cannot be read, is given twice, has frames of another size, or lacks a structure.
        SplitLeakError: A patient of an archive is in different splits in two stores.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], structures: Sequence[str] = ()) -> None:
        if not paths:
            raise ParameterError("stores is empty: give at least one frame store, written by `alan prepare`")
        self.stores = tuple(FrameStore(path) for path in paths)
        first = self.stores[0]
        self.size = first.size
        for store in self.stores:
            store.check_structures(structures)
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
                split, other = seen.setdefault((store.name, s.patient), (s.split, store))
                if split != s.split:
                    raise SplitLeakError(
                        f"patient {s.patient!r} of {store.name} is in {split!r} in {other.path} and in "
                        f"{s.split!r} in {store.path}: prepare both with the same split"
                    )

    def select(self, split: str | None, views: Sequence[str] | None) -> list[StoredSequence]:
        """Select sequences of all stores; ``start``, ``ed`` and ``es`` are indices across the stores.

        Raises:
            ParameterError: The split or a view is unknown.
            DataError: A store has no such sequence.
        """
        return [
            _shift(sequence, int(offset))
            for store, offset in zip(self.stores, self.offsets, strict=True)
            for sequence in store.select(split, views)
        ]

    def frames(self, indices: ArrayLike) -> ByteArray:
        """Read frames, (n, S, S) uint8, by their indices (n,) across the stores."""
        index = np.asarray(indices, np.int64)
        owner = np.searchsorted(self.offsets, index, side="right") - 1
        out = np.empty((len(index), self.size, self.size), np.uint8)
        for number in np.unique(owner):
            mine = owner == number
            out[mine] = self.stores[number].frames(index[mine] - self.offsets[number])
        return out

    def labelled(self, rows: IntArray, structures: Sequence[str]) -> Batch:
        """Read annotated frames.

        Args:
            rows: (n, 3 or more) int64: number of the store, and index of the frame and of the label map in it.
            structures: Names or unions of names; structure i has the label i + 1.

        Returns:
            ``frames`` and ``labels``, (n, S, S) uint8, and ``index``, (n,) int64 across the stores.
        """
        labels = np.empty((len(rows), self.size, self.size), np.uint8)
        for number in np.unique(rows[:, 0]):
            mine = rows[:, 0] == number
            labels[mine] = self.stores[number].label_maps(rows[mine, 2], structures)
        index = rows[:, 1] + self.offsets[rows[:, 0]]
        arrays = {"frames": self.frames(index), "labels": labels, "index": index}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _shift(sequence: StoredSequence, offset: int) -> StoredSequence:
    ed = None if sequence.ed is None else sequence.ed + offset
    es = None if sequence.es is None else sequence.es + offset
    return replace(sequence, start=sequence.start + offset, ed=ed, es=es)


class BatchDataset(Dataset[Batch], ABC):
    """Samples of frame stores, read one batch at a time.

    Args:
        stores: The frame stores.
        rows: (n,) or (n, m) int64, one row per sample.

    Attributes:
        fingerprint: SHA-256 of the stores and the rows.
    """

    def __init__(self, stores: StoreSet, rows: IntArray) -> None:
        self.stores, self.rows = stores, rows
        digest = hashlib.sha256("".join(store.fingerprint for store in stores.stores).encode())
        digest.update(rows.astype("<i8").tobytes())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int) -> Batch:
        return {name: tensor[0] for name, tensor in self.__getitems__([item]).items()}

    @abstractmethod
    def __getitems__(self, items: Sequence[int]) -> Batch:
        """Read a batch; item ``epoch * len(self) + i`` is sample i in an epoch."""


class FrameDataset(BatchDataset):
    """Single frames; a row is the index (n,) of a frame across the stores, see :class:`BatchDataset`."""

    def __getitems__(self, items: Sequence[int]) -> Batch:
        index = self.rows[np.asarray(items, np.int64) % len(self)]
        return {"frames": torch.from_numpy(self.stores.frames(index)), "index": torch.from_numpy(index)}


class SequenceDataset(BatchDataset):
    """One run of frames per sequence, at a random position.

    Args:
        stores: The frame stores.
        rows: (n, 4) int64: first frame, number of possible starts, number of frames, step between frames; the step
            may be negative.
        seed: Seed; the start of a run is drawn from (seed, epoch, item).
    """

    def __init__(self, stores: StoreSet, rows: IntArray, seed: int) -> None:
        super().__init__(stores, rows)
        self.seed = seed

    def __getitems__(self, items: Sequence[int]) -> Batch:
        index = self._runs(items)
        frames = self.stores.frames(index.ravel()).reshape(*index.shape, self.stores.size, self.stores.size)
        return {"frames": torch.from_numpy(frames), "index": torch.from_numpy(index)}

    def _runs(self, items: Sequence[int]) -> IntArray:
        """Draw the runs of a batch: (B, F) indices of frames."""
        return np.stack([self._run(*divmod(item, len(self))) for item in items])

    def _run(self, epoch: int, sequence: int) -> IntArray:
        first, places, n_frames, step = self.rows[sequence].tolist()
        start = int(np.random.default_rng([self.seed, epoch, sequence]).integers(places))
        run: IntArray = first + start + step * np.arange(n_frames, dtype=np.int64)
        return run
