"""EchoNet tracings: lines or outline points of the left ventricle to a mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alan.arrays import BoolArray
from alan.errors import DataError
from alan.polygons import fill_polygon

#: A point may lie this far outside the frame, in pixels: corners are rounded to whole pixels.
_MARGIN = 2.0


def tracing_mask(lines: NDArray[np.float64], shape: tuple[int, int]) -> BoolArray:
    """Fill the outline that chords span.

    One line is the long axis; the others are chords across it. The outline follows the first ends of the chords
    and returns along their second ends; corners are rounded to whole pixels, as in the archive's own code (Ouyang
    et al., Nature 2020). Lines may be in any order and direction.

    Args:
        lines: (n, 4) rows of X1, Y1, X2, Y2 in pixels of the frame.
        shape: (H, W) of the frame.

    Returns:
        (H, W) bool; borders belong to the mask.

    Raises:
        DataError: Fewer than two chords, no long axis or two, a coordinate that is not finite or lies outside the
            frame, or an empty mask.
    """
    if lines.ndim != 2 or lines.shape[1] != 4 or len(lines) < 3:
        raise DataError(f"a tracing needs a long axis and at least two chords (n, 4), got {lines.shape}")
    _check_points(lines.reshape(-1, 2), shape)
    chords = _sorted_chords(lines)
    return _fill(np.concatenate([chords[:, :2], chords[::-1, 2:]]), shape)


def outline_mask(points: NDArray[np.float64], shape: tuple[int, int]) -> BoolArray:
    """Fill an outline given by its points, as EchoNet-Pediatric has it.

    Args:
        points: (n, 2) x and y in pixels of the frame, in order along the outline.
        shape: (H, W) of the frame.

    Returns:
        (H, W) bool; borders belong to the mask.

    Raises:
        DataError: Fewer than three points, a coordinate that is not finite or lies outside the frame, or an empty
            mask.
    """
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
        raise DataError(f"an outline needs at least three points (n, 2), got {points.shape}")
    _check_points(points, shape)
    return _fill(points, shape)


def _check_points(points: NDArray[np.float64], shape: tuple[int, int]) -> None:
    if not np.isfinite(points).all():
        raise DataError("a tracing holds coordinates that are not finite; correct its rows or remove them")
    if points.min() >= 0 and points.max() <= 1:
        raise DataError("all coordinates of a tracing lie between 0 and 1; give them in pixels, not as fractions")
    limits = np.array([shape[1] - 1, shape[0] - 1])
    outside = ((points < -_MARGIN) | (points > limits + _MARGIN)).any(1)
    if outside.any():
        x, y = points[outside][0]
        raise DataError(
            f"{outside.sum()} of {len(points)} points of a tracing lie outside the frame of {shape[1]} x "
            f"{shape[0]} pixels, the first at ({x:g}, {y:g}); give coordinates in pixels of this video"
        )


def _sorted_chords(lines: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chords (n - 1, 4) in their order along the long axis, all of them from the same side to the other.

    Chords are parallel and the axis runs across them. Their common direction is the mean of the doubled angles, in
    which a line and its reverse are the same.
    """
    steps = lines[:, 2:] - lines[:, :2]
    lengths = np.hypot(*steps.T)
    doubled = 2 * np.arctan2(steps[:, 1], steps[:, 0])[lengths > 0]
    angle = np.arctan2(np.sin(doubled).sum(), np.cos(doubled).sum()) / 2
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    # near the apex chords are short, and rounded ends may turn them any way
    is_axis = (np.abs(steps @ across) > np.abs(steps @ along)) & (lengths >= lengths.max() / 4)
    if is_axis.sum() != 1:
        what = f"{is_axis.sum()} long axes" if is_axis.any() else "no long axis"
        raise DataError(
            f"a tracing of {len(lines)} lines has {what}; it needs one line across parallel chords: correct its "
            "rows, or remove rows that are there twice"
        )
    chords = lines[~is_axis]
    reverse = steps[~is_axis] @ along < 0
    chords[reverse] = chords[reverse][:, [2, 3, 0, 1]]
    places = (chords[:, :2] + chords[:, 2:]) @ across
    ordered: NDArray[np.float64] = chords[np.argsort(places, kind="stable")]
    return ordered


def _fill(outline: NDArray[np.float64], shape: tuple[int, int]) -> BoolArray:
    mask = fill_polygon(shape, np.rint(outline)[:, ::-1])
    if not mask.any():
        raise DataError("a tracing encloses no pixel; correct its rows or remove them")
    return mask
