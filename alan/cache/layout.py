"""Layout of a feature file: places of its datasets, their checks, and the checksums of its rows."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from alan.arrays import IntArray
from alan.errors import CacheError

#: Name of a dataset to the shape and dtype of one row.
RowLayout = Mapping[str, tuple[tuple[int, ...], DTypeLike]]
#: Place of a dataset in the file: offset in bytes, shape, dtype.
Place = tuple[int, tuple[int, ...], np.dtype[Any]]
#: Kinds of features that can be asked for; the sector accompanies the tokens.
FeatureKind = Literal["cls", "tokens", "logits", "maps"]
KINDS: tuple[str, ...] = get_args(FeatureKind)
#: Kinds that a parcel model computes.
PARCEL_KINDS = {"logits", "maps"}
#: Features and their dtypes.
FEATURES = {"cls": "<f4", "tokens": "<f2", "sector": "|b1", "logits": "<f2", "maps": "|u1"}
#: Global frame index and flag of each row.
TABLES: RowLayout = {"index": ((), np.int64), "done": ((), np.uint8)}
_CHECK = "crc_"


def n_bytes(layout: RowLayout, n_frames: int) -> int:
    """Return the number of bytes of a file with ``n_frames`` rows."""
    row = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize + 4 for shape, dtype in layout.values())
    return n_frames * (row + 9) + 65536  # index and flag, and the head of the file


def checksums(index: IntArray, values: NDArray[Any]) -> NDArray[np.uint32]:
    """Compute the CRC-32 of rows, which covers the frame index of each row too.

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


def places(file: Any, path: Path, *, whole: bool = True) -> dict[str, Place]:
    """Find the places of the datasets of an open HDF5 file.

    Args:
        file: The open file.
        path: Its path, for messages.
        whole: Check that each dataset lies inside the file and that the tables fit together.

    Returns:
        Name to place; the offset of an empty dataset is 0.

    Raises:
        CacheError: A dataset is missing, of another dtype, not contiguous, or claims more than the file holds.
    """
    found: dict[str, Place] = {}
    size = path.stat().st_size if whole else 0
    for name, data in file.items():
        if not isinstance(data, h5py.Dataset):
            raise CacheError(f"{path}: {name} is not a dataset; write the cache again with `alan cache`")
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
    wanted = {**{name: np.dtype(kind) for name, (_, kind) in TABLES.items()}}
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
    """Return the global frame indices (n,) of an open HDF5 file, after :func:`places` has checked its claims."""
    places(file, path)
    index: IntArray = file["index"][:]
    return index


def map_rows(path: Path, place: Place) -> NDArray[Any]:
    """Map a dataset into memory, read-only.

    Raises:
        CacheError: The file cannot be read.
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
        CacheError: A row is damaged; the message names the frame.
    """
    wrong = np.flatnonzero(checksums(index, values) != crc)
    if len(wrong):
        raise CacheError(
            f"{path}: {name} of frame {int(index[wrong[0]])} is damaged (checksum); write the cache again with "
            "`alan cache --overwrite true`"
        )


def check_name(name: str) -> str:
    """Return the name of the dataset with the checksums of a feature."""
    return _CHECK + name
