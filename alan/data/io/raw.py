"""Uncompressed pixels of a declared size, as NIfTI and MetaImage files hold them."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from alan.data.io.base import GET_AGAIN, Spacing, check_complete, check_size
from alan.errors import DataError

#: First bytes of a gzip stream.
GZIP = b"\x1f\x8b"
_CHUNK = 2**20
_EITHER = zlib.MAX_WBITS + 32  # zlib or gzip, by the first bytes


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, count: int, /) -> bytes:
        """Read at most ``count`` bytes, ``b""`` at the end; EOFError where a compressed stream ends early."""


@dataclass(frozen=True)
class Layout:
    """What a header says of the pixels.

    Attributes:
        shape: (T, H, W); T is 1 for a still.
        dtype: type of the stored numbers, with their byte order.
        spacing: (row, column) size of a pixel in mm, or None where the header does not state it.
        scale: slope and intercept of the stored numbers, or None.
        seconds: time from one frame to the next, or None.
        declared: range of grey values to show, or None.
        notes: how the pixel size was obtained, where that was not plain.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    spacing: Spacing | None = None
    scale: tuple[float, float] | None = None
    seconds: float | None = None
    declared: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    @property
    def n_bytes(self) -> int:
        """Number of bytes that the pixels take in the file."""
        return math.prod(self.shape) * self.dtype.itemsize

    def pixels(self, data: bytearray) -> NDArray[Any]:
        """Make the frames (T, H, W) of ``n_bytes`` bytes, scaled; of native byte order."""
        values: NDArray[Any] = np.frombuffer(data, self.dtype).reshape(self.shape)
        if self.scale is not None:
            values = values.astype(np.float64, copy=False)
            values *= self.scale[0]
            values += self.scale[1]
        return values.astype(values.dtype.newbyteorder("="), copy=False)


def frame_shape(sizes: Sequence[int], path: str | os.PathLike[str], itemsize: int) -> tuple[int, int, int]:
    """Read sizes as width, height, and number of frames in third or fourth place; other sizes must be 1.

    Args:
        sizes: as the header counts them, width first.
        path: the file, for messages.
        itemsize: bytes per decoded pixel.

    Returns:
        (T, H, W).

    Raises:
        DataError: not a still or a sequence, or of a size that is refused.
    """
    claim = " x ".join(str(size) for size in sizes)
    if len(sizes) < 2 or sum(size > 1 for size in sizes[2:]) > 1 or any(size != 1 for size in sizes[4:]):
        raise DataError(
            f"{path}: claims {claim} pixels; a still or one sequence (width, height, frames) is needed"
        )
    shape = (max(sizes[2:], default=1) if min(sizes[2:], default=1) > 0 else 0, sizes[1], sizes[0])
    check_size(path, shape, itemsize)
    return shape


def read_exactly(file: Readable, count: int, path: str | os.PathLike[str]) -> bytearray:
    """Read ``count`` bytes; memory grows with what is there, not with what is claimed.

    Raises:
        DataError: the stream ends before.
    """
    data = bytearray()
    try:
        while len(data) < count and (part := file.read(min(_CHUNK, count - len(data)))):
            data += part
    except EOFError:
        pass
    check_complete(path, "bytes", count, len(data))
    return data


def drain(file: Readable, path: str | os.PathLike[str]) -> None:
    """Read a compressed stream to its end, where its check sum is.

    Raises:
        DataError: the end is missing, or far away.
    """
    try:
        extra = sum(len(file.read(_CHUNK)) for _ in range(2))
        if extra and file.read(1):
            raise DataError(f"{path}: holds more pixels than its header claims; {GET_AGAIN}")
    except EOFError as error:
        raise DataError(f"{path}: ends early, the check sum at its end is missing; {GET_AGAIN}") from error


class Inflated:
    """A zlib or gzip stream as a file to read from; bytes behind its end are ignored.

    Args:
        file: the compressed bytes.
    """

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._inflate = zlib.decompressobj(wbits=_EITHER)

    def read(self, count: int, /) -> bytes:
        """Read at most ``count`` bytes, ``b""`` at the end.

        Raises:
            EOFError: the compressed bytes end early.
            zlib.error: they are damaged.
        """
        while True:
            if self._inflate.eof:
                rest = self._inflate.unused_data or self._file.read(_CHUNK)
                if not rest.startswith(GZIP):  # gzip streams may follow one another
                    return b""
                self._inflate = zlib.decompressobj(wbits=_EITHER)
            else:
                rest = self._inflate.unconsumed_tail or self._file.read(_CHUNK)
            if data := self._inflate.decompress(rest, count):
                return data
            if not rest and not self._inflate.eof:
                raise EOFError
