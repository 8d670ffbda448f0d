"""An archive in memory with known frames and masks, and switches that cause errors."""

import os
import signal
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from alan.data.preprocessing import Preprocessing
from alan.data.readers.base import EchoDataset
from alan.data.sample import Record, Sample
from alan.data.store.writer import prepare
from alan.errors import DataError


class MemoryArchive(EchoDataset):
    """Sample i belongs to patient i // 2; first and last frame are annotated, in longer ones the second too."""

    name = "Memory"
    structures = ("lv", "la")

    def __init__(
        self, root, *, lengths=(5, 4, 1, 7, 3, 6), shape=(20, 30), splits=None, broken=(), kill_at=None, leaks=""
    ):
        super().__init__(root, "nothing")
        self.lengths, self.shape, self.broken, self.kill_at = lengths, shape, broken, kill_at
        self.leaks = leaks
        self.log = self.root / "decoded.txt"
        splits = splits or ["train" if i < 4 else "test" for i in range(len(lengths))]
        records = [
            Record(f"s{i}", f"p{i // 2}", splits[i], ("A4C", "A2C")[i % 2], attributes={"EF": 50.0 + i})
            for i in range(len(lengths))
        ]
        self._set_records(records, [[] for _ in records], {"lengths": lengths, "shape": shape})

    def _load(self, index):
        with self.log.open("a") as file:
            file.write(f"{index}\n")
        if index == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if index in self.broken:
            raise DataError(f"{self.records[index].id}: broken")
        length = self.lengths[index]
        frames = np.random.default_rng(index).integers(0, 256, (length, *self.shape), np.uint8)
        if index == 2:  # a still without masks
            return Sample(self.records[index], frames)
        where = np.array(sorted({0, 1, length - 1} if length > 3 else {0, length - 1}))
        rows, columns = np.indices(self.shape)
        lv = np.stack([(rows < 6 + t) & (columns < 10 + index) for t in where])
        la = np.stack([(rows > 14) & (columns > 20 - t) for t in where])
        spacing = None if index == 1 else (0.5, 0.25)
        return Sample(self.records[index], frames, spacing, {"lv": lv, "la": la}, where, ed=0, es=length - 1)

    def decoded(self):
        """The samples that were decoded, in order, with repeats."""
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []


def contents(path):
    """Everything in an HDF5 file."""
    found = {}

    def take(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = (
                item.dtype.str,
                item.shape,
                item[()].tobytes() if item.dtype.kind != "O" else list(item[()]),
            )

    with h5py.File(path, "r") as file:
        file.visititems(take)
        return found, dict(file.attrs)


@pytest.fixture
def memory(tmp_path):
    """``memory.archive(...)`` opens the archive, ``memory.store(...)`` prepares it at 16 px in this process."""
    root = tmp_path / "archive"
    root.mkdir()

    def archive(**options):
        return MemoryArchive(root, **options)

    def store(name="frames.h5", size=16, frames="all", **options):
        return prepare(archive(**options), tmp_path / name, Preprocessing(size), frames, workers=0, progress=False)

    return SimpleNamespace(archive=archive, store=store, contents=contents, path=tmp_path)
