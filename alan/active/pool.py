"""Pools of unlabelled images, read a batch at a time, and their scores."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from alan.active.dropout import MonteCarloDropout
from alan.arrays import ByteArray, IntArray
from alan.data.io.pictures import MASKS, PICTURES, read_picture
from alan.data.preprocessing import Preprocessing
from alan.data.readers.folder import picture_of_mask
from alan.data.sample import Record, Sample
from alan.data.store.reader import FrameStore
from alan.errors import DataError
from alan.files import fingerprint, read_json, write_json


class Pool(ABC):
    """Images by position; only the images asked for are in memory."""

    #: Position of an image that cannot be read to the reason; filled while reading.
    unreadable: dict[int, str]

    def __init__(self) -> None:
        self.unreadable = {}

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def read(self, positions: Sequence[int] | IntArray) -> ByteArray:
        """Read images (n, S, S) uint8.

        Raises:
            DataError: One of them cannot be read.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a SHA-256 that identifies the images."""

    @abstractmethod
    def describe(self, position: int) -> dict[str, str | int]:
        """Return the columns of a list that identify an image, ``image`` (its name) first."""

    def batches(self, size: int, first: int = 0) -> Iterator[tuple[IntArray, ByteArray]]:
        """Yield positions (b,) and images (b, S, S) from the first on; unreadable images are only recorded."""
        for start in range(first, len(self), size):
            positions = np.arange(start, min(start + size, len(self)))
            try:
                frames = self.read(positions)
            except DataError:
                positions, frames = self._readable(positions)
            if len(positions):
                yield positions, frames

    def _readable(self, positions: IntArray) -> tuple[IntArray, ByteArray]:
        kept, frames = [], []
        for position in positions.tolist():
            try:
                frames.append(self.read([position])[0])
                kept.append(position)
            except DataError as error:
                self.unreadable[position] = str(error)
        return np.array(kept, np.int64), np.stack(frames) if frames else np.zeros((0, 1, 1), np.uint8)


class StorePool(Pool):
    """Pool of frames of a frame store.

    Args:
        store: The store.
        frames: (n,) global frame indices.
    """

    def __init__(self, store: FrameStore, frames: IntArray) -> None:
        super().__init__()
        self.store, self.frames = store, frames
        self._starts = np.array([sequence.start for sequence in store.sequences])

    def __len__(self) -> int:
        return len(self.frames)

    def part(self, positions: IntArray) -> StorePool:
        """Return the pool of these positions only."""
        return StorePool(self.store, self.frames[positions])

    def read(self, positions: Sequence[int] | IntArray) -> ByteArray:
        """Read frames (n, S, S) uint8."""
        return self.store.frames(self.frames[np.asarray(positions, np.int64)])

    def fingerprint(self) -> str:
        """Return a SHA-256 of the store and the frames."""
        return fingerprint([self.store.fingerprint, self.frames.tolist()])

    def describe(self, position: int) -> dict[str, str | int]:
        """Return ``image`` (sequence:number of the frame, from 0), ``patient``, ``view`` and global ``frame``."""
        frame = int(self.frames[position])
        sequence = self.store.sequences[int(np.searchsorted(self._starts, frame, side="right")) - 1]
        name = f"{sequence.id}:{frame - sequence.start}"
        return {"image": name, "patient": sequence.patient, "view": sequence.view, "frame": frame}


class FolderPool(Pool):
    """Pool of the pictures of a folder, resized to one size when they are read.

    Args:
        root: The folder; its subfolder ``images`` is used where there is one, and pictures with a mask in
            ``masks``, such as ``a.png`` or ``a_mask.png`` of ``a.jpg``, count as labelled.
        size: Side in pixels; None keeps the size of the pictures, which must all have one size.
        include_labelled: Include pictures that have a mask.

    Raises:
        DataError: The folder does not exist, or holds no picture to label.
    """

    def __init__(
        self, root: str | os.PathLike[str], size: int | None = None, *, include_labelled: bool = False
    ) -> None:
        super().__init__()
        self.root = Path(root)
        folder = self.root / "images" if (self.root / "images").is_dir() else self.root
        if not folder.is_dir():
            raise DataError(f"{root}: no such folder of pictures or frame store; check the path")
        found = sorted(path for path in folder.iterdir() if _is(path, PICTURES))
        masks = self.root / "masks"
        names = {path.stem for path in found}
        done = (
            {picture_of_mask(path.stem, names) for path in masks.iterdir() if _is(path, MASKS)}
            if masks.is_dir()
            else set()
        )
        self.paths = [path for path in found if include_labelled or path.stem not in done]
        if not self.paths:
            held = (
                f"all of its {len(found)} pictures have masks" if found else f"no picture ({', '.join(PICTURES)})"
            )
            raise DataError(f"{root}: the pool is empty, {held}; add pictures, or set include_labelled to true")
        self._size = size
        self._resize = None if size is None else Preprocessing(size)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, positions: Sequence[int] | IntArray) -> ByteArray:
        """Read pictures (n, S, S) uint8; colour becomes grey."""
        frames = [self._read(self.paths[int(position)]) for position in positions]
        sizes = {frame.shape for frame in frames}
        if len(sizes) > 1:
            raise DataError(f"{self.root}: pictures of the sizes {sorted(sizes)}; give them one size")
        return np.stack(frames)

    def _read(self, path: Path) -> ByteArray:
        frame = read_picture(path)
        if self._resize is None:
            return frame
        none = np.zeros(0, np.int64)
        sample = Sample(Record(path.stem, path.stem), frame[None], None, {}, none)
        resized: ByteArray = self._resize.apply(sample).frames[0]
        return resized

    def fingerprint(self) -> str:
        """Return a SHA-256 of names, sizes and times of the pictures, and of the size at which they are read."""
        facts = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in self.paths]
        return fingerprint([facts, self._size])

    def describe(self, position: int) -> dict[str, str | int]:
        """Return ``image``, the path below the folder."""
        return {"image": self.paths[position].relative_to(self.root).as_posix()}


def _is(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.suffix.lower() in suffixes and path.name[0] != "."


class PartialScores:
    """Scores so far, in one file, from which an interrupted scoring continues.

    Args:
        path: The file.
        key: Fingerprint of everything that decides the scores; a file with another key is ignored.
        every: Seconds between two writes.
    """

    def __init__(self, path: Path, key: str, every: float = 30.0) -> None:
        self.path, self.key, self.every = path, key, every
        self._last = time.monotonic()

    def read(self) -> tuple[int, dict[str, list[float]]]:
        """Return the number of scored images and their scores by function; 0 where there is no such file."""
        try:
            entry = read_json(self.path)
        except DataError:
            return 0, {}
        return (int(entry["done"]), entry["scores"]) if entry.get("key") == self.key else (0, {})

    def write(self, done: int, scores: dict[str, NDArray[np.float64]]) -> None:
        """Write the scores of the first ``done`` images, if the last write is old enough."""
        if time.monotonic() - self._last >= self.every:
            rows = {name: values[:done].tolist() for name, values in scores.items()}
            write_json(self.path, {"key": self.key, "done": done, "scores": rows})
            self._last = time.monotonic()


def score_pool(
    sampler: MonteCarloDropout,
    pool: Pool,
    functions: Sequence[str],
    batch_size: int = 16,
    *,
    partial: PartialScores | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Score every image of a pool, one batch and one pass at a time.

    Args:
        sampler: Stochastic network.
        pool: The images.
        functions: Names of acquisition functions that use the network.
        batch_size: Images in memory at a time.
        partial: File in which scores are kept on the way, and from which an interrupted call continues.

    Returns:
        Mapping from name to (n,) float64, NaN for an image that cannot be read.
    """
    scores = {name: np.full(len(pool), np.nan) for name in functions}
    done, known = partial.read() if partial else (0, {})
    for name, values in known.items():
        scores[name][:done] = values
    with tqdm(total=len(pool), initial=done, desc="score", unit="image", leave=False) as bar:
        for positions, frames in pool.batches(batch_size, done):
            statistics = sampler.statistics(torch.from_numpy(frames))
            for name, found in scores.items():
                found[positions] = statistics.scores(name).cpu().numpy()
            bar.update(int(positions[-1]) + 1 - bar.n)
            if partial:
                partial.write(int(positions[-1]) + 1, scores)
    return scores
