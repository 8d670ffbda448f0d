"""NIfTI and MetaImage files of stills and sequences: grey values and label maps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alan.arrays import ByteArray
from alan.data.io.base import Cine, Header, Spacing, known_rate, reading, times_at
from alan.data.io.frames import DecodedFrame, GreyMapping, read_all
from alan.data.io.grey import GreyRange, grey_mapping, luma
from alan.data.io.metaimage import metaimage_files, metaimage_layout, metaimage_pixels
from alan.data.io.nifti import nifti_files, nifti_layout, nifti_pixels
from alan.data.io.raw import RGB, PixelLayout, Readable, read_exactly
from alan.errors import DataError

#: Suffixes of NIfTI and MetaImage files.
MEDICAL = (".nii.gz", ".nii", ".hdr", ".mhd", ".mha")
_METAIMAGE = (".mhd", ".mha")
#: Tolerance of labels that were stored with a slope, which are not exactly whole numbers.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class MedicalImage:
    """A decoded still, sequence or volume.

    Attributes:
        array: (T, H, W) values after the slope of the file, T is 1 for a still. Rows run with depth, columns with
            width.
        spacing: (row, column) size of a pixel in mm, or None where the file does not state it.
    """

    array: NDArray[Any]
    spacing: Spacing | None


def medical_layout(path: str | os.PathLike[str]) -> PixelLayout:
    """Read the header of a NIfTI or MetaImage file: shape (T, H, W), type of values, pixel size, slice distance.

    Raises:
        DataError: The file is missing, or has another format.
    """
    with reading(path, "image") as source:
        return metaimage_layout(source) if _is_metaimage(source) else nifti_layout(source)


def medical_files(path: Path) -> tuple[Path, ...]:
    """List the files that make up a NIfTI or MetaImage file, itself first, as far as they exist."""
    try:
        files = (metaimage_files if _is_metaimage(path) else nifti_files)(path)
    except (DataError, OSError, ValueError):  # reading the file reports it
        files = (path,)
    return tuple(file for file in files if file.is_file())


def read_medical(path: str | os.PathLike[str]) -> MedicalImage:
    """Read a NIfTI or MetaImage file of one still or one sequence.

    The files of ultrasound archives store width first, then depth, then time; other sizes must be 1.
    Affine and orientation are not applied. ``.nii`` and ``.nii.gz`` are distinguished by their first bytes.

    Raises:
        DataError: The file is missing or damaged, or not a still or one sequence of one channel.
    """
    layout, array = _read(path)
    return MedicalImage(array, layout.spacing)


def read_grey(path: str | os.PathLike[str]) -> Cine:
    """Read the frames of a NIfTI or MetaImage file as grey values (:func:`alan.data.io.grey.grey_mapping`).

    Raises:
        DataError: As :func:`read_medical`, or a value is not finite.
    """
    return read_all(RawFrames(Path(path)))


class RawFrames:
    """The frames of a NIfTI or MetaImage file.

    Args:
        path: The file.
    """

    kind = "image"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._layout: PixelLayout | None = None

    def __iter__(self) -> Iterator[DecodedFrame]:
        """Read the frames one by one."""
        with _pixels(self.path) as (layout, file, data):
            self._layout = layout
            one = replace(layout, shape=(1, *layout.shape[1:]))
            for _ in range(layout.shape[0]):
                frame = one.pixels(read_exactly(file, one.n_bytes, data))[0]
                if frame.dtype == RGB:
                    colours = frame.view(np.uint8).reshape(*frame.shape, 3)
                    yield DecodedFrame(luma(colours), partial(np.copy, colours))
                else:
                    yield DecodedFrame(frame)

    def header(self, count: int, found: GreyRange) -> tuple[Header, GreyMapping]:
        """Return the times, pixel size and the conversion of grey values."""
        layout = self._layout
        assert layout is not None, "header() comes after the last frame"
        mapping, notes = grey_mapping(found, self.path, declared=layout.declared)
        fps = known_rate(None if layout.seconds is None else 1 / layout.seconds)
        return Header(fps, layout.spacing, times_at(fps, count), notes=(*notes, *layout.notes)), mapping


def read_labels(path: str | os.PathLike[str], highest: int) -> ByteArray:
    """Read label maps (T, H, W) uint8 with whole values 0 to ``highest``, up to the rounding of a stored slope.

    Raises:
        DataError: As :func:`read_medical`, or a value is not a label.
    """
    array = _read(path)[1]
    rounded = np.rint(array)
    wrong = ~((np.abs(array - rounded) <= _TOLERANCE) & (rounded >= 0) & (rounded <= highest))
    if wrong.any():
        raise DataError(f"{path}: labels must be 0 to {highest}, found {array[wrong].flat[0]:g}")
    labels: ByteArray = rounded.astype(np.uint8)
    return labels


def _is_metaimage(path: Path) -> bool:
    return path.name.lower().endswith(_METAIMAGE)


def _pixels(path: Path) -> AbstractContextManager[tuple[PixelLayout, Readable, Path]]:
    return metaimage_pixels(path) if _is_metaimage(path) else nifti_pixels(path)


def _read(path: str | os.PathLike[str]) -> tuple[PixelLayout, NDArray[Any]]:
    with reading(path, "image") as source, _pixels(source) as (layout, file, data):
        if layout.dtype == RGB:
            raise DataError(f"{source}: holds colours; save it as values of one channel")
        return layout, layout.pixels(read_exactly(file, layout.n_bytes, data))
