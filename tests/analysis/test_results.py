"""Results of an analysis survive their JSON form."""

import math

import pytest

from alan.analysis import BeatResult, Flag, FrameResult, LoopResult, Measure, ViewEvidence
from alan.errors import DataError


def a_result():
    return LoopResult(
        "loop1",
        "p1",
        "measured",
        view=ViewEvidence("A4C", 0.9, {"A4C": 0.9, "A2C": 0.1}, ("bank 3",)),
        structures=("lv", "myo"),
        n_frames=1,
        pixel_mm=(0.3, 0.4),
        ef_percent=Measure(55.0, 50.0, 60.0),
        frames=(FrameResult(0, 0.0, {"lv": 3.0}, {}, None, 12.5, 1.0, False),),
        beats=(BeatResult(0, 5, None, True, edv_ml=Measure(100.0)),),
        parcels={"lv": {"ED": (1, 2)}},
        flags=(Flag("no_beat", "the loop ends after 0.4 s"),),
    )


def test_results_survive_a_json_round_trip(tmp_path):
    a_result().to_json(tmp_path / "result.json")
    back = LoopResult.from_json(tmp_path / "result.json")
    assert back.ef_percent == Measure(55.0, 50.0, 60.0)
    assert math.isnan(back.edv_ml.value)
    assert not back.edv_ml.known
    assert back.beats[0].edv_ml.value == 100.0
    assert math.isnan(back.beats[0].edv_ml.low)
    same = ("view", "frames", "flags", "parcels", "pixel_mm", "structures", "loop")
    assert all(getattr(back, name) == getattr(a_result(), name) for name in same)


@pytest.mark.parametrize(
    ("name", "value", "low", "high", "ends"),
    [
        ("ef_percent", 20.0, -2.0, 43.0, (0.0, 43.0)),
        ("ef_percent", 90.0, 70.0, 120.0, (70.0, 100.0)),
        ("ef_percent", -5.0, -20.0, 110.0, (-5.0, 100.0)),
        ("edv_ml", 90.0, -3.0, 210.0, (0.0, 210.0)),
    ],
)
def test_an_interval_is_cut_to_possible_values(name, value, low, high, ends):
    found = Measure(value, low, high).possible(name)
    assert (found.value, (found.low, found.high)) == (value, ends)


def test_an_unknown_interval_stays_unknown():
    found = Measure(20.0).possible("ef_percent")
    assert found.value == 20
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_a_result_is_shown_without_its_frames():
    assert "FrameResult" not in repr(a_result())
    assert "ef_percent=Measure(value=55.0" in repr(a_result())


@pytest.mark.parametrize("keep", [0, 40, 300])
def test_truncated_result_is_refused(tmp_path, keep):
    path = tmp_path / "result.json"
    a_result().to_json(path)
    path.write_text(path.read_text()[:keep])
    with pytest.raises(DataError, match="delete its folder and run again"):
        LoopResult.from_json(path)
