"""Left ventricular volumes from masks of long-axis views, and the ejection fraction.

The formulas are those of the chamber quantification guideline (Lang et al., J Am Soc Echocardiogr 2015;28:1-39):
area-length, ``V = 8 A^2 / (3 pi L)``, and the method of disks, ``V = pi/4 sum_i d_i^2 L/n``, in a single plane, so
that each disk is assumed to be circular. The long axis is the first principal axis of the mask in mm; its length
is the extent of the mask along it.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from alan.bounds import bounded
from alan.cardiac.areas import area_cm2, check_spacing
from alan.errors import ParameterError

#: Each pixel of a small mask is sampled at up to 4 x 4 points, so that thin disks do not depend on the pixel grid;
#: a mask of at least this many pixels is sampled once per pixel.
_MAX_SUBPIXELS, _ENOUGH_POINTS = 4, 40_000


def _along_axis(mask: NDArray[np.bool_], spacing: tuple[float, float]) -> tuple[NDArray[np.float64], float]:
    """Positions (cm) of the sample points of a mask along its long axis, and the area (cm^2) of one point."""
    row, column = check_spacing(spacing)
    if mask.ndim != 2:
        raise ParameterError(f"mask has shape {mask.shape}: give one mask (H, W) at a time")
    pixels = np.argwhere(mask).astype(np.float64)  # (P, 2)
    side = int(np.clip(np.sqrt(_ENOUGH_POINTS / len(pixels)), 1, _MAX_SUBPIXELS))
    offsets = (np.arange(side) + 0.5) / side - 0.5
    grid = np.stack(np.meshgrid(offsets, offsets, indexing="ij"), axis=-1).reshape(-1, 2)  # (side^2, 2)
    points = (pixels[:, None] + grid).reshape(-1, 2) * (row / 10.0, column / 10.0)  # (P * side^2, 2) in cm
    centred = points - points.mean(axis=0)
    axes = np.linalg.eigh(centred.T @ centred)[1]  # columns by rising spread
    return np.asarray(centred @ axes[:, -1], dtype=np.float64), row * column / 100.0 / side**2


def long_axis_cm(mask: NDArray[np.bool_], spacing: tuple[float, float]) -> float:
    """Compute the length of a mask along its first principal axis.

    Args:
        mask: (H, W) bool.
        spacing: (row, column) size of a pixel in mm.

    Returns:
        The length in cm; NaN for an empty mask.

    Raises:
        ParameterError: The mask is not (H, W), or the spacing is not finite and positive.
    """
    if not np.any(mask):
        return float("nan")
    return float(np.ptp(_along_axis(mask, spacing)[0]))


def area_length_volume(mask: NDArray[np.bool_], spacing: tuple[float, float]) -> float:
    """Compute the volume by the single-plane area-length formula, ``8 A^2 / (3 pi L)``.

    Args:
        mask: (H, W) bool, a long-axis view of the cavity.
        spacing: (row, column) size of a pixel in mm.

    Returns:
        The volume in ml; NaN for an empty mask.

    Raises:
        ParameterError: The mask is not (H, W), or the spacing is not finite and positive.
    """
    length = long_axis_cm(mask, spacing)
    return 8.0 * float(area_cm2(mask, spacing)) ** 2 / (3.0 * np.pi * length)


@bounded
def simpson_volume(
    mask: NDArray[np.bool_], spacing: tuple[float, float], n_disks: Annotated[int, Ge(2)] = 20
) -> float:
    """Compute the volume by the single-plane method of disks (modified Simpson's rule).

    Args:
        mask: (H, W) bool, a long-axis view of the cavity.
        spacing: (row, column) size of a pixel in mm.
        n_disks: Number of disks along the long axis; the guideline uses 20.

    Returns:
        The volume in ml; NaN for an empty mask.

    Raises:
        ParameterError: There are fewer than 2 disks, the mask is not (H, W), or the spacing is not positive.
    """
    if not np.any(mask):
        return float("nan")
    positions, point_area = _along_axis(mask, spacing)
    height = float(np.ptp(positions)) / n_disks
    counts, _ = np.histogram(positions, bins=n_disks)
    diameters = counts * (point_area / height)  # slab area / slab height, (n_disks,) in cm
    return float(np.pi / 4.0 * height * np.square(diameters).sum())


def ejection_fraction(edv: float, esv: float) -> float:
    """Compute the ejection fraction, ``100 (EDV - ESV) / EDV``.

    Args:
        edv: End-diastolic volume.
        esv: End-systolic volume in the same unit.

    Returns:
        The ejection fraction in percent; NaN where a volume is NaN or EDV is 0; negative where ESV exceeds EDV.
    """
    if not (np.isfinite(edv) and np.isfinite(esv)) or edv <= 0:
        return float("nan")
    return 100.0 * (edv - esv) / edv
