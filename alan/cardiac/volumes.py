"""Left ventricular volumes from masks of long-axis views, and the ejection fraction.

The formulas are those of the chamber quantification guideline (Lang et al., J Am Soc Echocardiogr 2015;28:1-39):
area-length, ``V = 8 A^2 / (3 pi L)``, and the method of disks, ``V = pi/4 sum_i d_i^2 L/n``, in a single plane, so
that each disk is assumed to be circular. The long axis is the first principal axis of the mask in mm; its length
is the extent of the mask along it.
"""

from __future__ import annotations

from collections.abc import Sequence
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
#: Density of myocardium in g/ml.
_MYOCARDIAL_DENSITY = 1.05


def _along_axis(mask: NDArray[np.bool_], spacing: tuple[float, float]) -> tuple[NDArray[np.float64], float]:
    """Compute the positions (cm) of sample points of a mask along its long axis, and the area (cm^2) of one."""
    row, column = check_spacing(spacing)
    if mask.ndim != 2:
        raise ParameterError(f"mask has shape {mask.shape}: give one mask (H, W) at a time")
    unit = np.array([row / 10.0, column / 10.0])
    pixels = np.argwhere(mask) * unit  # (P, 2) in cm
    side = int(np.clip(np.sqrt(_ENOUGH_POINTS / len(pixels)), 1, _MAX_SUBPIXELS))
    offsets = (np.arange(side) + 0.5) / side - 0.5
    grid = np.stack(np.meshgrid(offsets, offsets, indexing="ij"), axis=-1).reshape(-1, 2) * unit  # (side^2, 2)
    centred = pixels - pixels.mean(axis=0)
    covariance = centred.T @ centred / len(pixels) + grid.T @ grid / len(grid)  # every pixel has the same points
    axis = np.linalg.eigh(covariance)[1][:, -1]  # columns by rising spread
    positions = (centred @ axis)[:, None] + grid @ axis  # (P, side^2)
    return np.asarray(positions.ravel(), dtype=np.float64), row * column / 100.0 / side**2


def _diameters(
    mask: NDArray[np.bool_], spacing: tuple[float, float], n_disks: int
) -> tuple[NDArray[np.float64], float]:
    """Compute the diameters (n_disks,) of the disks along the long axis and the height of a disk, in cm."""
    positions, point_area = _along_axis(mask, spacing)
    height = float(np.ptp(positions)) / n_disks
    disks = np.minimum((positions - positions.min()) / height, n_disks - 1).astype(np.int64)
    counts = np.bincount(disks, minlength=n_disks).astype(np.float64)
    return counts * (point_area / height), height  # area of a slab / height of a slab


