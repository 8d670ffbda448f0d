"""Pages of TIFF files: thumbnails among them, and times and sizes in the description (ImageJ, OME-TIFF)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import TiffImageFile

from alan.data.io.base import Spacing, check_complete, known_spacing, times_at
from alan.errors import DataError

_KIND, _DESCRIPTION, _ACROSS, _DOWN = 254, 270, 282, 283
#: Bit of the tag NewSubfileType for a smaller copy of another page.
_SMALLER = 1
_IMAGEJ = "ImageJ="
_MICRO = ("um", "\N{MICRO SIGN}m", "\N{GREEK SMALL LETTER MU}m")
_MM = {"nm": 1e-6, "mm": 1.0, "cm": 10.0, "m": 1000.0, "inch": 25.4}
_MM |= dict.fromkeys((*_MICRO, "micron", "\\u00b5m"), 0.001)
_SECONDS = {"s": 1.0, "ms": 1e-3, "\N{MICRO SIGN}s": 1e-6, "\N{GREEK SMALL LETTER MU}s": 1e-6, "min": 60.0}


@dataclass(frozen=True)
class StackInfo:
    """What the description of a stack states.

    Attributes:
        times: (T,) seconds, increasing, or None.
        spacing: (row, column) size of a pixel in mm, or None.
        volume: Whether the pages are slices of a volume.
    """

    times: NDArray[np.float64] | None = None
    spacing: Spacing | None = None
    volume: bool = False


def full_pages(image: TiffImageFile) -> list[int]:
    """List the pages of a file without thumbnails: pages that are marked as smaller copies, and are smaller."""
    marked, pixels = [], []
    for index in range(image.n_frames):
        image.seek(index)
        marked.append(bool(image.tag_v2.get(_KIND, 0) & _SMALLER))
        pixels.append(image.width * image.height)
    largest = max((size for mark, size in zip(marked, pixels, strict=True) if not mark), default=0)
    return [index for index, mark in enumerate(marked) if not (mark and pixels[index] < largest)]


def read_stack(tags: Mapping[int, Any], n_pages: int, path: str | os.PathLike[str]) -> StackInfo:
    """Read the description of a stack that ImageJ, tifffile or a program for OME-TIFF wrote.

    Args:
        tags: Tags of the first page.
        n_pages: Number of pages T.
        path: The file, for messages.

    Raises:
        DataError: The description states more pages, or pages that are not the frames of one loop.
    """
    text = str(tags.get(_DESCRIPTION) or "").strip("\0 \n")
    if text.startswith(_IMAGEJ):
        return _read_imagej(text, tags, n_pages, path)
    if text.startswith('{"shape"'):
        _check_shape(text, n_pages, path)
    if text.startswith("<") and text.endswith("OME>"):
        return _read_ome(text, n_pages, path)
    return StackInfo()


def _read_imagej(text: str, tags: Mapping[int, Any], n_pages: int, path: str | os.PathLike[str]) -> StackInfo:
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    check_complete(path, "pages", int(_number(fields.get("images")) or 1), n_pages)
    _check_channels(_number(fields.get("channels")) or 1, path)
    interval, rate = (_number(fields.get(name)) for name in ("finterval", "fps"))
    seconds = interval or (1 / rate if rate else None)
    unit = _MM.get(fields.get("unit", "").strip().lower())
    down, across = (_number(tags.get(tag)) for tag in (_DOWN, _ACROSS))  # pixels per unit
    spacing = known_spacing(unit / down, unit / across) if unit and down and across else None
    return StackInfo(times_at(1 / seconds if seconds else None, n_pages), spacing)


def _check_shape(text: str, n_pages: int, path: str | os.PathLike[str]) -> None:
    """Compare the shape that tifffile writes with the pages; it may store several frames in one page."""
    try:
        shape = [int(size) for size in json.loads(text)["shape"]]
    except (ValueError, TypeError, KeyError):
        return
    planes = shape[:-1] if len(shape) > 3 and shape[-1] in (3, 4) else shape
    check_complete(path, "pages", math.prod(planes[:-2]), n_pages)


def _read_ome(text: str, n_pages: int, path: str | os.PathLike[str]) -> StackInfo:
    """Read OME-XML (schema 2016-06); an image may be spread over several files, of which a still is read."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError(f"{path}: its OME-XML has a document type, which is not read; save it again")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: its OME-XML is damaged ({error}); save it again") from error
    images = root.findall("{*}Image/{*}Pixels")
    files = {uuid.get("FileName") for uuid in root.findall("{*}Image/{*}Pixels/{*}TiffData/{*}UUID")}
    several = root.find("{*}BinaryOnly") is not None or len(files) > 1
    if several and n_pages > 1:
        raise DataError(f"{path}: is one of several files of an OME-TIFF; save it as one file")
    if len(images) != 1:
        if several:
            return StackInfo()
        raise DataError(f"{path}: holds {len(images)} images of OME-TIFF; save each as a file of its own")
    pixels = images[0]
    row, column = (_length(pixels, f"PhysicalSize{axis}") for axis in "YX")
    spacing = known_spacing(row, column) if row and column else None
    if several:
        return StackInfo(spacing=spacing)
    slices, frames, channels = (int(_number(pixels.get(f"Size{axis}")) or 1) for axis in "ZTC")
    samples = [_number(channel.get("SamplesPerPixel")) or 1 for channel in pixels.findall("{*}Channel")]
    _check_channels(channels / max(samples, default=1), path)
    check_complete(path, "pages", slices * frames, n_pages)
    if slices > 1 and frames > 1:
        raise DataError(
            f"{path}: holds {frames} volumes of {slices} slices; a still or one sequence is needed, save one slice"
        )
    if n_pages > slices * frames:
        raise DataError(
            f"{path}: holds {n_pages} pages, of which its OME-XML states {slices * frames}; save it again"
        )
    for data in pixels.findall("{*}TiffData"):
        page, place = (data.get(name, "0") for name in ("IFD", "FirstT" if frames > 1 else "FirstZ"))
        if page != place:
            raise DataError(f"{path}: its pages are not in the order of time; save it again")
    return StackInfo(_plane_times(pixels, frames), spacing, slices > 1)


