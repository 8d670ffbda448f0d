"""Diameters, wall thicknesses and linear mass of the left ventricle from masks of parasternal views.

The guideline (Lang et al., J Am Soc Echocardiogr 2015;28:1-39) measures diameters and walls in the parasternal
long-axis view, perpendicular to the long axis of the ventricle, at or immediately below the tips of the mitral
leaflets. Masks do not show the tips, so the mean over a band below the base takes their place.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from alan.arrays import BoolArray, FloatArray
from alan.cardiac.areas import check_spacing
from alan.errors import ParameterError

#: Distances in cm from the base between which diameters and walls are measured.
BAND_CM = (1.5, 2.5)
#: Distances in cm of two lines across the ventricle, and of two points on a line.
_LINE, _POINT = 0.05, 0.02
#: Number of times that the axis is fitted, and smallest width of the lines that count, as a share of the widest.
_FITS, _WIDE = 3, 0.75
#: Half the width in cm of the strip around the axis whose end is the base.
_STRIP = 0.3
#: Smallest share of the lines of the band on which a structure must be seen.
_SEEN = 0.5
#: Distance in pixels from the border of the sector within which an outline is cut off.
_CUT = 2
#: Density of myocardium in g/ml, factor and summand of the cube formula.
_CUBE_DENSITY, _CUBE_FACTOR, _CUBE_SUMMAND = 1.04, 0.8, 0.6


class LinearDimensions(NamedTuple):
    """Dimensions of the left ventricle across its long axis; NaN where they cannot be measured.

    Attributes:
        internal_cm: Internal diameter.
        septum_cm: Thickness of the septum, the wall towards the probe.
        posterior_cm: Thickness of the posterior wall.
    """

    internal_cm: float = math.nan
    septum_cm: float = math.nan
    posterior_cm: float = math.nan


class _Axis(NamedTuple):
    """Long axis: a point (row, column) in cm and the unit vector (row, column) towards the right."""

    point: FloatArray
    direction: FloatArray

    @property
    def across(self) -> FloatArray:
        """Unit vector across the axis, downwards."""
        return np.array([self.direction[1], -self.direction[0]])


def linear_dimensions(
    cavity: BoolArray,
    wall: BoolArray | None,
    spacing: tuple[float, float],
    inside: BoolArray | None = None,
) -> LinearDimensions:
    """Measure the left ventricle across its long axis in a parasternal long-axis view.

    The long axis is the line through the middle of the upper and the lower border. Its base is the right end,
    where the left atrium and the aorta are; the apex may be out of the picture. Each dimension is the mean over
    lines across the axis, from 1.5 to 2.5 cm from the base. Lines on which the cavity, or the wall on that side,
    is missing or touches the border of the sector do not count.

    Args:
        cavity: (H, W) bool.
        wall: (H, W) bool, the myocardium; None without one.
        spacing: (row, column) size of a pixel in mm.
        inside: (H, W) bool, the sector; None if unknown.

    Returns:
        The dimensions. One is NaN if fewer than half of the lines show it: a diameter of a ventricle that is cut
        off there or shorter than the distance, a thickness without a wall on that side.

    Raises:
        ParameterError: A mask is not (H, W), or the spacing is not finite and positive.

    Examples:
        A ventricle of 7 cm by 5 cm between a septum of 0.9 cm and a posterior wall of 1.1 cm:

        >>> cavity, wall = np.zeros((2, 112, 112), bool)
        >>> cavity[30:80, 20:90], wall[21:30, 20:90], wall[80:91, 20:90] = True, True, True
        >>> [round(dimension, 2) for dimension in linear_dimensions(cavity, wall, (1.0, 1.0))]
        [5.0, 0.9, 1.1]
    """
    axis = _long_axis(cavity, spacing)
    if axis is None:
        return LinearDimensions()
    along, across = _extent(cavity, axis, spacing)
    base = _base(cavity, axis, spacing, along)
    lines = np.arange(base - BAND_CM[1] + _LINE / 2, base - BAND_CM[0], _LINE)
    reach = np.arange(across[0] - 4.0, across[1] + 4.0, _POINT)
    border = None if inside is None else ~binary_erosion(inside, iterations=_CUT)

    def thickness(mask: BoolArray, side: BoolArray) -> float:
        seen = _sample(mask, axis, spacing, lines, reach) & side
        cut = False if border is None else (_sample(mask & border, axis, spacing, lines, reach) & side).any(1)
        return _mean(seen.sum(1) * _POINT, seen.any(1) & ~np.asarray(cut))

    internal = thickness(cavity, np.ones(len(reach), bool))
    if wall is None:
        return LinearDimensions(internal)
    return LinearDimensions(internal, thickness(wall, reach < 0), thickness(wall, reach > 0))


def anteroposterior_diameter_cm(atrium: BoolArray, cavity: BoolArray, spacing: tuple[float, float]) -> float:
    """Compute the anteroposterior diameter of the left atrium in a parasternal long-axis view.

    It is the largest extent of the atrium on a line perpendicular to the long axis of the left ventricle, see
    :func:`linear_dimensions`.

    Args:
        atrium: (H, W) bool.
        cavity: (H, W) bool, the left ventricle.
        spacing: (row, column) size of a pixel in mm.

    Returns:
        The diameter in cm; NaN if a mask is empty.

    Raises:
        ParameterError: A mask is not (H, W), or the spacing is not finite and positive.
    """
    axis = _long_axis(cavity, spacing)
    if axis is None or not atrium.any():
        return math.nan
    along, across = _extent(atrium, axis, spacing)
    seen = _sample(atrium, axis, spacing, np.arange(*along, _LINE), np.arange(*across, _POINT))
    first, last = seen.argmax(1), seen[:, ::-1].argmax(1)
    return float(((seen.shape[1] - first - last) * _POINT)[seen.any(1)].max(initial=0.0)) or math.nan


def linear_mass_g(septum_cm: float, internal_cm: float, posterior_cm: float) -> float:
    """Compute the left ventricular mass by the linear method (cube formula).

    ``0.8 * 1.04 * ((IVS + LVID + PW)^3 - LVID^3) + 0.6``, all at end-diastole (Lang et al., 2015).

    Args:
        septum_cm: Thickness of the interventricular septum (IVS).
        internal_cm: Internal diameter of the left ventricle (LVID).
        posterior_cm: Thickness of the posterior wall (PW).

    Returns:
        The mass in g; NaN if a dimension is NaN.

    Examples:
        >>> round(linear_mass_g(0.9, 4.8, 0.9), 1)
        147.8
    """
    muscle = (septum_cm + internal_cm + posterior_cm) ** 3 - internal_cm**3
    return _CUBE_FACTOR * _CUBE_DENSITY * muscle + _CUBE_SUMMAND


def mean_wall_thickness_cm(outer_area_cm2: float, cavity_area_cm2: float) -> float:
    """Compute the mean wall thickness of a short-axis ring from its areas, as if both outlines were circles.

    ``sqrt(A_outer / pi) - sqrt(A_cavity / pi)``, as in the area-length formula of the mass (Lang et al., 2015).

    Args:
        outer_area_cm2: Area within the epicardium.
        cavity_area_cm2: Area of the cavity with its papillary muscles.

    Returns:
        The thickness in cm; NaN if an area is NaN or not positive, or the outer one is smaller.

    Examples:
        >>> round(mean_wall_thickness_cm(np.pi * 3.4**2, np.pi * 2.5**2), 2)
        0.9
    """
    if not (cavity_area_cm2 > 0 and outer_area_cm2 >= cavity_area_cm2):
        return math.nan
    return math.sqrt(outer_area_cm2 / math.pi) - math.sqrt(cavity_area_cm2 / math.pi)


def _long_axis(cavity: BoolArray, spacing: tuple[float, float]) -> _Axis | None:
    """Fit a line through the middle of the upper and lower border; None for an empty mask.

    The first lines across are columns; the axis of later ones is that of the fit before. Narrow lines, at the apex
    or where the sector cuts the ventricle, do not count.
    """
    check_spacing(spacing)
    if cavity.ndim != 2:
        raise ParameterError(f"cavity has shape {cavity.shape}: give one mask (H, W) at a time")
    if not cavity.any():
        return None
    axis = _Axis((np.argwhere(cavity).mean(0) + 0.5) * np.asarray(spacing) / 10.0, np.array([0.0, 1.0]))
    for _ in range(_FITS):
        along, across = _extent(cavity, axis, spacing)
        lines, reach = np.arange(*along, 2 * _LINE), np.arange(*across, _LINE)
        seen = _sample(cavity, axis, spacing, lines, reach)
        last = seen.shape[1] - 1 - seen[:, ::-1].argmax(1)
        upper, lower = reach[seen.argmax(1)], reach[last]
        width = np.where(seen.any(1), lower - upper, 0.0)
        wide = width >= _WIDE * width.max()
        middle = (upper + lower)[wide] / 2
        slope, offset = np.polyfit(lines[wide], middle, 1) if wide.sum() > 1 else (0.0, float(middle.mean()))
        turned = axis.direction + slope * axis.across
        axis = _Axis(axis.point + offset * axis.across, turned / np.hypot(*turned))
    return axis


def _extent(
    mask: BoolArray, axis: _Axis, spacing: tuple[float, float]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the ends of a mask in cm along the axis and across it, with a margin of a pixel."""
    corners = (np.argwhere(mask) + 0.5) * np.asarray(spacing) / 10.0 - axis.point
    margin = max(spacing) / 10.0
    along, across = corners @ axis.direction, corners @ axis.across
    return (along.min() - margin, along.max() + margin), (across.min() - margin, across.max() + margin)


