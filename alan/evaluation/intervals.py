"""Bootstrap intervals over patients: a patient is drawn with all of its frames (cluster bootstrap).

Frames of one patient are alike, so resampling frames would make intervals too narrow (Davison and Hinkley,
*Bootstrap Methods and their Application*, 1997, section 3.8). Percentile intervals throughout.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alan.errors import ParameterError


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval.

    Attributes:
        mean: mean over all defined values; NaN where there are none.
        std: their standard deviation (divided by n), as the paper reports it.
        low: lower end of the interval; NaN with fewer than two groups.
        high: upper end.
        n: number of defined values.
        groups: number of groups (patients) with a defined value.
        undefined: number of NaN values left out.
    """

    mean: float
    std: float
    low: float
    high: float
    n: int
    groups: int
    undefined: int

    def to_dict(self) -> dict[str, Any]:
        """As a plain dictionary."""
        return asdict(self)


@lru_cache(maxsize=4)
def resample_weights(n_groups: int, n_resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each group is drawn when ``n_groups`` groups are drawn with replacement.

    Returns:
        (n_resamples, n_groups) float64, read-only; each row adds up to ``n_groups``. The last few are kept: a
        report asks for the same ones again and again.
    """
    share = np.full(n_groups, 1.0 / n_groups)
    drawn = np.random.default_rng(seed).multinomial(n_groups, share, size=n_resamples).astype(np.float64)
    drawn.flags.writeable = False
    return drawn


def percentile_interval(statistics: NDArray[np.float64], level: float) -> tuple[float, float]:
    """The central ``level`` of resampled statistics (NaN left out): lower and upper end."""
    if not 0 < level < 1:
        raise ParameterError(f"level={level}: give a value between 0 and 1, e.g. 0.95")
    tail = 50.0 * (1.0 - level)
    known = statistics[np.isfinite(statistics)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, [tail, 100.0 - tail])
    return float(low), float(high)


def bootstrap_interval(
    values: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of values with its bootstrap interval over groups.

    Args:
        values: (n,) numbers; NaN is undefined: left out, and counted.
        groups: (n,) the group (patient) of each value; None makes each value its own group.
        level: coverage of the interval, between 0 and 1.
        n_resamples: number of resamples, at least 1.
        seed: seed of the resampling; the same seed gives the same interval.

    Returns:
        The interval. The mean weighs each value alike (not each group).

    Raises:
        ParameterError: values and groups differ in length, or ``level`` or ``n_resamples`` is out of range.
    """
    numbers = np.asarray(values, dtype=np.float64)
    names = np.arange(len(numbers)) if groups is None else np.asarray(groups)
    if numbers.ndim != 1 or names.shape != numbers.shape:
        raise ParameterError(f"{numbers.shape} values and {names.shape} groups: give one group for each value")
    if n_resamples < 1:
        raise ParameterError(f"n_resamples={n_resamples}: give at least 1 (2000 is usual)")
    known = ~np.isnan(numbers)
    numbers, names = numbers[known], names[known]
    undefined = int((~known).sum())
    nan = float("nan")
    if not len(numbers):
        return Interval(nan, nan, nan, nan, 0, 0, undefined)
    group, index = np.unique(names, return_inverse=True)
    low = high = nan
    if len(group) > 1:
        sums, counts = np.bincount(index, weights=numbers), np.bincount(index).astype(np.float64)
        weights = resample_weights(len(group), n_resamples, seed)  # (R, G)
        low, high = percentile_interval((weights @ sums) / (weights @ counts), level)
    return Interval(float(numbers.mean()), float(numbers.std()), low, high, len(numbers), len(group), undefined)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of ``a - b``, measured on the same cases, with its bootstrap interval over groups.

    Args:
        a: (n,) values of one method.
        b: (n,) values of another on the same cases; a case that is NaN in either is left out, and counted.
        groups: (n,) the group (patient) of each case.
        level: coverage of the interval.
        n_resamples: number of resamples.
        seed: seed of the resampling.

    Returns:
        The interval of the difference; one that leaves out 0 is a difference beyond chance at ``1 - level``.

    Raises:
        ParameterError: the lengths differ, or as :func:`bootstrap_interval`.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ParameterError(f"{first.shape} and {second.shape} values: a paired difference needs the same cases")
    return bootstrap_interval(first - second, groups, level=level, n_resamples=n_resamples, seed=seed)
