"""Frames of a file, decoded one by one: the interface of all formats, all frames at once, and a stream of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from alan.arrays import ByteArray
from alan.data.io.base import Cine, FrameBuffer, Header, check_complete, check_size, log_notes, reading
from alan.data.io.grey import GreyRange
from alan.errors import DataError

#: Largest number of sample frames of a loop; they are evenly spaced, from the first frame on.
_MAX_SAMPLES = 24
#: Conversion of a decoded frame to 0..255; None leaves uint8 frames as they are.
GreyMapping = Callable[[NDArray[Any]], ByteArray] | None
#: Longest side in pixels of sample frames; larger frames are thinned.
LARGEST = 1300
#: Largest number of bytes of a loop whose decoded frames are kept, so that it is decoded once.
_KEPT_BYTES = 2**27


class DecodedFrame(NamedTuple):
    """A decoded frame.

    Attributes:
        grey: (H, W), in the depth of the file.
        colours: Function that returns (H, W, 3) uint8, or None for a frame without colour.
    """

    grey: NDArray[Any]
    colours: Callable[[], ByteArray] | None = None


class FrameSource(Protocol):
    """A file that can be decoded again and again; each format has its own.

    Attributes:
        path: The file.
        kind: Kind of the file for messages, such as ``video``.
    """

    path: Path
    kind: str

    def __iter__(self) -> Iterator[DecodedFrame]:
        """Decode the frames one by one; DataError if there are fewer than the file promises."""

    def header(self, count: int, found: GreyRange) -> tuple[Header, GreyMapping]:
        """Describe the loop after its last frame.

        Args:
            count: Number of frames that were decoded.
            found: Range of their grey values.
        """


def read_all(source: FrameSource) -> Cine:
    """Decode all frames of a file into memory.

    Raises:
        DataError: The file is missing or damaged, its frames differ in size or are too many.
    """
    with reading(source.path, source.kind):
        buffer, found = FrameBuffer(source.path), GreyRange()
        for frame in source:
            buffer.append(frame.grey)
            found.add(frame.grey)
        header, mapping = source.header(len(buffer), found)
        frames = buffer.stack()
        if mapping is not None:
            values, frames = frames, np.empty(frames.shape, np.uint8)
            for index, frame in enumerate(values):
                frames[index] = mapping(frame)
        cine = Cine(frames=frames, **vars(header))
    log_notes(source.path, cine.notes)
    return cine


class Samples(NamedTuple):
    """Frames spread over a loop, and the range of its pixels.

    Attributes:
        places: (S,) positions in the loop, ascending.
        grey: (S, h, w) uint8, every ``step``-th row and column of the frames.
        colours: (S, h, w, 3) uint8, or None for a loop without colour.
        span: (h, w) uint8, the difference of the largest and the smallest value of each pixel over all frames.
        step: Distance in pixels of the rows and columns that are kept, 1 for frames of up to 1300 pixels.
    """

    places: NDArray[np.int64]
    grey: ByteArray
    colours: ByteArray | None
    span: ByteArray
    step: int = 1


def thinning(shape: tuple[int, ...]) -> int:
    """Return the distance in pixels of the rows and columns that are kept of frames (H, W) that are searched."""
    return -(-max(shape) // LARGEST)


@dataclass(frozen=True)
class CineStream:
    """A loop whose frames can be asked for again and again.

    The frames of a loop of up to 128 MiB stay in memory; those of a larger one are decoded again each time, one
    frame in memory at a time.

    Attributes:
        path: The file, or the first one of a series of stills.
        n_frames: Number of frames T; all of them have been decoded once.
        shape: (H, W) of a frame.
        header: What the file states beside its frames.
        samples: Some of the frames.
    """

    path: Path
    n_frames: int
    shape: tuple[int, int]
    header: Header
    samples: Samples
    _source: FrameSource
    _mapping: GreyMapping
    _kept: Sequence[NDArray[Any]] | None = field(repr=False)

    def __iter__(self) -> Iterator[ByteArray]:
        """Yield the frames (H, W) uint8.

        Raises:
            DataError: The file has changed or can no longer be decoded.
        """
        count = 0
        for grey in (frame.grey for frame in _decode(self._source)) if self._kept is None else self._kept:
            count += 1
            yield grey if self._mapping is None else self._mapping(grey)
        check_complete(self.path, "frames", self.n_frames, count)


def open_stream(source: FrameSource) -> CineStream:
    """Open a loop of any format that :func:`alan.data.read_cine` reads, in memory that does not grow with it.

    All frames are decoded once, so that a damaged loop, or one that is shorter than it states, is refused before
    any of its frames is used.

    Args:
        source: The frames of a file, or of the stills of one loop, see :func:`alan.data.io.cine.frame_source`.

    Returns:
        The loop.

    Raises:
        ConfigError: It is a DICOM file, and pydicom is not installed.
        DataError: A file is missing or damaged, holds fewer frames than it states, or frames of different sizes.
    """
    found, shapes, count, step = GreyRange(), set[tuple[tuple[int, ...], Any]](), 0, 1
    low = high = np.zeros(0)
    thin = (slice(None), slice(None))
    kept: list[tuple[int, NDArray[Any], ByteArray | None]] = []
    whole: list[NDArray[Any]] = []
    for frame in _decode(source):
        grey = frame.grey
        shapes.add((grey.shape, grey.dtype))
        if len(shapes) > 1:
            sizes = sorted(f"{shape[1]} x {shape[0]} {dtype}" for shape, dtype in shapes)
            raise DataError(f"{source.path}: has frames of {' and '.join(sizes)}; one size is needed, one depth")
        if not count:
            check_size(source.path, (1, *grey.shape), grey.dtype.itemsize)
            thin = (slice(None, None, thinning(grey.shape)),) * 2
            low, high = grey[thin].copy(), grey[thin].copy()
        np.minimum(low, grey[thin], out=low)
        np.maximum(high, grey[thin], out=high)
        found.add(grey)
        if len(whole) == count:
            whole.append(grey)
            if len(whole) * grey.nbytes > _KEPT_BYTES:
                whole.clear()
        if count % step == 0:
            kept.append(
                (count, grey[thin].copy(), None if frame.colours is None else frame.colours()[thin].copy())
            )
            if len(kept) > _MAX_SAMPLES:
                kept, step = kept[::2], 2 * step
        count += 1
    with reading(source.path, source.kind):
        check_complete(source.path, "frames", 1, count)
        header, mapping = source.header(count, found)
    places = np.array([place for place, _, _ in kept])
    grey = np.stack([grey if mapping is None else mapping(grey) for _, grey, _ in kept])
    coloured = [colour for _, _, colour in kept if colour is not None]
    ends = [end if mapping is None else mapping(end) for end in (low, high)]
    span = np.maximum(ends[0], ends[1]) - np.minimum(ends[0], ends[1])  # inverted grey values swap the ends
    ((height, width), _), *_ = shapes
    some = np.stack(coloured) if len(coloured) == len(kept) else None
    samples = Samples(places, grey, some, span, thinning((height, width)))
    every = whole if len(whole) == count else None
    return CineStream(source.path, count, (height, width), header, samples, source, mapping, every)


def _decode(source: FrameSource) -> Iterator[DecodedFrame]:
    """Decode frames with the errors and warnings of :func:`alan.data.io.base.reading`, frame by frame."""
    frames = iter(source)
    while True:
        with reading(source.path, source.kind):
            frame = next(frames, None)
        if frame is None:
            return
        yield frame
