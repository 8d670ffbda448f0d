"""Closed active contours: trace the outline of a mask, move it to edges, and fill it again.

The snake is that of Kass, Witkin and Terzopoulos (paper, reference 17) in the discretisation of
``skimage.segmentation.active_contour``: an image force from an interpolating quadratic spline, and an implicit
step for the shape energy. It gives the same results and is faster, because the shape matrix of a closed contour is
circulant (its inverse is applied in Fourier space), and because the spline is evaluated from its nine local
coefficients.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import ndimage

from alan.arrays import BoolArray, FloatArray
from alan.polygons import fill_polygon

#: Steps (row, column) to the eight neighbours, clockwise from the east.
_STEPS = np.array([(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)])
_EIGHT = np.ones((3, 3), bool)
#: Largest movement of a point in one iteration (pixels), as in scikit-image.
_MAX_MOVE = 1.0
#: The contour has converged once no point differs by more than this from one of the last ten states (pixels).
_CONVERGENCE = 0.1
_HISTORY = 10


def _turns() -> bytes:
    """Tabulate the next step of a clockwise border walk by neighbour code and last step, at code * 8 + step."""
    table = bytearray(256 * 8)
    for code in range(1, 256):
        for step in range(8):
            first = step + (6 if step % 2 else 7)
            table[code * 8 + step] = next(d % 8 for d in range(first, first + 8) if code >> (d % 8) & 1)
    return bytes(table)


_TURNS = _turns()


def outlines(mask: BoolArray) -> list[FloatArray]:
    """Trace the outer border of every 8-connected component, pixel by pixel.

    The border follows the outermost pixels of the component clockwise, like a chain code; a pixel of a bridge that
    is one pixel wide occurs once per direction. Holes have no outline.

    Args:
        mask: (H, W) bool.

    Returns:
        One (n, 2) float64 array of (row, column) per component, in raster order of their first pixels; empty if
        the mask is empty.
    """
    padded = np.pad(mask, 1)
    labels, count = ndimage.label(padded, _EIGHT)
    if count == 0:
        return []
    height, width = mask.shape
    code = np.zeros(padded.shape, np.uint8)
    for bit, (row, column) in enumerate(_STEPS):
        code[1:-1, 1:-1] |= padded[1 + row : 1 + row + height, 1 + column : 1 + column + width] * np.uint8(
            1 << bit
        )
    codes, flat = code.tobytes(), labels.ravel()
    offsets = [int(row) * (width + 2) + int(column) for row, column in _STEPS]
    paths = []
    for label in range(1, count + 1):
        start = int(np.argmax(flat == label))
        first = _TURNS[codes[start] * 8 + 1]
        place, step, path = start, first, [start]
        while codes[start]:
            place += offsets[step]
            step = _TURNS[codes[place] * 8 + step]
            if place == start and step == first:
                break
            path.append(place)
        paths.append(np.stack(np.unravel_index(path, padded.shape), axis=1).astype(np.float64) - 1)
    return paths


@lru_cache(maxsize=64)
def _spline_operator(length: int) -> FloatArray:
    """Build the matrix from values at 0..length-1 to the (length + 2) coefficients of the quadratic spline.

    Knots lie halfway between the samples, except in the first and last gap (the choice of FITPACK): the second
    derivative is continuous there.
    """
    system = np.zeros((length + 2, length + 2))
    for i in range(length):
        system[i, i : i + 3] = 1 / 8, 6 / 8, 1 / 8
    system[length, :4] = 1, -3, 3, -1
    system[length + 1, -4:] = -1, 3, -3, 1
    return np.ascontiguousarray(np.linalg.inv(system)[:, :length])


def edge_strength(image: FloatArray) -> FloatArray:
    """Compute the magnitude of the Sobel gradient, as ``skimage.filters.sobel``: (H, W) float64."""
    down, across = ndimage.sobel(image, 0), ndimage.sobel(image, 1)
    strength: FloatArray = np.sqrt(down * down + across * across) / (4 * np.sqrt(2))
    return strength


def _force(coefficients: FloatArray, points: FloatArray) -> FloatArray:
    """Compute the gradient (2, n) of the spline at points (2, n) of (row, column), clipped to the image."""
    limit = np.array(coefficients.shape, np.float64)[:, None] - 3
    inside = np.minimum(np.maximum(points, 0), limit)
    cell = np.minimum(np.floor(inside + 0.5), limit)
    t = inside - cell
    weight = np.stack([(0.5 - t) ** 2 / 2, 0.75 - t * t, (0.5 + t) ** 2 / 2])  # 3 taps, 2 axes, n points
    slope = np.stack([t - 0.5, -2 * t, t + 0.5])
    corner = (cell[0] * coefficients.shape[1] + cell[1]).astype(np.intp)
    taps = (np.arange(3)[:, None] * coefficients.shape[1] + np.arange(3)).reshape(9, 1)
    local = coefficients.ravel()[corner + taps].reshape(3, 3, -1)
    along_columns = (local * weight[None, :, 1]).sum(1)
    force = np.empty_like(points)
    force[0] = (along_columns * slope[:, 0]).sum(0)
    force[1] = ((local * slope[None, :, 1]).sum(1) * weight[:, 0]).sum(0)
    return force


def active_contour(
    image: FloatArray,
    snake: FloatArray,
    *,
    beta: float,
    gamma: float,
    w_edge: float,
    max_iterations: int,
) -> FloatArray:
    """Move a closed contour to the edges of an image.

    The discretisation, the step limit and the convergence test are those of
    ``skimage.segmentation.active_contour`` with periodic ends, ``alpha=0`` and ``w_line=0`` (paper, section 4.2).

    Args:
        image: (H, W) float, both sides at least 4; usually a smoothed mask in [0, 1].
        snake: (n, 2) points (row, column) in pixels, not closed by a repeated point, n at least 1.
        beta: Weight of the bending energy.
        gamma: Inverse of the time step.
        w_edge: Weight of the attraction to edges.
        max_iterations: Largest number of iterations.

    Returns:
        (n, 2) float64, the points of the contour after the last iteration.
    """
    energy = w_edge * edge_strength(image)
    rows, columns = image.shape
    coefficients = np.ascontiguousarray(_spline_operator(rows) @ energy @ _spline_operator(columns).T)
    points = np.ascontiguousarray(snake.T, dtype=np.float64)
    count = points.shape[1]
    wave = 2 - 2 * np.cos(2 * np.pi * np.arange(count // 2 + 1) / count)
    inverse = 1 / (beta * wave * wave + gamma)
    history = np.full((_HISTORY, 2, count), np.inf)
    for iteration in range(max_iterations):
        wanted = gamma * points + _force(coefficients, points)
        target = np.fft.irfft(np.fft.rfft(wanted) * inverse, n=count)
        points = points + _MAX_MOVE * np.tanh(target - points)
        turn = iteration % (_HISTORY + 1)
        if turn < _HISTORY:
            history[turn] = points
        elif np.abs(history - points).sum(1).max(1).min() < _CONVERGENCE:
            break
    return points.T.copy()


def smooth_outline(
    mask: BoolArray,
    *,
    sigma: float,
    beta: float,
    gamma: float,
    w_edge: float,
    max_iterations: int,
) -> BoolArray:
    """Smooth the outline of every component of a mask with an active contour (paper, sections 3.2 and 4.2).

    The result has no holes, because only outer borders are traced. A component whose contour shrinks to nothing
    (one of a few pixels) is left unchanged.

    Args:
        mask: (H, W) bool.
        sigma: Standard deviation, in pixels, of the Gaussian that smooths the mask.
        beta: Weight of the bending energy.
        gamma: Inverse of the time step.
        w_edge: Weight of the attraction to the edge of the smoothed mask.
        max_iterations: Largest number of iterations.

    Returns:
        (H, W) bool; empty if the mask is empty.
    """
    paths = outlines(mask)
    if not paths:
        return mask.copy()
    corners = np.array([(path.min(0), path.max(0)) for path in paths], dtype=np.int64)
    margin = min(max_iterations, 24) + 8  # beyond the reach of the contour and of the border of the spline
    low = np.maximum(corners[:, 0].min(0) - margin, 0)
    high = np.minimum(corners[:, 1].max(0) + margin + 1, mask.shape)
    window = (slice(low[0], high[0]), slice(low[1], high[1]))
    crop = mask[window]
    lacking = [(0, max(4 - side, 0)) for side in crop.shape]
    smooth = ndimage.gaussian_filter(np.pad(crop, lacking).astype(np.float64), sigma, mode="nearest")
    out = np.zeros(mask.shape, bool)
    for path in paths:
        settled = active_contour(
            smooth, path - low, beta=beta, gamma=gamma, w_edge=w_edge, max_iterations=max_iterations
        )
        filled = fill_polygon((crop.shape[0], crop.shape[1]), settled)
        if not filled.any():
            rows, columns = (path - low).astype(np.int64).T
            filled[rows, columns] = True
            filled = ndimage.binary_fill_holes(filled)
        out[window] |= filled
    return out
