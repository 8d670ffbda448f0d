"""Raw pixels of a declared size, as stored in NIfTI and MetaImage files."""

from __future__ import annotations

import math
import os
import warnings
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
#: Pixels of three colours of 8 bits.
RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
#: Largest size after the fourth that may count channels, not frames.
_MOST_CHANNELS = 4
_CHUNK = 2**20
_EITHER = zlib.MAX_WBITS + 32  # zlib or gzip, by the first bytes


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, count: int, /) -> bytes:
        """Read at most ``count`` bytes, ``b""`` at the end; EOFError where a compressed stream ends early."""


@dataclass(frozen=True)
class PixelLayout:
    """Layout of the pixels, as stated by a header.

    Attributes:
        shape: (T, H, W); T is 1 for a still.
        dtype: Type of the stored values, including their byte order.
        spacing: (row, column) size of a pixel in mm, or None where the header does not state it.
        scale: Slope and intercept to apply to the stored values, or None.
        seconds: Time from one frame to the next, or None.
        declared: Range of grey values to show, or None.
        notes: Assumptions about the pixel size.
        slice_mm: Distance in mm from one slice of a volume to the next, or None where the header does not state
            it.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    spacing: Spacing | None = None
    scale: tuple[float, float] | None = None
    seconds: float | None = None
    declared: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    slice_mm: float | None = None

    @property
    def n_bytes(self) -> int:
        """Size of the uncompressed pixels in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def pixels(self, data: bytearray) -> NDArray[Any]:
        """Convert ``n_bytes`` bytes to scaled frames (T, H, W) in native byte order."""
        values: NDArray[Any] = np.frombuffer(data, self.dtype).reshape(self.shape)
        if self.scale is not None:
            values = values.astype(np.float64, copy=False)
            values *= self.scale[0]
            values += self.scale[1]
        return values.astype(values.dtype.newbyteorder("="), copy=False)


def frame_shape(sizes: Sequence[int], path: str | os.PathLike[str], itemsize: int) -> tuple[int, int, int]:
    """Convert the sizes in a header to (T, H, W): one size after the second counts the frames, others must be 1.

    Args:
        sizes: Sizes in the order of the header, width first.
        path: The file, for messages.
        itemsize: Bytes per decoded pixel.

    Returns:
        (T, H, W).

    Raises:
        DataError: The sizes do not describe a still or one sequence, or are too large.
    """
    claim = " x ".join(str(size) for size in sizes)
    if len(sizes) < 2 or sum(size > 1 for size in sizes[2:]) > 1:
        raise DataError(
            f"{path}: claims {claim} pixels; a still or one sequence (width, height, frames) is needed"
        )
    if 1 < max(sizes[4:], default=1) <= _MOST_CHANNELS:
        raise DataError(f"{path}: claims {claim} pixels, which may be channels of colours; save it as grey values")
    shape = (max(sizes[2:], default=1) if min(sizes[2:], default=1) > 0 else 0, sizes[1], sizes[0])
    check_size(path, shape, itemsize)
    return shape


def read_exactly(file: Readable, count: int, path: str | os.PathLike[str]) -> bytearray:
    """Read ``count`` bytes; memory grows with the bytes that exist, not with the number claimed.

    Raises:
        DataError: The stream ends early.
    """
    data = bytearray()
    try:
        while len(data) < count and (part := file.read(min(_CHUNK, count - len(data)))):
            data += part
    except EOFError:
        pass
    check_complete(path, "bytes", count, len(data))
    return data


def check_end(file: Readable, path: str | os.PathLike[str]) -> int:
    """Read a compressed stream to its end, which verifies its check sum.

    Returns:
        Number of bytes after the pixels.

    Raises:
        DataError: The end is missing, or far away.
    """
    extra = 0
    try:
        while part := file.read(_CHUNK):
            extra += len(part)
            if extra > _CHUNK:
                raise DataError(f"{path}: holds more pixels than its header claims; {GET_AGAIN}")
    except EOFError as error:
        raise DataError(f"{path}: ends early, the check sum at its end is missing; {GET_AGAIN}") from error
    warn_of_extra(path, extra)
    return extra


def warn_of_extra(path: str | os.PathLike[str], extra: int) -> None:
    """Warn of bytes after the pixels, which may be frames that the header does not count."""
    if extra:
        warnings.warn(f"{path}: {extra} bytes beyond those that the header claims are not read", stacklevel=2)


class InflatingStream:
    """Reader of a zlib or gzip stream; bytes after its end are ignored.

    Args:
        file: The compressed bytes.
    """

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._inflate = zlib.decompressobj(wbits=_EITHER)

    def read(self, count: int, /) -> bytes:
        """Read at most ``count`` bytes, ``b""`` at the end.

        Raises:
            EOFError: The compressed bytes end early.
            zlib.error: They are damaged.
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
