"""Return types of file readers, and the checks that all readers share."""

from __future__ import annotations

import contextlib
import io
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

from alan.arrays import ByteArray
from alan.errors import ABOUT_CODE, SHORTAGE, AlanError, AlanWarning, DataError, ParameterError

#: (row, column) size of a pixel in mm.
Spacing = tuple[float, float]
#: Maximum number of pixels per frame; an 8K picture has 33.2 million.
MAX_PIXELS = 2**25
#: Maximum size in bytes of the decoded frames of one file.
MAX_BYTES = 2**30
#: Smallest and largest side in mm of a pixel of ultrasound.
SIDES = (0.001, 10.0)
#: Smallest and largest number of frames per second of a recording of a heart.
RATES = (1.0, 5000.0)
#: Largest logarithm of the ratio of the sides of a pixel that counts as square.
SQUARE = 0.01
_log = logging.getLogger(__name__)
_logged: set[str] = set()
#: Remedy for a damaged file.
GET_AGAIN = "get the file again, or export it again"
#: Remedy for a file that the operating system does not let read.
MAKE_READABLE = "change its permissions, or copy it again"
_POINTER = b"version https://git-lfs."
#: Number of zeros with which no file of a supported format begins.
_ZEROS = 4096
#: Smallest range of the steps between frames, as a share of their mean, of a variable frame rate.
_UNEVEN = 0.1


@dataclass(frozen=True)
class Region:
    """A rectangle of the frames with its own scale, such as one half of a dual screen.

    Attributes:
        box: (top, left, bottom, right) in pixels; bottom and right are exclusive.
        kind: ``2d`` for a picture of tissue; M-mode and Doppler curves have a time axis and no pixel size.
        spacing: (row, column) size of a pixel in mm, or None where it is unknown or not a length.
        content: What was measured, such as ``tissue`` or ``colour flow``.
        velocity: Velocity per row of a Doppler spectrum in cm/s, or None.
        stated: The box as the header states it; it reaches beyond the frame if the frames were cut or scaled
            after the header was written. None if it equals ``box``.
    """

    box: tuple[int, int, int, int]
    kind: Literal["2d", "m-mode", "spectrum", "curve", "other"]
    spacing: Spacing | None
    content: Literal["tissue", "colour flow", "pw doppler", "cw doppler", "other"] = "other"
    velocity: float | None = None
    stated: tuple[int, int, int, int] | None = None

    @property
    def area(self) -> int:
        """Number of its pixels."""
        top, left, bottom, right = self.box
        return (bottom - top) * (right - left)

    @property
    def beyond(self) -> bool:
        """Whether the header states a box that reaches beyond the frame."""
        return self.stated is not None


@dataclass(frozen=True)
class Header:
    """Metadata that a file states about its frames.

    Attributes:
        fps: Frames per second (the mean where the rate varies), or None where the file does not state it.
        spacing: (row, column) size of a pixel in mm, or None if no size holds for the whole frame.
        times: (T,) seconds from the first frame, increasing, or None where the file does not state them.
        regions: Regions with their own scale, in the order of the file.
        notes: Conversions of grey values, orientation, times and pixel sizes that were applied.
        attributes: Further values from the header: ``heart_rate`` (beats per minute), ``r_wave_times`` (seconds),
            ``contrast`` (1 where a contrast agent is named), ``volume`` (1 where frames are slices of a volume),
            ``modality`` (where it is not ultrasound), ``stage`` (of a stress test: number or pseudonym).
        patient: Pseudonymous key of the patient, or None.
        aspect: Height of a pixel divided by its width where the file states it without a size, or None.
    """

    fps: float | None = None
    spacing: Spacing | None = None
    times: NDArray[np.float64] | None = None
    regions: tuple[Region, ...] = ()
    notes: tuple[str, ...] = ()
    attributes: Mapping[str, float | str | tuple[float, ...]] = field(default_factory=dict)
    patient: str | None = None
    aspect: float | None = None


def pixel_aspect(header: Header, given: Spacing | None = None) -> float:
    """Find the height of a pixel divided by its width.

    Args:
        header: Metadata of the file.
        given: (row, column) size of a pixel that takes precedence, or None.

    Returns:
        The ratio from the given size, else from the largest region with a size, the size of the whole frame or the
        ratio in the header; 1 if nothing is stated or the sides differ by less than 1%.
    """
    sized = [region for region in header.regions if region.spacing is not None]
    largest = max(sized, key=lambda region: region.area, default=None)
    size = given or (largest.spacing if largest else header.spacing)
    aspect = size[0] / size[1] if size else header.aspect or 1.0
    return aspect if abs(math.log(aspect)) > SQUARE else 1.0


