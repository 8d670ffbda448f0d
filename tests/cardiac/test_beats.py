"""Beats of curves with known end-diastoles and end-systoles."""

import numpy as np
import pytest

from alan.cardiac import find_beats, heart_rate_of_beats
from alan.data.simulator.cycle import Cycle
from alan.errors import ParameterError


def curve(durations, *, fps=50, low=50.0, high=120.0, lead=0.0, tail=0.0):
    """Volumes of beats of given durations in s; ``lead`` and ``tail`` are parts of further beats, as fractions."""
    values, starts, troughs = [], [], []
    pieces = [(durations[0], 1 - lead, 1.0)] * (lead > 0) + [(d, 0.0, 1.0) for d in durations]
    pieces += [(durations[-1], 0.0, tail)] * (tail > 0)
    for duration, start, stop in pieces:
        n = round(duration * fps)
        q = np.arange(n) / n
        # systole is the first 40% of a beat; the ventricle fills in the rest
        shape = np.where(q < 0.4, 0.5 + 0.5 * np.cos(np.pi * q / 0.4), 0.5 - 0.5 * np.cos(np.pi * (q - 0.4) / 0.6))
        first, last = round(start * n), round(stop * n)
        if start == 0:
            starts.append(len(values))
            if stop > 0.45:
                troughs.append(len(values) + round(0.4 * n))
        values.extend(low + (high - low) * shape[first:last])
    return np.array(values), np.arange(len(values)) / fps, starts, troughs


def test_beats_of_a_clean_curve_are_found():
    values, times, starts, troughs = curve([0.8] * 4, tail=0.5)
    beats = find_beats(values, times)
    assert [beat.es for beat in beats] == pytest.approx(troughs, abs=1)
    assert [beat.ed for beat in beats] == pytest.approx(starts, abs=2)
    assert all(beat.complete and beat.regular for beat in beats[:-1])
    assert heart_rate_of_beats(beats, times).bpm == pytest.approx(75, rel=0.03)


def test_single_wrong_outlines_are_not_taken_for_beats():
    values, times, starts, troughs = curve([0.9] * 3, tail=0.3)
    rng = np.random.default_rng(0)
    noisy = values + rng.normal(0, 1.0, len(values))
    noisy[[10, 57, 101]] *= 1.8
    noisy[[30, 80]] *= 0.2
    beats = find_beats(noisy, times)
    assert [beat.es for beat in beats] == pytest.approx(troughs, abs=2)
    assert [beat.ed for beat in beats][1:] == pytest.approx(starts[1:3], abs=3)


def test_two_wrong_outlines_side_by_side_are_not_taken_for_a_beat():
    values, times, starts, troughs = curve([0.9] * 3, tail=0.3)
    values[[25, 26, 70, 71]] *= 0.1
    beats = find_beats(values, times)
    assert [beat.es for beat in beats] == pytest.approx(troughs, abs=2)
    assert [beat.ed for beat in beats][1:] == pytest.approx(starts[1:3], abs=3)


def test_a_dip_while_the_ventricle_fills_is_not_a_systole():
    """It is nearer to the systole than most of the period, which is that of the beats."""
    values, times, starts, troughs = curve([1.2] * 4, tail=0.3)
    for start in starts[:4]:
        values -= 60 * np.exp(-(((times - start / 50 - 1.05) / 0.06) ** 2) / 2)
    beats = find_beats(values, times)
    assert [beat.es for beat in beats] == pytest.approx(troughs, abs=2)


def test_incomplete_beats_at_both_ends_are_marked():
    values, times, starts, troughs = curve(
        [0.8, 0.8], lead=0.4, tail=0.2
    )  # first half a filling, last a contraction
    beats = find_beats(values, times)
    assert [beat.es for beat in beats] == pytest.approx(troughs, abs=1)
    assert [beat.ed for beat in beats] == pytest.approx(starts[:2], abs=2)
    assert [beat.complete for beat in beats] == [True, True]