def _sample(
    mask: BoolArray, axis: _Axis, spacing: tuple[float, float], along: FloatArray, across: FloatArray
) -> NDArray[np.bool_]:
    """Read a mask at positions in cm along the axis (n) and across it (m): (n, m) bool, False outside of it."""
    points = axis.point + along[:, None, None] * axis.direction + across[:, None] * axis.across
    rows, columns = np.floor(points * 10.0 / np.asarray(spacing)).astype(np.int64).transpose(2, 0, 1)
    known = (rows >= 0) & (columns >= 0) & (rows < mask.shape[0]) & (columns < mask.shape[1])
    return np.asarray(known & mask[np.where(known, rows, 0), np.where(known, columns, 0)])


def _base(cavity: BoolArray, axis: _Axis, spacing: tuple[float, float], along: tuple[float, float]) -> float:
    """Return the position in cm of the right end of the cavity around its axis."""
    lines = np.arange(*along, _POINT)
    strip = _sample(cavity, axis, spacing, lines, np.arange(-_STRIP, _STRIP + _LINE, _LINE)).any(1)
    return float(lines[strip].max() + _POINT / 2) if strip.any() else along[1]


def _mean(values: FloatArray, known: BoolArray) -> float:
    """Average the known values; NaN if fewer than half are known."""
    return float(values[known].mean()) if known.mean() >= _SEEN else math.nan