def _plane_times(pixels: ElementTree.Element, count: int) -> NDArray[np.float64] | None:
    """Return the times of the planes, else those of a constant increment."""
    moments: NDArray[np.float64] = np.full(count, math.nan)
    for plane in pixels.findall("{*}Plane"):
        place, moment = plane.get("TheT", ""), _float(plane.get("DeltaT"))
        if place.isdecimal() and int(place) < count and moment is not None:
            moments[int(place)] = moment * _SECONDS.get(plane.get("DeltaTUnit", "s"), math.nan)
    if (np.diff(moments) > 0).all() and count > 1:  # false for NaN too
        moments -= moments[0]
        return moments
    step = _number(pixels.get("TimeIncrement"))
    unit = _SECONDS.get(pixels.get("TimeIncrementUnit", "s"))
    return times_at(1 / (step * unit) if step and unit else None, count)


def _length(pixels: ElementTree.Element, name: str) -> float | None:
    """Return a length in mm, which is in micrometres where no unit is stated."""
    size, unit = _number(pixels.get(name)), _MM.get(pixels.get(f"{name}Unit", "um"))
    return size * unit if size and unit else None


def _check_channels(channels: float, path: str | os.PathLike[str]) -> None:
    if channels > 1:
        raise DataError(f"{path}: holds {channels:g} channels in separate pages; save it as grey or RGB pages")


def _float(value: Any) -> float | None:
    """Return a finite number, or None."""
    try:
        found = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return found if math.isfinite(found) else None


def _number(value: Any) -> float | None:
    """Return a positive number, or None."""
    found = _float(value)
    return found if found is not None and found > 0 else None
