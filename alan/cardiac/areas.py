"""Areas of masks in square centimetres."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alan.errors import ParameterError


def check_spacing(spacing: tuple[float, float]) -> tuple[float, float]:
    """Check a pixel size and return it as two floats.

    Args:
        spacing: (row, column) size of a pixel in mm.

    Raises:
        ParameterError: A value is not finite and positive.
    """
    row, column = float(spacing[0]), float(spacing[1])
    if not (np.isfinite([row, column]).all() and row > 0 and column > 0):
        raise ParameterError(f"spacing is {(row, column)}: give (row, column) in mm, two finite numbers above 0")
    return row, column


def pixel_sides(spacing: float | Sequence[float] | None) -> tuple[float, float] | None:
    """Return the size of a pixel as (row, column) in mm; one number is the size of both sides.

    Raises:
        ParameterError: There are neither one nor two sizes, or one is not finite and positive.
    """
    if spacing is None:
        return None
    sides = [spacing, spacing] if isinstance(spacing, (int, float)) else spacing
    if len(sides) != 2:
        raise ParameterError(f"spacing is {spacing}: give one size in mm, or two, [row, column]")
    return check_spacing((sides[0], sides[1]))


def area_cm2(masks: NDArray[np.bool_], spacing: tuple[float, float]) -> NDArray[np.float64]:
    """Compute the area of each mask.

    Args:
        masks: (..., H, W) bool.
        spacing: (row, column) size of a pixel in mm.

    Returns:
        (...) float64 in cm^2; 0 for an empty mask.

    Raises:
        ParameterError: The spacing is not finite and positive.
    """
    row, column = check_spacing(spacing)
    pixels = np.asarray(masks, dtype=bool).sum(axis=(-2, -1))
    return np.asarray(pixels * (row * column / 100.0), dtype=np.float64)
