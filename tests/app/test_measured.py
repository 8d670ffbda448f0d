"""Measurements that follow end-diastole and end-systole moved by hand, against the formulas by hand."""

import math
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from alan.analysis import BeatResult, FrameResult, LoopResult
from alan.analysis.overlay import write_mp4
from alan.analysis.results import SIMULATED_ONLY, Flag, Measure, ViewEvidence
from alan.app.analyze_tab import doubts_of, draw_curve, measures, table_of
from alan.app.measured import (
    describe_change,
    first_frames,
    lv_areas,
    measure_between,
    pack,
    pictures_of,
    with_spacing,
)
from alan.cardiac import ejection_fraction, simpson_volume
from alan.errors import DataError, ParameterError

HEIGHTS = (40, 30, 20)


@pytest.fixture
def labels():
    """Upright bars, 20 pixels wide and of falling height."""
    found = np.zeros((3, 112, 112), np.uint8)
    for n, height in enumerate(HEIGHTS):
        found[n, 30 : 30 + height, 40:60] = 1
    return found


@pytest.fixture
def result():
    frames = tuple(
        FrameResult(n, n / 10, {"lv": 20.0 * h}, {}, None, None, 1.0, repaired=False)
        for n, h in enumerate(HEIGHTS)
    )
    return LoopResult(
        "loop", "patient", "measured", structures=("lv",), n_frames=3, box=(0, 0, 224, 112), frames=frames
    )


def test_volumes_change_with_the_chosen_frames(result, labels):
    sized = replace(result, pixel_mm=(0.5, 0.8))
    found = measure_between(sized, labels, 0, 2)
    volumes = [simpson_volume(labels[n] == 1, (1.0, 0.8)) for n in (0, 2)]
    assert (found.edv_ml, found.esv_ml) == pytest.approx(volumes)
    assert found.ef_percent == pytest.approx(ejection_fraction(*volumes))
    assert found.area_change_percent == pytest.approx(50)
    assert measure_between(sized, labels, 0, 1).area_change_percent == pytest.approx(25)
    assert describe_change(found) == (
        f"EDV {volumes[0]:.0f} ml, ESV {volumes[1]:.0f} ml, EF {found.ef_percent:.0f}%, fractional area change 50%"
    )


def test_an_entered_pixel_size_gives_volumes(result, labels):
    beats = (BeatResult(0, 2, None, regular=False), BeatResult(0, 1, 2, regular=True))
    wide = replace(result, pixel_aspect=2.0, beats=beats, lv_mass_g=Measure(150.0, 120.0, 180.0))
    sized = with_spacing(wide, labels, 0.8)
    assert sized.pixel_mm == (1.6, 0.8)
    found = measure_between(sized, labels, 0, 1)  # the complete beat counts
    again = measure_between(replace(result, pixel_mm=(1.6, 0.8)), labels, 0, 1)
    assert vars(found) == pytest.approx(vars(again), nan_ok=True)
    assert (sized.edv_ml.value, sized.esv_ml.value) == (found.edv_ml, found.esv_ml)
    assert sized.stroke_volume_ml.value == pytest.approx(found.edv_ml - found.esv_ml)
    assert sized.frames[0].area_cm2["lv"] == pytest.approx(800 * 1.6 * 0.8 / 100)
    assert not sized.lv_mass_g.known  # that of another size
    assert not with_spacing(result, labels, 0.8).edv_ml.known  # without a beat
    assert with_spacing(result, labels, None) is result


def test_pictures_are_taken_from_the_video(tmp_path):
    frames = np.zeros((4, 32, 48, 3), np.uint8)
    frames[2] = 200
    with write_mp4(tmp_path / "o.mp4", (32, 48), 25) as video:
        for frame in frames:
            video(frame)
    dark, bright, missing = pictures_of(tmp_path / "o.mp4", [1, 2, 9])
    assert missing is None
    assert dark.shape == (32, 48, 3)
    assert dark.mean() < 10
    assert bright.mean() == pytest.approx(200, abs=10)
    assert pictures_of(tmp_path / "none.mp4", [0, 1]) == [None, None]


