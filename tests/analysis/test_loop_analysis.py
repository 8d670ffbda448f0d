"""Exported outlines of a result equal the measured ones."""

from types import SimpleNamespace

import numpy as np
import pytest

from alan.analysis import LoopSettings, quality
from alan.analysis.loop_analysis import analyze_loop
from alan.analysis.results import Spread
from alan.analysis.timeline import TimeSettings, segment_loop
from alan.cardiac import ejection_fraction, simpson_volume

from .test_timeline import BlockModel, beating

SPACING = (0.5, 0.4)


class MapModel(BlockModel):
    """A model whose frames are its parcel maps."""

    def resize(self, frames):
        return frames

    def maps(self, frames):
        return frames


def made_loop(maps):
    return SimpleNamespace(
        name="loop",
        patient="p",
        n_frames=len(maps),
        shape=maps.shape[1:],
        screen_shape=maps.shape[1:],
        box=(slice(0, 20), slice(0, 20)),
        inside=np.ones(maps.shape[1:], bool),
        times_s=np.arange(len(maps)) / 25,
        pixel_mm=SPACING,
        pixel_aspect=SPACING[0] / SPACING[1],
        fan=None,
        r_waves_s=None,
        drawn_r_waves=lambda: np.empty(0),
        notes=(),
        view=None,
        key_frames=None,
        chunks=lambda n: iter(np.array_split(maps, range(n, len(maps), n))),
    )


def test_exported_labels_equal_the_measured_outlines():
    maps, _ = beating()
    # with the mean of both lists in every frame, the list of end-systole gives another outline
    settings = LoopSettings(view="A4C", samples=0, time=TimeSettings(phases=False))
    found = analyze_loop(made_loop(maps), MapModel(), settings, {})
    for value, name in enumerate(found.result.structures, 1):
        areas = [frame.area_px[name] for frame in found.result.frames]
        assert areas == (found.labels == value).sum((1, 2)).tolist()
    assert len(found.result.beats) == 2
    for beat in found.result.beats:
        edv, esv = (simpson_volume(found.labels[frame] == 1, SPACING) for frame in (beat.ed, beat.es))
        assert beat.edv_ml.value == pytest.approx(edv)
        assert beat.esv_ml.value == pytest.approx(esv)
        assert beat.ef_percent.value == pytest.approx(ejection_fraction(edv, esv))


@pytest.mark.parametrize("key_frames", [(0, 1), (1, 0)])
def test_key_frames_are_measured_by_the_lists_of_their_phases(key_frames):
    maps, phase = beating()
    ends = np.stack([maps[phase.argmax()], maps[phase.argmin()]])[list(key_frames)]
    loop = made_loop(ends)
    loop.times_s, loop.key_frames = None, key_frames
    found = analyze_loop(loop, MapModel(), LoopSettings(view="A4C", samples=3), {})
    (beat,) = found.result.beats
    assert (beat.ed, beat.es, beat.end) == (*key_frames, None)
    model = MapModel()
    edv, esv = (
        simpson_volume(segment_loop(model, ends[[n]], "A4C", None, phase=share).labels[0] == 1, SPACING)
        for n, share in zip(key_frames, (1.0, 0.0), strict=True)
    )
    assert beat.ef_percent.value == pytest.approx(ejection_fraction(edv, esv))
    assert found.result.ef_percent.low <= beat.ef_percent.value <= found.result.ef_percent.high
    assert not found.result.heart_rate_bpm.known
    assert [frame.phase for frame in found.result.frames] == [float(n == key_frames[0]) for n in range(2)]
    assert {"still", "times_unknown", "no_beat"}.isdisjoint(flag.code for flag in found.result.flags)


def test_the_progress_rises_with_the_frames():
    maps = np.concatenate([beating()[0]] * 3)
    told = []
    analyze_loop(
        made_loop(maps), MapModel(), LoopSettings(view="A4C", samples=0), {}, lambda *one: told.append(one)
    )
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] < 1
    n_parts = -(-len(maps) // 32)
    assert n_parts > 2
    words = [word for _, word in told]
    assert words == ["reading frames"] * n_parts + ["finding structures"] * n_parts + ["measuring"]


def test_a_mirrored_loop_gives_the_same_numbers():
    maps, _ = beating()
    first, second = (np.ascontiguousarray(maps[..., ::step]) for step in (1, -1))
    one = analyze_loop(made_loop(first), MapModel(), LoopSettings(view="A4C", samples=4), {})
    other = analyze_loop(made_loop(second), MapModel(), LoopSettings(view="A4C", samples=4, mirror=True), {})
    np.testing.assert_array_equal(other.labels, one.labels[..., ::-1])
    np.testing.assert_array_equal(other.evidence.maps, second)
    assert other.result.beats == one.result.beats
    assert other.result.flags == one.result.flags
    assert other.result.ef_percent == one.result.ef_percent
    assert other.result.notes == ("left and right are swapped for the analysis (mirror)",)


def test_intervals_of_a_loop_with_an_unclear_outline_are_wider_by_half(monkeypatch):
    maps, _ = beating()
    model = MapModel()
    model.spread = {"edv_ml": Spread(0.1, 0.2), "heart_rate_bpm": Spread(0.1, 0.1)}
    settings = LoopSettings(view="A4C", samples=4)
    clear = analyze_loop(made_loop(maps), model, settings, {}).result
    monkeypatch.setattr(quality, "UNCLEAR", 1.1)  # above the contrast of any outline
    unclear = analyze_loop(made_loop(maps), model, settings, {}).result
    assert {flag.code for flag in unclear.flags} - {flag.code for flag in clear.flags} == {"outline_unclear"}
    for one, other in zip((clear, *clear.beats), (unclear, *unclear.beats), strict=True):
        narrow, wide = one.edv_ml, other.edv_ml
        assert wide.value == narrow.value
        assert wide.high - wide.value == pytest.approx(1.5 * (narrow.high - narrow.value))
        assert wide.value - wide.low == pytest.approx(1.5 * (narrow.value - narrow.low))
        assert narrow.high > narrow.value > narrow.low > 0
        assert other.heart_rate_bpm == one.heart_rate_bpm
