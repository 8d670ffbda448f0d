"""Annotated frames of simulated archives for dense training, with unlabelled frames of others beside them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from alan.data.loaders.datasets import Batch, FrameDataset, StoreSet
from alan.data.loaders.modules import FrameDataModule
from alan.data.loaders.sampling import ResumableLoader, resumable_loader, whole
from alan.data.sample import VIEWS, IntArray
from alan.data.store.reader import FrameStore
from alan.errors import DataError, ParameterError, SplitLeakError
from alan.files import fingerprint


class DenseFrames(Dataset[Batch]):
    """Annotated frames with all that a simulator knows of them, a batch at a time.

    Args:
        stores: where the frames are.
        rows: (n, 4) int64: number of the store, frame and label in it, and view as an index into
            :data:`alan.data.sample.VIEWS` or -1.
        phase: (n,) float32, see :func:`phase_fraction`.
        structures: names; structure i has the label i + 1.
        unlabelled: frames of which ``draw`` are drawn beside every batch, or None.
        draw: their number.
        seed: of that draw; it hangs on the batch's first item and its epoch alone.

    Attributes:
        fingerprint: SHA-256 of stores, rows and unlabelled frames.
    """

    def __init__(
        self,
        stores: StoreSet,
        rows: IntArray,
        phase: NDArray[np.float32],
        structures: Sequence[str],
        *,
        unlabelled: FrameDataset | None = None,
        draw: int = 0,
        seed: int = 0,
    ) -> None:
        self.stores, self.rows, self.phase = stores, rows, phase
        self.structures = tuple(structures)
        self.unlabelled, self.draw, self.seed = unlabelled, draw, seed
        other = None if unlabelled is None else unlabelled.fingerprint
        stated = [store.fingerprint for store in stores.stores]
        self.fingerprint = fingerprint([stated, rows.tolist(), self.structures, other, draw])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int) -> Batch:
        return {name: tensor[0] for name, tensor in self.__getitems__([item]).items()}

    def __getitems__(self, items: Sequence[int]) -> Batch:
        places = np.asarray(items, np.int64) % len(self)
        rows = self.rows[places]
        labels = np.zeros((len(rows), self.stores.size, self.stores.size), np.uint8)
        for number in np.unique(rows[:, 0]):
            mine = np.flatnonzero(rows[:, 0] == number)
            for value, name in enumerate(self.structures, 1):
                masks = self.stores.stores[number].masks(rows[mine, 2], name)
                labels[mine] = np.where(masks, np.uint8(value), labels[mine])
        index = rows[:, 1] + self.stores.offsets[rows[:, 0]]
        batch = {
            "frames": torch.from_numpy(self.stores.frames(index)),
            "labels": torch.from_numpy(labels),
            "view": torch.from_numpy(rows[:, 3].copy()),
            "phase": torch.from_numpy(self.phase[places]),
            "index": torch.from_numpy(index),
        }
        if self.unlabelled is not None:
            rng = np.random.default_rng([self.seed, int(items[0])])
            drawn = rng.choice(len(self.unlabelled), self.draw, replace=self.draw > len(self.unlabelled))
            batch["unlabelled"] = self.unlabelled.__getitems__(drawn.tolist())["frames"]
        return batch


def phase_fraction(frame: int, ed: int | None, es: int | None) -> float:
    """How far a frame is from end-diastole to end-systole, as a share of the frames between them.

    Args:
        frame: index of the frame.
        ed: index of the end-diastolic frame, or None.
        es: index of the end-systolic frame, or None.

    Returns:
        0 at ED, 1 at ES; NaN outside the two, and where one is not known.
    """
    if ed is None or es is None or ed == es:
        return float("nan")
    share = (frame - ed) / (es - ed)
    return share if 0 <= share <= 1 else float("nan")


class SimulatedDataModule(LightningDataModule):
    """Annotated frames of simulated archives, for :class:`alan.backbone.SimulationModule`.

    A batch is ``{"frames": (B, S, S) uint8, "labels": (B, S, S) uint8, "view": (B,) int64, "phase": (B,) float32,
    "index": (B,) int64}``: a label is 0 for background and i + 1 for ``structures[i]``, the view an index into
    :data:`alan.data.sample.VIEWS` or -1, the phase 0 at ED to 1 at ES or NaN. With unlabelled stores a training
    batch also holds ``"unlabelled": (U, S, S) uint8``, drawn from (seed, epoch, batch). Training batches are full,
    shuffled by (seed, epoch), and resume exactly in mid-epoch.

    Args:
        stores: paths of frame stores of simulated archives, of one size.
        structures: names, all of them annotated in every store.
        train_split: side to learn from.
        val_split: side of the validation score, other simulated patients; None for no validation.
        views: views to take, or None for all.
        unlabelled: paths of frame stores whose labels, if there are any, are not read; of the same size.
        unlabelled_split: side to take those frames from, or None for all.
        unlabelled_views: views to take of them, or None for all.
        unlabelled_batch_size: their number U a batch and process.
        val_frames: frames of the validation score at most, evenly spread; None for all.
        batch_size: simulated frames a batch and process.
        num_workers: processes that read.
        seed: of the order and of the unlabelled frames.

    Raises:
        ParameterError: a value out of range, or (in ``setup``) an unknown split or view.
        DataError: (in ``setup``) a store that cannot be read, an empty split, a structure that a store lacks, or
            unlabelled frames of another size.
        SplitLeakError: ``train_split`` is ``val_split``.
    """

    def __init__(
        self,
        stores: list[str],
        structures: list[str],
        *,
        train_split: str = "train",
        val_split: str | None = "val",
        views: list[str] | None = None,
        unlabelled: list[str] | None = None,
        unlabelled_split: str | None = "train",
        unlabelled_views: list[str] | None = None,
        unlabelled_batch_size: int = 16,
        val_frames: int | None = 256,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in {
            "batch_size": batch_size,
            "unlabelled_batch_size": unlabelled_batch_size,
            "val_frames": 1 if val_frames is None else val_frames,
        }.items():
            if value < 1:
                raise ParameterError(f"{name}={value}: must be 1 or more")
        if not structures or len(set(structures)) < len(structures):
            raise ParameterError(f"structures are {structures}: name one or more, each once")
        if train_split == val_split:
            raise SplitLeakError(
                f"train_split and val_split are both {train_split!r}: give two sides of the split"
            )
        self.stores, self.structures = stores, tuple(structures)
        self.train_split, self.val_split, self.views = train_split, val_split, views
        self.unlabelled = unlabelled
        self.unlabelled_split, self.unlabelled_views = unlabelled_split, unlabelled_views
        self.unlabelled_batch_size, self.val_frames = unlabelled_batch_size, val_frames
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed

    @cached_property
    def _opened(self) -> StoreSet:
        stores = StoreSet(self.stores)
        for store in stores.stores:
            lacking = [name for name in self.structures if name not in store.structures]
            if lacking:
                held = ", ".join(store.structures) or "none"
                raise DataError(f"{store.path} has no masks of {lacking[0]!r} (it holds {held})")
        return stores

    def _dense(self, split: str, unlabelled: FrameDataset | None, most: int | None) -> DenseFrames:
        parts = [self._rows(number, store, split) for number, store in enumerate(self._opened.stores)]
        rows, phase = (np.concatenate(part) for part in zip(*parts, strict=True))
        if most is not None and len(rows) > most:
            chosen = np.linspace(0, len(rows) - 1, most).round().astype(np.int64)
            rows, phase = rows[chosen], phase[chosen]
        draw = 0 if unlabelled is None else self.unlabelled_batch_size
        return DenseFrames(
            self._opened, rows, phase, self.structures, unlabelled=unlabelled, draw=draw, seed=self.seed
        )

    def _rows(self, number: int, store: FrameStore, split: str) -> tuple[IntArray, NDArray[np.float32]]:
        """Rows and phases of the annotated frames of one side of a store."""
        table = store.labelled(split, self.views, None)
        frame, label, sequence = (table[name].to_numpy(np.int64) for name in ("frame", "label", "sequence"))
        own = [store.sequences[index] for index in sequence]
        view = np.array([VIEWS.index(s.view) if s.view in VIEWS else -1 for s in own], np.int64)
        phase = [phase_fraction(int(row), s.ed, s.es) for row, s in zip(frame, own, strict=True)]
        rows = np.stack([np.full_like(frame, number), frame, label, view], 1)
        return rows, np.array(phase, np.float32)

    @cached_property
    def train_frames(self) -> DenseFrames:
        """The frames to learn from."""
        other = None
        if self.unlabelled:
            other = FrameDataModule(self.unlabelled, self.unlabelled_split, self.unlabelled_views).dataset
            if other.stores.size != self._opened.size:
                raise DataError(
                    f"{self.unlabelled[0]} has frames of {other.stores.size} px, {self.stores[0]} of "
                    f"{self._opened.size} px: prepare both with the same size"
                )
        return self._dense(self.train_split, other, None)

    @cached_property
    def validation_frames(self) -> DenseFrames | None:
        """The frames of the validation score, or None."""
        return None if self.val_split is None else self._dense(self.val_split, None, self.val_frames)

    def setup(self, stage: str | None = None) -> None:
        """Open the stores and choose the frames, so that errors come before training."""
        len(self.train_frames)
        len(self.validation_frames or ())

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled batches that resume exactly."""
        return resumable_loader(
            self.train_frames, self.batch_size, seed=self.seed, drop_last=True, num_workers=self.num_workers
        )

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Every validation frame once, in order; nothing without a validation side."""
        if self.validation_frames is None:
            return []
        return DataLoader(
            self.validation_frames, batch_size=self.batch_size, num_workers=self.num_workers, collate_fn=whole
        )
