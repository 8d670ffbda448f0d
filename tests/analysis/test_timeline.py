"""Outlines of a loop agree over time; the phase of the beat and single wrong frames are found."""

from types import SimpleNamespace

import numpy as np
import pytest

from alan.analysis.model import AnalysisModel, combine
from alan.analysis.phase_boxes import LEVEL, PhaseBoxes, membership
from alan.analysis.timeline import (
    TimeSettings,
    estimate_phase,
    find_jumps,
    find_rhythm,
    segment_loop,
    settle_beats,
    smooth_over_time,
)
from alan.cardiac import Beat
from alan.downstream import ParcelSegmenter, ParcelSelector, PostProcessing

N_IDS = 4


def white_box(shares, above=0.4, prior=1e9):
    """A white box whose parcels have given shares; post-processing does nothing."""
    selector = ParcelSelector("beta", share_above=above, n_parcels=N_IDS, prior_strength=prior, correlation=0.0)
    maps = np.repeat(np.arange(N_IDS), 1000).reshape(1, N_IDS, 1000)
    masks = np.arange(1000)[None, None] < 1000 * np.asarray(shares)[None, :, None]
    steps = PostProcessing(component=False, enclaves=False, closing_radius=0, fill=False, contour=False)
    return ParcelSegmenter(selector, steps).fit(maps, np.broadcast_to(masks, maps.shape))


def test_shares_of_a_frame_are_mixed_by_its_phase():
    pair = PhaseBoxes(white_box([0, 1, 0.8, 0]), white_box([0, 1, 0.4, 0]))
    parcels = np.array([[0, 1, 2, N_IDS]], np.uint8)  # N_IDS is the background
    for phase, mixed in ((1.0, 0.8), (0.0, 0.4), (0.25, 0.5)):
        np.testing.assert_allclose(pair.shares(parcels, phase), [[0, 1, mixed, 0]], atol=0.01)


class BlockModel(AnalysisModel):
    """Model without a network: parcel 0 is background, 1 cavity, 2 cavity at end-diastole only, 3 atrium."""

    def __init__(self):
        lv = PhaseBoxes(white_box([0, 1, 0.9, 0]), white_box([0, 1, 0.1, 0]))
        la = PhaseBoxes(box := white_box([0, 0, 0, 1]), box)
        self.parcels, self.views, self.size = SimpleNamespace(n_ids=N_IDS), {"A4C": {"lv": lv, "la": la}}, 20
        self.spread, self.others = {}, {}


def beating(n=40, period=20):
    """Parcel maps of a cavity whose height beats, and its phase."""
    phase = 0.5 + 0.5 * np.cos(2 * np.pi * np.arange(n) / period)
    maps = np.zeros((n, 20, 20), np.uint8)
    for t, p in enumerate(phase):
        maps[t, 5 : 8 + round(5 * p), 5:15] = 1
        maps[t, 8 + round(5 * p) : 10 + round(5 * p), 5:15] = 2
    maps[:, 17:, 5:15] = 3
    return maps, phase


def test_membership_follows_shares_and_edited_lists():
    box = white_box([0.0, 1.0, 0.7, 0.2])
    found = membership(box, N_IDS)
    expected = [0.0, 1.0, 0.5 + 0.5 * 0.3 / 0.6, 0.25]
    np.testing.assert_allclose(found, expected, atol=2e-3)
    box.selector_.interior_ = np.array([1, 3])
    edited = membership(box, N_IDS)
    assert (edited >= LEVEL).tolist() == [False, True, False, True]


def test_a_pixel_in_several_segments_belongs_to_the_cavity():
    large, small = np.ones((4, 4), bool), np.zeros((4, 4), bool)
    small[1, 1] = True
    assert combine({"lv": large, "myo": small})[1, 1] == 1
    assert combine({"lv": small, "myo": large})[1, 1] == 1
    assert combine({"myo": large, "la": small})[1, 1] == 2
    assert combine({"lv": large, "la": small})[1, 1] == 1
    assert (combine({"lv": small, "myo": large}) > 0).all()


def test_phase_follows_the_area():
    area = 100 + 40 * np.cos(2 * np.pi * np.arange(60) / 30)
    phase = estimate_phase(area, 1 / 30)
    assert phase[30] > 0.95
    assert phase[15] < 0.05
    flat = estimate_phase(np.full(60, 100.0) + np.arange(60) * 1e-3, 1 / 30)
    np.testing.assert_allclose(flat, 0.5, atol=0.01)


def test_single_frames_far_from_their_neighbours_are_jumps():
    area = 100 + 40 * np.cos(2 * np.pi * np.arange(60) / 30)
    area[20] += 60
    assert np.flatnonzero(find_jumps(area, 0.15)).tolist() == [20]
    assert not find_jumps(np.zeros(5), 0.15).any()


