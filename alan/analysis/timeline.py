"""Temporal consistency of the outlines of a loop: phase of the beat, smoothing, and repair of single frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, median_filter

from alan.analysis.model import AnalysisModel
from alan.analysis.phase_boxes import LEVEL, MapArray
from alan.analysis.results import RateSource
from alan.arrays import BoolArray, FloatArray
from alan.bounds import NonNegativeFloat, bounded
from alan.cardiac import (
    Beat,
    HeartRate,
    find_beats,
    fit_heart_rate,
    heart_rate_of_beats,
    heart_rate_of_r_waves,
    simpson_volume,
)
from alan.data.sample import PARASTERNAL

#: Smallest relative range of the area of the left ventricle of a complete beat.
_FULL_BEAT = 0.25
#: Smallest number of frames of a loop, and largest share of frames that is repaired.
_FEWEST, _MOST_REPAIRED = 3, 0.5
#: Number of frames to smooth at a time.
_WINDOW = 256
#: End-diastole and end-systole are measured in one of the frames within this time in s around the extremum of the
#: curve: the frame at this quantile of their volumes, of their areas in a parasternal view (its complement at
#: end-systole). The extremum itself would be biased by outliers, and the median by neighbours that are less
#: extreme. Their memberships are averaged over time by a Gaussian of this standard deviation in s
#: (docs/results/loops.md).
_AROUND_S, _QUANTILE, _SETTLED_S = 0.06, 0.8, 0.03
#: Largest difference of the rate of an ECG on the screen from that of the area, as a fraction, and quantile of the
#: area above which the area at its R waves lies on average.
_SAME_RATE, _LARGE = 0.15, 0.6


@bounded
@dataclass(frozen=True)
class TimeSettings:
    """Settings of the temporal consistency of outlines.

    Attributes:
        smoothing_s: Standard deviation in s of the Gaussian by which memberships of pixels are averaged over
            neighbouring frames; 0 segments each frame on its own.
        jump: Deviation of the area of the left ventricle from the median of its neighbours, as a fraction of the
            median area, above which a frame is an outlier and is interpolated from its neighbours; null disables
            the repair.
        phases: Interpolate the lists of end-diastole and end-systole by the phase of the beat; otherwise their
            mean is used in every frame.
        iterations: Number of times that the phase is estimated again from the outlines that it gave.
    """

    smoothing_s: NonNegativeFloat = 0.02
    jump: Annotated[float, Interval(gt=0, lt=1)] | None = 0.15
    phases: bool = True
    iterations: Annotated[int, Interval(ge=1, le=5)] = 2


@dataclass(frozen=True)
class Timeline:
    """Outlines of a loop.

    Attributes:
        labels: (T, size, size) uint8.
        phase: (T,) float64, 1 at end-diastole, 0 at end-systole.
        repaired: (T,) bool, frames that were interpolated from their neighbours.
        jump_share: Share of the frames whose outline jumped; none is repaired where more than half do.
    """

    labels: NDArray[np.uint8]
    phase: FloatArray
    repaired: BoolArray
    jump_share: float = 0.0


def segment_loop(
    model: AnalysisModel,
    maps: MapArray,
    view: str,
    times: FloatArray | None,
    settings: TimeSettings = TimeSettings(),
    *,
    phase: float | FloatArray | None = None,
) -> Timeline:
    """Segment all frames of a loop so that neighbouring frames agree.

    Args:
        model: The model.
        maps: (T, size, size) parcel maps.
        view: The view of the loop.
        times: (T,) time of each frame in s; None assumes 30 frames per second for the smoothing.
        settings: Temporal consistency of the outlines.
        phase: Known phase of all frames or of each, 0 to 1; None estimates that of each. Frames of known phases
            are not averaged, as they do not follow one another.

    Returns:
        The outlines.

    Raises:
        DataError: The model does not know the view.
    """
    structures = model.structures(view)
    interval = 1 / 30 if times is None or len(times) < 2 else float(np.median(np.diff(times)))
    sigma = settings.smoothing_s / interval if len(maps) > 1 and phase is None else 0.0
    weights = np.full(len(maps), 0.5 if phase is None else phase, np.float64)
    good = np.ones(len(maps), bool)
    moving = "lv" in structures and len(maps) >= _FEWEST
    if moving and phase is None and settings.phases:
        weights = _phase_by_parcels(model, maps, view, interval, settings.iterations)
    labels = _label(model, maps, view, weights, good=good, sigma=sigma)
    if not moving or settings.jump is None:
        return Timeline(labels, weights, ~good)
    found = find_jumps(_areas(labels, structures.index("lv") + 1), settings.jump)
    if found.any() and found.mean() <= _MOST_REPAIRED:
        good = ~found
        touched = _neighbourhood(found, sigma)
        repaired = _label(model, maps, view, weights, good=good, sigma=max(sigma, 1.0))
        labels[touched] = repaired[touched]
    return Timeline(labels, weights, ~good, float(found.mean()))


class Rhythm(NamedTuple):
    """Beats of a loop, its heart rate and where that comes from, see :func:`find_rhythm`.

    Attributes:
        beats: The beats.
        rate: The heart rate.
        of_beats: The rate of each beat; unknown for an incomplete one without R waves.
        source: Origin of the rate; empty if it is unknown.
    """

    beats: list[Beat]
    rate: HeartRate = HeartRate()
    of_beats: Sequence[HeartRate] = ()
    source: RateSource = ""


def find_rhythm(
    model: AnalysisModel,
    maps: MapArray,
    view: str,
    times: FloatArray | None,
    r_waves: Sequence[float] | None = None,
    *,
    drawn_r_waves: Sequence[float] = (),
) -> Rhythm:
    """Find the beats and the rate of a loop by its R waves and the area of the left ventricle.

    The area is the sum of the memberships of all parcels. This curve needs no outline and no phase, so that
    failed outlines cannot be taken for beats. Without two R waves, the rate is that of a periodic curve which is
    fitted to the area; without a fit, it is that of the median duration of the complete beats.

    Args:
        model: The model.
        maps: (T, size, size) parcel maps.
        view: The view of the loop.
        times: (T,) time of each frame in s.
        r_waves: Times of the R waves of the ECG in s.
        drawn_r_waves: Times of the R waves of an ECG on the screen in s, which count if there are no others, and
            if the area is large at these times and has about the same period.

    Returns:
        The rhythm; no beats without frame times, or in a view without a left ventricle.
    """
    if times is None or len(maps) < _FEWEST or "lv" not in model.structures(view):
        return Rhythm([])
    memberships = model.views[view]["lv"].memberships(model.parcels.n_ids).mean(0)
    area = count_parcels(maps, model.parcels.n_ids) @ memberships
    source: RateSource = "r waves"
    if r_waves is None and _agree(area, times, drawn_r_waves):
        r_waves, source = drawn_r_waves, "drawn ecg"
    beats = find_beats(area, times, r_waves=r_waves)
    if not beats:
        return Rhythm([])
    waves = np.asarray([] if r_waves is None else r_waves, np.float64)
    rate = heart_rate_of_r_waves(waves)
    if rate.known:
        nearest = [int(np.abs(waves - times[beat.ed]).argmin()) for beat in beats]
        return Rhythm(beats, rate, [heart_rate_of_r_waves(waves[n : n + 2]) for n in nearest], source)
    of_beats = [heart_rate_of_beats([beat], times) for beat in beats]
    if (rate := fit_heart_rate(area, times)).known:
        return Rhythm(beats, rate, of_beats, "area")
    rate = heart_rate_of_beats(beats, times)
    return Rhythm(beats, rate, of_beats, "beats" if rate.known else "")


def _agree(area: FloatArray, times: FloatArray, r_waves: Sequence[float]) -> bool:
    """Decide whether R waves that were read from the screen are those of the heart whose area is given."""
    rate = heart_rate_of_r_waves(r_waves)
    own = fit_heart_rate(area, times)
    if not own.known:
        own = heart_rate_of_beats(find_beats(area, times), times)
    if not (rate.known and own.known) or abs(own.bpm / rate.bpm - 1) > _SAME_RATE:
        return False
    return float(np.interp(r_waves, times, area).mean()) > float(np.quantile(area, _LARGE))


def settle_beats(
    model: AnalysisModel,
    maps: MapArray,
    view: str,
    times: FloatArray,
    timeline: Timeline,
    *,
    beats: Sequence[Beat],
    spacing: tuple[float, float],
) -> tuple[Timeline, list[Beat]]:
    """Choose the end-diastolic and end-systolic frames to measure, and segment them by the list of their phase.

    Memberships are averaged over neighbouring frames, all by the same list; repaired frames do not contribute.

    Args:
        model: The model.
        maps: (T, size, size) parcel maps.
        view: The view of the loop, with a left ventricle.
        times: (T,) time of each frame in s.
        timeline: Outlines of the loop.
        beats: Its beats.
        spacing: (row, column) size of a pixel of the maps.

    Returns:
        The timeline with new outlines and phases in these frames, and the beats with these frames.
    """
    labels, phases, repaired = timeline.labels.copy(), timeline.phase.copy(), timeline.repaired.copy()
    found = {frame: 1.0 for beat in beats for frame in (beat.ed, beat.end) if frame is not None}
    found |= {beat.es: 0.0 for beat in beats}
    value, interval = model.structures(view).index("lv") + 1, float(np.median(np.diff(times)))
    reach, sigma = round(_AROUND_S / interval), _SETTLED_S / interval
    margin = math.ceil(4 * sigma)
    moved: dict[int, int] = {}
    for frame, phase in found.items():
        apart = min(abs(frame - other) for other in found if other != frame)
        half = min(reach, (apart - 1) // 2)  # windows do not overlap
        window = np.arange(max(0, frame - half), min(len(maps), frame + half + 1))
        near = np.arange(max(0, window[0] - margin), min(len(maps), window[-1] + margin + 1))
        scores = model.score(maps[near], view, np.full(len(near), phase))
        scores = smooth_over_time(scores, ~timeline.repaired[near], sigma)[window - near[0]]
        own = model.label(scores, maps[window], view)
        masks = own == value
        area = view in PARASTERNAL
        volumes = np.array([mask.sum() if area else simpson_volume(mask, spacing) for mask in masks], float)
        order = np.argsort(np.where(np.isfinite(volumes), volumes, 0.0))
        chosen = order[round((len(order) - 1) * (_QUANTILE if phase else 1 - _QUANTILE))]
        moved[frame] = int(window[chosen])
        labels[window[chosen]], phases[window[chosen]], repaired[window[chosen]] = own[chosen], phase, False
    settled = [
        replace(beat, ed=moved[beat.ed], es=moved[beat.es], end=None if beat.end is None else moved[beat.end])
        for beat in beats
    ]
    return replace(timeline, labels=labels, phase=phases, repaired=repaired), settled


def count_parcels(maps: MapArray, n_ids: int) -> NDArray[np.int64]:
    """Count the pixels of each parcel in each frame, (T, n_ids)."""
    return np.stack([np.bincount(parcel_map.ravel(), minlength=n_ids)[:n_ids] for parcel_map in maps])


def _phase_by_parcels(
    model: AnalysisModel, maps: MapArray, view: str, interval: float, iterations: int
) -> FloatArray:
    """Estimate the phase from the area of the listed parcels of the left ventricle, without post-processing."""
    counts = count_parcels(maps, model.parcels.n_ids)
    table = model.views[view]["lv"].memberships(model.parcels.n_ids)
    phase = np.full(len(maps), 0.5)
    for _ in range(iterations):
        listed = phase[:, None] * table[0] + (1 - phase[:, None]) * table[1] >= LEVEL
        phase = estimate_phase((counts * listed).sum(1).astype(np.float64), interval)
    return phase


def estimate_phase(area: FloatArray, interval: float) -> FloatArray:
    """Estimate the phase of the beat from the area of the left ventricle.

    Args:
        area: (T,) area of the left ventricle in any unit.
        interval: Time between frames in s.

    Returns:
        (T,) 1 where the cavity is largest, 0 where it is smallest. The values tend to one half where the area
        hardly changes, because the loop then shows no contraction.
    """
    width = 5 if interval < 0.05 else 3
    smooth = gaussian_filter1d(median_filter(area, width, mode="nearest"), 0.03 / interval, mode="nearest")
    low, high = np.quantile(smooth, (0.03, 0.97))
    if high <= 0 or high <= low:
        return np.full(len(area), 0.5)
    raw = np.clip((smooth - low) / (high - low), 0.0, 1.0)
    contrast = min(1.0, float((high - low) / high) / _FULL_BEAT)
    return np.asarray(0.5 + (raw - 0.5) * contrast)


def find_jumps(area: FloatArray, jump: float) -> BoolArray:
    """Find frames whose area differs from the median of its neighbours by more than a fraction of the median area.

    Args:
        area: (T,) area of the left ventricle.
        jump: The fraction.

    Returns:
        (T,) bool.
    """
    typical = float(np.median(area[area > 0])) if (area > 0).any() else 0.0
    found: BoolArray = np.abs(area - median_filter(area, 5, mode="nearest")) > jump * typical
    return found & (typical > 0)


def _areas(labels: NDArray[np.uint8], value: int) -> FloatArray:
    return np.asarray((labels == value).sum((1, 2)), np.float64)


def _neighbourhood(bad: BoolArray, sigma: float) -> BoolArray:
    """Find the frames whose smoothing window contains an outlier."""
    reach = max(1, round(2 * sigma))
    return np.convolve(bad, np.ones(2 * reach + 1), "same") > 0


def _label(
    model: AnalysisModel, maps: MapArray, view: str, phase: FloatArray, *, good: BoolArray, sigma: float
) -> NDArray[np.uint8]:
    """Label all frames, in windows, by memberships averaged over the good frames around each."""
    labels = np.empty_like(maps)
    margin = 0 if sigma <= 0 else int(np.ceil(4 * sigma))
    for start in range(0, len(maps), _WINDOW):
        stop = min(start + _WINDOW, len(maps))
        first, last = max(0, start - margin), min(len(maps), stop + margin)
        scores = model.score(maps[first:last], view, phase[first:last])
        scores = smooth_over_time(scores, good[first:last], sigma)[start - first : stop - first]
        labels[start:stop] = model.label(scores, maps[start:stop], view)
    return labels


def smooth_over_time(scores: NDArray[np.float32], good: BoolArray, sigma: float) -> NDArray[np.float32]:
    """Average memberships over neighbouring frames by a Gaussian; frames that are not good do not contribute.

    Args:
        scores: (T, S, H, W) float32.
        good: (T,) bool.
        sigma: Standard deviation in frames; 0 returns the scores unchanged.

    Returns:
        (T, S, H, W) float32.
    """
    if sigma <= 0:
        return scores
    weights = good.astype(np.float32)
    total = gaussian_filter1d(weights, sigma, mode="nearest", truncate=4)
    weighted = gaussian_filter1d(scores * weights[:, None, None, None], sigma, 0, mode="nearest", truncate=4)
    safe = np.maximum(total, 1e-6)[:, None, None, None]
    return np.where(total[:, None, None, None] > 1e-6, weighted / safe, scores).astype(np.float32)
