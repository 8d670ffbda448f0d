"""One file of features: its space is reserved before the first frame, and rows can be written in any order.

The layout is contiguous, with one row per frame. Rows are therefore plain bytes at a known place. They are written
there directly and not through the HDF5 library, which buffers small writes and loses them silently if the disk
fails, and the reader maps them into memory. A process that is killed at any point leaves a readable file. A row
counts as written only if its flag in ``done`` is set, which happens after the row itself is written. Each row has
a checksum, so that damage is found when the row is read.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from alan.cache.manifest import Manifest, write_text
from alan.data.sample import IntArray
from alan.errors import CacheError, ParameterError
from alan.files import atomic

_log = logging.getLogger(__name__)

#: Name of a dataset to the shape and dtype of one row.
Layout = Mapping[str, tuple[tuple[int, ...], DTypeLike]]
#: Place of a dataset in the file: offset in bytes, shape, dtype.
Place = tuple[int, tuple[int, ...], np.dtype[Any]]
#: Features and their dtypes.
FEATURES = {"cls": "<f4", "tokens": "<f2", "sector": "|b1", "logits": "<f2", "maps": "|u1"}
#: Global frame index and flag of each row.
_TABLES: Layout = {"index": ((), np.int64), "done": ((), np.uint8)}
_CHECK = "crc_"
#: Format of HDF5 1.8, the first whose metadata have checksums. Without them, damage can make the library loop
#: forever. Later formats mark open files, so that those of a killed process cannot be opened again.
LIBVER = ("v108", "v108")


def part_path(out: Path, rank: int) -> Path:
    """Unfinished part of a rank: ``<out>.part``, ``<out>.rank1.part``, ..."""
    return out.with_name(f"{out.name}.part" if rank == 0 else f"{out.name}.rank{rank}.part")


def shard_path(out: Path, rank: int) -> Path:
    """Finished part of one of several ranks: ``<out>.rank0``, ..."""
    return out.with_name(f"{out.name}.rank{rank}")


def leftovers(out: Path) -> list[Path]:
    """Parts and shards beside ``out``, sorted by name."""
    pattern = re.compile(re.escape(out.name) + r"(\.part|\.rank\d+|\.rank\d+\.part)")
    return sorted(path for path in out.parent.glob("*") if pattern.fullmatch(path.name))


def n_bytes(layout: Layout, n_frames: int) -> int:
    """Number of bytes of a file with ``n_frames`` rows."""
    row = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize + 4 for shape, dtype in layout.values())
    return n_frames * (row + 9) + 65536  # index and flag, and the head of the file


def check_space(folder: Path, needed: int) -> None:
    """Check that the disk has enough space.

    Raises:
        CacheError: it has not; the message gives the space needed and the space available, in MB.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise CacheError(
            f"the cache needs {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB are free in {folder}: free some space, "
            "or cache less (what, split, views, frames)"
        )


def checksums(index: IntArray, values: NDArray[Any]) -> NDArray[np.uint32]:
    """CRC-32 of rows, which covers the frame index of each row too.

    Args:
        index: (b,) global frame indices.
        values: (b, ...) rows.

    Returns:
        (b,) uint32.
    """
    found = np.empty(len(index), np.uint32)
    for n, (frame, row) in enumerate(zip(index, np.ascontiguousarray(values), strict=True)):
        found[n] = zlib.crc32(row.tobytes(), zlib.crc32(int(frame).to_bytes(8, "little", signed=True)))
    return found


def begin(out: Path, *, overwrite: bool) -> None:
    """Tidy up what an earlier run left beside ``out``, before any rank opens its part.

    Args:
        out: The cache to be written.
        overwrite: Delete the parts of an earlier run. Otherwise a run that was killed while it renamed its shards
            is brought back to the state in which it had its parts.
    """
    for path in leftovers(out):
        if overwrite and path.suffix == ".part":
            path.unlink()
        elif not out.exists() and path.suffix != ".part":
            part = part_path(out, int(path.suffix.removeprefix(".rank")))
            if not part.exists():
                path.replace(part)


