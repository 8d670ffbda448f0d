"""Geometry of the ultrasound sector on a screen: a sector of an annulus, described by seven numbers.

If pixels are not square, the circles are ellipses on the pixel grid: lengths are measured in columns, and a row
counts as ``aspect`` columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alan.arrays import BoolArray, FloatArray

#: Number of pixels of a mask that are computed at once, which bounds the memory.
_STRIP = 2**20


@dataclass(frozen=True)
class Fan:
    """A sector of an annulus, in pixels; angles are measured from the downward direction, positive to the right.

    Attributes:
        row: Row of the centre of the circles, which may lie above the image.
        column: Column of the centre of the circles.
        near: Radius at which the sector begins, in columns.
        far: Radius at which the sector ends, in columns.
        left: Angle of the left edge in radians.
        right: Angle of the right edge in radians.
        top: Whether the near border is an arc (``curved``) or a straight line (``flat``).
        shape: (H, W) of the screen.
        aspect: Height of a pixel divided by its width.
    """

    row: float
    column: float
    near: float
    far: float
    left: float
    right: float
    top: Literal["curved", "flat"]
    shape: tuple[int, int]
    aspect: float = 1.0

    def mask(self, margin: float = 0.0) -> BoolArray:
        """Return (H, W) bool, True inside the sector and up to ``margin`` columns outside it."""
        rows, columns = np.ogrid[: self.shape[0], : self.shape[1]]
        inside = np.empty(self.shape, bool)
        strip = max(1, _STRIP // self.shape[1])
        for start in range(0, self.shape[0], strip):
            inside[start : start + strip] = self.depth(rows[start : start + strip], columns) > -margin
        return inside

    def crop(self, box: tuple[slice, slice]) -> Fan:
        """Return the sector in the pixels of a part of the screen."""
        rows, columns = box
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        return replace(self, row=self.row - rows.start, column=self.column - columns.start, shape=shape)

    def membership(self, rows: FloatArray, columns: FloatArray) -> FloatArray:
        """Compute the membership in [0, 1], which rises over one pixel across the border; see :meth:`depth`."""
        return (self.depth(rows, columns) + 0.5).clip(0, 1)

    def depth(self, rows: NDArray[Any], columns: NDArray[Any]) -> FloatArray:
        """Compute the distance to the border in columns, positive inside.

        Args:
            rows: Rows of points on the screen, of any shape that broadcasts with ``columns``.
            columns: Columns of the points.
        """
        along, across = (rows - self.row) * self.aspect, columns - self.column
        middle, half = 0.5 * (self.left + self.right), 0.5 * (self.right - self.left)
        if middle:  # into the direction of the axis of the sector
            cos, sin = math.cos(middle), math.sin(middle)
            along, across = along * cos + across * sin, across * cos - along * sin
        off, radius = np.abs(across), np.sqrt(along * along + across * across)
        cos, sin = math.cos(half), math.sin(half)
        beside = cos * along + sin * off > 0  # beside the edge, not behind the centre
        side = np.where(beside, sin * along - cos * off, -radius)
        top = along - self.near * cos if self.top == "flat" else radius - self.near
        return np.asarray(np.minimum(np.minimum(self.far - radius, top), side))

    def radius(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> FloatArray:
        """Compute the distance of points from the centre of the circles, in columns."""
        return np.asarray(np.hypot((rows - self.row) * self.aspect, columns - self.column))

    def widened(self, step: int, shape: tuple[int, int]) -> Fan:
        """Return the sector on the screen (H, W) of which this one has every ``step``-th row and column."""
        row, column, near, far = (step * value for value in (self.row, self.column, self.near, self.far))
        return replace(self, row=row, column=column, near=near, far=far, shape=shape)

    def scaled(self, factor: float, shape: tuple[int, int]) -> Fan:
        """Return the sector on a screen (H, W) that is larger by a factor, whose pixels were averaged."""
        return replace(
            self,
            row=(self.row + 0.5) * factor - 0.5,
            column=(self.column + 0.5) * factor - 0.5,
            near=self.near * factor,
            far=self.far * factor,
            shape=shape,
        )


def enlarge(region: BoolArray, step: int, shape: tuple[int, int]) -> BoolArray:
    """Enlarge a region of every ``step``-th row and column to the screen (H, W): each pixel by the nearest."""
    if step == 1:
        return region
    rows, columns = (
        np.minimum((np.arange(n) + step // 2) // step, m - 1) for n, m in zip(shape, region.shape, strict=True)
    )
    return np.asarray(region[rows[:, None], columns])


def enclosing(inside: BoolArray) -> tuple[slice, slice]:
    """Return the rows and columns that enclose the true pixels of (H, W)."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
