"""Layout of a feature file: places of its datasets, and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import numpy as np
from numpy.typing import DTypeLike

from alan.arrays import IntArray
from alan.errors import CacheError
from alan.rows import Place, check_name, place_of

#: Name of a dataset to the shape and dtype of one row.
RowLayout = Mapping[str, tuple[tuple[int, ...], DTypeLike]]
#: Kinds of features that can be asked for; the sector accompanies the tokens.
FeatureKind = Literal["cls", "tokens", "logits", "maps"]
KINDS: tuple[str, ...] = get_args(FeatureKind)
#: Kinds that a parcel model computes.
PARCEL_KINDS = {"logits", "maps"}
#: Features and their dtypes.
FEATURES = {"cls": "<f4", "tokens": "<f2", "sector": "|b1", "logits": "<f2", "maps": "|u1"}
#: Global frame index and flag of each row.
TABLES: RowLayout = {"index": ((), np.int64), "done": ((), np.uint8)}
#: End of the message on a damaged row.
REMEDY = "write the cache again with `alan cache --overwrite true`"


def n_bytes(layout: RowLayout, n_frames: int) -> int:
    """Return the number of bytes of a file with ``n_frames`` rows."""
    row = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize + 4 for shape, dtype in layout.values())
    return n_frames * (row + 9) + 65536  # index and flag, and the head of the file


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
    size = path.stat().st_size if whole else None
    for name, data in file.items():
        if not isinstance(data, h5py.Dataset):
            raise CacheError(f"{path}: {name} is not a dataset; write the cache again with `alan cache`")
        try:
            found[str(name)] = place_of(data, size)
        except ValueError as error:
            raise CacheError(
                f"{path}: not a whole feature cache ({error}); write it again with `alan cache`"
            ) from error
    features = [name for name in found if name in FEATURES]
    wanted = {**{name: np.dtype(kind) for name, (_, kind) in TABLES.items()}}
    wanted |= {name: np.dtype(FEATURES[name]) for name in features}
    wanted |= {check_name(name): np.dtype(np.uint32) for name in features}
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
