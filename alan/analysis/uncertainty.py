"""Intervals of the measurements of a loop from white boxes that are drawn from the posterior of their parcels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from alan.analysis.measures import BeatMeasures, Grid, Size, measure_size, summarise_beats
from alan.analysis.phase_boxes import LEVEL, MapArray, PhaseBoxes, membership
from alan.analysis.results import Measure, Spread
from alan.arrays import BoolArray, Float32Array, FloatArray, evenly_spread
from alan.cardiac import Beat, HeartRate
from alan.downstream.whitebox.sampling import credible_interval, sample_shares

#: Probability with which an interval contains the true value.
COVERAGE = 0.9
#: Largest number of beats whose outlines are sampled.
_MAX_BEATS = 3
#: Structures whose outlines are sampled, the left ventricle first.
_CAVITY = "lv"
_SAMPLED = (_CAVITY, "myo", "la")
#: Half the width of a 90% interval of a normal distribution, in standard deviations.
_Z = 1.645
#: Factor of the widths of the intervals of a loop whose outline is unclear (tests/benchmarks/bench_doubt.py).
_WIDER = 1.5
#: Weights of the draws that are tried, and the factor by which a smaller one must narrow the intervals.
_WEIGHTS, _NARROWER = (1.0, 0.75, 0.5, 0.25, 0.0), 0.8


def sample_beats(
    boxes: Mapping[str, PhaseBoxes],
    maps: MapArray,
    phase: FloatArray,
    grid: Grid,
    beats: Sequence[Beat],
    *,
    n: int,
    seed: int,
) -> list[dict[str, Measure]]:
    """Measure the beats of a loop with alternative white boxes.

    Shares of the parcels are drawn ``n`` times; the lists of both phases of a structure deviate together, and the
    structures deviate independently. The myocardium is drawn at end-diastole and the atrium at end-systole, where
    they are measured.

    Args:
        boxes: Mapping from structure to its white boxes, with the left ventricle.
        maps: (T, size, size) parcel maps.
        phase: (T,) phase of each frame.
        grid: Geometry of the maps.
        beats: Beats of the loop; at most three, evenly spread, are sampled.
        n: Number of draws.
        seed: Seed of the draws.

    Returns:
        For each draw, the summary over the beats, see :func:`alan.analysis.measures.summarise_beats`.
    """
    n_ids, whole = int(maps.max()) + 1, replace(grid, inside=None)  # an atrium is cut off in all draws or in none
    tables = {
        name: _draw(boxes[name], n_ids, n, [seed, stream]) for stream, name in enumerate(_SAMPLED) if name in boxes
    }
    chosen = [beats[place] for place in evenly_spread(len(beats), _MAX_BEATS)]
    outlined: dict[tuple[int, str, bytes], BoolArray] = {}  # many draws choose the same parcels of a frame
    measured: dict[tuple[tuple[int, str, bytes], ...], Size] = {}

    def outline(frame: int, draw: int, name: str) -> tuple[int, str, bytes]:
        weight, (ed, es) = np.float32(phase[frame]), tables[name][draw]
        union = (weight * ed + (1 - weight) * es >= LEVEL)[maps[frame]]
        key = (frame, name, np.packbits(union).tobytes())
        if key not in outlined:
            outlined[key] = boxes[name].steps(union, maps[frame])
        return key

    def size(frame: int, draw: int, beside: str) -> Size:
        keys = tuple(outline(frame, draw, name) for name in (_CAVITY, beside) if name in tables)
        if keys not in measured:
            cavity = outlined[keys[0]]
            others = {key[1]: outlined[key] & ~cavity for key in keys[1:]}
            measured[keys] = measure_size({_CAVITY: cavity, **others}, whole)
        return measured[keys]

    out = []
    for draw in range(n):
        pairs = ((size(beat.ed, draw, "myo"), size(beat.es, draw, "la")) for beat in chosen)
        out.append(summarise_beats([BeatMeasures.between(ed, es) for ed, es in pairs], sized=True))
    return out


def _draw(pair: PhaseBoxes, n_ids: int, n: int, seed: Sequence[int]) -> Float32Array:
    """Draw the memberships (n, 2, n_ids) of the parcels at end-diastole and end-systole."""
    shares = [sample_shares(box.selector_, n, np.random.default_rng(seed)) for box in (pair.ed, pair.es)]
    draws = zip(*shares, strict=True)
    return np.array([[membership(pair.ed, n_ids, ed), membership(pair.es, n_ids, es)] for ed, es in draws])


def with_intervals(
    measured: Mapping[str, Measure],
    draws: Sequence[Mapping[str, Measure]],
    numbers: Sequence[BeatMeasures],
    spread: Mapping[str, Spread] = MappingProxyType({}),
) -> dict[str, Measure]:
    """Add intervals to measures.

    The quantiles of the draws are shifted so that their median is the measured value, widened in quadrature by the
    standard error over the beats and the spread of the model, and cut to values that are possible.

    Args:
        measured: Mapping from name to measured value.
        draws: Summaries of the draws.
        numbers: Measures of the beats.
        spread: Mapping from name to the errors of the model, see :func:`calibrate_spread`.

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
        over_beats = over_beats[np.isfinite(over_beats)]
        several = len(over_beats) > 1
        error = _Z * float(np.std(over_beats, ddof=1)) / math.sqrt(len(over_beats)) if several else 0.0
        below, above, weight = spread.get(name, Spread())
        unit = _scale(name, measure.value)
        out[name] = Measure(
            measure.value,
            measure.value - math.hypot(weight * low, error, unit * below),
            measure.value + math.hypot(weight * high, error, unit * above),
        ).possible(name)
    return out


