"""Annotated frames of simulated archives for dense training, with unlabelled real frames in the same batches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from alan.arrays import IntArray, evenly_spread
from alan.bounds import NonNegativeInt, PositiveInt, Seed, Share, bounded
from alan.data.augmentation.dense import DenseAugmentation
from alan.data.loaders.modules import Batch, BatchDataset, FrameDataModule, FrameDataset, StoreDataModule, StoreSet
from alan.data.loaders.sampling import ResumableLoader
from alan.data.sample import VIEWS
from alan.data.splits import check_different, draw_patients
from alan.data.store.reader import FrameStore
from alan.data.structures import check_structures
from alan.errors import DataError, ParameterError
from alan.files import fingerprint


class DenseFrames(BatchDataset):
    """Annotated frames with label map, view and phase, read one batch at a time.

    Args:
        stores: The frame stores.
        rows: (n, 4) int64: index of the store, of the frame and of the label map in it, and of the view in
            :data:`alan.data.sample.VIEWS` or -1.
        phase: (n,) float32, see :func:`phase_fraction`.
        structures: Names of the structures; structure i has the label i + 1.
        unlabelled: Frames of which ``draw`` are added to every batch, or None.
        draw: Number of unlabelled frames per batch.
        changes: Augmentations of the unlabelled frames in turn, the same for a frame whenever it is drawn; None
            leaves its frames as they are, and an empty sequence leaves all.
        seed: Seed of that draw, which depends on the seed, the epoch and the first item of the batch, and of the
            changes.

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
        unlabelled: FrameDataset | None,
        draw: int,
        changes: Sequence[DenseAugmentation | None],
        seed: int,
    ) -> None:
        super().__init__(stores, rows)
        self.phase, self.structures = phase, tuple(structures)
        self.unlabelled, self.draw, self.changes, self.seed = unlabelled, draw, tuple(changes), seed
        other = None if unlabelled is None else unlabelled.fingerprint
        stated = [store.fingerprint for store in stores.stores]
        self.fingerprint = fingerprint([stated, rows.tolist(), self.structures, other, draw, repr(self.changes)])

    def __getitems__(self, items: Sequence[int]) -> Batch:
        places = np.asarray(items, np.int64) % len(self)
        rows = self.rows[places]
        batch = self.stores.labelled(rows, self.structures)
        batch |= {"view": torch.from_numpy(rows[:, 3].copy()), "phase": torch.from_numpy(self.phase[places])}
        if self.unlabelled is not None:
            rng = np.random.default_rng([self.seed, int(items[0])])
            drawn = rng.choice(len(self.unlabelled), self.draw, replace=self.draw > len(self.unlabelled))
            frames = self.unlabelled.__getitems__(drawn.tolist())["frames"]
            batch["unlabelled"] = self._change(frames, drawn) if self.changes else frames
        return batch

    def _change(self, frames: Tensor, items: IntArray) -> Tensor:
        """Augment unlabelled frames (U, S, S) uint8 by draws that depend on the seed and the item alone."""
        changed = []
        for frame, item in zip(frames, items.tolist(), strict=True):
            changes = self.changes[item % len(self.changes)]
            if changes is None:
                changed.append(frame)
                continue
            state = np.random.SeedSequence([self.seed, item]).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(state[0] >> 1))
            images, _, _ = changes.augment(frame[None], generator)
            changed.append((255 * images[0, 0].clamp(0, 1)).round().to(torch.uint8))
        return torch.stack(changed)


def phase_fraction(frame: int, ed: int | None, es: int | None) -> float:
    """Return the position of a frame between end-diastole and end-systole, as a fraction.

    Args:
        frame: Index of the frame.
        ed: Index of the end-diastolic frame, or None.
        es: Index of the end-systolic frame, or None.

    Returns:
        0 at ED, 1 at ES; NaN outside the two frames and where one of them is unknown.
    """
    if ed is None or es is None or ed == es:
        return float("nan")
    share = (frame - ed) / (es - ed)
    return share if 0 <= share <= 1 else float("nan")


