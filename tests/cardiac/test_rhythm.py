"""Heart rates of known rhythms."""

import numpy as np
import pytest

from alan.cardiac import find_beats, fit_heart_rate, heart_rate_of_beats, heart_rate_of_r_waves
from alan.cardiac.rhythm import _left
from alan.data.simulator.cycle import Cycle
from alan.errors import ParameterError

from .test_beats import curve


def test_the_rate_of_r_waves_is_that_of_the_median_interval():
    found = heart_rate_of_r_waves([0.0, 0.8, 1.5, 2.4])  # 0.8, 0.7 and 0.9 s
    assert found.bpm == pytest.approx(75)
    error = np.hypot(0.1 / np.sqrt(3), 0.005)  # standard error over the intervals, and of one
    assert found.error_bpm == pytest.approx(60 / 0.8**2 * error)
    assert heart_rate_of_r_waves([0.0, 0.8, 1.6, 1.7, 9.0]).bpm == pytest.approx(75)  # no beats of 0.1 and 7.3 s
    for none in ([], [0.4], [0.0, 5.0]):
        assert not heart_rate_of_r_waves(none).known


def test_a_periodic_fit_equals_least_squares():
    rng = np.random.default_rng(0)
    time, values, period = np.arange(40) / 30, rng.normal(size=40), 0.7
    target = (values - values.mean()) / values.std()
    rows = [np.ones(40)]
    for k in range(1, 5):
        rows += [np.cos(2 * np.pi * k * time / period), np.sin(2 * np.pi * k * time / period)]
    # ridge regression as least squares with one more row per coefficient
    penalty = np.diag([0] + [np.sqrt(0.02 * 40) * k / 4 for k in (1, 1, 2, 2, 3, 3, 4, 4)])
    design, wanted = np.concatenate([np.transpose(rows), penalty]), np.concatenate([target, np.zeros(9)])
    left = np.linalg.lstsq(design, wanted, rcond=None)[1][0]
    assert _left(values, time, np.array([period])) == pytest.approx([left / 40])


@pytest.mark.parametrize("beats", [1.4, 1.6, 3.2])
def test_the_rate_of_short_noisy_loops_is_within_its_error(beats):
    scores, missed = [], 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        cycle = Cycle.beating(round(28 * beats), beats, rng)
        times = np.arange(len(cycle.phase)) / cycle.fps
        values = 100 - 40 * cycle.contraction + rng.normal(0, 4, len(times))
        values[3] = np.nan
        found, true = fit_heart_rate(values, times), 60 * beats * cycle.fps / len(times)
        if found.known:
            scores.append((found.bpm - true) / found.error_bpm)
            assert abs(found.bpm / true - 1) < 0.15
        missed += not found.known
    assert missed <= (20 if beats < 1.5 else 8 if beats < 2 else 0)
    assert np.mean(np.abs(scores) <= 1.645) >= 0.8


def test_a_loop_of_one_beat_has_no_rate():
    for seed in range(20):
        cycle = Cycle.beating(50, 1.6, np.random.default_rng(seed))
        for frames in (20, 31):
            assert not fit_heart_rate(cycle.contraction[:frames], np.arange(frames) / cycle.fps).known
    assert not fit_heart_rate(np.ones(60), np.arange(60) / 30).known
    assert not fit_heart_rate([1.0, np.nan], [0.0, 0.1]).known


def test_long_loops_are_cut_into_parts():
    durations = [0.8] * 12 + [1.0] * 12
    values, times, _, _ = curve(durations)
    found = fit_heart_rate(values, times)
    assert 60 < found.bpm < 75
    assert found.error_bpm > 1  # the rate changes in the loop
    steady = fit_heart_rate(*curve([0.8] * 24)[:2])
    assert steady.bpm == pytest.approx(75, rel=0.01)
    assert steady.error_bpm < 0.5


def test_the_rate_of_irregular_beats_is_their_median():
    values, times, _, _ = curve([0.9, 0.9, 0.5, 0.9, 0.9], tail=0.3)
    beats = find_beats(values, times)
    assert heart_rate_of_beats(beats, times).bpm == pytest.approx(60 / 0.9, rel=0.04)
    one = heart_rate_of_beats(beats[:1], times)
    assert one.error_bpm == pytest.approx(one.bpm * 0.15 * one.bpm / 60)
    assert not heart_rate_of_beats([], times).known


def test_a_curve_needs_a_time_for_each_frame():
    with pytest.raises(ParameterError, match="one value and one time"):
        fit_heart_rate([1.0, 2.0], [0.0])
