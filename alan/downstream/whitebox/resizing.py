"""Between resolutions: masks resized, soft scores of parcels summed and enlarged."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alan.errors import ParameterError

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]


def check_scores(scores: ArrayLike, n_images: int, n_parcels: int | None) -> NDArray[np.floating]:
    """Check soft scores.

    Args:
        scores: (N, K, h, w) floating point.
        n_images: N.
        n_parcels: K is at most this; None: any K.

    Raises:
        ParameterError: another shape or dtype, or scores below 0 or above 1.
    """
    array = np.asarray(scores)
    if array.ndim != 4 or len(array) != n_images or not np.issubdtype(array.dtype, np.floating):
        raise ParameterError(f"scores are {array.dtype} {array.shape}: expected floats ({n_images}, K, h, w)")
    if n_parcels is not None and array.shape[1] > n_parcels:
        raise ParameterError(
            f"scores are of {array.shape[1]} parcels, n_parcels is {n_parcels}: give those of its parcel model"
        )
    if not (array.min() >= 0 and array.max() <= 1 + 1e-3):
        raise ParameterError("scores must lie in 0 to 1: take the softmax of the logits over the parcels")
    return array


def soft_union(
    scores: NDArray[np.floating], weights: FloatArray, level: float, shape: tuple[int, ...]
) -> BoolArray:
    """Pixels where the weighted sum of the parcels' scores reaches a level.

    The sum is taken at the scores' resolution and then enlarged linearly (both are linear, so their order does not
    matter): borders fall between tokens.

    Args:
        scores: (N, K, h, w) in [0, 1].
        weights: in [0, 1], one a parcel; those beyond K are ignored, missing ones are 0.
        level: in [0, 1].
        shape: (H, W).

    Returns:
        (N, H, W) bool.
    """
    weight = np.zeros(scores.shape[1], np.float32)
    weight[: len(weights)] = weights[: len(weight)]
    rows, columns = _interpolation(scores.shape[2], shape[0]), _interpolation(scores.shape[3], shape[1])
    out = np.empty((len(scores), *shape), bool)
    for one, target in zip(scores, out, strict=True):
        target[:] = rows @ np.tensordot(weight, one.astype(np.float32), 1) @ columns.T >= max(level, 1e-6)
    return out


@lru_cache(maxsize=16)
def _interpolation(length: int, wanted: int) -> NDArray[np.float32]:
    """Linear interpolation from ``length`` to ``wanted`` samples, pixel areas aligned: (wanted, length)."""
    place = ((np.arange(wanted) + 0.5) * length / wanted - 0.5).clip(0, length - 1)
    low = np.minimum(place.astype(np.int64), max(length - 2, 0))
    matrix = np.zeros((wanted, length), np.float32)
    matrix[np.arange(wanted), np.minimum(low + 1, length - 1)] = place - low
    matrix[np.arange(wanted), low] += 1 - (place - low)
    return matrix


def resize(mask: BoolArray, size: tuple[int, int]) -> BoolArray:
    """Resize a mask: linear interpolation, cut at one half.

    Args:
        mask: (H, W) bool.
        size: (height, width).

    Returns:
        (height, width) bool; the mask itself where the size is its own.
    """
    if mask.shape == size:
        return mask
    rows, columns = _interpolation(mask.shape[0], size[0]), _interpolation(mask.shape[1], size[1])
    level: BoolArray = rows @ mask.astype(np.float32) @ columns.T >= 0.5
    return level