class SimulatedDataModule(StoreDataModule):
    """Annotated frames of simulated or real archives, for :class:`alan.backbone.SimulationModule`.

    A batch is ``{"frames": (B, S, S) uint8, "labels": (B, S, S) uint8, "view": (B,) int64, "phase": (B,) float32,
    "index": (B,) int64}``: a label is 0 for background and i + 1 for ``structures[i]``, ``view`` is an index
    into :data:`alan.data.sample.VIEWS` or -1, ``phase`` runs from 0 at ED to 1 at ES or is NaN. With unlabelled
    stores a training batch also holds ``"unlabelled": (U, S, S) uint8``, drawn from (seed, epoch, batch). Training
    batches are full, shuffled by (seed, epoch), and resume exactly within an epoch.

    Args:
        stores: Paths of frame stores with labels, of simulated or real archives, with frames of the same size.
        structures: Names of the structures; every store must annotate all of them.
        train_split: Split of the training frames.
        val_split: Split of the validation frames (other simulated patients); null disables validation.
        views: Views to read; null reads all views.
        label_patients: Number of training patients whose labels are used; null uses all. They are drawn by the
            seed, and the patients of a smaller number are among those of a larger one.
        unlabelled: Paths of frame stores with unlabelled frames of the same size; their labels are never read.
        unlabelled_split: Split of the unlabelled frames; null reads all of them.
        unlabelled_views: Views of the unlabelled frames; null reads all views.
        unlabelled_batch_size: Unlabelled frames U per batch and process.
        unlabelled_changes: Augmentation of the unlabelled frames before anything sees them, the same for a frame
            in every epoch; for the distillation on simulated frames, whose teachers then see them changed too.
            Null leaves them as they are.
        unlabelled_strengths: Factors on these changes, 0 to 1, for one frame after the other in turn; with 0 a
            frame stays as it is. Only with ``unlabelled_changes``.
        unlabelled_frames: Maximum number of unlabelled frames, evenly spaced; null takes all. Teachers predict
            each of them once.
        val_frames: Maximum number of validation frames, evenly spaced; null takes all.
        batch_size: Simulated frames per batch and process.
        num_workers: Worker processes that read batches; 0 reads in the main process.
        seed: Seed of the order and of the draw of unlabelled frames.

    Raises:
        ParameterError: A value is out of range, or (in ``setup``) a split or view is unknown.
        DataError: In ``setup``: a store cannot be read, a split is empty, a store lacks a structure, or the
            unlabelled frames have another size.
        SplitLeakError: ``train_split`` equals ``val_split``.
    """

    @bounded
    def __init__(
        self,
        stores: list[str],
        structures: list[str],
        *,
        train_split: str = "train",
        val_split: str | None = "val",
        views: list[str] | None = None,
        label_patients: PositiveInt | None = None,
        unlabelled: list[str] | None = None,
        unlabelled_split: str | None = "train",
        unlabelled_views: list[str] | None = None,
        unlabelled_batch_size: PositiveInt = 16,
        unlabelled_changes: DenseAugmentation | None = None,
        unlabelled_strengths: Sequence[Share] = (1.0,),
        unlabelled_frames: PositiveInt | None = None,
        val_frames: PositiveInt | None = 256,
        batch_size: PositiveInt = 16,
        num_workers: NonNegativeInt = 0,
        seed: Seed = 0,
    ) -> None:
        super().__init__(stores, batch_size, num_workers, seed)
        check_different(train_split=train_split, val_split=val_split)
        self.structures = check_structures(structures)
        self.train_split, self.val_split, self.views = train_split, val_split, views
        self.label_patients = label_patients
        self.unlabelled = unlabelled
        self.unlabelled_split, self.unlabelled_views = unlabelled_split, unlabelled_views
        self.unlabelled_batch_size, self.val_frames = unlabelled_batch_size, val_frames
        self.unlabelled_changes = unlabelled_changes
        self.unlabelled_strengths, self.unlabelled_frames = unlabelled_strengths, unlabelled_frames
        if not unlabelled_strengths:
            raise ParameterError("unlabelled_strengths is empty: give at least one factor")

    @cached_property
    def _open_stores(self) -> StoreSet:
        return StoreSet(self.stores, self.structures)

    def _dense(
        self, split: str, unlabelled: FrameDataset | None, most: int | None, patients: int | None = None
    ) -> DenseFrames:
        """Select frames of a split: at most ``most``, and those of ``patients`` drawn patients; None takes all."""
        parts = [self._rows(number, store, split) for number, store in enumerate(self._open_stores.stores)]
        rows, phase, patient = (np.concatenate(part) for part in zip(*parts, strict=True))
        chosen = evenly_spread(len(rows), most)
        if patients is not None:
            chosen = np.flatnonzero(np.isin(patient, draw_patients(patient.tolist(), patients, self.seed)))
        draw = 0 if unlabelled is None else self.unlabelled_batch_size
        return DenseFrames(
            self._open_stores,
            rows[chosen],
            phase[chosen],
            self.structures,
            unlabelled=unlabelled,
            draw=draw,
            changes=self._changes(),
            seed=self.seed,
        )

    def _changes(self) -> list[DenseAugmentation | None]:
        """Return the changes of one unlabelled frame after the other."""
        if self.unlabelled_changes is None:
            return []
        return [self.unlabelled_changes.scaled(s) if s else None for s in self.unlabelled_strengths]

    def _rows(
        self, number: int, store: FrameStore, split: str
    ) -> tuple[IntArray, NDArray[np.float32], NDArray[np.str_]]:
        """Return rows, phases and patients (after the name of the archive) of the annotated frames of a split."""
        table = store.labelled(split, self.views, None)
        frame, label, sequence = (table[name].to_numpy(np.int64) for name in ("frame", "label", "sequence"))
        own = [store.sequences[index] for index in sequence]
        view = np.array([VIEWS.index(s.view) if s.view in VIEWS else -1 for s in own], np.int64)
        phase = [phase_fraction(int(row), s.ed, s.es) for row, s in zip(frame, own, strict=True)]
        rows = np.stack([np.full_like(frame, number), frame, label, view], 1)
        return rows, np.array(phase, np.float32), np.array([f"{store.name}/{s.patient}" for s in own])

    @cached_property
    def train_frames(self) -> DenseFrames:
        """The training frames."""
        other = None
        if self.unlabelled:
            other = FrameDataModule(self.unlabelled, self.unlabelled_split, self.unlabelled_views).dataset
            other = FrameDataset(other.stores, other.rows[evenly_spread(len(other), self.unlabelled_frames)])
            if other.stores.size != self._open_stores.size:
                raise DataError(
                    f"{self.unlabelled[0]} has frames of {other.stores.size} px, {self.stores[0]} of "
                    f"{self._open_stores.size} px: prepare both with the same size"
                )
        return self._dense(self.train_split, other, None, self.label_patients)

    @cached_property
    def validation_frames(self) -> DenseFrames | None:
        """The validation frames, or None."""
        return None if self.val_split is None else self._dense(self.val_split, None, self.val_frames)

    def setup(self, stage: str | None = None) -> None:
        """Open the stores and select the frames, so that errors are raised before training."""
        len(self.train_frames)
        len(self.validation_frames or ())

    def train_dataloader(self) -> ResumableLoader:
        """Make the loader of shuffled batches that resumes exactly."""
        return self.shuffled(self.train_frames, min(self.batch_size, len(self.train_frames)))

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Make the loader that yields every validation frame once, in order; empty without a validation split."""
        return [] if self.validation_frames is None else self.in_order(self.validation_frames)
