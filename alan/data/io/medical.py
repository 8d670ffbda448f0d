"""NIfTI and MetaImage files of stills and sequences: grey values and label maps."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alan.data.io.base import Cine, Spacing, log_notes, reading, times_at
from alan.data.io.grey import to_grey
from alan.data.io.metaimage import metaimage_files, metaimage_layout, read_metaimage
from alan.data.io.nifti import nifti_layout, read_nifti
from alan.data.io.raw import Layout
from alan.data.sample import ByteArray
from alan.errors import DataError

#: Suffixes of NIfTI and MetaImage files.
MEDICAL = (".nii.gz", ".nii", ".mhd", ".mha")
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


def medical_shape(path: str | os.PathLike[str]) -> tuple[int, int, int]:
    """Read (T, H, W) from the header of a NIfTI or MetaImage file.

    Raises:
        DataError: The file is missing, or has another format.
    """
    with reading(path, "image") as source:
        return (metaimage_layout(source) if _is_metaimage(source) else nifti_layout(source)).shape


def medical_files(path: Path) -> tuple[Path, ...]:
    """Files that are read with a NIfTI or MetaImage file, itself first; those that are missing are left out."""
    try:
        files = metaimage_files(path) if _is_metaimage(path) else (path,)
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
    """Read the frames of a NIfTI or MetaImage file as grey values (:func:`alan.data.io.grey.to_grey`).

    Raises:
        DataError: As :func:`read_medical`, or a value is not finite.
    """
    layout, array = _read(path)
    frames, notes = to_grey(array, path, declared=layout.declared)
    log_notes(path, (*notes, *layout.notes))
    fps = None if layout.seconds is None else 1 / layout.seconds
    return Cine(frames, fps, layout.spacing, times_at(fps, len(frames)), notes=(*notes, *layout.notes))


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


def _read(path: str | os.PathLike[str]) -> tuple[Layout, NDArray[Any]]:
    with reading(path, "image") as source:
        return read_metaimage(source) if _is_metaimage(source) else read_nifti(source)
