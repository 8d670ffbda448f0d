"""Intervals of the measurements of a loop from white boxes that are drawn from the posterior of their parcels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from alan.analysis.measures import BeatMeasures, Grid, Size, summarise_beats
from alan.analysis.model import LEVEL, MapArray, PhaseBoxes, membership
from alan.analysis.results import Measure
from alan.arrays import FloatArray
from alan.cardiac import Beat, simpson_volume
from alan.downstream.whitebox.sampling import credible_interval, sample_shares

#: Probability with which an interval contains the true value.
COVERAGE = 0.9
#: Largest number of beats whose outlines are sampled.
_MAX_BEATS = 3
#: Half the width of a 90% interval of a normal distribution, in standard deviations.
_Z = 1.645


def sample_beats(
    pair: PhaseBoxes,
    maps: MapArray,
    phase: FloatArray,
    grid: Grid,
    beats: Sequence[Beat],
    *,
    n: int,
    seed: int,
) -> list[dict[str, Measure]]:
    """Measure the beats of a loop with alternative white boxes.

    Shares of the parcels of the left ventricle are drawn ``n`` times; the lists of both phases deviate together.

    Args:
        pair: White boxes of the left ventricle.
        maps: (T, size, size) parcel maps.
        phase: (T,) phase of each frame.
        grid: Geometry of the maps.
        beats: Beats of the loop; at most three, evenly spread, are sampled.
        n: Number of draws.
        seed: Seed of the draws.

    Returns:
        For each draw, the summary over the beats, see :func:`alan.analysis.measures.summarise_beats`.
    """
    n_ids = int(maps.max()) + 1
    shares = [sample_shares(box.selector_, n, np.random.default_rng(seed)) for box in (pair.ed, pair.es)]
    places = np.linspace(0, len(beats) - 1, min(len(beats), _MAX_BEATS)).round().astype(int)
    chosen = [beats[place] for place in places]
    done: dict[tuple[int, bytes], Size] = {}

    def size(frame: int, tables: NDArray[np.float32]) -> Size:
        weight = float(phase[frame])
        union = (weight * tables[0] + (1 - weight) * tables[1] >= LEVEL)[maps[frame]]
        key = (frame, np.packbits(union).tobytes())  # many draws choose the same parcels of this frame
        if key not in done:
            mask = pair.steps(union, maps[frame])
            volume = simpson_volume(mask, grid.spacing)
            done[key] = Size(volume, float(mask.sum()) * math.prod(grid.spacing) / 100.0)
        return done[key]

    out = []
    for ed, es in zip(*shares, strict=True):
        tables = np.stack([membership(pair.ed, n_ids, ed), membership(pair.es, n_ids, es)])
        numbers = [BeatMeasures.between(size(beat.ed, tables), size(beat.es, tables)) for beat in chosen]
        out.append(summarise_beats(numbers, sized=True))
    return out


def with_intervals(
    measured: Mapping[str, Measure],
    draws: Sequence[Mapping[str, Measure]],
    numbers: Sequence[BeatMeasures],
    spread: Mapping[str, tuple[float, float]] = MappingProxyType({}),
) -> dict[str, Measure]:
    """Add intervals to measures.

    The quantiles of the draws are shifted so that their median is the measured value, widened in quadrature by the
    standard error over the beats and the spread of the model, and cut to values that are possible.

    Args:
        measured: Name to measured value.
        draws: Summaries of the draws.
        numbers: Measures of the beats.
        spread: Name to the errors of the model below and above the measured value that the draws do not show, see
            :func:`calibrate_spread`.

    Returns:
        The measures; measures without samples are unchanged.
    """
    out = dict(measured)
    for name, measure in measured.items():
        samples = np.array([draw[name].value for draw in draws])
        if not (measure.known and np.isfinite(samples).any()):
            continue
        low, high = np.asarray(credible_interval(samples, COVERAGE)) - float(np.nanmedian(samples))
        over_beats = np.array([getattr(number, name) for number in numbers])
        error = _Z * float(np.nanstd(over_beats, ddof=1)) / math.sqrt(len(numbers)) if len(numbers) > 1 else 0.0
        below, above = (part * _scale(name, measure.value) for part in spread.get(name, (0.0, 0.0)))
        out[name] = Measure(
            measure.value,
            measure.value - math.hypot(low, error, below),
            measure.value + math.hypot(high, error, above),
        ).possible(name)
    return out


def calibrate_spread(
    name: str, measured: Sequence[Measure], truth: Sequence[float], confidence: float | None = None
) -> tuple[float, float]:
    """Measure the errors of a model that its intervals do not cover, on loops whose true values are known.

    The spread of a side is added in quadrature to the half width of the interval on that side. Both sides are the
    same quantile of the missing half widths of the loops, the smallest one at which the intervals reach their
    coverage (split conformal prediction, which counts one loop more than there are).

    Args:
        name: Name of the measure; percentages have a spread in points, others one relative to the value.
        measured: Measure of each loop with its interval, made without a spread.
        truth: True value of each loop.
        confidence: Probability, 0 to 1, with which the intervals of new loops hold their coverage (a tolerance
            interval), where few real loops must not be trusted to be typical; None: they hold it on average.

    Returns:
        The spread below and above the measured value.
    """
    lacking = np.zeros((2, len(measured)))
    for n, (one, true) in enumerate(zip(measured, truth, strict=True)):
        side, half = (0, one.value - one.low) if true < one.value else (1, one.high - one.value)
        lacking[side, n] = math.sqrt(max(0.0, (true - one.value) ** 2 - half**2)) / _scale(name, one.value)
    sides, most = np.sort(lacking, axis=1), len(measured)
    needed = math.ceil((most + 1) * COVERAGE)
    if confidence is not None:
        from scipy.stats import binom  # takes long to import

        needed = int(binom.ppf(confidence, most, COVERAGE)) + 1
    needed = min(needed, most)
    held = [(lacking <= sides[:, rank : rank + 1]).all(0).sum() for rank in range(most)]
    below, above = sides[:, int(np.argmax(np.array(held) >= needed))]
    return float(below), float(above)


def _scale(name: str, value: float) -> float:
    """Return the unit of the spread of a measure: one point for a percentage, otherwise the value."""
    return 1.0 if name.endswith("_percent") else abs(value)
