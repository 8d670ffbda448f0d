"""Lightning data modules over frame stores: single frames and runs of frames."""

from __future__ import annotations

import hashlib
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from lightning.pytorch import LightningDataModule
from numpy.typing import ArrayLike
from torch.utils.data import DataLoader, Dataset

from alan.arrays import ByteArray, IntArray
from alan.bounds import NonNegativeInt, PositiveInt, Seed, bounded
from alan.data.loaders.sampling import ResumableLoader, resumable_loader, whole
from alan.data.store.layout import StoredSequence
from alan.data.store.reader import FrameStore
from alan.errors import AlanWarning, DataError, ParameterError, SplitLeakError

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


class StoreDataModule(LightningDataModule):
    """Base of the data modules over frame stores: how batches are read.

    Args:
        stores: Paths of frame stores with frames of the same size.
        batch_size: Samples per batch and process.
        num_workers: Worker processes that read batches; 0 reads in the main process.
        seed: Seed of the order of the samples.
    """

    def __init__(self, stores: list[str], batch_size: int, num_workers: int, seed: int) -> None:
        super().__init__()
        self.stores, self.batch_size, self.num_workers, self.seed = stores, batch_size, num_workers, seed

    def shuffled(
        self, dataset: BatchDataset, batch_size: int | None = None, *, drop_last: bool = True
    ) -> ResumableLoader:
        """Make a loader of shuffled batches that resumes exactly; None takes the batch size of the module."""
        size, workers = batch_size or self.batch_size, self.num_workers
        return resumable_loader(dataset, size, seed=self.seed, drop_last=drop_last, num_workers=workers)

    def in_order(self, dataset: BatchDataset) -> DataLoader[Batch]:
        """Make a loader that yields every sample once, in order."""
        return DataLoader(dataset, batch_size=self.batch_size, num_workers=self.num_workers, collate_fn=whole)


