"""Intervals of the measurements of a loop from white boxes that are drawn from the posterior of their parcels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from alan.analysis.measures import BeatMeasures, Grid, Size, measure_size, summarise_beats
from alan.analysis.model import LEVEL, MapArray, PhaseBoxes, membership
from alan.analysis.results import Measure
from alan.arrays import BoolArray, Float32Array, FloatArray
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
        boxes: Structure to its white boxes, with the left ventricle.
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
    tables = {
        name: _draw(boxes[name], n_ids, n, [seed, stream]) for stream, name in enumerate(_SAMPLED) if name in boxes
    }
    places = np.linspace(0, len(beats) - 1, min(len(beats), _MAX_BEATS)).round().astype(int)
    chosen = [beats[place] for place in places]
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
            measured[keys] = measure_size({_CAVITY: cavity, **others}, grid)
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
        over_beats = over_beats[np.isfinite(over_beats)]
        several = len(over_beats) > 1
        error = _Z * float(np.std(over_beats, ddof=1)) / math.sqrt(len(over_beats)) if several else 0.0
        below, above = (part * _scale(name, measure.value) for part in spread.get(name, (0.0, 0.0)))
        out[name] = Measure(
            measure.value,
            measure.value - math.hypot(low, error, below),
            measure.value + math.hypot(high, error, above),
        ).possible(name)
    return out


def rate_with_interval(rate: HeartRate, spread: tuple[float, float] = (0.0, 0.0)) -> Measure:
    """Return a heart rate with its interval, which is widened in quadrature by the spread of the model.

    Args:
        rate: The rate and its standard error.
        spread: Relative errors below and above the rate that its standard error does not show.
    """
    error = _Z * rate.error_bpm
    low, high = (math.hypot(error, part * rate.bpm) for part in spread)
    return Measure(rate.bpm, rate.bpm - low, rate.bpm + high).possible("heart_rate_bpm")


def calibrate_spread(
    name: str,
    measured: Sequence[Measure],
    truth: Sequence[float],
    confidence: float | None = None,
    groups: Sequence[str] | None = None,
) -> tuple[float, float]:
    """Measure the errors of a model that its intervals do not cover, on loops whose true values are known.

    The spread of a side is added in quadrature to the half width of the interval on that side. Of the pairs of
    spreads with which the intervals reach their coverage on these loops, the one with the smallest sum is taken
    (split conformal prediction, which counts one loop more than there are; choosing the pair on the same loops
    costs 3 points of coverage with 100 of them).

    Args:
        name: Name of the measure; percentages have a spread in points, others one relative to the value.
        measured: Measure of each loop with its interval, made without a spread; unknown ones are left out.
        truth: True value of each loop.
        confidence: Probability, 0 to 1, that the intervals reach their coverage on new loops (a tolerance
            interval), for few real loops, which may not be typical; None requires the coverage on average.
        groups: Patient of each loop. The confidence counts patients, because the errors of the loops of a patient
            are alike; None takes each loop as a separate patient.

    Returns:
        The spread below and above the measured value.
    """
    rows, patients = [], set()
    for n, (one, true) in enumerate(zip(measured, truth, strict=True)):
        if one.known and math.isfinite(true):
            side, half = (0, one.value - one.low) if true < one.value else (1, one.high - one.value)
            row = [0.0, 0.0]
            row[side] = math.sqrt(max(0.0, (true - one.value) ** 2 - half**2)) / _scale(name, one.value)
            rows.append(row)
            patients.add(n if groups is None else groups[n])
    lacking, most = np.array(rows), len(rows)
    needed = math.ceil((most + 1) * COVERAGE)
    if confidence is not None:
        from scipy.stats import binom  # takes long to import

        needed = math.ceil((int(binom.ppf(confidence, len(patients), COVERAGE)) + 1) * most / len(patients))
    needed = min(needed, most)
    pairs = []
    for below in np.unique(lacking[:, 0]):
        others = np.sort(lacking[lacking[:, 0] <= below, 1])
        if len(others) >= needed:
            pairs.append((float(below), float(others[needed - 1])))
    return min(pairs, key=sum)


def _scale(name: str, value: float) -> float:
    """Return the unit of the spread of a measure: one point for a percentage, otherwise the value."""
    return 1.0 if name.endswith("_percent") else abs(value)
