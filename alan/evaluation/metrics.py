"""Metrics of two masks: overlap (Dice, IoU) and distance between outlines (95% Hausdorff, average).

Undefined values are NaN: the overlap of two empty masks, and any distance to an empty mask. Callers count them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

from alan.arrays import BoolArray, FloatArray
from alan.cardiac.areas import check_spacing
from alan.errors import ParameterError
from alan.overlap import dice_of_counts, iou_of_counts


def _pair(a: BoolArray, b: BoolArray) -> tuple[BoolArray, BoolArray]:
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if a.shape != b.shape or a.ndim < 2:
        raise ParameterError(f"masks of shape {a.shape} and {b.shape}: give two of one shape (..., H, W)")
    return a, b


def _sizes(a: BoolArray, b: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Count the pixels in both masks, and add up the pixels of the two, each (...)."""
    both = (a & b).sum(axis=(-2, -1), dtype=np.float64)
    total = a.sum(axis=(-2, -1), dtype=np.float64) + b.sum(axis=(-2, -1), dtype=np.float64)
    return both, total


def dice(a: BoolArray, b: BoolArray) -> FloatArray:
    """Compute the Dice score, ``2 |a and b| / (|a| + |b|)``.

    Args:
        a: (..., H, W) bool.
        b: (..., H, W) bool.

    Returns:
        (...) float64 from 0 to 1; 0 if one mask is empty, NaN if both are.

    Raises:
        ParameterError: The shapes differ.

    Examples:
        >>> masks = np.zeros((2, 8, 8), bool)
        >>> masks[0, 2:6, 2:6] = True
        >>> dice(masks, np.roll(masks, 1, axis=-1))
        array([0.75,  nan])
    """
    return np.asarray(dice_of_counts(*_sizes(*_pair(a, b))))


def iou(a: BoolArray, b: BoolArray) -> FloatArray:
    """Compute the intersection over union, ``|a and b| / |a or b|``.

    Args:
        a: (..., H, W) bool.
        b: (..., H, W) bool.

    Returns:
        (...) float64 from 0 to 1; 0 if one mask is empty, NaN if both are.

    Raises:
        ParameterError: The shapes differ.
    """
    return np.asarray(iou_of_counts(*_sizes(*_pair(a, b))))


def boundary_pixels(mask: BoolArray) -> NDArray[np.int64]:
    """Find the pixels of a mask with an edge on the outside or on the border of the image.

    Args:
        mask: (H, W) bool, or (D, H, W) for the surface of a volume.

    Returns:
        (P, 2) row and column; (P, 3) slice, row and column of a volume.
    """
    axes = range(mask.ndim)
    found = [np.flatnonzero(mask.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    if not len(found[0]):
        return np.zeros((0, mask.ndim), np.int64)
    box = mask[tuple(slice(places[0], places[-1] + 1) for places in found)]
    return np.asarray(np.argwhere(box & ~binary_erosion(box)) + [places[0] for places in found], np.int64)


def surface_distances(a: BoolArray, b: BoolArray, spacing: Sequence[float]) -> tuple[FloatArray, FloatArray]:
    """Measure the distance of each outline pixel of one mask to the nearest outline pixel of the other.

    Args:
        a: (H, W) bool, or (D, H, W) for the surfaces of volumes.
        b: The same shape, bool.
        spacing: (row, column) size of a pixel in mm; (slice, row, column) for volumes.

    Returns:
        From ``a`` to ``b``, (P,), and from ``b`` to ``a``, (Q,), in mm; both empty if a mask is empty.

    Raises:
        ParameterError: The shapes differ or have other dimensions, or the spacing is not finite and positive.
    """
    a, b = _pair(a, b)
    if a.ndim not in (2, 3) or len(spacing) != a.ndim:
        raise ParameterError(
            f"masks of shape {a.shape} with {len(spacing)} sizes of a pixel: give one pair (H, W) or (D, H, W) at "
            "a time, and one size for each axis"
        )
    check_spacing((spacing[-2], spacing[-1]))
    check_spacing((spacing[0], spacing[0]))  # the distance of the slices of a volume
    scale = np.array(spacing, np.float64)
    points_a, points_b = boundary_pixels(a) * scale, boundary_pixels(b) * scale
    if not (len(points_a) and len(points_b)):
        return np.zeros(0), np.zeros(0)
    to_b, _ = KDTree(points_b).query(points_a)
    to_a, _ = KDTree(points_a).query(points_b)
    return np.asarray(to_b, np.float64), np.asarray(to_a, np.float64)


def distances(a: BoolArray, b: BoolArray, spacing: Sequence[float]) -> tuple[float, float]:
    """Compute two distances of the surfaces of masks.

    Args:
        a: (H, W) bool, or (D, H, W) for volumes.
        b: The same shape, bool.
        spacing: (row, column) size of a pixel in mm; (slice, row, column) for volumes.

    Returns:
        The 95% Hausdorff distance, the larger of the two directed 95th percentiles, and the average symmetric
        surface distance, the mean over the outline pixels of both masks together; in mm, NaN if a mask is empty.

    Raises:
        ParameterError: As :func:`surface_distances`.
    """
    to_b, to_a = surface_distances(a, b, spacing)
    if not len(to_b):
        return float("nan"), float("nan")
    farthest = max(np.percentile(to_b, 95), np.percentile(to_a, 95))
    return float(farthest), float(np.concatenate([to_b, to_a]).mean())
