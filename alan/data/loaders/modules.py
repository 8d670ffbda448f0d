"""Lightning data modules over frame stores: single frames and runs of frames."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Annotated

import numpy as np
from annotated_types import Ge
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from alan.bounds import NonNegativeInt, PositiveInt, Seed, bounded
from alan.data.loaders.datasets import Batch, BatchDataset, FrameDataset, SequenceDataset, StoreSet
from alan.data.loaders.sampling import ResumableLoader, resumable_loader, whole
from alan.data.store.layout import StoredSequence
from alan.errors import AlanWarning, DataError


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
        """First frame, possible starts, frames and step of the runs of a sequence; None if it is too short."""
        if self.n_frames is None:
            if sequence.ed is None or sequence.es is None or sequence.ed == sequence.es:
                return None
            return sequence.ed, 1, 2, sequence.es - sequence.ed
        step = min(self.period, (sequence.length - 1) // (self.n_frames - 1))
        if step < 1:
            return None
        return sequence.start, sequence.length - (self.n_frames - 1) * step, self.n_frames, step
