"""The pool: unlabelled images, read a batch at a time, and their scores."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from alan.active.acquisition import UNCERTAINTIES
from alan.active.dropout import MonteCarloDropout
from alan.data.pictures import MASKS, PICTURES, read_picture
from alan.data.preprocessing import Preprocessing
from alan.data.sample import ByteArray, IntArray, Record, Sample
from alan.data.store import FrameStore
from alan.errors import DataError


class Pool(ABC):
    """Images by position; only those asked for are in memory."""

    #: Position to why it cannot be read; filled while reading.
    unreadable: dict[int, str]

    def __init__(self) -> None:
        self.unreadable = {}

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def read(self, positions: Sequence[int] | IntArray) -> ByteArray:
        """Read images (n, S, S) uint8.

        Raises:
            DataError: one of them cannot be read.
        """

    @abstractmethod
    def describe(self, position: int) -> dict[str, str | int]:
        """What a list says of an image, ``image`` (its name) first."""

    def batches(self, size: int) -> Iterator[tuple[IntArray, ByteArray]]:
        """Positions (b,) and images (b, S, S) of the whole pool; what cannot be read is left out and noted."""
        for start in range(0, len(self), size):
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
    """Frames of a frame store.

    Args:
        store: the store.
        frames: (n,) global frame indices.
    """

    def __init__(self, store: FrameStore, frames: IntArray) -> None:
        super().__init__()
        self.store, self.frames = store, frames
        self._starts = np.array([sequence.start for sequence in store.sequences])

    def __len__(self) -> int:
        return len(self.frames)

    def part(self, positions: IntArray) -> StorePool:
        """The pool of these positions only."""
        return StorePool(self.store, self.frames[positions])

    def read(self, positions: Sequence[int] | IntArray) -> ByteArray:
        """Read frames (n, S, S) uint8."""
        return self.store.frames(self.frames[np.asarray(positions, np.int64)])

    def describe(self, position: int) -> dict[str, str | int]:
        """``image`` (sequence:number of the frame in it, from 0), ``patient``, ``view`` and ``frame`` (global)."""
        frame = int(self.frames[position])
        sequence = self.store.sequences[int(np.searchsorted(self._starts, frame, side="right")) - 1]
        name = f"{sequence.id}:{frame - sequence.start}"
        return {"image": name, "patient": sequence.patient, "view": sequence.view, "frame": frame}


class FolderPool(Pool):
    """Pictures of a folder, resized to one size on reading.

    Args:
        root: the folder; where it holds ``images``, that one is taken, and pictures with a mask of the same name
            in ``masks`` are labelled already.
        size: side in pixels; None takes pictures as they come, all of one size.
        include_labelled: take those with a mask too.

    Raises:
        DataError: no such folder, or no picture to label in it.
    """

    def __init__(
        self, root: str | os.PathLike[str], size: int | None = None, *, include_labelled: bool = False
    ) -> None:
        super().__init__()
        self.root = Path(root)
        folder = self.root / "images" if (self.root / "images").is_dir() else self.root
        if not folder.is_dir():
            raise DataError(f"{root}: no such folder of pictures or frame store")
        found = sorted(path for path in folder.iterdir() if _is(path, PICTURES))
        masks = self.root / "masks"
        done = {path.stem for path in masks.iterdir() if _is(path, MASKS)} if masks.is_dir() else set()
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

    def describe(self, position: int) -> dict[str, str | int]:
        """``image``, the path below the folder."""
        return {"image": self.paths[position].relative_to(self.root).as_posix()}


def _is(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.suffix.lower() in suffixes and path.name[0] != "."


def score_pool(
    sampler: MonteCarloDropout, pool: Pool, functions: Sequence[str], batch_size: int = 16, *, desc: str = "score"
) -> dict[str, NDArray[np.float64]]:
    """Score every image of a pool, a batch and a pass at a time.

    Args:
        sampler: the stochastic network.
        pool: the images.
        functions: names; those that ask no network are left out.
        batch_size: images in memory at a time.
        desc: what the progress bar says.

    Returns:
        Name to (n,) float64, NaN for an image that cannot be read.
    """
    wanted = [name for name in functions if name in UNCERTAINTIES]
    scores = {name: np.full(len(pool), np.nan) for name in wanted}
    with tqdm(total=len(pool), desc=desc, unit="image", leave=False) as bar:
        for positions, frames in pool.batches(batch_size):
            running = sampler.acquisition(torch.from_numpy(frames))
            for name in wanted:
                scores[name][positions] = running.scores(name).cpu().numpy()
            bar.update(int(positions[-1]) + 1 - bar.n)
    return scores