class Shard:
    """A part that is being written: created with all its space if it does not exist, otherwise resumed.

    Args:
        path: The part.
        manifest: What it is made from; a part with another manifest is refused.
        index: (n,) global frame indices of the rows.
        layout: Shape and dtype of one row of each dataset.
        rank: Rank of the process that writes it.
        ranks: Number of processes that write.

    Attributes:
        done: (n,) bool, rows that are written. Rows of an earlier run whose checksum is wrong are not.

    Raises:
        CacheError: the part has another manifest or another number of processes, is damaged or open elsewhere, or
            there is too little space.
    """

    def __init__(
        self, path: Path, manifest: Manifest, index: IntArray, layout: Layout, *, rank: int = 0, ranks: int = 1
    ) -> None:
        self.path, self.index = path, np.asarray(index, np.int64)
        resumed = path.exists()
        if not resumed:
            _create(path, manifest, self.index, layout, (rank, ranks))
        try:
            self._file = h5py.File(path, "r+")
        except OSError as error:
            raise CacheError(
                f"{path}: cannot be resumed ({_one_line(error)}): if no other `alan cache` is writing it, "
                "start again with --overwrite true"
            ) from error
        try:
            self._check(manifest, ranks)
            self._places = places(self._file, path)
            self.done: NDArray[np.bool_] = self._file["done"][:].astype(bool)
        except BaseException:
            self._file.close()
            raise
        self._raw: Any = path.open("r+b", buffering=0)  # the HDF5 file stays open as a lock; it is not written to
        if resumed:
            self._drop_damaged()

    def _check(self, manifest: Manifest, ranks: int) -> None:
        remedy = "start again with --overwrite true, or write to another name"
        words = Manifest.read(self._file.attrs, str(self.path)).differences(manifest)
        if words:
            raise CacheError(f"{self.path}: belongs to another cache ({'; '.join(words)}): {remedy}")
        try:
            written, index = int(self._file.attrs["ranks"]), read_index(self._file, self.path)
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise CacheError(f"{self.path}: damaged ({_one_line(error)}): {remedy}") from error
        if written != ranks:
            raise CacheError(
                f"{self.path}: was started with {written} processes, now {ranks}: use as many devices, or {remedy}"
            )
        if not np.array_equal(index, self.index):
            raise CacheError(f"{self.path}: was started for other frames: {remedy}")

    def _drop_damaged(self) -> None:
        """Clear the flag of rows that are not what was written, as after a power failure."""
        bad = np.zeros(len(self.index), bool)
        for name in FEATURES.keys() & self._places.keys():
            values, crc = (map_rows(self.path, self._places[key]) for key in (name, _CHECK + name))
            for row in np.flatnonzero(self.done & ~bad):
                bad[row] = checksums(self.index[[row]], values[[row]])[0] != crc[row]
        if bad.any():
            _log.warning("%s: %d frames are damaged and are computed again", self.path, bad.sum())
            self.done &= ~bad

    def write(self, rows: ArrayLike, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write rows, then set their flags.

        Args:
            rows: (b,) positions in the index of this shard.
            arrays: Name of a dataset to (b, ...) values of its dtype.

        Raises:
            CacheError: the disk is full, or failed; rows with a flag remain valid.
            ParameterError: values have another shape or dtype.
        """
        rows = np.asarray(rows, np.int64)
        if not len(rows):
            return
        for name, values in arrays.items():
            _, shape, dtype = self._places[name]
            if values.shape != (len(rows), *shape[1:]) or values.dtype != dtype:
                raise ParameterError(
                    f"{name} is {values.dtype} {values.shape}: give {dtype} {(len(rows), *shape[1:])}"
                )
        order = np.argsort(rows)
        breaks = np.flatnonzero(np.diff(rows[order]) != 1) + 1
        try:
            for taken in np.split(order, breaks):
                first = int(rows[taken[0]])
                for name, values in arrays.items():
                    _put(self._raw, self._places[name], first, values[taken])
                    crc = checksums(self.index[rows[taken]], values[taken])
                    _put(self._raw, self._places[_CHECK + name], first, crc)
                _put(self._raw, self._places["done"], first, np.ones(len(taken), np.uint8))
                self.done[rows[taken]] = True
        except OSError as error:
            left = int((~self.done).sum())
            missing = n_bytes({name: (v.shape[1:], v.dtype) for name, v in arrays.items()}, left)
            raise CacheError(
                f"{self.path}: cannot be written ({_one_line(error)}); {missing / 1e6:.1f} MB are missing: "
                "free some space and run the same command, which continues"
            ) from error

    def close(self) -> None:
        """Close the file; the part remains."""
        self._raw.close()
        self._file.close()


def _create(path: Path, manifest: Manifest, index: IntArray, layout: Layout, place: tuple[int, int]) -> None:
    needed = n_bytes(layout, len(index))
    check_space(path.parent, needed)
    checks: Layout = {_CHECK + name: ((), np.uint32) for name in layout}
    try:
        with atomic(path) as temporary:
            with h5py.File(temporary, "w", libver=LIBVER) as file:
                manifest.write(file.attrs)
                file.attrs["rank"], file.attrs["ranks"] = place
                for name, (shape, dtype) in {**_TABLES, **checks, **layout}.items():
                    _reserve(file, name, (len(index), *shape), np.dtype(dtype))
                found = places(file, path, whole=False)
            with temporary.open("r+b", buffering=0) as raw:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(raw.fileno(), 0, temporary.stat().st_size)
                if len(index):
                    _put(raw, found["index"], 0, index.astype(np.int64))
                    _put(raw, found["done"], 0, np.zeros(len(index), np.uint8))
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        reason = f"the cache needs {needed / 1e6:.1f} MB and the disk is full" if full else _one_line(error)
        raise CacheError(f"{path}: {reason}: free some space, or write it elsewhere") from error


def _reserve(file: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Create a contiguous dataset whose place in the file is fixed now and not filled."""
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_layout(h5py.h5d.CONTIGUOUS)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    kind = h5py.h5t.py_create(dtype, logical=True)
    h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(shape), settings)


