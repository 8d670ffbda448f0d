"""Intervals of measures: from draws and from the spread over beats."""

import json
import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from alan.analysis import Manifest, Measure
from alan.analysis.loop_analysis import measure_beats
from alan.analysis.measures import PARASTERNAL_MEASURES, BeatMeasures, Grid, measure_beat, summarise_beats
from alan.analysis.model import AnalysisModel
from alan.analysis.phase_boxes import PhaseBoxes, membership
from alan.analysis.results import Spread
from alan.analysis.tables import MEASURES
from alan.analysis.timeline import segment_loop
from alan.analysis.uncertainty import calibrate_spread, rate_with_interval, sample_beats, with_intervals
from alan.cardiac import Beat, HeartRate
from alan.downstream.whitebox.sampling import sample_shares
from alan.errors import DataError
from tests.analysis.test_timeline import N_IDS, BlockModel, beating, white_box


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


class WalledModel(BlockModel):
    """Model whose parcel 1 is the cavity, 2 of the cavity or the wall, and 3 of the atrium or outside."""

    spread: ClassVar = {}

    def __init__(self):
        super().__init__()
        ed, es = white_box([0, 1, 0.7, 0], prior=20), white_box([0, 1, 0.4, 0], prior=20)
        shares = {"myo": [0, 0, 0.1, 0.42], "la": [0, 0, 0, 0.41]}
        beside = {name: PhaseBoxes(box := white_box(inside, prior=20), box) for name, inside in shares.items()}
        self.views = {"A4C": {"lv": PhaseBoxes(ed, es), **beside}}

    structures = AnalysisModel.structures


#: Measures in apical views.
APICAL = set(MEASURES) - {*PARASTERNAL_MEASURES["PLAX"], "wall_thickness_cm"}
GRID, BEAT = Grid((1.0, 1.0), (4.0, 5.0)), Beat(0, 10, 20, True)


def test_draws_equal_those_of_a_slow_loop():
    maps, phase = beating()
    boxes, n = WalledModel().views["A4C"], 15
    found = sample_beats(boxes, maps, phase, GRID, [BEAT], n=n, seed=3)
    for draw, sample in enumerate(found):
        masks = {name: np.zeros(maps.shape, bool) for name in boxes}
        for frame in (BEAT.ed, BEAT.es):
            one = {}
            for name, pair in boxes.items():
                table = 0
                for box, weight in ((pair.ed, phase[frame]), (pair.es, 1 - phase[frame])):
                    shares = sample_shares(box.selector_, n, np.random.default_rng(stream(name)))
                    table = table + np.float32(weight) * membership(box, N_IDS, shares[draw])
                one[name] = pair.steps((table >= 0.5)[maps[frame]], maps[frame])
            for name, mask in one.items():
                masks[name][frame] = mask if name == "lv" else mask & ~one["lv"]
        expected = summarise_beats([measure_beat(BEAT, masks, GRID)], sized=True)
        for name in set(MEASURES) - {"heart_rate_bpm"}:
            assert sample[name].value == pytest.approx(expected[name].value, nan_ok=True), name
    for name in ("ef_percent", "shortening_percent", "la_volume_ml", "lv_mass_g"):
        assert len({draw[name].value for draw in found}) > 1, name


def stream(name):
    """Seed of the draws of a structure where the seed is 3."""
    return [3, ["lv", "myo", "la"].index(name)]


def test_draws_depend_on_the_seed_and_their_number():
    maps, phase = beating()
    boxes = WalledModel().views["A4C"]

    def sample(n, seed):
        draws = sample_beats(boxes, maps, phase, GRID, [BEAT], n=n, seed=seed)
        return [draw["ef_percent"].value for draw in draws]

    assert sample(12, 0) == sample(12, 0)
    assert sample(12, 0) != sample(12, 1)
    assert len(sample(5, 0)) == 5
    assert np.isfinite(sample(12, 0)).all()


