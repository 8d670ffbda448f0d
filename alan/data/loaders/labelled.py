"""Annotated frames with their label maps, for training segmentation networks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from alan.data.loaders.datasets import Batch, StoreSet
from alan.data.loaders.sampling import ResumableLoader, resumable_loader, whole
from alan.data.sample import IntArray
from alan.data.splits import draw_patients
from alan.data.structures import check_structures
from alan.errors import ParameterError, SplitLeakError
from alan.files import fingerprint


class LabelledFrames(Dataset[Batch]):
    """Annotated frames of one side, a batch at a time.

    Args:
        stores: where frames and label maps are.
        table: one row a frame: ``store`` (number of the store), ``frame`` and ``label`` (indices in it).
        structures: names or unions of names; structure i has the label i + 1.

    Attributes:
        table: the rows.
        fingerprint: SHA-256 of stores, rows and structures.
    """

    def __init__(self, stores: StoreSet, table: pd.DataFrame, structures: Sequence[str]) -> None:
        self.stores = stores
        self.table = table
        self.structures = tuple(structures)
        self._rows: IntArray = table[["store", "frame", "label"]].to_numpy(np.int64)
        stated = [store.fingerprint for store in stores.stores]
        self.fingerprint = fingerprint([stated, self._rows.tolist(), self.structures])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, item: int) -> Batch:
        return {name: tensor[0] for name, tensor in self.__getitems__([item]).items()}

    def __getitems__(self, items: Sequence[int]) -> Batch:
        rows = self._rows[np.asarray(items, np.int64) % len(self)]
        index = rows[:, 1] + self.stores.offsets[rows[:, 0]]
        labels = np.empty((len(rows), self.stores.size, self.stores.size), np.uint8)
        for number in np.unique(rows[:, 0]):
            mine = rows[:, 0] == number
            labels[mine] = self.stores.stores[number].label_maps(rows[mine, 2], self.structures)
        return {
            "frames": torch.from_numpy(self.stores.frames(index)),
            "labels": torch.from_numpy(labels),
            "index": torch.from_numpy(index),
        }


class LabelledFrameDataModule(LightningDataModule):
    """Annotated frames out of frame stores, for :class:`alan.supervised.SegmentationModule`.

    A batch is ``{"frames": (B, S, S) uint8, "labels": (B, S, S) uint8, "index": (B,) int64}``; a label is 0 for
    background and i + 1 for ``structures[i]``, the index is that of the frame in the stores one after the other.
    Training batches are full, shuffled by (seed, epoch), and resume exactly in mid-epoch; with fewer frames than
    ``batch_size`` a batch holds all of them.

    Args:
        stores: paths of frame stores of one size.
        structures: names, or unions of names (``lv+myo``); one for binary segmentation.
        train_split: side to learn from.
        val_split: side of the validation score.
        views: views to take, or None for all.
        phases: ``ED`` and ``ES``, or None for every annotated frame.
        label_patients: number of training patients whose labels are used, or None for all. They are drawn by the
            seed, and fewer are always among more.
        batch_size: frames a batch and process.
        num_workers: processes that read.
        seed: of the order and of the patients drawn.

    Raises:
        ParameterError: a value out of range, or (in ``setup``) an unknown split, view or phase.
        DataError: (in ``setup``) a store that cannot be read, an empty split, or a structure it does not have.
        SplitLeakError: (in ``setup``) a patient stands on both sides.
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
        label_patients: int | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if label_patients is not None and label_patients < 1:
            raise ParameterError(f"label_patients={label_patients}: must be 1 or more, or null for all")
        if batch_size < 1:
            raise ParameterError(f"batch_size={batch_size}: must be 1 or more")
        if train_split == val_split:
            raise SplitLeakError(
                f"train_split and val_split are both {train_split!r}: give two sides of the split"
            )
        self.stores = stores
        self.structures = check_structures(structures)
        self.train_split, self.val_split = train_split, val_split
        self.views, self.phases = views, phases
        self.label_patients = label_patients
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed

    @cached_property
    def _opened(self) -> StoreSet:
        stores = StoreSet(self.stores)
        for store in stores.stores:
            store.check_structures(self.structures)
        return stores

    def _table(self, split: str) -> pd.DataFrame:
        """Annotated frames of one side in all stores, with ``store``, its number, and ``key``, the patient."""
        tables = []
        for number, store in enumerate(self._opened.stores):
            table = store.labelled(split, self.views, self.phases)
            tables.append(table.assign(store=number, key=store.name + "/" + table["patient"]))
        return pd.concat(tables, ignore_index=True)

    @cached_property
    def train_frames(self) -> LabelledFrames:
        """The frames to learn from; ``train_frames.table`` lists them."""
        table = self._table(self.train_split)
        if self.label_patients is not None:
            chosen = draw_patients(table["key"], self.label_patients, self.seed)
            table = table[table["key"].isin(chosen)].reset_index(drop=True)
        return LabelledFrames(self._opened, table, self.structures)

    @cached_property
    def val_frames(self) -> LabelledFrames:
        """The frames of the validation score."""
        return LabelledFrames(self._opened, self._table(self.val_split), self.structures)

    def setup(self, stage: str | None = None) -> None:
        """Open the stores and choose the frames, so that errors come before training."""
        both = set(self._table(self.train_split)["key"]) & set(self.val_frames.table["key"])
        if both:
            raise SplitLeakError(
                f"patient {min(both)!r} and {len(both) - 1} more are in {self.train_split!r} and in "
                f"{self.val_split!r}: put all frames of a patient on one side"
            )
        len(self.train_frames)

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled batches that resume exactly."""
        return resumable_loader(
            self.train_frames,
            min(self.batch_size, len(self.train_frames)),
            seed=self.seed,
            drop_last=True,
            num_workers=self.num_workers,
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """Every validation frame once, in order."""
        return DataLoader(
            self.val_frames, batch_size=self.batch_size, num_workers=self.num_workers, collate_fn=whole
        )

    def provenance(self) -> dict[str, Any]:
        """What an exported model says of its data: stores, preprocessing, sides, patients and frames."""
        stores = self._opened.stores
        return {
            "stores": [store.fingerprint for store in stores],
            "preprocessing": sorted({store.preprocessing.fingerprint for store in stores}),
            "size": self._opened.size,
            "train_split": self.train_split,
            "val_split": self.val_split,
            "label_patients": len(set(self.train_frames.table["key"])),
            "labelled_frames": len(self.train_frames),
        }
