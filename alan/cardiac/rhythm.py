"""Heart rate from the R waves of an ECG, or from the curve of a ventricular area over time.

A loop may be too short to show a beat from one end-diastole to the next. A periodic curve is therefore fitted to
all of its frames (harmonic regression): each frame whose phase is shown twice contributes, not only the extrema.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d

from alan.cardiac.beats import LONGEST_S, SHORTEST_S, Beat
from alan.errors import ParameterError

#: Standard error in s of the interval between two R waves (ECGs have 100 samples per second or more), and of the
#: duration of a beat between two end-diastoles of a curve, before which the ventricle hardly fills
#: (docs/results/loops.md).
_R_WAVE_S, _BEAT_S = 0.005, 0.15
#: Periods that are tried, and harmonics of the fitted curve; the penalty of the highest harmonic, as a fraction of
#: the number of frames, grows with the square of its order.
_PERIODS = np.geomspace(SHORTEST_S, LONGEST_S, 280)
_HARMONICS, _PENALTY = 4, 0.02
#: A loop shows at least this number of beats. What it shows of the second one has at least this fraction of the
#: range of the curve. The fit leaves at most this fraction of the variance.
_LEAST_BEATS, _LEAST_RANGE, _MOST_LEFT = 1.15, 0.5, 0.5
#: Of two periods that leave about the same fraction of the variance, the shorter one is taken.
_SLACK = 0.03
#: Longer loops are cut into parts of about this duration in s, because no heart beats like a clock.
_PART_S = 5.0


@dataclass(frozen=True)
class HeartRate:
    """Heart rate of a loop.

    Attributes:
        bpm: Beats per minute; NaN if it is unknown.
        error_bpm: Standard error in beats per minute; NaN if it is unknown.
    """

    bpm: float = math.nan
    error_bpm: float = math.nan

    @property
    def known(self) -> bool:
        """Whether there is a rate."""
        return math.isfinite(self.bpm)


def heart_rate_of_r_waves(r_waves: ArrayLike) -> HeartRate:
    """Compute the heart rate from the median interval between R waves.

    Args:
        r_waves: (N,) times of the R waves in s, ascending.

    Returns:
        The rate, with the standard error over the intervals; unknown without an interval of 0.3 to 2 s.

    Examples:
        >>> rate = heart_rate_of_r_waves([0.1, 0.9, 1.7])
        >>> round(rate.bpm, 1), round(rate.error_bpm, 1)
        (75.0, 0.5)
    """
    return _median_rate(np.diff(np.asarray(r_waves, np.float64)), _R_WAVE_S)


def heart_rate_of_beats(beats: Sequence[Beat], times: ArrayLike) -> HeartRate:
    """Compute the heart rate from the median duration of the complete beats.

    Args:
        beats: Beats of a loop, see :func:`find_beats`.
        times: (T,) time of each frame in s.

    Returns:
        The rate, with the standard error over the beats; unknown without a complete beat of 0.3 to 2 s.
    """
    time = np.asarray(times, np.float64)
    durations = np.array([time[beat.end] - time[beat.ed] for beat in beats if beat.end is not None])
    return _median_rate(durations, _BEAT_S / math.sqrt(max(1, len(durations))))


def fit_heart_rate(curve: ArrayLike, times: ArrayLike) -> HeartRate:
    """Estimate the heart rate by a periodic curve with four harmonics that is fitted to an area or volume.

    The standard error follows from the curvature of the residual around its minimum, so that it is large for a
    loop that shows little of a second beat. Loops of more than 7.5 s are cut into parts.

    Args:
        curve: (T,) area or volume of the left ventricle per frame; NaN where it is unknown.
        times: (T,) time of each frame in s, ascending.

    Returns:
        The rate; unknown if the loop shows less than about 1.2 beats, or if its beats differ too much.

    Raises:
        ParameterError: The arrays differ in length.

    Examples:
        1.3 s at 50 frames per second, a beat of 0.8 s:

        >>> times = np.arange(65) / 50
        >>> round(fit_heart_rate(30 + 5 * np.cos(2 * np.pi * times / 0.8), times).bpm)
        75
    """
    values, time = np.asarray(curve, np.float64), np.asarray(times, np.float64)
    if values.ndim != 1 or values.shape != time.shape:
        raise ParameterError(f"curve is {values.shape}, times {time.shape}: give one value and one time per frame")
    known = np.isfinite(values)
    values, time = values[known], time[known]
    if len(values) < 2:
        return HeartRate()
    parts = max(1, round(float(np.ptp(time)) / _PART_S))
    pairs = zip(np.array_split(values, parts), np.array_split(time, parts), strict=True)
    periods = [found for found in (_fit_period(*pair) for pair in pairs) if found is not None]
    if not periods:
        return HeartRate()
    seconds, errors = np.array(periods).T
    return _median_rate(seconds, float(np.median(errors)) / math.sqrt(len(errors)))


def _median_rate(intervals: NDArray[np.float64], error: float) -> HeartRate:
    """Compute the rate of the median interval in s; its error adds those of the median and over the intervals."""
    possible = intervals[(intervals >= SHORTEST_S) & (intervals <= LONGEST_S)]
    if not len(possible):
        return HeartRate()
    typical = float(np.median(possible))
    over = float(np.std(possible, ddof=1)) / math.sqrt(len(possible)) if len(possible) > 1 else 0.0
    return HeartRate(60 / typical, 60 / typical**2 * math.hypot(over, error))


def _fit_period(values: NDArray[np.float64], time: NDArray[np.float64]) -> tuple[float, float] | None:
    """Fit the period in s and its standard error; None if the curve does not show one."""
    n, duration = len(values), float(np.ptp(time))
    periods = _PERIODS[duration >= _LEAST_BEATS * _PERIODS]
    free = n - 1 - 2 * _HARMONICS  # degrees of freedom that the fit leaves
    if len(periods) < 3 or free < 1 or np.ptp(values) <= 0:
        return None
    left = _left(values, time, periods)
    lowest = 1 + np.flatnonzero((left[1:-1] <= left[:-2]) & (left[1:-1] <= left[2:]))
    if not len(lowest) or left[lowest].min() > _MOST_LEFT:
        return None
    best = int(next(place for place in lowest if left[place] <= left[lowest].min() + _SLACK))
    before, at, after = left[best - 1 : best + 2]
    step, bend = math.log(_PERIODS[1] / _PERIODS[0]), before - 2 * at + after
    if bend <= 0:
        return None
    period = float(periods[best] * math.exp(step * (before - after) / (2 * bend)))
    smooth = gaussian_filter1d(values, 1.0, mode="nearest")
    shown = (smooth[time <= time[-1] - period], smooth[time >= time[0] + period])
    if not all(len(part) and np.ptp(part) >= _LEAST_RANGE * np.ptp(smooth) for part in shown):
        return None
    return period, period * step * math.sqrt(2 * at / (free * bend))


def _left(
    values: NDArray[np.float64], time: NDArray[np.float64], periods: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute the fraction of the variance that a periodic curve leaves, for each period, with its penalty."""
    n = len(values)
    target = (values - values.mean()) / values.std()
    order = np.repeat(np.arange(1, _HARMONICS + 1), 2)
    shift = np.tile([0.0, np.pi / 2], _HARMONICS)  # cosine and sine
    waves = np.cos(2 * np.pi * order * (time[:, None] / periods[:, None, None]) - shift)  # (P, T, 2 K)
    design = np.concatenate([np.ones((len(periods), n, 1)), waves], axis=-1)
    penalty = np.diag(np.concatenate([[0.0], _PENALTY * n * (order / _HARMONICS) ** 2]))
    product = design.transpose(0, 2, 1) @ target
    weights = np.linalg.solve(design.transpose(0, 2, 1) @ design + penalty, product[..., None])[..., 0]
    return np.asarray(1 - (product * weights).sum(1) / n, dtype=np.float64)
