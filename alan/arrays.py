"""Names of the array types that many modules use, evenly spread positions, and a reader of files of arrays."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alan.errors import DataError

BoolArray = NDArray[np.bool_]
ByteArray = NDArray[np.uint8]
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
#: Integers of any width, such as parcel ids.
AnyIntArray = NDArray[np.integer]
#: Floating-point numbers of any width.
AnyFloatArray = NDArray[np.floating]


def evenly_spread(length: int, n: int | None) -> IntArray:
    """Choose ``min(n, length)`` different positions in 0..length - 1: first, last, and even steps between.

    A single one is in the middle. None chooses all positions.
    """
    n = length if n is None else n
    if min(n, length) == 1:
        return np.array([length // 2])
    return np.linspace(0, length - 1, min(n, length)).round().astype(np.int64)


def verify_zip(path: Path) -> None:
    """Verify the check sums of a zip file, which neither ``torch.load`` nor, in every case, ``numpy.load`` does.

    Raises:
        zipfile.BadZipFile: One is wrong, a part cannot be decompressed, or the file is no zip file.
    """
    with zipfile.ZipFile(path) as archive:
        try:
            name = archive.testzip()
        except (zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError) as error:
            raise zipfile.BadZipFile(f"it cannot be decompressed: {error}") from error
    if name is not None:
        raise zipfile.BadZipFile(f"the check sum of {name} is wrong")


def load_arrays(path: Path, names: Iterable[str] = ()) -> dict[str, NDArray[Any]]:
    """Read all arrays of an ``.npz`` file and verify their check sums, which NumPy does not do in every case.

    Args:
        path: The file.
        names: Arrays that it must hold.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        verify_zip(path)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in {*file.files, *names}}
    except (OSError, EOFError, LookupError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: cannot be read ({reason}): start again with --overwrite true") from error