def widen_intervals(measured: Mapping[str, Measure]) -> dict[str, Measure]:
    """Make the intervals of a loop with an unclear outline wider by half; that of the heart rate is kept.

    Args:
        measured: Mapping from the name of a measure to its value with its interval.
    """
    out = dict(measured)
    for name in out.keys() - {"heart_rate_bpm"}:
        value, low, high = out[name].value, out[name].low, out[name].high
        out[name] = Measure(value, value - _WIDER * (value - low), value + _WIDER * (high - value)).possible(name)
    return out


def rate_with_interval(rate: HeartRate, spread: Spread) -> Measure:
    """Return a heart rate with its interval, which is widened in quadrature by the spread of the model.

    Args:
        rate: The rate and its standard error.
        spread: Errors of the model.
    """
    error = spread.draws * _Z * rate.error_bpm
    low, high = (math.hypot(error, part * rate.bpm) for part in spread[:2])
    return Measure(rate.bpm, rate.bpm - low, rate.bpm + high).possible("heart_rate_bpm")


def calibrate_spread(
    name: str,
    measured: Sequence[Measure],
    truth: Sequence[float],
    confidence: float | None = None,
    groups: Sequence[str] | None = None,
) -> Spread:
    """Measure the errors of a model that its intervals do not cover, on loops whose true values are known.

    The spread of a side is added in quadrature to the half width of the interval on that side. Of the pairs of
    spreads with which the intervals reach their coverage on these loops, the one with the smallest sum is taken
    (split conformal prediction, which counts one loop more than there are; choosing the pair on the same loops
    costs 3 points of coverage with 100 of them). Where draws vary more than the model errs, a smaller weight of
    them is taken, if it makes the intervals narrower by 20% at least.

    Args:
        name: Name of the measure; percentages have a spread in points, others one relative to the value.
        measured: Measure of each loop with its interval, made without a spread; unknown ones are left out.
        truth: True value of each loop.
        confidence: Probability, 0 to 1, that the intervals reach their coverage on new loops (a tolerance
            interval), for few real loops, which may not be typical; None requires the coverage on average.
        groups: Patient of each loop. The confidence counts patients, because the errors of the loops of a patient
            are alike; None takes each loop as a separate patient.

    Returns:
        The spread below and above the measured value, and the weight of the draws.
    """
    known = [n for n, one in enumerate(measured) if one.known and math.isfinite(truth[n])]
    if not known:
        return Spread()
    values = np.array([(one.value, one.value - one.low, one.high - one.value) for one in measured])[known]
    error, halves = np.asarray(truth, np.float64)[known] - values[:, 0], values[:, 1:]
    sides = np.stack([np.maximum(-error, 0.0), np.maximum(error, 0.0)], 1)  # below and above the value
    units = np.array([_scale(name, value) for value in values[:, 0]])[:, None]
    needed = math.ceil((len(known) + 1) * COVERAGE)
    if confidence is not None:
        from scipy.stats import binom  # slow to import

        patients = len({n if groups is None else groups[n] for n in known})
        needed = math.ceil((int(binom.ppf(confidence, patients, COVERAGE)) + 1) * len(known) / patients)
    found: list[tuple[float, Spread]] = []
    for weight in _WEIGHTS:
        lacking = np.sqrt(np.maximum(sides**2 - (weight * halves) ** 2, 0.0)) / units
        pair = _narrowest(lacking, min(needed, len(known)))
        width = float(np.hypot(weight * halves, units * pair).sum(1).mean())
        if not found or width < _NARROWER * found[0][0]:
            found.append((width, Spread(*pair, weight)))
    return min(found)[1]


def _narrowest(lacking: FloatArray, needed: int) -> tuple[float, float]:
    """Choose the pair of ends with the smallest sum that covers a number of rows (below, above)."""
    pairs = []
    for below in np.unique(lacking[:, 0]):
        others = np.sort(lacking[lacking[:, 0] <= below, 1])
        if len(others) >= needed:
            pairs.append((float(below), float(others[needed - 1])))
    return min(pairs, key=sum)


def _scale(name: str, value: float) -> float:
    """Return the unit of the spread of a measure: one point for a percentage, otherwise the value."""
    return 1.0 if name.endswith("_percent") else abs(value)
