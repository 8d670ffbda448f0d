"""Label maps of a loop as a compressed NIfTI file, written frame by frame."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alan.files import atomic

#: Compression level: label maps are long runs of equal bytes, which the fastest level shrinks by 99%.
_LEVEL = 1


@contextmanager
def write_label_maps(
    path: Path,
    shape: tuple[int, int, int],
    pixel_mm: tuple[float, float] | None,
    interval_s: float | None,
    aspect: float = 1.0,
) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    """Write a sequence of label maps as NIfTI-1 (x, y, 1, t), atomically and without holding it in memory.

    The axes are those of ITK, as in CAMUS: x runs to the right and y down in the picture, so that viewers show it
    upright. A sequence without a pixel size has pixels of width 1 and no unit.

    Args:
        path: The file, ``.nii.gz``.
        shape: (T, H, W).
        pixel_mm: (row, column) size of a pixel in mm; None if unknown.
        interval_s: Time between frames in s; None if unknown.
        aspect: Height of a pixel divided by its width; used if the size is unknown.

    Yields:
        A function that writes the next label maps (B, H, W) uint8.
    """
    from nibabel import Nifti1Header  # half a second

    count, height, width = shape
    row, column = pixel_mm or (aspect, 1.0)
    header: Any = Nifti1Header()  # type: ignore[no-untyped-call]
    header.set_data_dtype(np.uint8)
    header.set_data_shape((width, height, 1, count))
    header.set_zooms((column, row, 1.0, interval_s or 1.0))
    header.set_xyzt_units("mm" if pixel_mm else "unknown", "sec" if interval_s else "unknown")
    affine = np.diag([-column, -row, 1.0, 1.0])
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner")
    header["vox_offset"] = 352
    with (
        atomic(path) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as file,  # equal content, equal bytes
    ):
        file.write(header.binaryblock + bytes(4))

        def write(labels: NDArray[np.uint8]) -> None:
            file.write(np.ascontiguousarray(labels).data)

        yield write
