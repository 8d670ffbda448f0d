"""Measurements that follow end-diastole and end-systole moved by hand, against the formulas by hand."""

import math
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from alan.analysis import FrameResult, LoopResult
from alan.app.measured import first_frames, lv_areas, measure_between, pack, sentence
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


def test_volumes_follow_the_frames(result, labels):
    sized = replace(result, pixel_mm=(0.5, 0.8))
    found = measure_between(sized, labels, 0, 2)
    volumes = [simpson_volume(labels[n] == 1, (1.0, 0.8)) for n in (0, 2)]
    assert (found.edv_ml, found.esv_ml) == pytest.approx(volumes)
    assert found.ef_percent == pytest.approx(ejection_fraction(*volumes))
    assert found.area_change_percent == pytest.approx(50)
    assert measure_between(sized, labels, 0, 1).area_change_percent == pytest.approx(25)
    assert sentence(found) == (
        f"EDV {volumes[0]:.0f} ml, ESV {volumes[1]:.0f} ml, EF {found.ef_percent:.0f}%, fractional area change 50%"
    )


def test_ratios_need_no_pixel_size(result, labels):
    found = measure_between(result, labels, 0, 2)
    assert math.isnan(found.edv_ml)
    volumes = [simpson_volume(labels[n] == 1, (2.0, 1.0)) for n in (0, 2)]
    assert found.ef_percent == pytest.approx(ejection_fraction(*volumes))
    assert sentence(found).startswith("EF ")


def test_frames_begin_at_the_extreme_areas(result):
    assert lv_areas(result) == [800, 600, 400]
    assert first_frames(result) == (0, 2)


def test_what_cannot_be_measured_is_refused(result, labels):
    with pytest.raises(ParameterError, match="es is 3: give a frame from 0 to 2"):
        measure_between(result, labels, 0, 3)
    with pytest.raises(DataError, match="nothing was measured: no fan"):
        lv_areas(replace(result, frames=(), reason="no fan"))


def test_results_are_packed_without_the_state_of_the_run(tmp_path):
    (tmp_path / "run" / "sources").mkdir(parents=True)
    (tmp_path / "run" / "sources" / "one.json").write_text("{}")
    (tmp_path / "run" / "beats.csv").write_text("beat")
    with zipfile.ZipFile(pack(tmp_path / "run", tmp_path / "analysis.zip")) as packed:
        assert [name for name in packed.namelist() if not name.endswith("/")] == ["beats.csv"]
