"""Intervals of measures: from draws and from the spread over beats."""

import math

import numpy as np
import pytest

from alan.analysis import Measure
from alan.analysis.measures import BeatMeasures, Grid
from alan.analysis.uncertainty import sample_beats, with_intervals
from alan.cardiac import Beat
from tests.analysis.test_timeline import BlockModel, beating


def numbers(ef):
    return BeatMeasures(100.0, 100.0 - ef, ef, ef, ef / 2, ef / 3)


def test_interval_is_centred_on_the_measured_value_and_has_the_quantiles_of_the_draws():
    draws = [{"ef_percent": Measure(value)} for value in np.linspace(30, 50, 101)]
    found = with_intervals({"ef_percent": Measure(55.0), "other": Measure(1.0)}, draws_with(draws), [numbers(55)])
    assert found["ef_percent"].low == pytest.approx(55 - 9)
    assert found["ef_percent"].high == pytest.approx(55 + 9)


def draws_with(draws):
    return [draw | {"other": Measure(math.nan)} for draw in draws]


def test_interval_widens_with_the_spread_over_beats():
    draws = [{"ef_percent": Measure(value)} for value in np.linspace(30, 50, 101)]
    beats = [numbers(50.0), numbers(60.0)]
    found = with_intervals({"ef_percent": Measure(55.0)}, draws, beats)
    error = 1.645 * np.std([50, 60], ddof=1) / math.sqrt(2)
    assert found["ef_percent"].high == pytest.approx(55 + math.hypot(9, error))


def test_a_measure_without_draws_keeps_its_value_and_has_no_interval():
    found = with_intervals({"ef_percent": Measure(55.0)}, [{"ef_percent": Measure()}] * 3, [numbers(55)])
    assert found["ef_percent"].value == 55
    assert math.isnan(found["ef_percent"].low)


def test_draws_are_those_of_the_seed():
    maps, phase = beating()
    pair = BlockModel().views["A4C"]["lv"]
    beat, grid = [Beat(0, 10, 20, True)], Grid((1.0, 1.0), (1.0, 1.0))
    first, again = (
        [draw["ef_percent"].value for draw in sample_beats(pair, maps, phase, grid, beat, n=12, seed=seed)]
        for seed in (0, 0)
    )
    assert first == again
    assert all(np.isfinite(first))