def places(file: Any, path: Path, *, whole: bool = True) -> dict[str, Place]:
    """Find the places of the datasets of an open HDF5 file.

    Args:
        file: The open file.
        path: Its path, for messages.
        whole: Check that each dataset lies inside the file and that the tables fit together.

    Returns:
        Name to place; the offset of an empty dataset is 0.

    Raises:
        CacheError: a dataset is missing, of another dtype, not contiguous, or claims more than the file holds.
    """
    found: dict[str, Place] = {}
    size = path.stat().st_size if whole else 0
    for name, data in file.items():
        if not isinstance(data, h5py.Dataset):
            raise CacheError(f"{path}: {name} is no dataset; write the cache again with `alan cache`")
        shape, offset = tuple(int(n) for n in data.shape), data.id.get_offset()
        found[str(name)] = (offset or 0, shape, data.dtype)
        n = data.dtype.itemsize
        for side in shape:
            n *= side
        if whole and n and (data.chunks is not None or offset is None or offset + n > size):
            raise CacheError(
                f"{path}: not a whole feature cache ({name} claims {n} bytes, the file has {size}); "
                "write it again with `alan cache`"
            )
    features = [name for name in found if name in FEATURES]
    wanted = {**{name: np.dtype(kind) for name, (_, kind) in _TABLES.items()}}
    wanted |= {name: np.dtype(FEATURES[name]) for name in features}
    wanted |= {_CHECK + name: np.dtype(np.uint32) for name in features}
    rows = {place[1][:1] for place in found.values()}
    for name, dtype in wanted.items():
        if name not in found or found[name][2] != dtype or len(rows) != 1:
            raise CacheError(
                f"{path}: not a whole feature cache ({name} is damaged); write it again with `alan cache`"
            )
    return found


def read_index(file: Any, path: Path) -> IntArray:
    """Global frame indices (n,) of an open HDF5 file, after :func:`places` has checked its claims."""
    places(file, path)
    index: IntArray = file["index"][:]
    return index


def map_rows(path: Path, place: Place) -> NDArray[Any]:
    """Map a dataset into memory, read-only.

    Raises:
        CacheError: the file cannot be read.
    """
    offset, shape, dtype = place
    if 0 in shape:
        return np.empty(shape, dtype)
    try:
        return np.memmap(path, dtype, "r", offset, shape)
    except (OSError, ValueError) as error:
        raise CacheError(f"{path}: cannot be read ({error}); write it again with `alan cache`") from error


def check_rows(path: Path, name: str, index: IntArray, values: NDArray[Any], crc: NDArray[np.uint32]) -> None:
    """Compare rows with their checksums.

    Raises:
        CacheError: a row is damaged; the message names the frame.
    """
    wrong = np.flatnonzero(checksums(index, values) != crc)
    if len(wrong):
        raise CacheError(
            f"{path}: {name} of frame {int(index[wrong[0]])} is damaged (checksum); write the cache again with "
            "`alan cache --overwrite true`"
        )


def check_name(name: str) -> str:
    """Name of the dataset with the checksums of a feature."""
    return _CHECK + name


def _put(raw: Any, place: Place, row: int, values: NDArray[Any]) -> None:
    """Write consecutive rows at their place in an unbuffered file."""
    offset, _, dtype = place
    left = np.ascontiguousarray(values, dtype).data.cast("B")
    raw.seek(offset + row * (left.nbytes // len(values)))
    while left:
        left = left[raw.write(left) :]


def finish(out: Path) -> None:
    """Combine the parts of all ranks into one cache: check that they are complete, then rename them.

    A single part becomes ``out``. Several parts become ``<out>.rankK``, and ``out`` is a small file that lists
    them. ``out`` exists only once everything else does.

    Raises:
        CacheError: a part is missing or not complete.
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
        out.unlink(missing_ok=True)  # it lists the shards that are replaced now
        for rank in range(ranks):
            parts[rank].replace(shard_path(out, rank))
        with atomic(out) as temporary, h5py.File(temporary, "w", libver=LIBVER) as file:
            manifest.write(file.attrs)
            names = [shard_path(out, rank).name for rank in range(ranks)]
            write_text(file.attrs, "shards", json.dumps(names))
    current = {shard_path(out, rank) for rank in range(ranks)} if ranks > 1 else set()
    for path in leftovers(out):
        if path not in current:
            path.unlink()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