class FrameDataModule(StoreDataModule):
    """Single frames of frame stores, for training backbones and for prediction.

    A batch is ``{"frames": (B, S, S) uint8, "index": (B,) int64}``; ``index`` counts
    the frames of all stores one after the other; with one store it is the global frame index.

    The training loader is shuffled by (seed, epoch) and resumes exactly within an epoch; under DDP each process
    reads its own part (:class:`alan.data.loaders.sampling.EpochSampler`). The prediction loader yields every
    selected frame once, in order.

    Args:
        stores: Paths of frame stores with frames of the same size.
        split: Split to read (train, val or test); null reads all frames.
        views: Views to read; null reads all views.
        batch_size: Frames per batch and process.
        num_workers: Worker processes that read batches; 0 reads in the main process.
        seed: Seed of the order of the frames.
        drop_last: Drop the last batch of an epoch if it is not full.

    Raises:
        ParameterError: A value is out of range, or (in ``setup``) the split or a view is unknown.
        DataError: In ``setup``: a store cannot be read, has frames of another size, or has no such frames.
        SplitLeakError: In ``setup``: a patient is in different splits in two stores of an archive.
    """

    @bounded
    def __init__(
        self,
        stores: list[str],
        split: str | None = "train",
        views: list[str] | None = None,
        *,
        batch_size: PositiveInt = 32,
        num_workers: NonNegativeInt = 0,
        seed: Seed = 0,
        drop_last: bool = True,
    ) -> None:
        super().__init__(stores, batch_size, num_workers, seed)
        self.split, self.views, self.drop_last = split, views, drop_last

    @cached_property
    def dataset(self) -> FrameDataset:
        """The selected frames; ``dataset.stores`` are the opened stores."""
        stores = StoreSet(self.stores)
        chosen = [np.arange(s.start, s.start + s.length) for s in stores.select(self.split, self.views)]
        return FrameDataset(stores, np.concatenate(chosen).astype(np.int64))

    def setup(self, stage: str | None = None) -> None:
        """Open the stores and select the frames, so that errors are raised before training."""
        len(self.dataset)

    def train_dataloader(self) -> ResumableLoader:
        """Make the loader of shuffled batches that resumes exactly."""
        return self.shuffled(self.dataset, drop_last=self.drop_last)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Make the loader that yields every selected frame once, in order."""
        return self.in_order(self.dataset)


class SequenceDataModule(StoreDataModule):
    """Runs of frames of frame stores, for training the RAPTOR head.

    A batch is ``{"frames": (B, F, S, S) uint8, "index": (B, F) int64}``, ``index`` as in :class:`FrameDataModule`.
    An epoch takes one run of every sequence: ``n_frames`` frames, one every ``period`` frames, from a start drawn
    from (seed, epoch, sequence). A sequence shorter than ``(n_frames - 1) * period + 1`` frames uses the largest
    smaller period that fits; a sequence of fewer than ``n_frames`` frames is skipped. With ``n_frames`` null a run
    is the ED frame and the ES frame, for archives without cine loops. A warning counts the skipped sequences. Only
    full batches are yielded, because the correspondence loss contrasts the sequences of a batch.

    Args:
        stores: Paths of frame stores with frames of the same size.
        split: Split to read (train, val or test); null reads all sequences.
        views: Views to read; null reads all views.
        n_frames: Frames F per run, at least 2; null takes the ED and the ES frame.
        period: Distance between two frames of a run; 1 takes every frame, 2 every second one.
        batch_size: Sequences per batch and process, at least 2.
        num_workers: Worker processes that read batches; 0 reads in the main process.
        seed: Seed of the order of sequences and of their first frames.

    Raises:
        ParameterError: A value is out of range, or (in ``setup``) the split or a view is unknown.
        DataError: In ``setup``: a store cannot be read, has frames of another size, or no sequence is long enough.
        SplitLeakError: In ``setup``: a patient is in different splits in two stores of an archive.
    """

    @bounded
    def __init__(
        self,
        stores: list[str],
        split: str | None = "train",
        views: list[str] | None = None,
        *,
        n_frames: Annotated[int, Ge(2)] | None = 16,
        period: PositiveInt = 2,
        batch_size: Annotated[int, Ge(2)] = 5,
        num_workers: NonNegativeInt = 0,
        seed: Seed = 0,
    ) -> None:
        super().__init__(stores, batch_size, num_workers, seed)
        self.split, self.views, self.n_frames, self.period = split, views, n_frames, period

    @cached_property
    def dataset(self) -> SequenceDataset:
        """The selected sequences; ``dataset.stores`` are the opened stores."""
        stores = StoreSet(self.stores)
        sequences = stores.select(self.split, self.views)
        rows = [row for s in sequences if (row := self._row(s)) is not None]
        lacking = "ED and ES frames" if self.n_frames is None else f"{self.n_frames} frames"
        if not rows:
            raise DataError(
                f"none of {len(sequences)} sequences has {lacking}; lower n_frames, "
                "or set it to null for ED and ES frames"
            )
        if len(rows) < len(sequences):
            skipped = len(sequences) - len(rows)
            message = f"skipped {skipped} of {len(sequences)} sequences without {lacking}"
            warnings.warn(message, AlanWarning, stacklevel=2)
        return SequenceDataset(stores, np.array(rows, np.int64), self.seed)

    def setup(self, stage: str | None = None) -> None:
        """Open the stores and select the sequences, so that errors are raised before training."""
        len(self.dataset)

    def train_dataloader(self) -> ResumableLoader:
        """Make the loader of shuffled batches that resumes exactly."""
        return self.shuffled(self.dataset)

    def _row(self, sequence: StoredSequence) -> tuple[int, int, int, int] | None:
        """Return first frame, possible starts, frames and step of a sequence's runs; None if it is too short."""
        if self.n_frames is None:
            if sequence.ed is None or sequence.es is None or sequence.ed == sequence.es:
                return None
            return sequence.ed, 1, 2, sequence.es - sequence.ed
        step = min(self.period, (sequence.length - 1) // (self.n_frames - 1))
        if step < 1:
            return None
        return sequence.start, sequence.length - (self.n_frames - 1) * step, self.n_frames, step
