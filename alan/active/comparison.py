"""Comparison of acquisition functions with Random: intervals over patients and seeds.

A resample draws the test patients and the seeds with replacement, and takes the same draw for every function, so
that differences are paired. Curves are means over images, then over seeds. Loops that label whole patients reach
different numbers of labels: their curves are interpolated linearly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alan.active.settings import RANDOM
from alan.active.state import State
from alan.arrays import FloatArray
from alan.bounds import PositiveInt, Seed, bounded

#: Ends of the intervals, in percent.
_ENDS = (2.5, 97.5)


def area_under(labels: FloatArray, curves: FloatArray) -> FloatArray:
    """Compute the mean height of curves over the number of labels, by the trapezoidal rule.

    Args:
        labels: (P,) ascending numbers of labels.
        curves: (..., P) scores.

    Returns:
        (...) float64, in the unit of the scores; the score itself where there is one phase.
    """
    if len(labels) == 1:
        return np.asarray(curves[..., 0])
    return np.asarray(np.trapezoid(curves, labels) / (labels[-1] - labels[0]))


def first_reaching(labels: FloatArray, curves: FloatArray, wanted: float) -> FloatArray:
    """Find the number of labels at which curves first reach a score.

    Args:
        labels: (P,) ascending numbers of labels.
        curves: (..., P) scores.
        wanted: Score to reach.

    Returns:
        (...) float64, one of ``labels``; infinite where the score is not reached.
    """
    reached = curves >= wanted
    return np.where(reached.any(-1), labels[reached.argmax(-1)], np.inf)


@bounded
def compare_functions(
    state: State,
    functions: Sequence[str],
    patients: Sequence[str],
    targets: Sequence[float] = (),
    *,
    n_resamples: PositiveInt = 1000,
    seed: Seed = 0,
) -> list[dict[str, Any]]:
    """Compare the curves of functions over the numbers of labels that all of their loops span.

    Args:
        state: Finished phases with the IoU of each measured image.
        functions: Functions in the order of the result.
        patients: Patient of each measured image.
        targets: Scores for which the labels needed are counted.
        n_resamples: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        One row per function: ``function``, ``labels`` (of the curve), ``area`` (mean IoU over the curve) and
        ``area_gain`` (its difference to Random; None for Random or without it), ``gains`` (the difference at each
        number of labels) and ``needed`` (``score``, and the labels at which the mean curve reaches it or None).
        Each value has ``value``, ``low`` and ``high`` (95%); ``needed`` also ``reached``, the share of resamples
        that reach the score, over which its interval is taken. Empty where a loop holds no scores of images.
    """
    loops = {(f, s): [x for x in state.loop(f, s) if x.images] for f in functions for s in state.initial}
    if not all(loops.values()):
        return []
    reached = [[phase.n_labels for phase in loop] for loop in loops.values()]
    low, high = max(one[0] for one in reached), min(one[-1] for one in reached)
    labels = np.array(sorted({n for one in reached for n in one if low <= n <= high}), np.float64)
    if not len(labels):
        return []
    _, group = np.unique(np.asarray(patients), return_inverse=True)
    rng = np.random.default_rng(seed)
    weights, seeds = (_draws(rng, n, n_resamples) for n in (int(group.max()) + 1, len(state.initial)))
    curves = {}
    for function in functions:
        each = [_resample(loops[function, s], labels, group, weights) for s in state.initial]  # S x (R, P)
        curves[function] = np.einsum("rs,srp->rp", seeds / seeds.sum(1, keepdims=True), np.stack(each))
    rows = []
    for function, curve in curves.items():
        gain = curve - curves[RANDOM] if RANDOM in curves and function != RANDOM else None
        needed = [{"score": score, **_finite_summary(first_reaching(labels, curve, score))} for score in targets]
        rows.append(
            {
                "function": function,
                "labels": labels.astype(int).tolist(),
                "area": _estimate(area_under(labels, curve)),
                "area_gain": None if gain is None else _estimate(area_under(labels, gain)),
                "gains": [] if gain is None else [_estimate(gain[:, p]) for p in range(len(labels))],
                "needed": needed,
            }
        )
    return rows


def _draws(rng: np.random.Generator, n: int, n_resamples: int) -> FloatArray:
    """Count how often each of n is drawn, (1 + n_resamples, n); the first row is the sample itself."""
    drawn = rng.multinomial(n, np.full(n, 1 / n), n_resamples)
    return np.concatenate([np.ones((1, n)), drawn])


def _interval(values: FloatArray) -> tuple[float, float]:
    """Return the ends of the interval of resampled values, without those that are not finite."""
    known = values[np.isfinite(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, _ENDS)
    return float(low), float(high)


def _resample(loop: Sequence[Any], labels: FloatArray, group: NDArray[np.intp], weights: FloatArray) -> FloatArray:
    """Compute the mean IoU over images for each resample of patients, (R, P), without undefined images."""
    images = np.array([phase.images for phase in loop], np.float64)  # (phases, n)
    known = ~np.isnan(images)
    size = weights.shape[1]
    sums = np.stack([np.bincount(group, np.where(k, x, 0.0), size) for x, k in zip(images, known, strict=True)])
    counts = np.stack([np.bincount(group, k, size) for k in known])
    with np.errstate(invalid="ignore"):
        curves = (weights @ sums.T) / (weights @ counts.T)
    return _interpolate(labels, np.array([phase.n_labels for phase in loop], np.float64), curves)


def _interpolate(labels: FloatArray, known: FloatArray, curves: FloatArray) -> FloatArray:
    """Interpolate curves (..., phases) at ``known`` numbers of labels, to (..., P); exact where both agree."""
    after = np.minimum(np.searchsorted(known, labels), len(known) - 1)
    before = np.where(known[after] == labels, after, after - 1)
    gap = known[after] - known[before]
    share = np.divide(labels - known[before], gap, out=np.zeros(len(labels)), where=gap > 0)
    return np.asarray((1 - share) * curves[..., before] + share * curves[..., after])


def _estimate(values: FloatArray) -> dict[str, float]:
    """Return the first value, with the interval of the others."""
    low, high = _interval(values[1:])
    return {"value": float(values[0]), "low": low, "high": high}


def _finite_summary(values: FloatArray) -> dict[str, float | None]:
    """Return the first value (None if it is infinite), with the interval and the share of the finite others."""
    low, high = _interval(values[1:])
    value = float(values[0]) if np.isfinite(values[0]) else None
    return {"value": value, "low": low, "high": high, "reached": float(np.isfinite(values[1:]).mean())}
