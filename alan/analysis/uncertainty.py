"""Intervals of the measurements of a loop, by white boxes drawn from the posterior of their parcels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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
    """Measure the beats of a loop by alternative white boxes.

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
    measured: Mapping[str, Measure], draws: Sequence[Mapping[str, Measure]], numbers: Sequence[BeatMeasures]
) -> dict[str, Measure]:
    """Add intervals to measures.

    The quantiles of the draws are shifted so that their median is the measured value, and widened in quadrature by
    the standard error over the beats.

    Args:
        measured: Name to measured value.
        draws: Summaries of the draws.
        numbers: Measures of the beats.

    Returns:
        The measures; those that were not sampled are unchanged.
    """
    out = dict(measured)
    for name, measure in measured.items():
        samples = np.array([draw[name].value for draw in draws])
        if not (measure.known and np.isfinite(samples).any()):
            continue
        low, high = np.asarray(credible_interval(samples, COVERAGE)) - float(np.nanmedian(samples))
        over_beats = np.array([getattr(number, name) for number in numbers])
        error = _Z * float(np.nanstd(over_beats, ddof=1)) / math.sqrt(len(numbers)) if len(numbers) > 1 else 0.0
        out[name] = Measure(
            measure.value, measure.value - math.hypot(low, error), measure.value + math.hypot(high, error)
        )
    return out
