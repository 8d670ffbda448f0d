"""Heart beats from the curve of a ventricular area or volume over time.

End-diastole (ED) is the frame with the largest, end-systole (ES) the frame with the smallest cavity of a beat
(Lang et al., J Am Soc Echocardiogr 2015;28:1-39). The curve is smoothed and its period is estimated first, so that
single frames with a wrong outline do not become beats.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Interval
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d, median_filter
from scipy.signal import find_peaks

from alan.bounds import bounded
from alan.errors import ParameterError

#: Shortest and longest beat in s: 200 and 30 beats per minute.
SHORTEST_S, LONGEST_S = 0.3, 2.0
#: Extrema below this fraction of the range of the curve are not beats.
_PROMINENCE = 0.3
#: A beat is irregular if its duration differs from the median by more than this fraction.
IRREGULAR = 0.2
#: Standard deviation of the smoothing, as a fraction of the period.
_SMOOTHING = 0.04
#: An extremum at an end of the loop counts if it is within this fraction of the range of the others.
_END_TOLERANCE = 0.05
#: The last beat of a loop is complete if it lasts at least this fraction of the period.
_LEAST_LAST = 0.85
#: A loop without two similar beats has no period; systole then takes at most this time in s.
_SYSTOLE = 0.45


@dataclass(frozen=True)
class Beat:
    """One beat of a loop.

    Attributes:
        ed: Index of the end-diastolic frame.
        es: Index of the end-systolic frame, after ``ed``.
        end: Index of the next end-diastolic frame, or None if the loop ends before it.
        regular: Whether the duration is within 20% of the median of the complete beats.
    """

    ed: int
    es: int
    end: int | None
    regular: bool

    @property
    def complete(self) -> bool:
        """Whether the loop shows the whole beat."""
        return self.end is not None


@bounded
def find_beats(
    curve: ArrayLike,
    times: ArrayLike,
    *,
    r_waves: Sequence[float] | None = None,
    prominence: Annotated[float, Interval(gt=0, lt=1)] = _PROMINENCE,
) -> list[Beat]:
    """Find the beats of a loop.

    Args:
        curve: (T,) area or volume of the left ventricle per frame; NaN where it is unknown.
        times: (T,) time of each frame in s, ascending.
        r_waves: Times of the R waves of the ECG in s; if given, end-diastole is searched around them.
        prominence: Minimum depth of a systole as a fraction of the range of the curve.

    Returns:
        The beats in temporal order. A beat needs both ED and ES in the loop; without a complete one the single
        contraction that the loop shows is returned. Empty for a curve without a contraction.

    Raises:
        ParameterError: The arrays differ in length, ``times`` is not ascending, or all values are NaN.

    Examples:
        Two seconds at 50 frames per second, a beat of 0.8 s:

        >>> times = np.arange(100) / 50
        >>> beats = find_beats(30 + 5 * np.cos(2 * np.pi * times / 0.8), times)
        >>> len(beats), beats[0].end - beats[0].ed  # frames of a beat of 0.8 s
        (3, 40)
    """
    values, time = np.asarray(curve, np.float64), np.asarray(times, np.float64)
    if values.ndim != 1 or values.shape != time.shape:
        raise ParameterError(f"curve is {values.shape}, times {time.shape}: give one value and one time per frame")
    if len(time) > 1 and not (np.diff(time) > 0).all():
        raise ParameterError("times is not ascending: give the time of each frame in s")
    known = np.isfinite(values)
    if not known.any():
        raise ParameterError("curve has no known value: give areas or volumes of at least one frame")
    if len(values) < 3 or np.ptp(values[known]) <= 0:
        return []
    values = np.interp(time, time[known], values[known])
    frame = float(np.median(np.diff(time)))
    period = _period(values, frame)
    smooth = _smooth(values, frame, period)
    least = prominence * float(np.ptp(np.quantile(smooth, (0.02, 0.98))))
    distance = max(1.0, 0.6 * (period or _SYSTOLE) / frame)
    systoles = _drop_edge_maxima(-smooth, _peaks(-smooth, least, distance), least)
    diastoles = _drop_edge_maxima(smooth, _diastoles(smooth, time, systoles, period, r_waves), least)
    return _pair(smooth, time, systoles, diastoles, period=period, least=least)


def _period(values: NDArray[np.float64], frame: float) -> float | None:
    """Estimate the duration of a beat in s by the first large peak of the autocorrelation; None without one."""
    centred = values - values.mean()
    n = len(centred)
    overlap = np.arange(n, 0, -1)
    power = np.correlate(centred, centred, "full")[n - 1 :] / overlap
    lags = np.arange(n) * frame
    allowed = (lags >= SHORTEST_S) & (lags <= LONGEST_S) & (overlap >= 0.35 * n)
    peaks = [peak for peak in find_peaks(power)[0] if allowed[peak] and power[peak] > 0.4 * power[0]]
    if not peaks:
        return None
    highest = max(power[peak] for peak in peaks)
    return float(lags[next(peak for peak in peaks if power[peak] >= 0.85 * highest)])


def _smooth(values: NDArray[np.float64], frame: float, period: float | None) -> NDArray[np.float64]:
    """Remove single-frame outliers, then smooth over a small fraction of the beat."""
    sigma = _SMOOTHING * (period or 0.8) / frame
    width = 5 if sigma >= 1.0 else 3 if sigma >= 0.5 else 1
    filtered = median_filter(values, size=width, mode="nearest")
    return np.asarray(gaussian_filter1d(filtered, sigma, mode="nearest") if sigma >= 0.3 else filtered)


def _peaks(curve: NDArray[np.float64], least: float, distance: float) -> list[int]:
    """Find the peaks of a curve, including those at its ends."""
    low = curve.min() - np.ptp(curve) - 1.0
    padded = np.concatenate([[low], curve, [low]])
    found = find_peaks(padded, prominence=max(least, 1e-12), distance=distance)[0]
    return [int(index) - 1 for index in found]


def _drop_edge_maxima(curve: NDArray[np.float64], extrema: list[int], prominence: float) -> list[int]:
    """Drop a maximum at an end of the loop that is clearly below the others: the loop does not reach the extremum.

    A maximum is at an end if the curve does not fall by the prominence between it and that end.
    """
    inside = [
        index
        for index in extrema
        if curve[index] - max(curve[: index + 1].min(), curve[index:].min()) >= prominence
    ]
    if not inside:
        return extrema
    least = float(np.median(curve[inside])) - _END_TOLERANCE * float(np.ptp(curve))
    return [index for index in extrema if index in inside or curve[index] >= least]


def _diastoles(
    smooth: NDArray[np.float64],
    time: NDArray[np.float64],
    systoles: list[int],
    period: float | None,
    r_waves: Sequence[float] | None,
) -> list[int]:
    """Find the end-diastolic frames: the largest cavity between two systoles, or around an R wave."""
    if r_waves is not None:
        reach = 0.15 * (period or 0.8)
        windows = [np.flatnonzero(np.abs(time - wave) <= reach) for wave in r_waves]
        return sorted({int(window[np.argmax(smooth[window])]) for window in windows if len(window)})
    edges = [0, *systoles, len(smooth) - 1]
    found = []
    for start, stop in itertools.pairwise(edges):
        if stop > start:
            segment = smooth[start : stop + 1]
            # filling ends late: of nearly equal frames the last one precedes the contraction
            close = np.flatnonzero(segment >= segment.max() - 0.02 * np.ptp(smooth))
            found.append(start + int(close[-1]))
    return sorted(set(found) - set(systoles))


def _pair(
    smooth: NDArray[np.float64],
    time: NDArray[np.float64],
    systoles: list[int],
    diastoles: list[int],
    *,
    period: float | None,
    least: float,
) -> list[Beat]:
    """Pair end-diastolic and end-systolic frames to beats with contractions of at least a given depth."""
    spans = []
    for ed, following in zip(diastoles, [*diastoles[1:], None], strict=True):
        inside = [es for es in systoles if es > ed and (following is None or es < following)]
        inside = [es for es in inside if smooth[ed] - smooth[es] >= least]
        if inside:
            es = min(inside, key=lambda index: smooth[index])
            # a loop may end while the ventricle still fills: the period distinguishes the two
            cut = following is not None and following >= len(smooth) - 1 - 0.1 * (following - ed)
            short = cut and period is not None and time[following] - time[ed] < _LEAST_LAST * period
            spans.append((ed, es, None if short else following))
    durations = [time[end] - time[ed] for ed, _, end in spans if end is not None]
    typical = float(np.median(durations)) if durations else float("nan")
    return [
        Beat(ed, es, end, end is not None and bool(abs(time[end] - time[ed] - typical) <= IRREGULAR * typical))
        for ed, es, end in spans
    ]
