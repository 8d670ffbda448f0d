"""The file that :func:`alan.data.prepare` fills while it decodes: an append-only log that survives kills.

HDF5 has no journal: a file whose writer is killed may be lost entirely. Decoded samples are therefore first
appended to this log, one record per sample in the order of the archive, and copied into the frame store at the
end. A record is a line, which begins with its checksum, and the pixels, whose checksum is in the line. A truncated
record at the end is dropped; everything before it is kept.
"""

from __future__ import annotations

import errno
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alan.arrays import ByteArray
from alan.errors import DataError

_SCHEMA = "alan-part/3"
_END = b"\n"


@dataclass(frozen=True)
class Entry:
    """Result of decoding one sample of the archive.

    Attributes:
        sequence: Fields of a stored sequence that do not depend on its place, with ``ed`` and ``es`` counted from
            its first frame; None if the sample was skipped.
        labels: (M,) annotated frames, counted from the first frame.
        failures: (file, reason, kind) of everything that could not be used; the last one is the reason why a
            sample was skipped.
    """

    sequence: Mapping[str, Any] | None
    labels: tuple[int, ...] = ()
    failures: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Arrays:
    """The pixels of one entry.

    Attributes:
        frames: (T, S, S) uint8.
        maps: (M, S, S) uint8, label maps.
        originals: Label maps at the resolution of the archive, (M, H, W) uint8, or (0, 0, 0) if that is S.
    """

    frames: ByteArray
    maps: ByteArray
    originals: ByteArray


@dataclass(frozen=True)
class _Place:
    """Place of the pixels of a record: first byte, shapes of the arrays, checksum."""

    start: int
    shapes: list[list[int]]
    crc: int

    @property
    def length(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)


class PartFile:
    """The log, opened to be continued.

    Args:
        path: The file; it is created if it is missing.
        key: Identity of the archive and settings; JSON-able.

    Attributes:
        entries: Decoded samples, in the order of the archive.

    Raises:
        DataError: The file belongs to another archive, or to another preprocessing of it.
    """

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self._places: list[_Place] = []
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._end = self._scan(dict(key))
            os.ftruncate(self._fd, self._end)
            if self._end == 0:
                self._write(json.dumps({"schema": _SCHEMA, "key": dict(key)}).encode() + _END)
        except BaseException:
            self.close()
            raise

    def append(self, entry: Entry, arrays: Arrays | None) -> None:
        """Add a sample completely or not at all.

        Raises:
            DataError: No space is left; the samples before this one are kept.
        """
        parts = [] if arrays is None else [arrays.frames, arrays.maps, arrays.originals]
        shapes = [list(part.shape) for part in parts]
        pixels = b"".join(part.tobytes() for part in parts)
        crc = zlib.crc32(pixels)
        text = json.dumps({**asdict(entry), "shapes": shapes, "crc": crc}).encode()
        head = b"%08x %s%s" % (zlib.crc32(text), text, _END)
        place = self._end + len(head)
        self._write(b"".join([head, pixels, _END]))
        self.entries.append(entry)
        self._places.append(_Place(place, shapes, crc))

    def __iter__(self) -> Iterator[tuple[Entry, Arrays]]:
        """Yield the samples that were not skipped, with their pixels."""
        for entry, place in zip(self.entries, self._places, strict=True):
            if entry.sequence is not None:
                yield entry, Arrays(*self._load(place))

    def total(self, part: int) -> int:
        """Return the number of frames (``part`` 0) or label maps (``part`` 1) in the file."""
        return sum(place.shapes[part][0] for place in self._places if place.shapes)

    def close(self) -> None:
        """Close the file; it may be closed twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Close and delete the file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _scan(self, key: dict[str, Any]) -> int:
        """Read the headers of all complete records; return the position at which the last one ends."""
        end = 0
        with open(self._fd, "rb", closefd=False) as handle:
            size = os.fstat(self._fd).st_size
            line = handle.readline()
            if not line.endswith(_END):
                return 0
            head = _parse(line)
            if head is None or head.get("schema") != _SCHEMA or not isinstance(head.get("key"), dict):
                raise DataError(
                    f"{self.path}: not a file of this version of `alan prepare`; move it away and run again"
                )
            if head["key"] != json.loads(json.dumps(key)):
                raise DataError(
                    f"{self.path}: was begun for {describe_key(head['key'])}, not for {describe_key(key)}; "
                    "finish the first, delete the file, or write to another path"
                )
            end = handle.tell()
            while line := handle.readline():
                record = _record(line)
                if record is None:
                    break
                entry, shapes, crc = record
                place = _Place(end + len(line), shapes, crc)
                stop = place.start + place.length
                if stop + len(_END) > size:
                    break
                handle.seek(stop)
                if handle.read(len(_END)) != _END:
                    break
                end = stop + len(_END)
                self.entries.append(entry)
                self._places.append(place)
        return end

    def _load(self, place: _Place) -> list[ByteArray]:
        data = os.pread(self._fd, place.length, place.start)
        if zlib.crc32(data) != place.crc:
            raise DataError(
                f"{self.path}: byte {place.start} or one after it is damaged; delete the file and run again"
            )
        arrays, first = [], 0
        for shape in place.shapes:
            arrays.append(np.frombuffer(data, np.uint8, math.prod(shape), first).reshape(shape))
            first += math.prod(shape)
        return arrays

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._fd, view, self._end + len(data) - len(view))
                view = view[written:]
        except OSError as error:
            os.ftruncate(self._fd, self._end)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise DataError(
                f"{self.path}: no space left: {len(data) / 1e6:.1f} MB more are needed for sample "
                f"{len(self.entries) + 1}, then as much again as this file holds; make room and run again, "
                f"the {len(self.entries)} samples before it are kept"
            ) from error
        self._end += len(data)


def describe_key(key: Mapping[str, Any]) -> str:
    """Describe a key in a few words, for error messages."""
    settings = ", ".join(f"{name}={value}" for name, value in key.get("preprocessing", {}).items())
    sector = ", sector" if key.get("sector") else ""
    return f"{key.get('dataset')} {str(key.get('data'))[:12]} ({settings}, {key.get('frames')} frames{sector})"


def _record(line: bytes) -> tuple[Entry, list[list[int]], int] | None:
    """Parse the entry, the shapes of its arrays and their checksum; None if the line is damaged."""
    crc, _, text = line.removesuffix(_END).partition(b" ")
    head = _parse(text + _END) if crc == b"%08x" % zlib.crc32(text) else None
    if head is None:
        return None
    failures = tuple((str(file), str(reason), str(kind)) for file, reason, kind in head["failures"])
    return Entry(head["sequence"], tuple(head["labels"]), failures), head["shapes"], head["crc"]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        head = json.loads(line) if line.endswith(_END) else None
    except ValueError:
        return None
    return head if isinstance(head, dict) else None
