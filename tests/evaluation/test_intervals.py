import numpy as np
import pytest

from alan.errors import ParameterError
from alan.evaluation.intervals import bootstrap_estimates, bootstrap_interval, paired_difference, resample_weights


def test_intervals_equal_a_loop_over_resampled_patients():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 7, 40)
    values = rng.normal(groups, 1.0)
    got = bootstrap_interval(values, groups, n_resamples=300, seed=5)
    patients, means = np.unique(groups), []
    for weights in resample_weights(len(patients), 300, 5):
        drawn = [values[groups == p] for p, w in zip(patients, weights, strict=True) for _ in range(int(w))]
        means.append(np.concatenate(drawn).mean())
    assert (got.low, got.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))
    assert (got.mean, got.n, got.groups) == (pytest.approx(values.mean()), 40, 7)


def test_the_interval_of_a_gaussian_mean_equals_the_normal_interval():
    rng, n, hits = np.random.default_rng(1), 60, 0
    for trial in range(200):
        interval = bootstrap_interval(rng.normal(3.0, 2.0, n), n_resamples=400, seed=trial)
        hits += interval.low <= 3.0 <= interval.high
    assert 0.90 <= hits / 200 <= 0.98
    values = rng.normal(3.0, 2.0, 400)
    interval = bootstrap_interval(values, n_resamples=4000)
    half = 1.96 * values.std() / np.sqrt(400)
    assert (interval.low, interval.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_patients_are_resampled_not_frames():
    rng = np.random.default_rng(2)
    patient = np.repeat(np.arange(20), 10)
    values = rng.normal(0, 1, 20)[patient]  # frames of a patient are equal
    by_patient, by_frame = bootstrap_interval(values, patient), bootstrap_interval(values)
    assert by_patient.high - by_patient.low > 2 * (by_frame.high - by_frame.low)


def test_undefined_values_are_left_out_and_counted():
    interval = bootstrap_interval([1.0, np.nan, 3.0], ["a", "b", "c"])
    assert (interval.mean, interval.n, interval.groups, interval.undefined) == (2.0, 2, 2, 1)
    nothing = bootstrap_interval([np.nan], ["a"])
    assert nothing.n == 0
    assert np.isnan([nothing.mean, nothing.low, nothing.high]).all()


def test_an_interval_needs_two_patients():
    interval = bootstrap_interval([1.0, 2.0], ["a", "a"])
    assert interval.mean == 1.5
    assert np.isnan([interval.low, interval.high]).all()
    interval = bootstrap_interval([1.0, 2.0], ["a", "b"])
    assert (interval.low, interval.high) == (1, 2)


def test_intervals_depend_on_level_and_seed():
    values = np.random.default_rng(0).normal(size=30)
    wide, narrow = bootstrap_interval(values, level=0.99), bootstrap_interval(values, level=0.5)
    assert wide.high - wide.low > narrow.high - narrow.low
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_a_paired_difference_has_a_narrower_interval():
    rng = np.random.default_rng(0)
    base = rng.normal(0, 5, 50)
    difference = paired_difference(base + 1 + rng.normal(0, 0.1, 50), base)
    assert 0.9 < difference.low < 1.0 < difference.high < 1.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": [1.0], "groups": ["a", "b"]}, "one group"),
        ({"values": [1.0, 2.0], "level": 1.5}, "level is 1.5"),
        ({"values": [1.0], "n_resamples": 0}, "n_resamples is 0"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    with pytest.raises(ParameterError, match=message):
        bootstrap_interval(**arguments)


def test_estimates_of_any_statistic_equal_the_intervals_of_the_mean():
    rng = np.random.default_rng(3)
    groups, values = rng.integers(0, 6, 25), rng.normal(size=25)
    mean, median = bootstrap_estimates(
        lambda x: [x.mean(), np.median(x)], [values], groups, n_resamples=200, seed=2
    )
    interval = bootstrap_interval(values, groups, n_resamples=200, seed=2)
    assert (mean.value, mean.low, mean.high) == pytest.approx((interval.mean, interval.low, interval.high))
    drawn = [
        np.median(np.concatenate([np.repeat(values[groups == p], int(weights[p])) for p in range(6)]))
        for weights in resample_weights(6, 200, 2)
    ]
    assert (median.low, median.high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))
    (alone,) = bootstrap_estimates(lambda x: [x.mean()], [[1.0, 2.0]], ["a", "a"])
    assert alone.value == 1.5
    assert np.isnan([alone.low, alone.high]).all()


def test_unpaired_values_are_refused():
    with pytest.raises(ParameterError, match="same cases"):
        paired_difference([1.0], [1.0, 2.0])
