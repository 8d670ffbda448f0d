"""NIfTI files (.nii, .nii.gz, .hdr with .img): header and pixels."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from alan.data.io.base import GET_AGAIN, Spacing, check_complete, known_spacing
from alan.data.io.raw import (
    GZIP,
    RGB,
    InflatingStream,
    PixelLayout,
    Readable,
    check_end,
    frame_shape,
    read_exactly,
    warn_of_extra,
)
from alan.errors import DataError

#: Sizes of the headers of NIfTI-1 and NIfTI-2; the first four bytes contain the number.
_SIZES = (348, 540)
#: Maximum number of bytes before the pixels of a compressed file (extensions of the header).
_MOST_BEFORE = 2**24
#: Suffixes of the header of a pair of files, and of its pixels.
_HEADER, _PIXELS = ".hdr", (".img", ".IMG", ".img.gz")
_MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001}
_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}


def nifti_layout(path: Path) -> PixelLayout:
    """Read the header of a NIfTI file; the affine is ignored.

    Raises:
        DataError: The file is not NIfTI, or not a still or one sequence.
    """
    with _open(path) as file:
        return _layout(file, path)[0]


def nifti_files(path: Path) -> tuple[Path, ...]:
    """Return the files that may make up a NIfTI file: itself, and those that hold the pixels of ``.hdr``."""
    pair = path.suffix.lower() == _HEADER
    return (path, *(path.with_suffix(suffix) for suffix in _PIXELS if pair))


def _pixel_file(path: Path) -> Path:
    for found in nifti_files(path)[1:]:
        if found.is_file():
            return found
    name = path.with_suffix(_PIXELS[0]).name
    raise DataError(f"{path}: the file of its pixels, {name!r}, is missing; copy both files")


@contextlib.contextmanager
def nifti_pixels(path: Path) -> Iterator[tuple[PixelLayout, Readable, Path]]:
    """Open a NIfTI file at its pixels; at the end of the block, verify the check sum of a compressed file.

    Yields:
        The layout, a stream that begins at the first pixel, and the file that holds the pixels.

    Raises:
        DataError: As :func:`nifti_layout`, or the file ends early.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_open(path))
        layout, offset, read = _layout(file, path)
        if not read:  # a pair
            path = _pixel_file(path)
            file = stack.enter_context(_open(path))
        if isinstance(file, InflatingStream):
            if offset > _MOST_BEFORE:
                raise DataError(f"{path}: claims {offset} bytes before its pixels; {GET_AGAIN}")
            read_exactly(file, offset - read, path)
            yield layout, file, path
            _check_start(path, offset, read, check_end(file, path))
        else:
            there = path.stat().st_size
            check_complete(path, "bytes", offset + layout.n_bytes, there)
            _check_start(path, offset, read, there - offset - layout.n_bytes)
            warn_of_extra(path, there - offset - layout.n_bytes)
            file.seek(offset)
            yield layout, file, path


@contextlib.contextmanager
def _open(path: Path) -> Iterator[IO[bytes] | InflatingStream]:
    """Open a file; its first bytes, not its suffix, determine whether it is compressed."""
    with path.open("rb") as file:
        compressed = file.read(len(GZIP)) == GZIP
        file.seek(0)
        yield InflatingStream(file) if compressed else file


