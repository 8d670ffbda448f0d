"""One file of features: laid out whole before the first frame, filled in any order, never half-known.

The layout is contiguous: one row a frame, the space reserved at once. Rows are then plain bytes at a known place,
written there past the HDF5 library (which holds small writes back, and loses them without a word when the disk
fails), and mapped into memory by the reader. A process killed anywhere leaves a readable file. A row counts as
written only when its flag in ``done`` is set, which happens after the row itself.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from alan.cache.manifest import Manifest
from alan.data.sample import IntArray
from alan.errors import CacheError, ParameterError
from alan.files import atomic

#: Name of a dataset to the shape and dtype of one row.
Layout = Mapping[str, tuple[tuple[int, ...], DTypeLike]]
#: Where a dataset lies: offset in bytes, shape, dtype.
Place = tuple[int, tuple[int, ...], np.dtype[Any]]


def part_path(out: Path, rank: int) -> Path:
    """Where a rank writes until all is whole: ``<out>.part``, ``<out>.rank1.part``, ..."""
    return out.with_name(f"{out.name}.part" if rank == 0 else f"{out.name}.rank{rank}.part")


def shard_path(out: Path, rank: int) -> Path:
    """Where the finished part of one of several ranks lies: ``<out>.rank0``, ..."""
    return out.with_name(f"{out.name}.rank{rank}")


def leftovers(out: Path) -> list[Path]:
    """Parts and shards that lie beside ``out``, sorted by name."""
    pattern = re.compile(re.escape(out.name) + r"(\.part|\.rank\d+|\.rank\d+\.part)")
    return sorted(path for path in out.parent.glob("*") if pattern.fullmatch(path.name))


def n_bytes(layout: Layout, n_frames: int) -> int:
    """Bytes that ``n_frames`` rows take."""
    row = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in layout.values())
    return n_frames * (row + 9) + 65536  # the index and the flag besides, and the head of the file


def check_space(folder: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        CacheError: with the space needed and the space free, in MB.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise CacheError(
            f"the cache needs {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB are free in {folder}: free some space, "
            "or cache less (what, split, views, frames)"
        )


def begin(out: Path, *, overwrite: bool) -> None:
    """Put what an earlier run left beside ``out`` in order, before any rank opens its part.

    Args:
        out: the cache to be.
        overwrite: forget the parts of an earlier run. Without it, a run that was killed while it renamed its
            shards is brought back to where it had its parts.
    """
    for path in leftovers(out):
        if overwrite and path.suffix == ".part":
            path.unlink()
        elif not out.exists() and path.suffix != ".part":
            part = part_path(out, int(path.suffix.removeprefix(".rank")))
            if not part.exists():
                path.replace(part)


class Shard:
    """A part being written: made with all its space if it is not there, else gone on with.

    Args:
        path: the part.
        manifest: what it is made from; a part of another manifest is refused.
        index: (n,) the global frame indices that belong here.
        layout: shape and dtype of one row of each dataset.
        rank: which of the processes writes it.
        ranks: how many processes write.

    Raises:
        CacheError: a part of another manifest, of another number of processes, damaged, or open elsewhere; or too
            little space.
    """

    def __init__(
        self, path: Path, manifest: Manifest, index: IntArray, layout: Layout, *, rank: int = 0, ranks: int = 1
    ) -> None:
        self.path = path
        if not path.exists():
            _create(path, manifest, index, layout, (rank, ranks))
        try:
            self._file = h5py.File(path, "r+")
        except OSError as error:
            raise CacheError(
                f"{path}: cannot be gone on with ({_one_line(error)}): if no other `alan cache` is writing it, "
                "start anew with --overwrite true"
            ) from error
        try:
            self._check(manifest, index, ranks)
            self.done: NDArray[np.bool_] = self._file["done"][:].astype(bool)
        except BaseException:
            self._file.close()
            raise
        self._places = places(self._file)
        self._raw: Any = path.open("r+b", buffering=0)  # the HDF5 file stays open as a lock, and is not written to

    def _check(self, manifest: Manifest, index: IntArray, ranks: int) -> None:
        anew = "start anew with --overwrite true, or write to another name"
        words = Manifest.read(self._file.attrs, str(self.path)).differences(manifest)
        if words:
            raise CacheError(f"{self.path}: begun for another cache ({'; '.join(words)}): {anew}")
        if int(self._file.attrs["ranks"]) != ranks:
            raise CacheError(
                f"{self.path}: begun by {self._file.attrs['ranks']} processes, now {ranks}: "
                f"go on with as many devices, or {anew}"
            )
        if not np.array_equal(self._file["index"][:], index):
            raise CacheError(f"{self.path}: begun for other frames: {anew}")

    def write(self, rows: ArrayLike, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write rows, then flag them.

        Args:
            rows: (b,) positions in the index of this shard.
            arrays: name of a dataset to (b, ...) values of its dtype.

        Raises:
            CacheError: the disk is full, or failed; what is flagged stays good.
            ParameterError: values of another shape or dtype.
        """
        rows = np.asarray(rows, np.int64)
        if not len(rows):
            return
        for name, values in arrays.items():
            _, shape, dtype = self._places[name]
            if values.shape != (len(rows), *shape[1:]) or values.dtype != dtype:
                raise ParameterError(
                    f"{name} is {values.dtype} {values.shape}: {dtype} {(len(rows), *shape[1:])} is expected"
                )
        order = np.argsort(rows)
        breaks = np.flatnonzero(np.diff(rows[order]) != 1) + 1
        try:
            for taken in np.split(order, breaks):
                for name, values in arrays.items():
                    _put(self._raw, self._places[name], int(rows[taken[0]]), values[taken])
                _put(self._raw, self._places["done"], int(rows[taken[0]]), np.ones(len(taken), np.uint8))
                self.done[rows[taken]] = True
        except OSError as error:
            left = int((~self.done).sum())
            missing = n_bytes({name: (v.shape[1:], v.dtype) for name, v in arrays.items()}, left)
            raise CacheError(
                f"{self.path}: cannot be written ({_one_line(error)}); {missing / 1e6:.1f} MB are still to come: "
                "free some space and run the same command, it goes on"
            ) from error

    def close(self) -> None:
        """Close the file; the part stays where it is."""
        self._raw.close()
        self._file.close()


