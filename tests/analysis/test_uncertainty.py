"""Intervals of measures: from draws and from the spread over beats."""

import json
import math

import numpy as np
import pytest

from alan.analysis import Manifest, Measure
from alan.analysis.measures import BeatMeasures, Grid
from alan.analysis.uncertainty import calibrate_spread, sample_beats, with_intervals
from alan.cardiac import Beat
from alan.errors import DataError
from tests.analysis.test_timeline import BlockModel, beating


def numbers(ef):
    return BeatMeasures(100.0, 100.0 - ef, ef, ef, ef / 2, ef / 3)


def test_interval_has_the_quantiles_of_the_draws():
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


def test_draws_depend_on_the_seed():
    maps, phase = beating()
    pair = BlockModel().views["A4C"]["lv"]
    beat, grid = [Beat(0, 10, 20, True)], Grid((1.0, 1.0), (1.0, 1.0))
    first, again = (
        [draw["ef_percent"].value for draw in sample_beats(pair, maps, phase, grid, beat, n=12, seed=seed)]
        for seed in (0, 0)
    )
    assert first == again
    assert all(np.isfinite(first))


@pytest.mark.parametrize(("name", "unit"), [("ef_percent", 1.0), ("edv_ml", 100.0)])
def test_calibrated_intervals_hold_on_new_loops(name, unit):
    rng = np.random.default_rng(0)
    truth = rng.normal(50, 10, 4000) * unit
    values = truth * (1 + rng.normal(0.05, 0.1, 4000))  # errors that the draws, 2% wide, do not show
    measured = [Measure(value, 0.98 * value, 1.02 * value) for value in values]
    spread = calibrate_spread(name, measured[:200], truth[:200])
    assert spread[0] > spread[1] > 0
    draws = [{name: Measure(value)} for value in np.linspace(0.975, 1.025, 101)]
    held = []
    for true, one in zip(truth[200:], measured[200:], strict=True):
        own = [{name: Measure(draw[name].value * one.value)} for draw in draws]
        found = with_intervals({name: Measure(one.value)}, own, [numbers(50)], {name: spread})[name]
        held.append(found.low <= true <= found.high)
    assert 0.86 < np.mean(held[:1000]) < 0.95


def test_a_spread_with_confidence_holds_on_most_draws_of_new_loops():
    rng = np.random.default_rng(0)
    held = {None: [], 0.95: []}
    for _ in range(200):
        truth = rng.normal(50, 10, 100)
        measured = [Measure(value, value - 1, value + 1) for value in truth + rng.normal(3, 5, 100)]
        for confidence, shares in held.items():
            below, above = calibrate_spread("ef_percent", measured, truth, confidence)
            low, high = -math.hypot(1, below), math.hypot(1, above)
            normal = [0.5 * (1 + math.erf((end + 3) / (5 * math.sqrt(2)))) for end in (low, high)]
            shares.append(normal[1] - normal[0])  # truth - measured is normal, mean -3 and deviation 5
    assert np.mean(held[None]) == pytest.approx(0.9, abs=0.02)
    assert np.mean(np.array(held[0.95]) >= 0.9) > 0.88
    assert np.mean(np.array(held[None]) >= 0.9) < 0.7


def test_a_model_whose_intervals_hold_needs_no_spread():
    measured = [Measure(50.0, 30.0, 70.0)] * 50
    assert calibrate_spread("ef_percent", measured, np.linspace(31, 69, 50)) == (0, 0)


@pytest.mark.parametrize("bad", [{"ef_percent": [1.0]}, {"ef_percent": [-1.0, 0.0]}, {"ef_percent": [0, "wide"]}])
def test_a_manifest_stores_the_spread_of_its_model(tmp_path, bad):
    path = tmp_path / "own.model.json"
    base = {"schema": "alan-model/1", "parcels": "p", "views": {"A4C": {"lv": "box"}}}
    path.write_text(json.dumps(base | {"spread": {"edv_ml": [0, 0.25]}}), encoding="utf-8")
    assert Manifest.load(path).spread == {"edv_ml": (0.0, 0.25)}
    path.write_text(json.dumps(base), encoding="utf-8")
    assert Manifest.load(path).spread == {}
    path.write_text(json.dumps(base | {"spread": bad}), encoding="utf-8")
    with pytest.raises(DataError, match="is not a manifest of a model"):
        Manifest.load(path)