def _layout(file: Readable, path: Path) -> tuple[PixelLayout, int, int]:
    """Return the layout of the pixels, the number of bytes before them in their file, and how many were read."""
    from nibabel import Nifti1Header, Nifti2Header  # takes half a second, so other formats do not import it

    first = bytes(read_exactly(file, 4, path))
    sizes = {int.from_bytes(first, order) for order in ("little", "big")} & set(_SIZES)
    if not sizes:
        raise DataError(f"{path}: is not a NIfTI file; check the program that wrote it")
    n_bytes = sizes.pop()
    block = first + bytes(read_exactly(file, n_bytes - 4, path))
    header: Any = (Nifti1Header if n_bytes == 348 else Nifti2Header)(binaryblock=block, check=False)  # type: ignore[no-untyped-call]
    magic = bytes(header["magic"])
    if not magic.startswith((b"n+", b"ni")):
        raise DataError(f"{path}: is in the format Analyze 7.5 or damaged; save it as NIfTI (.nii)")
    pair = path.suffix.lower() == _HEADER and magic.startswith((b"ni1", b"ni2"))
    if not pair and not magic.startswith(b"n+"):
        raise DataError(
            f"{path}: keeps its pixels in a second file; name the pair .hdr and .img, or save it as one .nii"
        )
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" and dtype != RGB:
        raise DataError(f"{path}: holds {dtype} values; save it as grey values of one channel")
    count = int(header["dim"][0])
    if not 1 <= count <= 7:
        raise DataError(f"{path}: claims {count} dimensions; check the program that wrote it")
    slope, intercept = header.get_slope_inter()
    plain = slope is None or (slope, intercept) == (1, 0) or dtype == RGB
    sizes_xyt = [int(size) for size in header["dim"][1 : count + 1]]
    shape = frame_shape(sizes_xyt, path, dtype.itemsize if plain else 8)
    if max(sizes_xyt[4:], default=1) > 1 and (intent := int(header["intent_code"])):
        raise DataError(
            f"{path}: holds vectors (intent code {intent}), not frames; save it as grey values of one channel"
        )
    spacing, notes = _spacing(header)
    layout = PixelLayout(
        shape,
        dtype,
        spacing,
        None if plain else (float(slope), float(intercept)),
        _seconds(header, sizes_xyt),
        _grey_range(header),
        notes,
        _slice_mm(header, sizes_xyt),
    )
    if pair:
        return layout, max(_offset(header), 0), 0
    return layout, max(_offset(header), n_bytes), n_bytes


def _check_start(path: Path, offset: int, header: int, extra: int) -> None:
    """Refuse pixels that may begin after the header or after the four bytes that usually follow it."""
    if offset == header > 0 and extra:
        raise DataError(
            f"{path}: does not state the offset of its pixels, and holds {extra} bytes beyond its header; "
            f"{GET_AGAIN}"
        )


def _offset(header: Any) -> int:
    offset = float(header["vox_offset"])
    return int(offset) if math.isfinite(offset) else 0


def _spacing(header: Any) -> tuple[Spacing | None, tuple[str, ...]]:
    """Return (row, column) in mm; many programs write sizes of 1 without a unit if the size is unknown."""
    column, row = (float(size) for size in header["pixdim"][1:3])
    unit = header.get_xyzt_units()[0]
    if unit not in _MM and row == column == 1:
        return None, ()
    spacing = known_spacing(row * _MM.get(unit, 1), column * _MM.get(unit, 1))
    return spacing, () if unit in _MM or not spacing else ("pixel size without a unit, assumed to be in mm",)


def _slice_mm(header: Any, sizes: list[int]) -> float | None:
    """Return the distance of the slices of a volume (x, y, z), in mm."""
    step, unit = float(header["pixdim"][3]), header.get_xyzt_units()[0]
    known = len(sizes) > 2 and sizes[2] > 1 and math.isfinite(step) and step > 0
    return step * _MM.get(unit, 1.0) if known else None


def _seconds(header: Any, sizes: list[int]) -> float | None:
    """Return the time step of a sequence (x, y, 1, t); for (x, y, t) programs store a slice thickness."""
    step, unit = float(header["pixdim"][4]), header.get_xyzt_units()[1]
    in_order = len(sizes) > 3 and math.prod(sizes[2:]) == sizes[3]
    known = in_order and unit in _SECONDS and math.isfinite(step) and step > 0
    return step * _SECONDS[unit] if known else None


def _grey_range(header: Any) -> tuple[float, float] | None:
    """Return the range of grey values to display; many programs write 0 and 0."""
    low, high = float(header["cal_min"]), float(header["cal_max"])
    return (low, high) if math.isfinite(low) and math.isfinite(high) and low < high else None