def _create(path: Path, manifest: Manifest, index: IntArray, layout: Layout, place: tuple[int, int]) -> None:
    needed = n_bytes(layout, len(index))
    check_space(path.parent, needed)
    try:
        with atomic(path) as temporary:
            with h5py.File(temporary, "w") as file:
                manifest.write(file.attrs)
                file.attrs["rank"], file.attrs["ranks"] = place
                tables: Layout = {"index": ((), np.int64), "done": ((), np.uint8)}
                for name, (shape, dtype) in {**tables, **layout}.items():
                    _reserve(file, name, (len(index), *shape), np.dtype(dtype))
                lie = places(file)
            with temporary.open("r+b", buffering=0) as raw:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(raw.fileno(), 0, temporary.stat().st_size)
                if len(index):
                    _put(raw, lie["index"], 0, index.astype(np.int64))
                    _put(raw, lie["done"], 0, np.zeros(len(index), np.uint8))
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        reason = f"the cache needs {needed / 1e6:.1f} MB and the disk is full" if full else _one_line(error)
        raise CacheError(f"{path}: {reason}: free some space, or write it elsewhere") from error


def _reserve(file: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """A contiguous dataset whose place in the file is fixed now and not filled with anything."""
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_layout(h5py.h5d.CONTIGUOUS)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    kind = h5py.h5t.py_create(dtype, logical=True)
    h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(shape), settings)


def places(file: Any) -> dict[str, Place]:
    """Where the datasets of an open HDF5 file lie; the offset of an empty one is 0."""
    return {
        str(name): (data.id.get_offset() or 0, tuple(int(n) for n in data.shape), data.dtype)
        for name, data in file.items()
    }


def _put(raw: Any, place: Place, row: int, values: NDArray[Any]) -> None:
    """Write consecutive rows at their place in an unbuffered file."""
    offset, _, dtype = place
    left = np.ascontiguousarray(values, dtype).data.cast("B")
    raw.seek(offset + row * (left.nbytes // len(values)))
    while left:
        left = left[raw.write(left) :]


def finish(out: Path) -> None:
    """Make the parts of all ranks one cache: check that they are whole, then rename.

    One part becomes ``out``. Several become ``<out>.rankK``, and ``out`` a small file that names them. ``out`` is
    there only when everything else is.

    Raises:
        CacheError: a part is missing or not whole.
    """
    with h5py.File(part_path(out, 0), "r") as file:
        manifest, ranks = Manifest.read(file.attrs, str(out)), int(file.attrs["ranks"])
    parts = [part_path(out, rank) for rank in range(ranks)]
    for part in parts:
        if not part.exists():
            raise CacheError(f"{part}: is missing; run the same command again")
        with h5py.File(part, "r") as file:
            left = int((file["done"][:] == 0).sum())
        if left:
            raise CacheError(f"{part}: {left} frames are not written yet; run the same command again")
        try:
            with part.open("r+b") as handle:
                os.fsync(handle.fileno())
        except OSError as error:
            raise CacheError(f"{part}: the disk failed ({_one_line(error)}): write the cache elsewhere") from error
    if ranks == 1:
        parts[0].replace(out)
    else:
        out.unlink(missing_ok=True)  # it named the shards that are replaced now
        for rank in range(ranks):
            parts[rank].replace(shard_path(out, rank))
        with atomic(out) as temporary, h5py.File(temporary, "w") as file:
            manifest.write(file.attrs)
            file.attrs["shards"] = [shard_path(out, rank).name for rank in range(ranks)]
    current = {shard_path(out, rank) for rank in range(ranks)} if ranks > 1 else set()
    for path in leftovers(out):
        if path not in current:
            path.unlink()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
