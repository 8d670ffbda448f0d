"""Rows of an HDF5 file: plain bytes at a known place, each with a checksum that is verified when it is first read.

Frame stores and feature caches consist of such rows. They are mapped into memory rather than read by HDF5, so that
reading is a plain copy, and no HDF5 handle is open when a process forks.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alan.arrays import IntArray
from alan.errors import AlanError

#: Place of a dataset in a file: offset in bytes, shape, dtype.
Place = tuple[int, tuple[int, ...], np.dtype[Any]]
#: Format of HDF5 1.8, the first whose metadata have checksums. Without them, damage can make the library loop
#: forever. Later formats mark open files, so that those of a killed process cannot be opened again.
LIBVER = ("v108", "v108")


def check_name(name: str) -> str:
    """Return the name of the dataset with the checksums of another: ``crc_maps`` beside ``maps``."""
    group, slash, last = name.rpartition("/")
    return f"{group}{slash}crc_{last}"


def checksums(index: IntArray, values: NDArray[Any]) -> NDArray[np.uint32]:
    """Compute the CRC-32 of rows, which covers the number of each row too.

    Args:
        index: (b,) numbers of the rows, such as global frame indices.
        values: (b, ...) rows.

    Returns:
        (b,) uint32.
    """
    found = np.empty(len(index), np.uint32)
    rows = np.ascontiguousarray(values)
    for n, number in enumerate(index.tolist()):
        found[n] = zlib.crc32(rows[n : n + 1].data, zlib.crc32(number.to_bytes(8, "little", signed=True)))
    return found


def place_of(data: Any, size: int | None = None) -> Place:
    """Find the place of a dataset of an open HDF5 file; the offset of an empty one is 0.

    Args:
        data: The dataset.
        size: Bytes of the file that it must lie in; None does not compare.

    Raises:
        ValueError: It is not contiguous, or does not lie inside the file.
    """
    shape, offset = tuple(int(n) for n in data.shape), data.id.get_offset()
    n = data.dtype.itemsize * math.prod(shape)
    if size is not None and n and (data.chunks is not None or offset is None or offset + n > size):
        claim = f"claims {n} bytes, the file has {size}" if offset else "is not contiguous"
        raise ValueError(f"{data.name.lstrip('/')} {claim}")
    return offset or 0, shape, data.dtype


def map_rows(path: Path, place: Place, kind: type[AlanError], remedy: str) -> NDArray[Any]:
    """Map a dataset into memory, read-only.

    Raises:
        AlanError: An error of ``kind``: the file cannot be read.
    """
    offset, shape, dtype = place
    if 0 in shape:
        return np.empty(shape, dtype)
    try:
        return np.memmap(path, dtype, "r", offset, shape).view(np.ndarray)
    except (OSError, ValueError) as error:
        raise kind(f"{path}: cannot be read ({error}); {remedy}") from error


def check_rows(
    what: str,
    index: IntArray,
    values: NDArray[Any],
    crc: NDArray[np.uint32],
    *,
    kind: type[AlanError],
    remedy: str,
) -> None:
    """Compare rows with their checksums.

    Args:
        what: Beginning of the message: the file, and what a row is.
        index: (b,) numbers of the rows.
        values: (b, ...) rows.
        crc: (b,) their checksums.
        kind: Class of the error.
        remedy: End of the message.

    Raises:
        AlanError: An error of ``kind``: a row is damaged; the message gives its number.
    """
    wrong = np.flatnonzero(checksums(index, values) != crc)
    if len(wrong):
        raise kind(f"{what} {index[wrong[0]]} is damaged (checksum): {remedy}")


class CheckedRows:
    """The rows of a dataset, each compared with its checksum when it is first read in this process.

    Args:
        path: The file.
        name: What a row is, for messages, such as ``frame``.
        index: (n,) number of each row, which its checksum covers.
        values: Place of the rows (n, ...).
        crc: Place of their checksums, (n,) uint32.
        kind: Class of errors.
        remedy: End of their messages.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        index: IntArray,
        values: Place,
        crc: Place,
        *,
        kind: type[AlanError],
        remedy: str,
    ) -> None:
        self._what, self._index, self._kind, self._remedy = f"{path}: {name}", index, kind, remedy
        self._values = map_rows(path, values, kind, remedy)
        self._crc = map_rows(path, crc, kind, remedy)
        self._verified = np.zeros(len(index), bool)

    def read(self, rows: IntArray) -> NDArray[Any]:
        """Copy rows (b,), each from 0 to n - 1, into an array (b, ...).

        Raises:
            AlanError: A row is damaged; the message gives its number.
        """
        found: NDArray[Any] = np.take(self._values, rows, axis=0)
        new = np.flatnonzero(~self._verified[rows])
        if len(new):
            taken = rows[new]
            index, crc = self._index[taken], self._crc[taken]
            check_rows(self._what, index, found[new], crc, kind=self._kind, remedy=self._remedy)
            self._verified[taken] = True
        return found
