"""Frames of a file, decoded one by one: the interface of all formats, and a function that reads all frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from alan.arrays import ByteArray
from alan.data.io.base import Cine, FrameBuffer, Header, log_notes, reading
from alan.data.io.grey import GreyRange

#: Conversion of a decoded frame to 0..255; None leaves uint8 frames as they are.
GreyMapping = Callable[[NDArray[Any]], ByteArray] | None


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
