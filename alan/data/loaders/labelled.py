"""Annotated frames with their label maps, for training segmentation networks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from torch.utils.data import DataLoader

from alan.bounds import NonNegativeInt, PositiveInt, Seed, bounded
from alan.data.loaders.modules import Batch, BatchDataset, StoreDataModule, StoreSet
from alan.data.loaders.sampling import ResumableLoader
from alan.data.splits import check_different, draw_patients, fold_patients
from alan.data.structures import check_structures
from alan.errors import ParameterError, SplitLeakError
from alan.files import fingerprint

#: Seed of the division into folds, the same for all trainings.
FOLD_SEED = 0


class LabelledFrames(BatchDataset):
    """Annotated frames of one split, read a batch at a time.

    Args:
        stores: Stores of the frames and label maps.
        table: One row per frame: ``store`` (number of the store), ``frame`` and ``label`` (indices in it).
        structures: Names or unions of names; structure i has the label i + 1.

    Attributes:
        table: The rows.
        fingerprint: SHA-256 of stores, rows and structures.
    """

    def __init__(self, stores: StoreSet, table: pd.DataFrame, structures: Sequence[str]) -> None:
        super().__init__(stores, table[["store", "frame", "label"]].to_numpy(np.int64))
        self.table, self.structures = table, tuple(structures)
        stated = [store.fingerprint for store in stores.stores]
        self.fingerprint = fingerprint([stated, self.rows.tolist(), self.structures])

    def __getitems__(self, items: Sequence[int]) -> Batch:
        return self.stores.labelled(self.rows[np.asarray(items, np.int64) % len(self)], self.structures)


@bounded
class LabelledFrameDataModule(StoreDataModule):
    """Annotated frames of frame stores, for :class:`alan.supervised.SegmentationModule`.

    A batch is ``{"frames": (B, S, S) uint8, "labels": (B, S, S) uint8, "index": (B,) int64}``; a label is 0 for
    background and i + 1 for ``structures[i]``, the index counts the frames of all stores in order. Training
    batches are full, shuffled by (seed, epoch), and resume exactly within an epoch; with fewer frames than
    ``batch_size``, a batch holds all of them.

    Args:
        stores: Paths of frame stores of one size.
        structures: Structures to segment, or unions of them (``lv+myo``); a single one gives binary segmentation.
        train_split: Split to train on.
        val_split: Split to validate on.
        views: Views used; null uses all.
        phases: Phases of the beat used, ``ED`` and ``ES``; null uses every annotated frame.
        label_patients: Number of training patients whose labels are used; null uses all. They are drawn by the
            seed, and the patients of a smaller number are among those of a larger one.
        fold: Number of the fold, from 0, and number of folds. The patients of both splits together are divided
            into folds by the seed 0; the patients of this fold validate and the others train. null keeps the
            splits.
        batch_size: Frames per batch and process.
        num_workers: Processes that read frames; 0 reads in the training process.
        seed: Seed of the order of frames and of the patients drawn.

    Raises:
        ParameterError: A value out of range, or (in ``setup``) an unknown split, view or phase.
        DataError: (in ``setup``) a store that cannot be read, an empty split, or a structure it does not have.
        SplitLeakError: (in ``setup``) a patient is in both splits.
    """

    def __init__(
        self,
        stores: list[str],
        structures: list[str],
        *,
        train_split: str = "train",
        val_split: str = "val",
        views: list[str] | None = None,
        phases: tuple[str, ...] | None = ("ED", "ES"),
        label_patients: PositiveInt | None = None,
        fold: tuple[NonNegativeInt, PositiveInt] | None = None,
        batch_size: PositiveInt = 8,
        num_workers: NonNegativeInt = 0,
        seed: Seed = 0,
    ) -> None:
        super().__init__(stores, batch_size, num_workers, seed)
        check_different(train_split=train_split, val_split=val_split)
        self.structures = check_structures(structures)
        self.train_split, self.val_split = train_split, val_split
        self.views, self.phases = views, phases
        if fold is not None and fold[0] >= fold[1]:
            raise ParameterError(f"fold is {list(fold)}: give a number below {fold[1]}, the number of folds")
        self.label_patients, self.fold = label_patients, fold

    @cached_property
    def _open_stores(self) -> StoreSet:
        return StoreSet(self.stores, self.structures)

    def _table(self, split: str) -> pd.DataFrame:
        """Return the annotated frames of a split or a fold, with ``store`` (its number) and ``key`` (patient)."""
        if self.fold is None:
            return self._of_split(split)
        whole = pd.concat([self._of_split(self.train_split), self._of_split(self.val_split)], ignore_index=True)
        number, n = self.fold
        held_out = whole["key"].isin(fold_patients(whole["key"], n, FOLD_SEED)[number])
        return whole[held_out if split == self.val_split else ~held_out].reset_index(drop=True)

    def _of_split(self, split: str) -> pd.DataFrame:
        tables = []
        for number, store in enumerate(self._open_stores.stores):
            table = store.labelled(split, self.views, self.phases)
            tables.append(table.assign(store=number, key=store.name + "/" + table["patient"]))
        return pd.concat(tables, ignore_index=True)

    @cached_property
    def train_frames(self) -> LabelledFrames:
        """Frames to train on; ``train_frames.table`` lists them."""
        table = self._table(self.train_split)
        if self.label_patients is not None:
            chosen = draw_patients(table["key"], self.label_patients, self.seed)
            table = table[table["key"].isin(chosen)].reset_index(drop=True)
        return LabelledFrames(self._open_stores, table, self.structures)

    @cached_property
    def val_frames(self) -> LabelledFrames:
        """Frames to validate on."""
        return LabelledFrames(self._open_stores, self._table(self.val_split), self.structures)

    def setup(self, stage: str | None = None) -> None:
        """Open the stores and choose the frames, so that errors come before the training."""
        both = set(self._table(self.train_split)["key"]) & set(self.val_frames.table["key"])
        if both:
            more = f" and {len(both) - 1} more are" if len(both) > 1 else " is"
            raise SplitLeakError(
                f"patient {min(both)!r}{more} in {self.train_split!r} and in {self.val_split!r}: put all frames "
                "of a patient in one split"
            )
        len(self.train_frames)

    def train_dataloader(self) -> ResumableLoader:
        """Return a loader of shuffled batches that resumes exactly."""
        return self.shuffled(self.train_frames, min(self.batch_size, len(self.train_frames)))

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return a loader of every validation frame, once and in order."""
        return self.in_order(self.val_frames)

    def provenance(self) -> dict[str, Any]:
        """Return the data that an exported model records: stores, splits, patients and frames."""
        stores = self._open_stores.stores
        return {
            "stores": [store.fingerprint for store in stores],
            "preprocessing": sorted({store.preprocessing.fingerprint for store in stores}),
            "size": self._open_stores.size,
            "train_split": self.train_split,
            "val_split": self.val_split,
            "label_patients": len(set(self.train_frames.table["key"])),
            "labelled_frames": len(self.train_frames),
            **({"fold": list(self.fold)} if self.fold else {}),
        }
