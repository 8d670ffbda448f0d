"""Change of resolution: resize masks, and sum and enlarge soft scores of parcels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alan.arrays import BoolArray, FloatArray
from alan.errors import ParameterError


def check_scores(scores: ArrayLike, n_images: int, n_parcels: int | None) -> NDArray[np.floating]:
    """Check soft scores.

    Args:
        scores: (N, K, h, w) floating point.
        n_images: Number of images N.
        n_parcels: Largest number of parcels K; None allows any.

    Raises:
        ParameterError: The shape or dtype is another, or a score is below 0 or above 1.
    """
    array = np.asarray(scores)
    if array.ndim != 4 or len(array) != n_images or not np.issubdtype(array.dtype, np.floating):
        raise ParameterError(f"scores are {array.dtype} {array.shape}: give floats ({n_images}, K, h, w)")
    if n_parcels is not None and array.shape[1] > n_parcels:
        raise ParameterError(
            f"scores have {array.shape[1]} parcels, n_parcels is {n_parcels}: give those of the same parcel model"
        )
    if not (array.min() >= 0 and array.max() <= 1 + 1e-3):
        raise ParameterError("scores exceed 0 to 1: give the softmax of the logits over the parcels")
    return array


def soft_union(
    scores: NDArray[np.floating], weights: FloatArray, level: float, shape: tuple[int, ...]
) -> BoolArray:
    """Return the pixels where the weighted sum of the scores of the parcels reaches a level.

    The sum is computed at the resolution of the scores and then enlarged linearly (both are linear, so that their
    order does not matter). Borders can lie between tokens.

    Args:
        scores: (N, K, h, w) in [0, 1].
        weights: One weight in [0, 1] per parcel; weights beyond K are ignored, missing ones are 0.
        level: Level in [0, 1].
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
    """Matrix (wanted, length) of linear interpolation between samples, with aligned pixel areas."""
    place = ((np.arange(wanted) + 0.5) * length / wanted - 0.5).clip(0, length - 1)
    low = np.minimum(place.astype(np.int64), max(length - 2, 0))
    matrix = np.zeros((wanted, length), np.float32)
    matrix[np.arange(wanted), np.minimum(low + 1, length - 1)] = place - low
    matrix[np.arange(wanted), low] += 1 - (place - low)
    return matrix


def resize(mask: BoolArray, size: tuple[int, int]) -> BoolArray:
    """Resize a mask by linear interpolation with a threshold of one half.

    Args:
        mask: (H, W) bool.
        size: (height, width).

    Returns:
        (height, width) bool; the mask itself if it has that size.
    """
    if mask.shape == size:
        return mask
    rows, columns = _interpolation(mask.shape[0], size[0]), _interpolation(mask.shape[1], size[1])
    return rows @ mask.astype(np.float32) @ columns.T >= 0.5
