"""Frames of one sequence of a frame store, with the interface of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from alan.data.io.base import Header, times_at
from alan.data.io.frames import DecodedFrame, GreyMapping
from alan.data.io.grey import GreyRange
from alan.data.store.reader import FrameStore

#: Number of frames that are read at once.
_CHUNK = 32


class StoredFrames:
    """The frames of a stored sequence.

    Args:
        path: The frame store.
        index: Position of the sequence in it.

    Raises:
        DataError: The store is missing or damaged.
    """

    kind = "frame store"

    def __init__(self, path: Path, index: int) -> None:
        self.path, self._store = path, FrameStore(path)
        self._sequence = self._store.sequences[index]

    def __iter__(self) -> Iterator[DecodedFrame]:
        """Read the frames in order."""
        start, length = self._sequence.start, self._sequence.length
        for first in range(start, start + length, _CHUNK):
            places = np.arange(first, min(first + _CHUNK, start + length))
            yield from map(DecodedFrame, self._store.frames(places))

    def header(self, count: int, found: GreyRange) -> tuple[Header, GreyMapping]:
        """Return the pixel size of the stored frames, and times where the archive has a frame rate."""
        sequence, spacing = self._sequence, None
        if sequence.spacing is not None:
            spacing = self._store.preprocessing.resized_spacing(sequence.original_shape, sequence.spacing)
        rate = sequence.attributes.get("fps")
        fps = float(rate) if isinstance(rate, (int, float)) and rate > 0 else None
        return Header(fps, spacing, times_at(fps, count)), None