def test_every_measure_of_a_loop_and_its_beats_has_an_interval():
    maps, _ = beating(n=50)
    model, times = WalledModel(), np.arange(50) / 25
    timeline = segment_loop(model, maps, "A4C", times)
    found = measure_beats(model, maps, "A4C", times, timeline=timeline, grid=GRID, samples=20)
    assert len(found.beats) >= 2
    for name in APICAL:
        measure = found.summary[name]
        assert measure.low <= measure.value <= measure.high, name
        assert all(getattr(beat, name).low <= getattr(beat, name).high for beat in found.results[:2]), name
    assert found.summary["heart_rate_bpm"].value == pytest.approx(75, rel=0.05)
    bare = measure_beats(model, maps, "A4C", times, timeline=timeline, grid=GRID, samples=0)
    for name in APICAL:
        assert bare.summary[name].value == found.summary[name].value
        assert math.isnan(bare.summary[name].low)


def test_a_rate_has_its_standard_error_and_the_spread_of_the_model():
    assert rate_with_interval(HeartRate(60, 2), Spread()) == Measure(60, 60 - 3.29, 60 + 3.29)
    wider = rate_with_interval(HeartRate(60, 2), Spread(0, 0.1))
    assert (wider.low, wider.high) == pytest.approx((60 - 3.29, 60 + math.hypot(3.29, 6)))
    assert rate_with_interval(HeartRate(2, 4), Spread()).low == 0
    assert not rate_with_interval(HeartRate(), Spread()).known


def test_r_waves_give_the_rate_of_a_loop_and_of_each_beat():
    maps, _ = beating(n=50)
    model, times = WalledModel(), np.arange(50) / 25
    model.spread = {"heart_rate_bpm": Spread(0.5, 0.5)}  # spread by the outlines
    timeline = segment_loop(model, maps, "A4C", times)
    settings = {"timeline": timeline, "grid": GRID, "samples": 5}
    area = measure_beats(model, maps, "A4C", times, **settings)
    found = measure_beats(model, maps, "A4C", times, r_waves=[0.0, 0.82, 1.6], **settings)
    assert (area.rate_source, found.rate_source) == ("area", "r waves")
    rate = found.summary["heart_rate_bpm"]
    assert rate.value == pytest.approx(60 / 0.8)
    assert 0.5 < rate.high - rate.value < 4
    assert [beat.heart_rate_bpm.value for beat in found.results[:2]] == pytest.approx([60 / 0.82, 60 / 0.78])
    wide = area.summary["heart_rate_bpm"]
    assert wide.high - wide.value == pytest.approx(wide.value / 2, rel=0.02)
    assert measure_beats(model, maps, "A4C", times, r_waves=[0.8], **settings).rate_source == "area"