def known_spacing(row: float, column: float) -> Spacing | None:
    """Return a stated pixel size in mm; None if it is invalid, and with a warning if no ultrasound has it."""
    if not (math.isfinite(row) and math.isfinite(column) and min(row, column) > 0):
        return None
    if SIDES[0] <= min(row, column) and max(row, column) <= SIDES[1]:
        return row, column
    warnings.warn(
        f"states pixels of {row:.4g} x {column:.4g} mm, which are left out: no ultrasound has them", stacklevel=2
    )
    return None


def known_rate(fps: float | None) -> float | None:
    """Return a stated number of frames per second; None, with a warning, if no recording of a heart has it."""
    if fps is None or RATES[0] <= fps <= RATES[1]:
        return fps
    warnings.warn(
        f"states {fps:.4g} frames per second, which are left out: a loop of a heart has {RATES[0]:g} to "
        f"{RATES[1]:g}, so its times are unknown",
        stacklevel=2,
    )
    return None


@dataclass(frozen=True)
class Cine(Header):
    """A decoded cine loop or still, with the fields of its :class:`~alan.data.io.base.Header`.

    Attributes:
        frames: (T, H, W) uint8, full range 0 to 255, oriented as a viewer shows them.
    """

    frames: ByteArray = field(kw_only=True)

    def __post_init__(self) -> None:
        """Check the shapes of the arrays."""
        if self.frames.ndim != 3 or self.frames.dtype != np.uint8 or 0 in self.frames.shape:
            raise ParameterError(f"frames are {self.frames.dtype} {self.frames.shape}: give uint8 (T, H, W)")
        if self.times is not None and self.times.shape != (len(self.frames),):
            raise ParameterError(f"times are {self.times.shape}: give one for each of {len(self.frames)} frames")


def times_at(fps: float | None, count: int) -> NDArray[np.float64] | None:
    """Return the times of frames at a constant rate: (count,) seconds, or None if the rate is unknown."""
    return None if fps is None else np.arange(count) / fps


def mean_frame_rate(times: NDArray[np.float64] | None) -> float | None:
    """Compute the mean number of frames per second.

    Args:
        times: (T,) increasing times in s, or None if they are unknown.

    Returns:
        The rate; None for fewer than two frames or unknown times.
    """
    return None if times is None or len(times) < 2 else (len(times) - 1) / float(times[-1] - times[0])


def variable_rate(times: NDArray[np.float64]) -> tuple[str, ...]:
    """Note that a frame rate is variable, from increasing times (T,) in s; empty for a constant one."""
    steps = np.diff(times)
    if not len(steps) or np.ptp(steps) <= _UNEVEN * steps.mean():
        return ()
    return (f"variable frame rate, {1 / steps.max():.4g} to {1 / steps.min():.4g} fps",)


def first_bytes(path: str | os.PathLike[str], count: int) -> bytes:
    """Read the first bytes of a file; empty if it is not a file, such as a pipe, or cannot be read."""
    try:
        if not Path(path).is_file():  # reading from a pipe would block
            return b""
        with Path(path).open("rb") as file:
            return file.read(count)
    except OSError as error:
        if error.errno in SHORTAGE:
            raise
        return b""


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], kind: str) -> Iterator[Path]:
    """Read one file with third-party code; report its exceptions as one error and each of its warnings once.

    Args:
        path: The file.
        kind: Expected kind of file for the message, such as ``picture``.

    Yields:
        The path.

    Raises:
        DataError: The file is missing, unreadable, empty or damaged: the block raised any exception of another
            package.
    """
    source = Path(path)
    try:
        if not source.is_file():
            raise DataError(f"{source}: no such {kind}; check the spelling")
        with source.open("rb") as file:
            start = file.read(_ZEROS)
    except OSError as error:
        if error.errno in SHORTAGE:
            raise
        raise DataError(f"{source}: cannot be read ({error.strerror or error}); {MAKE_READABLE}") from error
    if not start:
        raise DataError(f"{source}: is empty; {GET_AGAIN}")
    if start == bytes(_ZEROS):
        raise DataError(f"{source}: begins with {_ZEROS} zeros, it was never written or is damaged; {GET_AGAIN}")
    if start.startswith(_POINTER):
        raise DataError(f"{source}: is a pointer of Git LFS, not the file itself; run `git lfs pull`")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield source
        except (AlanError, ImportError, NameError):
            raise
        except MemoryError as error:
            raise DataError(f"{source}: needs more memory than is available; shorten the loop") from error
        except Exception as error:  # decoders raise exceptions without a common base on damaged files
            if getattr(error, "errno", None) in SHORTAGE:
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{source}: cannot be decoded ({reason[:200]}); {GET_AGAIN}") from error
    about = [warning for warning in caught if not issubclass(warning.category, ABOUT_CODE)]
    for message in dict.fromkeys(map(_text, about)):
        warnings.warn(message if str(source) in message else f"{source}: {message}", AlanWarning, stacklevel=3)


