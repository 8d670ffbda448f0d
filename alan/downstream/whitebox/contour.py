"""Outlines of a mask, and their smoothing by closed active contours (paper, reference 17)."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from alan.arrays import BoolArray, FloatArray
from alan.polygons import fill_polygon

#: Steps (row, column) to the eight neighbours, clockwise from the east.
_STEPS = np.array([(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)])
_EIGHT = np.ones((3, 3), bool)


def _turns() -> bytes:
    """Next step of a clockwise border walk by neighbour code and last step; the index is code * 8 + step."""
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
    from skimage.segmentation import active_contour  # takes a quarter of a second

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
        settled = active_contour(  # type: ignore[no-untyped-call]
            smooth,
            path - low,
            alpha=0,
            beta=beta,
            w_line=0,
            w_edge=w_edge,
            gamma=gamma,
            max_num_iter=max_iterations,
        )
        filled = fill_polygon((crop.shape[0], crop.shape[1]), settled)
        if not filled.any():
            rows, columns = (path - low).astype(np.int64).T
            filled[rows, columns] = True
            filled = ndimage.binary_fill_holes(filled)
        out[window] |= filled
    return out
