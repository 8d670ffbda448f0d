"""Bootstrap intervals over patients: a patient is drawn with all of its frames (cluster bootstrap).

Frames of one patient are alike, so resampling frames would make intervals too narrow (Davison and Hinkley,
*Bootstrap Methods and their Application*, 1997, section 3.8). All intervals are percentile intervals.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alan.bounds import Coverage, NonNegativeInt, PositiveInt, bounded
from alan.errors import ParameterError

_NAN = float("nan")


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval.

    Attributes:
        mean: Mean over all defined values; NaN if there are none.
        std: Their standard deviation (divided by n), as the paper reports it.
        low: Lower end of the interval; NaN with fewer than two groups.
        high: Upper end.
        n: Number of defined values.
        groups: Number of groups (patients) with a defined value.
        undefined: Number of NaN values, which are left out.
    """

    mean: float
    std: float
    low: float
    high: float
    n: int
    groups: int
    undefined: int

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class Estimate:
    """Any statistic with its bootstrap interval.

    Attributes:
        value: The statistic of all cases; NaN if it is undefined.
        low: Lower end of the interval; NaN with fewer than two groups.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """Return a plain dictionary."""
        return asdict(self)


@lru_cache(maxsize=4)
def resample_weights(n_groups: int, n_resamples: int, seed: int) -> NDArray[np.float64]:
    """Count how often each group is drawn when ``n_groups`` groups are drawn with replacement.

    Returns:
        (n_resamples, n_groups) float64, read-only; each row adds up to ``n_groups``. The last results are cached,
        since a report uses the same ones repeatedly.
    """
    share = np.full(n_groups, 1.0 / n_groups)
    drawn = np.random.default_rng(seed).multinomial(n_groups, share, size=n_resamples).astype(np.float64)
    drawn.flags.writeable = False
    return drawn


@bounded
def percentile_interval(statistics: NDArray[np.float64], level: Coverage) -> tuple[float, float]:
    """Return the ends of the central ``level`` of resampled statistics, without values that are not finite."""
    tail = 50.0 * (1.0 - level)
    known = statistics[np.isfinite(statistics)]
    if not len(known):
        return _NAN, _NAN
    low, high = np.percentile(known, [tail, 100.0 - tail])
    return float(low), float(high)


@bounded
def bootstrap_interval(
    values: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    level: Coverage = 0.95,
    n_resamples: PositiveInt = 2000,
    seed: NonNegativeInt = 0,
) -> Interval:
    """Compute the mean of values and its bootstrap interval over groups.

    Args:
        values: (n,) numbers; NaN marks an undefined value, which is left out and counted.
        groups: (n,) group (patient) of each value; None makes each value its own group.
        level: Coverage of the interval, between 0 and 1.
        n_resamples: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        The interval. The mean weighs each value alike (not each group).

    Raises:
        ParameterError: Values and groups differ in length, or a parameter is out of bounds.
    """
    numbers = np.asarray(values, dtype=np.float64)
    names = np.arange(len(numbers)) if groups is None else np.asarray(groups)
    if numbers.ndim != 1 or names.shape != numbers.shape:
        raise ParameterError(f"{numbers.shape} values and {names.shape} groups: give one group for each value")
    known = ~np.isnan(numbers)
    numbers, names = numbers[known], names[known]
    undefined = int((~known).sum())
    if not len(numbers):
        return Interval(_NAN, _NAN, _NAN, _NAN, 0, 0, undefined)
    group, index = np.unique(names, return_inverse=True)
    low = high = _NAN
    if len(group) > 1:
        sums, counts = np.bincount(index, weights=numbers), np.bincount(index).astype(np.float64)
        weights = resample_weights(len(group), n_resamples, seed)  # (R, G)
        low, high = percentile_interval((weights @ sums) / (weights @ counts), level)
    return Interval(float(numbers.mean()), float(numbers.std()), low, high, len(numbers), len(group), undefined)


def paired_difference(a: ArrayLike, b: ArrayLike, groups: ArrayLike | None = None, **options: Any) -> Interval:
    """Compute the mean of ``a - b``, measured on the same cases, and its bootstrap interval over groups.

    Args:
        a: (n,) values of one method.
        b: (n,) values of another method on the same cases; a case that is NaN in either is left out and counted.
        groups: (n,) group (patient) of each case.
        **options: Options of :func:`bootstrap_interval`.

    Returns:
        The interval of the difference. An interval without 0 shows a difference beyond chance at ``1 - level``.

    Raises:
        ParameterError: The lengths differ, or as :func:`bootstrap_interval`.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ParameterError(f"{first.shape} and {second.shape} values: a paired difference needs the same cases")
    return bootstrap_interval(first - second, groups, **options)


@bounded
def bootstrap_estimates(
    statistics: Callable[..., Sequence[float]],
    columns: Sequence[ArrayLike],
    groups: ArrayLike,
    *,
    n_resamples: PositiveInt = 2000,
    seed: NonNegativeInt = 0,
) -> list[Estimate]:
    """Compute several statistics of cases and their 95% bootstrap intervals over groups.

    Args:
        statistics: Takes the columns, each (n,) float64, and returns the statistics.
        columns: Values of the cases, each (n,); no value may be NaN.
        groups: (n,) group (patient) of each case.
        n_resamples: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        One estimate for each statistic.
    """
    arrays = [np.asarray(column, np.float64) for column in columns]
    group, index = np.unique(np.asarray(groups), return_inverse=True)
    values = statistics(*arrays)
    ends = [(_NAN, _NAN)] * len(values)
    if len(group) > 1:
        weights = resample_weights(len(group), n_resamples, seed)[:, index].astype(np.int64)  # (R, n)
        distinct, number = np.unique(weights, axis=0, return_inverse=True)  # few groups repeat their resamples
        cases = np.arange(len(index))
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)  # a resample may hold one case only
            drawn = np.array(
                [
                    statistics(*(array[rows] for array in arrays))
                    for rows in (np.repeat(cases, w) for w in distinct)
                ],
                np.float64,
            )
        ends = [percentile_interval(column, 0.95) for column in drawn[number].T]
    return [Estimate(float(value), *end) for value, end in zip(values, ends, strict=True)]