def test_table_rows_and_doubts_are_shown(result):
    seen = replace(
        result,
        view=ViewEvidence("A4C", 0.94),
        ef_percent=Measure(55.4, 41.0, 66.6),
        flags=(Flag("size_unknown", "give --spacing"), Flag("jumping", "30% of the outlines jumped")),
    )
    rows = [["View", "A4C (94% of the votes)"], ["LV ejection fraction, %", "55 (41 to 67)"]]
    assert measures(seen) == rows
    assert table_of(rows).splitlines()[2:] == [
        "| View | A4C (94% of the votes) |",
        "| LV ejection fraction, % | 55 (41 to 67) |",
    ]
    words = doubts_of(seen, others=1)
    assert "enter it for volumes in ml" in words
    assert "30% of the outlines jumped" in words
    assert "--" not in words
    assert "holds 2 loops" in words
    later = doubts_of(seen, entered=True)
    assert "unknown" not in later
    assert "entered after the upload" in later
    assert "30% of the outlines jumped" in later
    assert doubts_of(result) == "No doubt was raised."


def test_ratios_need_no_pixel_size(result, labels):
    found = measure_between(result, labels, 0, 2)
    assert math.isnan(found.edv_ml)
    volumes = [simpson_volume(labels[n] == 1, (2.0, 1.0)) for n in (0, 2)]
    assert found.ef_percent == pytest.approx(ejection_fraction(*volumes))
    assert describe_change(found).startswith("EF ")
    assert "exchange" not in describe_change(found)
    assert (
        describe_change(replace(found, ef_percent=0.2, area_change_percent=-0.2))
        == "EF 0%, fractional area change 0%"
    )
    assert describe_change(measure_between(result, labels, 2, 0)).endswith("at end-systole: exchange the frames")


@pytest.mark.parametrize(
    ("view", "words"),
    [
        ("PLAX", "LVIDd 4.0 cm, LVIDs 3.0 cm, fractional shortening 25%"),
        ("PSAX", "fractional area change 25%"),
    ],
)
def test_parasternal_loops_have_diameters_and_areas_instead_of_volumes(result, view, words):
    lying = np.zeros((2, 112, 112), np.uint8)
    for n, height in enumerate((40, 30)):
        lying[n, 30 : 30 + height, 20:80] = 1
    shown = replace(result, box=(0, 0, 112, 112), view=ViewEvidence(view, 1.0), notes=(SIMULATED_ONLY,))
    assert describe_change(measure_between(replace(shown, pixel_mm=(1.0, 1.0)), lying, 0, 1)) == words
    swapped = describe_change(measure_between(replace(shown, pixel_mm=(1.0, 1.0)), lying, 1, 0))
    assert "exchange the frames" in swapped
    assert "checked on simulated loops only" in doubts_of(shown)
    sized = with_spacing(replace(shown, beats=(BeatResult(0, 1, None, regular=True),)), lying, 0.5)
    assert not sized.edv_ml.known
    assert sized.lvidd_cm.known == (view == "PLAX")
    rows = dict(measures(replace(sized, lvidd_cm=Measure(4.04, 3.6, 4.5))))
    assert rows["LV internal diameter, end-diastole (LVIDd), cm"] == "4.0 (3.6 to 4.5)"


def test_first_frames_have_the_extreme_areas(result):
    assert lv_areas(result) == [800, 600, 400]
    assert first_frames(result) == (0, 2)


def test_unmeasurable_requests_are_refused(result, labels):
    with pytest.raises(ParameterError, match="es is 3: give a frame from 0 to 2"):
        measure_between(result, labels, 0, 3)
    with pytest.raises(DataError, match="nothing was measured: no fan"):
        lv_areas(replace(result, frames=(), reason="no fan"))


def test_downloaded_results_leave_out_the_run_state(tmp_path):
    (tmp_path / "run" / "sources").mkdir(parents=True)
    (tmp_path / "run" / "sources" / "one.json").write_text("{}")
    (tmp_path / "run" / "beats.csv").write_text("beat")
    with zipfile.ZipFile(pack(tmp_path / "run", tmp_path / "analysis.zip")) as packed:
        assert [name for name in packed.namelist() if not name.endswith("/")] == ["beats.csv"]


def test_the_curve_of_a_long_loop_shows_the_part_around_the_beat(result):
    frames = [replace(result.frames[n % 3], time_s=n / 30) for n in range(1000)]
    loop = replace(result, frames=(*frames,))
    other = replace(result, frames=(*frames[:-1], replace(frames[-1], area_px={"lv": 9e5})))
    for beat, same in (((10, 20), True), ((900, 910), False)):
        assert np.array_equal(draw_curve(loop, *beat), draw_curve(other, *beat)) == same
