"""Lightning data modules over frame stores: single frames, and runs of frames."""

from __future__ import annotations

import warnings
from functools import cached_property

import numpy as np
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from alan.data.loaders.datasets import Batch, FrameDataset, SequenceDataset, StoreSet
from alan.data.loaders.sampling import ResumableLoader, resumable_loader, whole
from alan.data.store.reader import StoredSequence
from alan.errors import AlanWarning, DataError, ParameterError


class FrameDataModule(LightningDataModule):
    """Single frames out of frame stores, for training the backbone and for prediction.

    A batch is ``{"frames": (B, S, S) uint8, "index": (B,) int64}``; the index is that of the frame in the stores
    one after the other: with one store, its global frame index.

    The training loader is shuffled by (seed, epoch) and resumes exactly in mid-epoch; under DDP each process sees
    its own part (:class:`alan.data.loaders.sampling.EpochSampler`). The prediction loader gives every chosen
    frame once, in order; several processes share it out as Lightning does.

    Args:
        stores: paths of frame stores of one size.
        split: side to take the frames from, or None for all.
        views: views to take, or None for all.
        batch_size: frames a batch and process.
        num_workers: processes that read.
        seed: of the order.
        drop_last: leave out the last batch of an epoch if it is not full.

    Raises:
        ParameterError: (in ``setup`` and the loaders) a value out of range, an unknown split or view.
        DataError: (in ``setup``) a store that cannot be read, of another size, or without such frames.
        SplitLeakError: (in ``setup``) a patient on two sides in two stores of one archive.
    """

    def __init__(
        self,
        stores: list[str],
        split: str | None = "train",
        views: list[str] | None = None,
        *,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        drop_last: bool = True,
    ) -> None:
        super().__init__()
        self.stores = stores
        self.split = split
        self.views = views
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.drop_last = drop_last

    @cached_property
    def dataset(self) -> FrameDataset:
        """The chosen frames; ``dataset.stores`` are the opened stores."""
        stores = StoreSet(self.stores)
        chosen = [np.arange(s.start, s.start + s.length) for s in stores.select(self.split, self.views)]
        return FrameDataset(stores, np.concatenate(chosen).astype(np.int64))

    def setup(self, stage: str | None = None) -> None:
        """Open the stores and choose the frames, so that errors come before training."""
        len(self.dataset)

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled batches that resume exactly."""
        return resumable_loader(
            self.dataset,
            self.batch_size,
            seed=self.seed,
            drop_last=self.drop_last,
            num_workers=self.num_workers,
        )

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Every chosen frame once, in order."""
        return DataLoader(self.dataset, batch_size=self.batch_size, num_workers=self.num_workers, collate_fn=whole)


class SequenceDataModule(LightningDataModule):
    """Runs of frames out of frame stores, for training the RAPTOR head.

    A batch is ``{"frames": (B, F, S, S) uint8, "index": (B, F) int64}``, the index as in :class:`FrameDataModule`.
    An epoch takes one run of every sequence: ``n_frames`` frames, one every ``period``, from a random start drawn
    from (seed, epoch, sequence). A sequence shorter than ``(n_frames - 1) * period + 1`` gives a run of the
    largest smaller period that fits; one of fewer than ``n_frames`` frames is left out. With ``n_frames`` None the
    run is the ED frame and the ES frame, for archives that have no more: two frames are a sequence of two. What is
    left out is counted in a warning. Only full batches are given, so that every one has its contrast.

    Args:
        stores: paths of frame stores of one size.
        split: side to take the sequences from, or None for all.
        views: views to take, or None for all.
        n_frames: frames F a run, 2 or more, or None for ED and ES.
        period: distance of two frames of a run, 1 or more; 2 leaves out every second frame.
        batch_size: sequences a batch and process, 2 or more.
        num_workers: processes that read.
        seed: of the order and of the starts.

    Raises:
        ParameterError: a value out of range, or (in ``setup``) an unknown split or view.
        DataError: (in ``setup``) a store that cannot be read, of another size, or no sequence long enough.
        SplitLeakError: (in ``setup``) a patient on two sides in two stores of one archive.
    """

    def __init__(
        self,
        stores: list[str],
        split: str | None = "train",
        views: list[str] | None = None,
        *,
        n_frames: int | None = 16,
        period: int = 2,
        batch_size: int = 5,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 2:
            raise ParameterError(
                f"batch_size={batch_size}: must be 2 or more; "
                "the correspondence loss contrasts each sequence with another one of its batch"
            )
        if n_frames is not None and n_frames < 2:
            raise ParameterError(f"n_frames={n_frames}: must be 2 or more, or None for the ED and ES frames")
        if period < 1:
            raise ParameterError(f"period={period}: must be 1 (every frame) or more")
        self.stores = stores
        self.split = split
        self.views = views
        self.n_frames = n_frames
        self.period = period
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed

    @cached_property
    def dataset(self) -> SequenceDataset:
        """The chosen sequences; ``dataset.stores`` are the opened stores."""
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
            left_out = len(sequences) - len(rows)
            message = f"left out {left_out} of {len(sequences)} sequences without {lacking}"
            warnings.warn(message, AlanWarning, stacklevel=2)
        return SequenceDataset(stores, np.array(rows, np.int64), self.seed)

    def setup(self, stage: str | None = None) -> None:
        """Open the stores and choose the sequences, so that errors come before training."""
        len(self.dataset)

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled batches that resume exactly."""
        return resumable_loader(
            self.dataset, self.batch_size, seed=self.seed, drop_last=True, num_workers=self.num_workers
        )

    def _row(self, sequence: StoredSequence) -> tuple[int, int, int, int] | None:
        """First frame, places to start at, frames and step of the runs of a sequence; None if it has no run."""
        if self.n_frames is None:
            if sequence.ed is None or sequence.es is None or sequence.ed == sequence.es:
                return None
            return sequence.ed, 1, 2, sequence.es - sequence.ed
        step = min(self.period, (sequence.length - 1) // (self.n_frames - 1))
        if step < 1:
            return None
        return sequence.start, sequence.length - (self.n_frames - 1) * step, self.n_frames, step
