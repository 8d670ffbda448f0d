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
import resource
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from alan.arrays import IntArray
from alan.cache.layout import (
    FEATURES,
    REMEDY,
    TABLES,
    CacheManifest,
    RowLayout,
    n_bytes,
    places,
    read_index,
    write_attribute,
)
from alan.errors import CacheError, ParameterError, damaged
from alan.files import atomic
from alan.rows import LIBVER, Place, check_name, checksums, map_rows

_log = logging.getLogger(__name__)


def part_path(out: Path, rank: int) -> Path:
    """Return the unfinished part of a rank: ``<out>.part``, ``<out>.rank1.part``, ..."""
    return out.with_name(f"{out.name}.part" if rank == 0 else f"{out.name}.rank{rank}.part")


def shard_path(out: Path, rank: int) -> Path:
    """Return the finished part of one of several ranks: ``<out>.rank0``, ..."""
    return out.with_name(f"{out.name}.rank{rank}")


def leftovers(out: Path) -> list[Path]:
    """Return the parts and shards in the folder of ``out``, sorted by name."""
    pattern = re.compile(re.escape(out.name) + r"(\.part|\.rank\d+|\.rank\d+\.part)")
    return sorted(path for path in out.parent.glob("*") if pattern.fullmatch(path.name))


def check_space(folder: Path, needed: int) -> None:
    """Check that the disk has enough space.

    Raises:
        CacheError: There is too little; the message gives the space needed and the space available, in MB.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise CacheError(
            f"the cache needs {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB are free in {folder}: free some space, "
            "or cache less (features, split, views, frames)"
        )


def check_limit(out: Path, needed: int) -> None:
    """Check that the limit of file sizes of this process (``ulimit -f``) lets a file be written.

    A process that meets the limit later cannot report to the others why it failed.

    Raises:
        OSError: EFBIG, naming ``out``.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and needed > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), os.fspath(out))


def begin(out: Path, *, overwrite: bool) -> None:
    """Remove files that an earlier run left next to ``out``, before any rank opens its part.

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
        manifest: Inputs and settings of the shard; a part with another manifest is refused.
        index: (n,) global frame indices of the rows.
        layout: Shape and dtype of one row of each dataset.
        rank: Rank of the process that writes it.
        ranks: Number of processes that write.

    Attributes:
        done: (n,) bool, rows that are written. Rows of an earlier run whose checksum is wrong are not.

    Raises:
        CacheError: The part has another manifest or another number of processes, is damaged or open elsewhere, or
            there is too little space.
    """

    def __init__(
        self,
        path: Path,
        manifest: CacheManifest,
        index: IntArray,
        layout: RowLayout,
        *,
        rank: int = 0,
        ranks: int = 1,
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

    def _check(self, manifest: CacheManifest, ranks: int) -> None:
        remedy = "start again with --overwrite true, or write to another name"
        words = CacheManifest.read(self._file.attrs, str(self.path)).differences(manifest)
        if words:
            raise CacheError(f"{self.path}: belongs to another cache ({'; '.join(words)}): {remedy}")
        with damaged(CacheError, f"{self.path}: damaged", remedy):
            written, index = int(self._file.attrs["ranks"]), read_index(self._file, self.path)
        if written != ranks:
            raise CacheError(
                f"{self.path}: was started with {written} processes, now {ranks}: use as many devices, or {remedy}"
            )
        if not np.array_equal(index, self.index):
            raise CacheError(f"{self.path}: was started for other frames: {remedy}")

    def _drop_damaged(self) -> None:
        """Clear the flag of rows that differ from what was written, for example after a power failure."""
        bad = np.zeros(len(self.index), bool)
        for name in FEATURES.keys() & self._places.keys():
            values, crc = (
                map_rows(self.path, self._places[key], CacheError, REMEDY) for key in (name, check_name(name))
            )
            for row in np.flatnonzero(self.done & ~bad):
                bad[row] = checksums(self.index[[row]], values[[row]])[0] != crc[row]
        if bad.any():
            _log.warning("%s: %d frames are damaged and are computed again", self.path, bad.sum())
            self.done &= ~bad

    def write(self, rows: ArrayLike, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write rows, then set their flags.

        Args:
            rows: (b,) positions in the index of this shard.
            arrays: Mapping from the name of a dataset to (b, ...) values of its dtype.

        Raises:
            CacheError: The disk is full, or failed; rows with a flag remain valid.
            ParameterError: Values have another shape or dtype.
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
                    _put(self._raw, self._places[check_name(name)], first, crc)
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


def _create(
    path: Path, manifest: CacheManifest, index: IntArray, layout: RowLayout, place: tuple[int, int]
) -> None:
    needed = n_bytes(layout, len(index))
    check_space(path.parent, needed)
    checks: RowLayout = {check_name(name): ((), np.uint32) for name in layout}
    try:
        with atomic(path) as temporary:
            with h5py.File(temporary, "w", libver=LIBVER) as file:
                manifest.write(file.attrs)
                file.attrs["rank"], file.attrs["ranks"] = place
                for name, (shape, dtype) in {**TABLES, **checks, **layout}.items():
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
        CacheError: A part is missing or not complete.
    """
    with h5py.File(part_path(out, 0), "r") as file:
        manifest, ranks = CacheManifest.read(file.attrs, str(out)), int(file.attrs["ranks"])
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
            write_attribute(file.attrs, "shards", json.dumps(names))
    current = {shard_path(out, rank) for rank in range(ranks)} if ranks > 1 else set()
    for path in leftovers(out):
        if path not in current:
            path.unlink()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
