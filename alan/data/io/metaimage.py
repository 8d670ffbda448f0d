"""MetaImage files (.mhd with a file of pixels, .mha): header and pixels."""

from __future__ import annotations

import contextlib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO

import numpy as np

from alan.data.io.base import GET_AGAIN, Spacing, check_complete, known_spacing
from alan.data.io.raw import RGB, InflatingStream, PixelLayout, Readable, check_end, frame_shape, warn_of_extra
from alan.errors import DataError

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
#: Names of fields, which some programs write in lower case.
_NAMES = (
    *("NDims", "DimSize", "ElementType", "ElementDataFile", "ElementNumberOfChannels", "ElementSpacing"),
    *("ElementSize", "ElementByteOrderMSB", "BinaryData", "BinaryDataByteOrderMSB", "CompressedData"),
    "HeaderSize",
)
_SPELLING = {name.lower(): name for name in _NAMES}
#: Maximum size of a header in bytes.
_HEADER = 2**16


@dataclass(frozen=True)
class _Header:
    """Layout of the pixels and where they are.

    Attributes:
        layout: Layout of the pixels.
        data: The file that holds the pixels; the header's own file for ``LOCAL``.
        offset: Bytes before the pixels, or None if the pixels fill the end of the file.
        compressed: Whether the pixels are a zlib stream.
    """

    layout: PixelLayout
    data: Path
    offset: int | None
    compressed: bool


def metaimage_layout(path: Path) -> PixelLayout:
    """Read the header of a MetaImage file; the orientation is ignored.

    Raises:
        DataError: The file is not a MetaImage, not a still or one sequence, or its pixels are outside its folder.
    """
    return _header(path).layout


def metaimage_files(path: Path) -> tuple[Path, ...]:
    """Return the files that make up a MetaImage file: itself, and the file of its pixels if that is another one.

    Raises:
        DataError: As :func:`metaimage_layout`.
    """
    return tuple(dict.fromkeys((path, _header(path).data)))


@contextlib.contextmanager
def metaimage_pixels(path: Path) -> Iterator[tuple[PixelLayout, Readable, Path]]:
    """Open a MetaImage file at its pixels; at the end of the block, verify the check sum of compressed pixels.

    Yields:
        The layout, a stream that begins at the first pixel, and the file that holds the pixels.

    Raises:
        DataError: As :func:`metaimage_layout`, or the file of pixels is missing or ends early.
    """
    header = _header(path)
    if not header.data.is_file():
        raise DataError(f"{path}: the file of its pixels, {header.data.name!r}, is missing; copy both files")
    layout, there = header.layout, header.data.stat().st_size
    offset = there - layout.n_bytes if header.offset is None else header.offset
    with header.data.open("rb") as file:
        if header.compressed:
            file.seek(offset)
            inflated = InflatingStream(file)
            yield layout, inflated, header.data
            check_end(inflated, header.data)
        else:
            check_complete(header.data, "bytes", max(offset, 0) + layout.n_bytes, there)
            file.seek(offset)
            yield layout, file, header.data
            warn_of_extra(header.data, there - offset - layout.n_bytes)


def _header(path: Path) -> _Header:
    with path.open("rb") as file:
        fields = _fields(file, path)
        end = file.tell()
    missing = [name for name in ("NDims", "DimSize", "ElementType", "ElementDataFile") if name not in fields]
    if missing:
        raise DataError(f"{path}: its header has no {missing[0]}; {GET_AGAIN}")
    channels, kind = fields.get("ElementNumberOfChannels", "1"), fields["ElementType"]
    if (channels, kind) != ("3", "MET_UCHAR") and (channels != "1" or kind not in _TYPES):
        raise DataError(
            f"{path}: holds {channels} channels of {kind}; save it as RGB of three MET_UCHAR or as grey values of "
            f"one channel ({', '.join(_TYPES)})"
        )
    if not _yes(fields, "BinaryData", default=True):
        raise DataError(f"{path}: holds its pixels as text; save it with BinaryData = True")
    big = _yes(fields, "BinaryDataByteOrderMSB") or _yes(fields, "ElementByteOrderMSB")
    dtype = RGB if channels == "3" else np.dtype(_TYPES[kind]).newbyteorder(">" if big else "<")
    sizes = [int(word) for word in fields["DimSize"].split()]
    if len(sizes) != int(fields["NDims"]):
        raise DataError(f"{path}: NDims is {fields['NDims']} but DimSize has {len(sizes)} numbers; {GET_AGAIN}")
    layout = PixelLayout(frame_shape(sizes, path, dtype.itemsize), dtype, _spacing(fields))
    name, before = fields["ElementDataFile"].strip('"').replace("\\", "/"), int(fields.get("HeaderSize", "0"))
    compressed = _yes(fields, "CompressedData")
    if name.upper() == "LOCAL":
        return _Header(layout, path, end, compressed)
    if name.upper().startswith("LIST") or "%" in name:
        raise DataError(f"{path}: holds its pixels in several files ({name!r}); save them as one")
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise DataError(f"{path}: ElementDataFile is {name!r}: give a file in the same folder")
    return _Header(
        layout, path.parent / name, None if before < 0 and not compressed else max(before, 0), compressed
    )


def _fields(file: IO[bytes], path: Path) -> dict[str, str]:
    """Parse the lines ``name = value`` up to ElementDataFile, which is the last one."""
    start = file.read(2)
    file.seek(0)
    if start in (BOM_UTF16_LE, BOM_UTF16_BE) or (0 in start and start.strip(b"\0").isalpha()):
        raise DataError(f"{path}: its header is in UTF-16; save it as UTF-8")
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields and file.tell() < _HEADER:
        line = file.readline(_HEADER)
        try:
            text = line.removeprefix(BOM_UTF8).decode("utf-8")
        except UnicodeDecodeError:
            text = line.decode("latin-1")
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            if name.startswith("#"):
                continue
            break
        name = _SPELLING.get(name.lower(), name)
        if fields.setdefault(name, value) != value:
            raise DataError(
                f"{path}: its header states {name} as {fields[name]!r} and as {value!r}; keep one line"
            )
    if not fields:
        raise DataError(f"{path}: is not a MetaImage file; check the program that wrote it")
    return fields


def _yes(fields: dict[str, str], name: str, *, default: bool = False) -> bool:
    return fields[name].lower() in ("true", "1") if name in fields else default


def _spacing(fields: dict[str, str]) -> Spacing | None:
    """Return (row, column) in mm, or None if the header states no size."""
    words = fields.get("ElementSpacing", fields.get("ElementSize", "")).split()
    if len(words) < 2:
        return None
    return known_spacing(*(float(word.replace(",", ".")) for word in (words[1], words[0])))
