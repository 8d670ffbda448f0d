"""Pixels of a polygon, in time proportional to the rows that its edges cross."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alan.arrays import BoolArray

#: Crossings of edges with rows that are computed at a time.
_CROSSINGS = 2**20
#: Coordinates further outside are clipped, so that their differences are finite.
_FAR = 1e9


def fill_polygon(shape: tuple[int, int], polygon: NDArray[np.float64]) -> BoolArray:
    """Return the pixels whose centres lie inside a polygon or on its edges (even-odd rule).

    It equals ``skimage.draw.polygon2mask``, whose time grows with the number of points times the number of pixels.

    Args:
        shape: (H, W) of the mask; the polygon is clipped to it.
        polygon: (n, 2) vertices (row, column) in pixels, not closed by a repeated point.

    Returns:
        (H, W) bool.
    """
    height, width = shape
    start = polygon.clip(-_FAR, _FAR)
    end = np.roll(start, -1, axis=0)
    first, last = (
        np.ceil(pick(start[:, 0], end[:, 0])).clip(0, height).astype(np.int64)  # rows first <= row < last
        for pick in (np.minimum, np.maximum)
    )
    counts = last - first
    crossings = np.zeros(height * (width + 1), np.int64)
    on_edge = [start, *_level(start, end, shape)]
    total = np.cumsum(counts)
    steps = np.searchsorted(total, np.arange(_CROSSINGS, total[-1] + _CROSSINGS, _CROSSINGS), "right")
    for begin, stop in zip([0, *steps], [*steps, len(polygon)], strict=True):
        edge = np.repeat(np.arange(begin, stop), counts[begin:stop])
        row = np.arange(len(edge)) - np.repeat(total[begin:stop] - counts[begin:stop], counts[begin:stop])
        row += first[edge] + (total[begin - 1] if begin else 0)
        rise = end[edge] - start[edge]
        crossing = start[edge, 1] + (row - start[edge, 0]) * rise[:, 1] / rise[:, 0]
        column = np.ceil(crossing).clip(0, width).astype(np.int64)
        crossings += np.bincount(row * (width + 1) + column, minlength=len(crossings))
        on_edge.append(np.stack([row, crossing], axis=1)[crossing == column])
    filled: BoolArray = (np.cumsum(crossings.reshape(height, width + 1)[:, :width], axis=1) & 1).astype(bool)
    for points in on_edge:
        there = ((points % 1 == 0) & (points >= 0) & (points < shape)).all(1)
        filled[tuple(points[there].astype(np.int64).T)] = True
    return filled


def _level(
    start: NDArray[np.float64], end: NDArray[np.float64], shape: tuple[int, int]
) -> list[NDArray[np.float64]]:
    """Return the centres of pixels on each level edge."""
    is_level = (start[:, 0] == end[:, 0]) & (start[:, 0] % 1 == 0) & (start[:, 0] >= 0) & (start[:, 0] < shape[0])
    found = []
    for row, low, high in zip(
        start[is_level, 0], *np.sort([start[is_level, 1], end[is_level, 1]], axis=0), strict=True
    ):
        columns = np.arange(max(np.ceil(low), 0), min(np.floor(high), shape[1] - 1) + 1)
        found.append(np.stack([np.full(len(columns), row), columns], axis=1))
    return found
