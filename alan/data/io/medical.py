"""NIfTI and MetaImage files in display orientation."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 (the name that its own documentation uses)
from numpy.typing import NDArray

from alan.data.sample import ByteArray
from alan.errors import DataError


@dataclass(frozen=True)
class MedicalImage:
    """A decoded image or sequence.

    Attributes:
        array: (T, H, W), dtype of the file; T is 1 for a still. Rows run with depth, columns with width.
        spacing: (row, column) size of a pixel in mm.
    """

    array: NDArray[Any]
    spacing: tuple[float, float]


def read_medical(path: str | os.PathLike[str]) -> MedicalImage:
    """Read a NIfTI or MHD file of one still or one sequence.

    The files of ultrasound archives count width first, then depth, then time. SimpleITK gives arrays in the
    reverse order, which is the one for display: time, depth (rows), width (columns). Direction cosines are not
    applied.

    Raises:
        DataError: missing, undecodable, of pixels that are no scalars, or not of two or three dimensions.
    """
    source = Path(path)
    if not source.is_file():
        raise DataError(f"{source}: no such file")
    try:
        image: Any = sitk.ReadImage(str(source))
        array = sitk.GetArrayFromImage(image)
    except RuntimeError as error:
        raise DataError(f"{source}: cannot be decoded ({' '.join(str(error).split())[-160:]})") from error
    if image.GetNumberOfComponentsPerPixel() != 1 or array.ndim not in (2, 3):
        raise DataError(f"{source}: a grey still or sequence (2 or 3 dimensions) is needed, got {array.shape}")
    column, row = image.GetSpacing()[:2]
    return MedicalImage(array.reshape(-1, *array.shape[-2:]), (float(row), float(column)))


def read_grey(path: str | os.PathLike[str]) -> tuple[ByteArray, tuple[float, float]]:
    """Read frames (T, H, W) uint8 and their spacing (row, column) in mm.

    Raises:
        DataError: as :func:`read_medical`, or values outside 0 to 255.
    """
    image = read_medical(path)
    return _as_bytes(image.array, 255, path, "grey values", exact=False), image.spacing


def read_labels(path: str | os.PathLike[str], highest: int) -> ByteArray:
    """Read label maps (T, H, W) uint8 with whole values 0 to ``highest``.

    Raises:
        DataError: as :func:`read_medical`, or a value that is no label.
    """
    return _as_bytes(read_medical(path).array, highest, path, "labels", exact=True)


def _as_bytes(
    array: NDArray[Any], highest: int, path: str | os.PathLike[str], what: str, *, exact: bool
) -> ByteArray:
    """Round to uint8 after a look at the range; NaN fails the comparison too."""
    inside = (array >= 0) & (array <= highest)
    if exact:
        inside &= array == np.rint(array)
    if not inside.all():
        raise DataError(f"{path}: {what} must be 0 to {highest}, found {array[~inside].flat[0]:g}")
    rounded: ByteArray = np.rint(array).astype(np.uint8)
    return rounded
