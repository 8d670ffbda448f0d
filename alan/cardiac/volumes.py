"""Volumes of a ventricle from the mask of one long-axis view, and the ejection fraction.

Both formulae are those of the chamber quantification guideline (Lang et al., J Am Soc Echocardiogr
2015;28:1-39): area-length, ``V = 8 A^2 / (3 pi L)``, and the summation of disks, ``V = pi/4 sum_i d_i^2 L/n``,
here in a single plane, so each disk is taken to be round. The long axis is the first principal axis of the mask
in mm, its length the extent of the mask along it: no landmark is needed, and no learning.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alan.cardiac.areas import area_cm2, check_spacing
from alan.errors import ParameterError

#: A pixel of a small mask is spread over up to 4 x 4 points, so that thin disks do not see the pixel grid;
#: a mask of this many pixels and more needs none of that.
_MAX_SUBPIXELS, _ENOUGH_POINTS = 4, 40_000


def _along_axis(mask: NDArray[np.bool_], spacing: tuple[float, float]) -> tuple[NDArray[np.float64], float]:
    """Positions (cm) of a mask's points along its long axis, and the area (cm^2) that a point stands for."""
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
    """Length of a mask along its first principal axis.

    Args:
        mask: (H, W) bool.
        spacing: (row, column) size of a pixel in mm.

    Returns:
        The length in cm; NaN for an empty mask.

    Raises:
        ParameterError: the mask is not (H, W), or the spacing is not finite and positive.
    """
    if not np.any(mask):
        return float("nan")
    return float(np.ptp(_along_axis(mask, spacing)[0]))


def area_length_volume(mask: NDArray[np.bool_], spacing: tuple[float, float]) -> float:
    """Volume by the single-plane area-length formula, ``8 A^2 / (3 pi L)``.

    Args:
        mask: (H, W) bool, a long-axis view of the cavity.
        spacing: (row, column) size of a pixel in mm.

    Returns:
        The volume in ml; NaN for an empty mask.

    Raises:
        ParameterError: the mask is not (H, W), or the spacing is not finite and positive.
    """
    length = long_axis_cm(mask, spacing)
    return 8.0 * float(area_cm2(mask, spacing)) ** 2 / (3.0 * np.pi * length)


def simpson_volume(mask: NDArray[np.bool_], spacing: tuple[float, float], n_disks: int = 20) -> float:
    """Volume by the single-plane summation of disks (modified Simpson's rule).

    Args:
        mask: (H, W) bool, a long-axis view of the cavity.
        spacing: (row, column) size of a pixel in mm.
        n_disks: disks along the long axis, at least 2; 20 is the guideline's number.

    Returns:
        The volume in ml; NaN for an empty mask.

    Raises:
        ParameterError: fewer than 2 disks, a mask that is not (H, W), or a spacing that is not positive.
    """
    if n_disks < 2:
        raise ParameterError(f"n_disks={n_disks}: give at least 2 (20 is usual)")
    if not np.any(mask):
        return float("nan")
    positions, point_area = _along_axis(mask, spacing)
    height = float(np.ptp(positions)) / n_disks
    counts, _ = np.histogram(positions, bins=n_disks)
    diameters = counts * (point_area / height)  # slab area / slab height, (n_disks,) in cm
    return float(np.pi / 4.0 * height * np.square(diameters).sum())


def ejection_fraction(edv: float, esv: float) -> float:
    """Ejection fraction, ``100 (EDV - ESV) / EDV``.

    Args:
        edv: end-diastolic volume.
        esv: end-systolic volume, in the same unit.

    Returns:
        The ejection fraction in percent; NaN where a volume is NaN or EDV is 0. Negative where ESV exceeds EDV:
        the caller shall see that something is wrong.
    """
    if not (np.isfinite(edv) and np.isfinite(esv)) or edv <= 0:
        return float("nan")
    return 100.0 * (edv - esv) / edv
