"""What every file reader returns, and what every file reader checks."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alan.data.sample import ByteArray
from alan.errors import AlanError, AlanWarning, DataError, ParameterError

#: (row, column) size of a pixel in mm.
Spacing = tuple[float, float]
#: Most pixels of one frame: an 8K picture has 33.2 million.
MAX_PIXELS = 2**25
#: Most bytes of the decoded frames of one file.
MAX_BYTES = 2**30
_log = logging.getLogger(__name__)
_said: set[str] = set()
#: What to do about a damaged file.
GET_AGAIN = "get the file again, or export it again"
_POINTER = b"version https://git-lfs."


@dataclass(frozen=True)
class Region:
    """A rectangle of the frames with a scale of its own, such as one half of a dual screen.

    Attributes:
        box: (top, left, bottom, right) in pixels; bottom and right lie outside the region.
        kind: ``2d`` for a picture of tissue; M-mode and Doppler curves have a time axis and no pixel size.
        spacing: (row, column) size of a pixel in mm, or None where it is unknown or not a length.
    """

    box: tuple[int, int, int, int]
    kind: Literal["2d", "m-mode", "spectrum", "curve", "other"]
    spacing: Spacing | None


@dataclass(frozen=True)
class Cine:
    """A decoded cine loop or still.

    Attributes:
        frames: (T, H, W) uint8, full range 0 to 255, in the orientation in which a viewer shows them.
        fps: frames per second (the mean where the rate varies), or None where the file does not state it.
        spacing: (row, column) size of a pixel in mm, or None where none holds for the whole frame.
        times: (T,) seconds from the first frame, increasing, or None where the file does not state them.
        regions: regions with their own scale, in the order of the file.
        notes: how grey values, orientation, times and pixel sizes were obtained, where that was not plain.
        attributes: further numbers of the header: ``heart_rate`` (beats per minute), ``r_wave_times`` (seconds).
        patient: pseudonymous key of the patient, or None.
    """

    frames: ByteArray
    fps: float | None = None
    spacing: Spacing | None = None
    times: NDArray[np.float64] | None = None
    regions: tuple[Region, ...] = ()
    notes: tuple[str, ...] = ()
    attributes: Mapping[str, float | tuple[float, ...]] = field(default_factory=dict)
    patient: str | None = None

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        if self.frames.ndim != 3 or self.frames.dtype != np.uint8 or 0 in self.frames.shape:
            raise ParameterError(f"frames are {self.frames.dtype} {self.frames.shape}: give uint8 (T, H, W)")
        if self.times is not None and self.times.shape != (len(self.frames),):
            raise ParameterError(f"times are {self.times.shape}: give one for each of {len(self.frames)} frames")


def times_at(fps: float | None, count: int) -> NDArray[np.float64] | None:
    """Times of ``count`` frames at a constant rate: (count,) seconds, or None where the rate is unknown."""
    return None if fps is None else np.arange(count) / fps


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], kind: str) -> Iterator[Path]:
    """Read one file with third-party code: one line for whatever it raises, one warning for each thing it reports.

    Args:
        path: the file.
        kind: what the file should be, for the message: ``picture``, ``video``.

    Yields:
        The path.

    Raises:
        DataError: the file is missing or empty, or the block raised anything but an error of this package.
    """
    source = Path(path)
    if not source.is_file():
        raise DataError(f"{source}: no such {kind}; check the spelling")
    with source.open("rb") as file:
        start = file.read(len(_POINTER))
    if not start:
        raise DataError(f"{source}: is empty; {GET_AGAIN}")
    if start == _POINTER:
        raise DataError(f"{source}: is a pointer of Git LFS, not the file itself; run `git lfs pull`")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield source
        except (AlanError, ImportError, NameError):
            raise
        except MemoryError as error:
            raise DataError(f"{source}: needs more memory than there is; shorten the loop") from error
        except Exception as error:  # decoders have no common root of what they raise on damaged files
            said = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{source}: cannot be decoded ({said[:200]}); {GET_AGAIN}") from error
    for message in dict.fromkeys(_text(warning) for warning in caught):
        warnings.warn(message if str(source) in message else f"{source}: {message}", AlanWarning, stacklevel=3)


def _text(warning: warnings.WarningMessage) -> str:
    return " ".join(str(warning.message).split())


def kind_of(note: str) -> str:
    """A message without its numbers, which is the same for files that are treated alike."""
    return re.sub(r"-?[\d.]+(e[-+]?\d+)?", "#", note)


def say(path: str | os.PathLike[str], notes: Sequence[str]) -> None:
    """Log how a file was treated; files that are treated alike are logged once."""
    for note in notes:
        if kind_of(note) not in _said:
            _said.add(kind_of(note))
            _log.info("%s: %s (said once, other files may be alike)", path, note)


@contextlib.contextmanager
def saying_nothing() -> Iterator[None]:
    """Leave it to the caller to log how files were treated."""
    before, _log.disabled = _log.disabled, True
    said = set(_said)
    try:
        yield
    finally:
        _log.disabled = before
        _said.clear()
        _said.update(said)


def check_complete(path: str | os.PathLike[str], what: str, promised: float, found: float) -> None:
    """Compare what a file promises with what it holds.

    Args:
        path: the file.
        what: what is counted: ``frames``, ``bytes``.
        promised: the number that the header, the list or the container states.
        found: the number that is there.

    Raises:
        DataError: there are fewer than promised.
    """
    if found < promised:
        raise DataError(f"{path}: ends early, {found} of {promised} {what} are there; {GET_AGAIN}")


def check_size(path: str | os.PathLike[str], shape: Sequence[int], itemsize: int = 1) -> None:
    """Refuse a header that claims more than is read; call it before memory is allocated.

    Args:
        path: the file.
        shape: (..., H, W) of what the header claims.
        itemsize: bytes per pixel.

    Raises:
        DataError: a size below 1, a frame of more than ``MAX_PIXELS`` pixels, or more than ``MAX_BYTES`` bytes.
    """
    claim = " x ".join(str(size) for size in shape)
    if min(shape) < 1:
        raise DataError(f"{path}: claims a size of {claim} pixels; {GET_AGAIN}")
    if math.prod(shape[-2:]) > MAX_PIXELS:
        raise DataError(f"{path}: claims {claim} pixels; a frame may have {MAX_PIXELS}, make it smaller")
    if math.prod(shape) * itemsize > MAX_BYTES:
        raise DataError(
            f"{path}: claims {claim} pixels of {itemsize} bytes; {MAX_BYTES} bytes may be decoded, shorten it"
        )


class FrameBuffer:
    """Decoded frames, kept once; it refuses frames of another size and more bytes than are read.

    Args:
        path: the file, for messages.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path, self._data, self._count = path, bytearray(), 0
        self._shape: tuple[int, ...] = ()
        self._dtype = np.dtype(np.uint8)

    def __len__(self) -> int:
        return self._count

    def append(self, frame: NDArray[Any]) -> None:
        """Add a frame (H, W).

        Raises:
            DataError: it has another size or type than the frames before, or the loop becomes too long.
        """
        if not self._count:
            self._shape, self._dtype = frame.shape, frame.dtype
        if frame.shape != self._shape or frame.dtype != self._dtype:
            raise DataError(
                f"{self._path}: has frames of {self._shape} and {frame.shape} pixels; one size is needed"
            )
        check_size(self._path, (self._count + 1, *frame.shape), frame.dtype.itemsize)
        self._data += frame.tobytes()
        self._count += 1

    def stack(self) -> NDArray[Any]:
        """All frames: (T, H, W)."""
        return np.frombuffer(self._data, self._dtype).reshape(self._count, *self._shape)
