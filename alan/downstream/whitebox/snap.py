"""A contour that uses the image: each outline moves along its normals to the wall, by dynamic programming.

The published contour smooths the mask and never looks at the frame. Here the best closed path through a band
around the outline is found exactly: offsets along the normals, rewarded by the step in brightness across the
contour, penalised by jumps between neighbours and by distance from the mask (Amini, Weymouth, Jain 1990, IEEE
TPAMI 12(9); search along normals as in active shape models, Cootes et al. 1995, Computer Vision and Image
Understanding 61(1)).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from alan.downstream.whitebox.contour import fill_polygon, outlines

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Offsets along a normal are this far apart (pixels).
STEP = 0.5
#: The outline's staircase is smoothed by this Gaussian along the curve before normals are taken (pixels).
_SMOOTH = 2.0


def resample(path: FloatArray, spacing: float = 1.0) -> FloatArray:
    """Points at equal distances along a closed polygon, smoothed along the curve.

    Args:
        path: (n, 2) vertices, not closed by a repeated point.
        spacing: distance of the points, in pixels.

    Returns:
        (m, 2) float64, m at least 8.
    """
    closed = np.vstack([path, path[:1]])
    length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    count = max(round(length[-1] / spacing), 8)
    place = np.arange(count) * length[-1] / count
    points = np.stack([np.interp(place, length, closed[:, axis]) for axis in range(2)], axis=1)
    smooth: FloatArray = ndimage.gaussian_filter1d(points, _SMOOTH / spacing, axis=0, mode="wrap")
    return smooth


def normals(points: FloatArray) -> FloatArray:
    """Unit normals (m, 2) of a closed curve given clockwise (as outlines are), pointing out of it."""
    tangent = np.roll(points, -1, 0) - np.roll(points, 1, 0)
    outward = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    unit: FloatArray = outward / np.maximum(np.hypot(*outward.T), 1e-9)[:, None]
    return unit


def best_cycle(reward: FloatArray, smoothness: float) -> IntArray:
    """The closed path of greatest reward: one offset a point, neighbours at most one offset apart.

    Exact: the path is found for every offset at the first point, which the last point must meet again.

    Args:
        reward: (m, q) of each offset at each point, m at least 2.
        smoothness: taken from the reward for each step between neighbouring points, the last and first too.

    Returns:
        (m,) int64 offsets, indices into the q.
    """
    count, offsets = reward.shape
    value = np.full((offsets, offsets), -np.inf)  # first offset, present offset
    np.fill_diagonal(value, reward[0])
    came = np.zeros((count, offsets, offsets), np.int64)
    steps = (-1, 0, 1)
    for point in range(1, count):
        padded = np.pad(value, ((0, 0), (1, 1)), constant_values=-np.inf)
        from_step = np.stack([padded[:, 1 + s : 1 + s + offsets] - smoothness * abs(s) for s in steps])
        best = from_step.argmax(0)
        came[point] = best - 1
        value = np.take_along_axis(from_step, best[None], 0)[0] + reward[point]
    first, last = np.indices(value.shape)
    closing = np.abs(first - last)
    total = np.where(closing <= 1, value - smoothness * closing, -np.inf)
    start, place = np.unravel_index(int(np.argmax(total)), total.shape)
    path = np.empty(count, np.int64)
    for point in range(count - 1, -1, -1):
        path[point] = place
        place += came[point, start, place]
    return path


def brightness_step(frame: FloatArray, points: FloatArray, along: FloatArray, offsets: FloatArray) -> FloatArray:
    """Rise in brightness along the normals at each offset, in standard deviations of the band's rises.

    Args:
        frame: (H, W) float64, smoothed.
        points: (m, 2).
        along: (m, 2) unit normals.
        offsets: (q,) in pixels.

    Returns:
        (m, q) float64; positive where it gets brighter outwards.
    """
    reach = np.concatenate([[offsets[0] - 1], offsets, [offsets[-1] + 1]])
    where = points[:, None] + reach[None, :, None] * along[:, None]
    profile = ndimage.map_coordinates(frame, np.moveaxis(where, -1, 0), order=1, mode="nearest")
    rise: FloatArray = np.gradient(profile, reach, axis=1)[:, 1:-1]
    return rise / max(float(rise.std()), 1e-9)


def snap_outline(
    mask: BoolArray,
    frame: NDArray[np.uint8],
    *,
    width: float = 4.0,
    smoothness: float = 1.0,
    stay: float = 1.0,
    sigma: float = 1.0,
) -> BoolArray:
    """Move the outline of each component to where the frame gets brighter outwards (a dark cavity in its wall).

    Args:
        mask: (H, W) bool.
        frame: (H, W) uint8, the frame of the mask.
        width: offsets tried, this far to either side (pixels).
        smoothness: weight of jumps between neighbours, in standard deviations of the rise in brightness.
        stay: penalty at the full width, in the same unit, growing with the square of the offset.
        sigma: of the Gaussian that smooths the frame (pixels).

    Returns:
        (H, W) bool, without holes; empty where the mask is. A component that would vanish stays as it was.
    """
    smooth = ndimage.gaussian_filter(frame.astype(np.float64), sigma)
    reach = max(round(width / STEP), 1)
    offsets = np.arange(-reach, reach + 1, dtype=np.float64) * STEP
    out = np.zeros(mask.shape, bool)
    for path in outlines(mask):
        points = resample(path)
        along = normals(points)
        points += 0.5 * along  # from the centres of the outermost pixels to their outer sides
        reward = brightness_step(smooth, points, along, offsets) - stay * (offsets / (reach * STEP)) ** 2
        moved = points + offsets[best_cycle(reward, smoothness)][:, None] * along
        filled = fill_polygon((mask.shape[0], mask.shape[1]), moved)
        if not filled.any():
            filled[tuple(path.astype(np.int64).T)] = True
            filled = ndimage.binary_fill_holes(filled)
        out |= filled
    return out