def _text(warning: warnings.WarningMessage) -> str:
    return " ".join(str(warning.message).split())


def without_numbers(note: str) -> str:
    """Mask the numbers in a message, so that messages of the same kind compare equal."""
    return re.sub(r"-?[\d.]+(e[-+]?\d+)?", "#", note)


def log_notes(path: str | os.PathLike[str], notes: Sequence[str]) -> None:
    """Log the conversions that were applied to a file; each kind of conversion is logged once."""
    for note in notes:
        if without_numbers(note) not in _logged:
            _logged.add(without_numbers(note))
            _log.info("%s: %s (logged once, it may apply to other files)", path, note)


@contextlib.contextmanager
def suppress_notes() -> Iterator[None]:
    """Suppress :func:`log_notes`, for callers that log the notes themselves."""
    before, _log.disabled = _log.disabled, True
    logged = set(_logged)
    try:
        yield
    finally:
        _log.disabled = before
        _logged.clear()
        _logged.update(logged)


def check_complete(path: str | os.PathLike[str], what: str, promised: float, found: float) -> None:
    """Compare the promised with the actual contents of a file.

    Args:
        path: The file.
        what: Unit of both numbers: ``frames``, ``bytes``.
        promised: Number stated by the header, the list or the container.
        found: Number that the file holds.

    Raises:
        DataError: The file holds fewer than it promises.
    """
    if found < promised:
        raise DataError(f"{path}: ends early, it holds {found} of {promised} {what}; {GET_AGAIN}")


def check_size(path: str | os.PathLike[str], shape: Sequence[int], itemsize: int = 1) -> None:
    """Refuse a header that claims too many pixels; call it before memory is allocated.

    Args:
        path: The file.
        shape: (..., H, W) claimed by the header.
        itemsize: Bytes per pixel.

    Raises:
        DataError: A size is below 1, a frame exceeds ``MAX_PIXELS``, or all frames exceed ``MAX_BYTES``.
    """
    claim = " x ".join(str(size) for size in shape)
    if min(shape) < 1:
        raise DataError(f"{path}: claims a size of {claim} pixels; {GET_AGAIN}")
    if math.prod(shape[-2:]) > MAX_PIXELS:
        raise DataError(f"{path}: claims {claim} pixels; a frame may have at most {MAX_PIXELS}, make it smaller")
    if math.prod(shape) * itemsize > MAX_BYTES:
        raise DataError(
            f"{path}: claims {claim} pixels of {itemsize} bytes; at most {MAX_BYTES} bytes are decoded, shorten it"
        )


class ClippedReader(io.BufferedReader):
    """A file whose reads never allocate more than the rest of the file, whatever a damaged header claims."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(os.fspath(path)))  # pydicom puts the name into messages
        self._size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most ``size`` bytes."""
        left = max(self._size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


class FrameBuffer:
    """A buffer of decoded frames that refuses frames of different sizes and loops that are too long.

    Args:
        path: The file, for messages.
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
            DataError: The frame differs in size or type from the frames before, or the loop is too long.
        """
        if not self._count:
            self._shape, self._dtype = frame.shape, frame.dtype
        if frame.shape != self._shape or frame.dtype != self._dtype:
            raise DataError(
                f"{self._path}: has frames of {self._shape} {self._dtype} and {frame.shape} {frame.dtype}; "
                "one size is needed, one depth"
            )
        check_size(self._path, (self._count + 1, *frame.shape), frame.dtype.itemsize)
        self._data += frame.tobytes()
        self._count += 1

    def stack(self) -> NDArray[Any]:
        """Return all frames (T, H, W)."""
        return np.frombuffer(self._data, self._dtype).reshape(self._count, *self._shape)