@pytest.mark.parametrize("start", [6, 7, 8])
@pytest.mark.parametrize("bump", [8.0, 16.0])
def test_a_loop_that_begins_late_in_a_contraction_has_no_beat_there(start, bump):
    """The loop shows the end of a contraction, with larger outlines in its second and third frame."""
    values, times, starts, troughs = curve([0.8] * 3, fps=25)
    values = values[start:]
    values[1:3] += bump
    beats = find_beats(values, times[: len(values)])
    assert [beat.es for beat in beats] == pytest.approx([trough - start for trough in troughs[1:]], abs=1)
    assert [beat.ed for beat in beats] == pytest.approx([at - start for at in starts[1:]], abs=2)


def test_a_loop_that_begins_shortly_before_a_contraction_keeps_its_first_beat():
    values, times, starts, troughs = curve([0.8] * 3, fps=50, lead=0.9)
    beats = find_beats(values, times)
    assert [beat.es for beat in beats] == pytest.approx(troughs, abs=1)
    assert [beat.ed for beat in beats] == pytest.approx(starts, abs=2)


def test_a_single_contraction_is_an_incomplete_beat():
    values = np.linspace(120, 50, 20)
    (beat,) = find_beats(values, np.arange(20) / 50)
    assert (beat.ed, beat.es, beat.end, beat.complete, beat.regular) == (0, 19, None, False, False)
    assert not heart_rate_of_beats([beat], np.arange(20) / 50).known


def test_an_extra_beat_is_irregular():
    values, times, _, _ = curve([0.9, 0.9, 0.5, 0.9, 0.9], tail=0.3)
    beats = [beat for beat in find_beats(values, times) if beat.complete]
    assert [beat.regular for beat in beats] == [True, True, False, True, True]


def test_r_waves_set_end_diastole():
    values, times, starts, _ = curve([0.8] * 3, tail=0.3)
    beats = find_beats(values, times, r_waves=[times[start] for start in starts])
    assert [beat.ed for beat in beats] == pytest.approx(starts[: len(beats)], abs=1)
    assert len(beats) == 3


def test_unknown_frames_are_bridged():
    values, times, _, troughs = curve([0.8] * 3, tail=0.3)
    values[5:9] = np.nan
    assert [beat.es for beat in find_beats(values, times)] == pytest.approx(troughs, abs=1)


def test_a_curve_without_a_contraction_has_no_beat():
    assert find_beats(np.full(40, 80.0), np.arange(40) / 50) == []
    assert find_beats([80.0, 60.0], [0.0, 0.02]) == []


@pytest.mark.parametrize("seed", range(12))
def test_beats_of_simulated_cycles_are_found(seed):
    rng = np.random.default_rng(seed)
    cycle = Cycle.beating(120, 3.0, rng)
    times = np.arange(120) / cycle.fps
    beats = find_beats(1 - 0.5 * cycle.contraction, times)
    peaks = np.flatnonzero(cycle.contraction > 0.98)
    assert len(beats) >= 2
    assert all(np.abs(peaks - beat.es).min() <= 1 for beat in beats)
    assert heart_rate_of_beats(beats, times).bpm == pytest.approx(60 * 3.0 * cycle.fps / 120, rel=0.06)


@pytest.mark.parametrize(
    ("values", "times", "message"),
    [
        ([1.0, 2.0], [0.0], "one value and one time"),
        ([1.0, 2.0, 1.0], [0.0, 0.2, 0.1], "ascending"),
        ([np.nan] * 3, [0.0, 0.1, 0.2], "no known value"),
    ],
)
def test_invalid_curves_are_refused(values, times, message):
    with pytest.raises(ParameterError, match=message):
        find_beats(values, times)


def test_a_contraction_needs_the_given_prominence():
    deep, _, _, _ = curve([0.8])
    shallow, _, _, _ = curve([0.8], low=100.0)
    values = np.concatenate([deep, deep, shallow, deep, deep, deep[:10]])
    times = np.arange(len(values)) / 50
    assert len(find_beats(values, times, prominence=0.1)) == 5
    assert len(find_beats(values, times, prominence=0.5)) == 4
    with pytest.raises(ParameterError, match=r"prominence is 1\.0"):
        find_beats(values, times, prominence=1.0)