def test_an_ecg_on_the_screen_counts_if_it_agrees_with_the_area():
    maps, _ = beating(n=50)
    model, times = WalledModel(), np.arange(50) / 25
    settings = {"timeline": segment_loop(model, maps, "A4C", times), "grid": GRID, "samples": 0}

    def source(drawn, r_waves=None):
        return measure_beats(
            model, maps, "A4C", times, r_waves=r_waves, drawn_r_waves=drawn, **settings
        ).rate_source

    assert source([0.0, 0.82, 1.6]) == "drawn ecg"
    assert source([0.0, 0.82, 1.6], r_waves=[0.0, 0.8, 1.6]) == "r waves"  # those of the file come first
    assert source([0.0, 0.5, 1.0, 1.5]) == "area"  # another period
    assert source([0.4, 1.2]) == "area"  # at end-systole


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
    held = {None: [], 0.95: [], "patients": []}
    pairs = [str(n // 2) for n in range(100)]
    for _ in range(200):
        truth = rng.normal(50, 10, 100)
        measured = [Measure(value, value - 1, value + 1) for value in truth + rng.normal(3, 5, 100)]
        for confidence, shares in held.items():
            options = (0.95, pairs) if confidence == "patients" else (confidence,)
            below, above, _ = calibrate_spread("ef_percent", measured, truth, *options)
            low, high = -math.hypot(1, below), math.hypot(1, above)
            normal = [0.5 * (1 + math.erf((end + 3) / (5 * math.sqrt(2)))) for end in (low, high)]
            shares.append(normal[1] - normal[0])  # truth - measured is normal, mean -3 and deviation 5
    assert np.mean(held[None]) == pytest.approx(0.87, abs=0.02)
    assert np.mean(np.array(held[0.95]) >= 0.9) > 0.8
    assert np.mean(np.array(held["patients"]) >= 0.9) > 0.95
    assert np.mean(np.array(held[None]) >= 0.9) < 0.7


def test_the_spread_is_the_narrowest_pair_that_holds():
    rng = np.random.default_rng(1)
    measured = [Measure(value, value - 2, value + 1) for value in rng.normal(50, 5, 30)]
    truth = [one.value + error for one, error in zip(measured, rng.standard_t(2, 30) * 4, strict=True)]
    lacks = [
        (math.sqrt(max(0, e**2 - 4)), 0) if e < 0 else (0, math.sqrt(max(0, e**2 - 1)))
        for e in (true - one.value for one, true in zip(measured, truth, strict=True))
    ]
    for confidence, groups, needed in (
        (None, None, 28),  # ceil(31 * 0.9)
        (0.95, None, 30),  # 30 loops: the 95% quantile of binomial(30, 0.9) is 29
        (0.6, None, 29),
        (0.5, [str(n // 2) for n in range(30)], 30),  # 15 patients: (14 + 1) of 15
    ):
        ends = [sorted({0.0, *(lack[side] for lack in lacks)}) for side in (0, 1)]
        slow = min(
            (below + above, below, above)
            for below in ends[0]
            for above in ends[1]
            if sum(lack[0] <= below and lack[1] <= above for lack in lacks) >= needed
        )
        assert calibrate_spread("ef_percent", measured, truth, confidence, groups) == pytest.approx((*slow[1:], 1))
    unknown = [*measured, Measure()], [*truth, 50.0]
    assert calibrate_spread("ef_percent", *unknown) == calibrate_spread("ef_percent", measured, truth)


def test_draws_that_vary_more_than_the_model_errs_have_a_smaller_weight():
    rng = np.random.default_rng(0)
    truth, wide = rng.uniform(80, 120, 400), rng.uniform(20, 120, 400)
    measured = [Measure(value, value - half, value + half) for value, half in zip(truth, wide, strict=True)]
    errors = [replace(one, value=one.value + e) for one, e in zip(measured, rng.normal(0, 10, 400), strict=True)]
    found = calibrate_spread("lv_mass_g", errors, truth)
    assert found.draws < 1
    draws = [{"lv_mass_g": Measure(value)} for value in np.linspace(80, 120, 101)]
    half, unit = 18, 100.0
    one = with_intervals({"lv_mass_g": Measure(unit)}, draws, [numbers(50)], {"lv_mass_g": found})["lv_mass_g"]
    assert unit - one.low == pytest.approx(math.hypot(found.draws * half, unit * found.below))
    assert one.high - unit == pytest.approx(math.hypot(found.draws * half, unit * found.above))
    held = []
    for true, one in zip(truth, errors, strict=True):
        part, own = (found.below, one.value - one.low) if true < one.value else (found.above, one.high - one.value)
        held.append(math.hypot(found.draws * own, one.value * part) >= abs(true - one.value))
    assert np.mean(held) == pytest.approx(0.9, abs=0.01)


def test_a_model_whose_intervals_hold_needs_no_spread():
    measured = [Measure(50.0, 30.0, 70.0)] * 50
    assert calibrate_spread("ef_percent", measured, [31.0, 69.0] * 25) == (0, 0, 1)


@pytest.mark.parametrize(
    "bad",
    [{"ef_percent": [1.0]}, {"ef_percent": [-1.0, 0.0]}, {"ef_percent": [0, "wide"]}, {"edv_ml": [0, 0, 2]}],
)
def test_a_manifest_stores_the_spread_of_its_model(tmp_path, bad):
    path = tmp_path / "own.model.json"
    base = {"schema": "alan-model/1", "parcels": "p", "views": {"A4C": {"lv": "box"}}}
    path.write_text(json.dumps(base | {"spread": {"edv_ml": [0, 0.25], "esv_ml": [0, 0.2, 0.5]}}), "utf-8")
    assert Manifest.load(path).spread == {"edv_ml": Spread(0.0, 0.25, 1.0), "esv_ml": Spread(0.0, 0.2, 0.5)}
    path.write_text(json.dumps(base), encoding="utf-8")
    assert Manifest.load(path).spread == {}
    path.write_text(json.dumps(base | {"spread": bad}), encoding="utf-8")
    with pytest.raises(DataError, match="is not a manifest of a model"):
        Manifest.load(path)
