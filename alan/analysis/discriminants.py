"""Directions in which the views of a bank or both orientations of a view differ, and the weights of its frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigh

from alan.arrays import BoolArray, Float32Array, FloatArray

#: How far the covariance within the views is drawn towards a multiple of the identity.
SHRINKAGE = 0.1
#: Number of labelled frames of a view that weigh as much as all simulated frames of it.
SIMULATED_WEIGHT = 10


def discriminants(
    features: ArrayLike,
    labels: Sequence[str],
    shrinkage: float = SHRINKAGE,
    *,
    weights: FloatArray | None = None,
) -> FloatArray:
    """Compute Fisher's linear discriminants.

    The columns span the differences of the class means after the features are scaled such that the covariance
    within the classes is the identity. That covariance is first shrunk towards a multiple of the identity
    (Ledoit and Wolf 2004, equation 1, with a fixed share).

    Args:
        features: (N, D).
        labels: (N,) classes, C of them.
        shrinkage: Share of the identity, 0 to 1.
        weights: (N,) weights of the features; None weighs all alike.

    Returns:
        (D, K) with K = C - 1, and 1 for a single class.
    """
    X: FloatArray = np.asarray(features, np.float64)
    w = np.ones(len(X)) if weights is None else weights
    classes, of = np.unique(np.asarray(labels), return_inverse=True)
    means = np.stack([np.average(X[of == n], 0, w[of == n]) for n in range(len(classes))])
    within = (X - means[of]).T @ (w[:, None] * (X - means[of])) / w.sum()
    size = np.trace(within) / len(within) or 1.0
    within = (1 - shrinkage) * within + shrinkage * size * np.eye(len(within))
    apart = means - means.mean(0)
    _, directions = eigh(apart.T @ apart, within)  # their length is 1 in the covariance within the classes
    return np.asarray(directions[:, ::-1][:, : max(1, len(classes) - 1)], np.float64)


def frame_weights(views: Sequence[str], labelled: BoolArray) -> FloatArray:
    """Compute the weights of the frames of a bank (N,), of which labelled ones count more than simulated ones."""
    names, weights = np.array(views), np.ones(len(views))
    for view in np.unique(names[labelled]):
        simulated, real = (names == view) & ~labelled, (names == view) & labelled
        if simulated.any():
            total = simulated.sum() / (real.sum() + SIMULATED_WEIGHT)
            weights[real], weights[simulated] = total, total * SIMULATED_WEIGHT / simulated.sum()
    return weights


def self_trained(
    features: Float32Array,
    views: Sequence[str],
    labelled: BoolArray,
    recognised: Float32Array,
    names: Sequence[str],
) -> FloatArray:
    """Compute the discriminants of a bank together with frames that were recognised by it.

    Args:
        features: (N, D) features of the bank.
        views: (N,) their views.
        labelled: (N,) bool, the frames that a user has labelled.
        recognised: (M, D) features of the recognised frames, which count as labelled ones.
        names: (M,) their views.
    """
    known = [*views, *names]
    weights = frame_weights(known, np.concatenate([labelled, np.ones(len(names), bool)]))
    return discriminants(np.concatenate([features, recognised]), known, weights=weights)


def direction_of_sides(pooled: Float32Array, swapped: Float32Array) -> Float32Array:
    """Compute the direction that separates frames from the same frames with left and right swapped.

    Args:
        pooled: (N, D) features of frames.
        swapped: (N, D) features of the same frames with left and right swapped.

    Returns:
        (D,) Fisher's linear discriminant of the differences and their opposites, see :func:`discriminants`;
        positive for frames as they are.
    """
    apart = (pooled - swapped).astype(np.float64)
    labels = np.repeat(["as stored", "swapped"], len(apart)).tolist()
    direction = discriminants(np.concatenate([apart, -apart]), labels)[:, 0]
    return np.asarray(direction * np.sign((apart @ direction).mean()), np.float32)