def _narrows(diameters: NDArray[np.float64]) -> bool:
    """Return whether the cavity narrows towards the last disk, so that the apex is there."""
    half = len(diameters) // 2
    return bool(diameters[:half].sum() > diameters[-half:].sum())


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

    Examples:
        A ventricle of 8 cm by 4 cm, drawn as a rectangle, is a cylinder:

        >>> mask = np.zeros((112, 112), bool)
        >>> mask[20:100, 30:70] = True
        >>> round(simpson_volume(mask, (1.0, 1.0)))
        101
    """
    if not np.any(mask):
        return float("nan")
    diameters, height = _diameters(mask, spacing, n_disks)
    return float(np.pi / 4.0 * height * np.square(diameters).sum())


@bounded
def biplane_volume(
    four_chamber: NDArray[np.bool_],
    two_chamber: NDArray[np.bool_],
    spacings: tuple[tuple[float, float], tuple[float, float]],
    n_disks: Annotated[int, Ge(2)] = 20,
) -> float:
    """Compute the volume by the biplane method of disks, ``pi/4 sum_i a_i b_i L/n``.

    The diameters ``a_i`` and ``b_i`` of the two views are the axes of elliptical disks; ``L`` is the longer one of
    the two long axes, as in the guideline.

    Args:
        four_chamber: (H, W) bool, the cavity in the apical four-chamber view.
        two_chamber: (H', W') bool, the cavity in the apical two-chamber view at the same phase.
        spacings: (row, column) size of a pixel in mm of each view.
        n_disks: Number of disks along the long axis; the guideline uses 20.

    Returns:
        The volume in ml; NaN if a mask is empty.

    Raises:
        ParameterError: There are fewer than 2 disks, a mask is not (H, W), or a spacing is not positive.
    """
    products, heights = _disks((four_chamber, two_chamber), spacings, n_disks)
    return float(np.pi / 4.0 * max(heights) * products)


@bounded
def shared_length_ejection_fraction(
    diastole: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    systole: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    spacings: tuple[tuple[float, float], tuple[float, float]],
    n_disks: Annotated[int, Ge(2)] = 20,
) -> float:
    """Compute the biplane ejection fraction with one length of the long axis in both phases.

    This is the ejection fraction of the CAMUS release and of the script that evaluates its challenge: the largest
    height of the disks among the four outlines serves both phases. The length cancels,
    ``100 (1 - sum_i a_i b_i (ES) / sum_i a_i b_i (ED))``, so that the shortening of the axis is left out. The
    guideline has the length of each phase (:func:`biplane_volume`), with which ejection fractions are larger.

    Args:
        diastole: (H, W) bool and (H', W') bool, the cavity in the apical four-chamber and two-chamber views at
            end-diastole.
        systole: The same at end-systole.
        spacings: (row, column) size of a pixel in mm of each view.
        n_disks: Number of disks along the long axis; the guideline uses 20.

    Returns:
        The ejection fraction in percent; NaN if a mask is empty.

    Raises:
        ParameterError: There are fewer than 2 disks, a mask is not (H, W), or a spacing is not positive.
    """
    return ejection_fraction(*(_disks(masks, spacings, n_disks)[0] for masks in (diastole, systole)))


def _disks(
    masks: Sequence[NDArray[np.bool_]], spacings: Sequence[tuple[float, float]], n_disks: int
) -> tuple[float, list[float]]:
    """Compute the sum of the products of the diameters of two views in cm2, and the height of a disk in each."""
    if not all(map(np.any, masks)):
        return float("nan"), [float("nan")]
    (first, height), (second, other) = (
        _diameters(mask, spacing, n_disks) for mask, spacing in zip(masks, spacings, strict=True)
    )
    order = 1 if _narrows(first) == _narrows(second) else -1
    return float((first * second[::order]).sum()), [height, other]


def myocardial_mass_g(outer_volume: float, inner_volume: float) -> float:
    """Compute the left ventricular mass in g from epicardial and endocardial volumes in ml.

    The volume of the wall is multiplied by the density of myocardium, 1.05 g/ml (Lang et al., 2015).

    Args:
        outer_volume: Volume inside the epicardium at end-diastole in ml.
        inner_volume: Volume of the cavity at end-diastole in ml.

    Returns:
        The mass; NaN if a volume is NaN or the outer volume is smaller than the inner one.
    """
    wall = outer_volume - inner_volume
    return _MYOCARDIAL_DENSITY * wall if wall >= 0 else float("nan")


def shortening_percent(diastolic: float, systolic: float) -> float:
    """Compute a relative shortening in percent, ``100 (diastolic - systolic) / diastolic``.

    Applied to areas it is the fractional area change, to lengths of the long axis a longitudinal shortening.

    Args:
        diastolic: Area or length at end-diastole.
        systolic: Area or length at end-systole, in the same unit.

    Returns:
        The shortening; NaN if a value is NaN or ``diastolic`` is 0.
    """
    return ejection_fraction(diastolic, systolic)


def ejection_fraction(edv: float, esv: float) -> float:
    """Compute the ejection fraction, ``100 (EDV - ESV) / EDV``.

    Args:
        edv: End-diastolic volume.
        esv: End-systolic volume in the same unit.

    Returns:
        The ejection fraction in percent; NaN where a volume is NaN or EDV is 0; negative where ESV exceeds EDV.

    Examples:
        >>> ejection_fraction(120, 48)
        60.0
    """
    if not (np.isfinite(edv) and np.isfinite(esv)) or edv <= 0:
        return float("nan")
    return 100.0 * (edv - esv) / edv