def test_lists_are_interpolated_by_phase():
    maps, phase = beating()
    found = segment_loop(BlockModel(), maps, "A4C", np.arange(40) / 30, TimeSettings(smoothing_s=0, jump=None))
    for t in (0, 20):
        assert (found.labels[t] == 1).sum() == (np.isin(maps[t], (1, 2))).sum()
    for t in (10, 30):
        assert (found.labels[t] == 1).sum() == (maps[t] == 1).sum()
    assert np.corrcoef(found.phase, phase)[0, 1] > 0.97
    one = segment_loop(BlockModel(), maps, "A4C", None, TimeSettings(smoothing_s=0, jump=None, phases=False))
    assert (one.phase == 0.5).all()


def test_a_single_wrong_frame_is_repaired():
    maps, _ = beating()
    maps[24, 12:17, 5:15] = 1  # the cavity runs into the atrium
    times = np.arange(40) / 30
    bad = segment_loop(BlockModel(), maps, "A4C", times, TimeSettings(smoothing_s=0, jump=None))
    good = segment_loop(BlockModel(), maps, "A4C", times, TimeSettings(smoothing_s=0, jump=0.25))
    assert np.flatnonzero(good.repaired).tolist() == [24]
    assert good.jump_share == 1 / 40
    areas = [(found.labels == 1).sum((1, 2)) for found in (bad, good)]
    assert areas[0][24] > 1.3 * areas[0][23]
    assert areas[1][24] == pytest.approx(areas[1][23], rel=0.15)


def test_a_loop_of_many_jumps_is_not_repaired():
    maps, _ = beating()
    rng = np.random.default_rng(0)
    for parcel_map in maps:
        parcel_map[12 : 12 + rng.integers(0, 6), 5:15] = 1
    found = segment_loop(BlockModel(), maps, "A4C", np.arange(40) / 30, TimeSettings(smoothing_s=0, jump=0.02))
    assert not found.repaired.any()
    assert found.jump_share > 0.5


def test_smoothing_equals_a_normalised_gaussian_over_good_frames():
    rng = np.random.default_rng(0)
    scores = rng.random((9, 1, 2, 2), dtype=np.float32)
    good = np.ones(9, bool)
    good[4] = False
    found = smooth_over_time(scores, good, 1.0)
    kernel = np.exp(-0.5 * (np.arange(9) - 4.0) ** 2) * good
    expected = (kernel[:, None, None, None] * scores).sum(0) / kernel.sum()
    np.testing.assert_allclose(found[4], expected, rtol=1e-4)
    assert (smooth_over_time(scores, good, 0.0) == scores).all()


def test_results_do_not_depend_on_the_window(monkeypatch):
    maps, _ = beating(60)
    whole = segment_loop(BlockModel(), maps, "A4C", np.arange(60) / 30)
    monkeypatch.setattr("alan.analysis.timeline._WINDOW", 7)
    parts = segment_loop(BlockModel(), maps, "A4C", np.arange(60) / 30)
    assert (whole.labels == parts.labels).all()


def test_beats_come_from_the_total_area():
    maps, _ = beating()
    times = np.arange(40) / 25
    found = [(beat.ed, beat.es) for beat in find_rhythm(BlockModel(), maps, "A4C", times).beats]
    np.testing.assert_allclose(found, [(0, 10), (20, 30)], atol=1)
    assert find_rhythm(BlockModel(), maps, "A4C", None).beats == []
    assert find_rhythm(BlockModel(), maps[:2], "A4C", times[:2]).beats == []


def test_measured_frames_use_the_list_of_their_phase():
    maps, _ = beating()
    maps[20, 5:15] = 0  # the outline of this frame fails
    times = np.arange(40) / 25
    before = segment_loop(BlockModel(), maps, "A4C", times, TimeSettings(jump=None))
    labels, phase = before.labels.copy(), before.phase.copy()
    beats = [Beat(0, 10, 20, True), Beat(20, 30, None, False)]
    after, settled = settle_beats(BlockModel(), maps, "A4C", times, before, beats=beats, spacing=(1.0, 1.0))
    assert settled[0].end == settled[1].ed
    assert settled[1].ed in (19, 21)
    for beat in settled:
        assert after.phase[[beat.ed, beat.es]].tolist() == [1, 0]
        np.testing.assert_array_equal(after.labels[beat.ed] == 1, np.isin(maps[beat.ed], (1, 2)))
        np.testing.assert_array_equal(after.labels[beat.es] == 1, maps[beat.es] == 1)
    frames = {frame for beat in settled for frame in (beat.ed, beat.es)}
    others = [t for t in range(40) if t not in frames]
    np.testing.assert_array_equal(after.labels[others], labels[others])
    np.testing.assert_array_equal(before.labels, labels)
    np.testing.assert_array_equal(before.phase, phase)


def test_windows_of_neighbouring_beats_do_not_overlap():
    maps, _ = beating()
    times = np.arange(40) / 200  # 12 frames lie within the time around an extremum
    timeline = segment_loop(BlockModel(), maps, "A4C", times)
    _, (beat,) = settle_beats(
        BlockModel(), maps, "A4C", times, timeline, beats=[Beat(10, 14, None, False)], spacing=(1.0, 1.0)
    )
    assert beat.ed < beat.es
