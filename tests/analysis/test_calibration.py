"""``alan calibrate``: intervals of a model hold for labelled patients after their errors are known."""

import csv
import math
from types import SimpleNamespace

import numpy as np
import pytest

from alan.analysis import AnalysisModel, Measure
from alan.analysis.calibration import CALIBRATION
from alan.analysis.measures import BeatMeasures, Grid, measure_beat
from alan.analysis.planes import MEASURED, Plane, cross_validate, held, measure_planes, needed_spread
from alan.analysis.results import Spread
from alan.analysis.tables import MEASURES
from alan.cardiac import Beat
from alan.cli.main import main
from alan.data.preprocessing import Preprocessing
from alan.data.store.reader import FrameStore
from alan.errors import DataError
from tests.analysis.test_timeline import BlockModel, beating


def numbers(ef):
    return BeatMeasures(100.0, 100.0 - ef, ef, ef, ef / 2, ef / 3)


def plane(patient, ef, true, half=0.0, *, unclear=False):
    """A loop whose draws give an interval of a known half width."""
    unknown = dict.fromkeys(MEASURES, Measure())
    draws = [unknown | {"ef_percent": Measure(ef + shift)} for shift in np.linspace(-half, half, 101) / 0.9]
    return Plane(patient, numbers(ef), draws, numbers(true), unclear)


def test_the_spread_is_the_error_that_nine_of_ten_loops_have():
    planes = [plane(f"p{n}", 50.0, 50.0 + n) for n in range(1, 20)]
    assert needed_spread("ef_percent", planes) == Spread(0, 18, 1)  # 18 of 19: 90% of 20
    spread = {"ef_percent": Spread(0.0, 18.0)}
    assert held("ef_percent", planes, {}) == (0, 19, 0)
    assert held("ef_percent", planes, spread) == (pytest.approx(18 / 19), 19, 18)
    unclear = [plane("p", 50.0, 50.0 + 20, unclear=True)]
    assert held("ef_percent", unclear, spread).share == 1  # wider by half
    assert math.isnan(held("lv_mass_g", planes, {}).share)


def test_confidence_counts_patients():
    planes = [plane(f"p{n // 2}", 50.0, 50.0 + n) for n in range(60)]
    average, sure = (needed_spread("ef_percent", planes, confidence).above for confidence in (None, 0.9))
    assert average == 54  # 55 of 60, the first of which has no error
    assert sure == 59  # 30 of 30 patients: 29 or fewer are inside with a probability of 96% if 90% are


def test_cross_validation_equals_a_slow_loop():
    rng = np.random.default_rng(0)
    planes = [plane(f"p{n // 2}", 50.0, 50.0 + rng.normal(2, 8), half=3.0) for n in range(46)]
    inside = []
    for n, one in enumerate(planes):
        group = (n // 2) % 5
        others = [other for m, other in enumerate(planes) if (m // 2) % 5 != group]
        inside.append(held("ef_percent", [one], {"ef_percent": needed_spread("ef_percent", others)}).share)
    found = cross_validate("ef_percent", planes)
    assert (found.share, found.number) == (pytest.approx(np.mean(inside)), 46)
    assert 0.8 < found.share < 1
    assert cross_validate("lv_mass_g", planes).number == 0


class Frames:
    """A store of one loop whose frames are parcel maps, with masks of 10 x 10 and 5 x 10 pixels."""

    path, structures = "store.h5", ("lv",)
    preprocessing = Preprocessing(20)
    sequences = (
        SimpleNamespace(index=0, patient="p", view="A4C", original_shape=(40, 60), spacing=(0.5, 0.5)),
        SimpleNamespace(index=1, patient="p", view="A4C", original_shape=(40, 60), spacing=None),
    )

    def __init__(self, **changes):
        import pandas as pd

        self.maps, self.asked = beating(n=11)[0][[0, 10, 0, 10, 0]], None
        rows = [(0, 0, 0, "ED"), (1, 1, 0, "ES"), (2, 2, 1, "ED"), (3, 3, 1, "ES"), (4, 4, 2, "ED")]
        self.rows = pd.DataFrame(rows, columns=["frame", "label", "sequence", "phase"])
        vars(self).update(changes)

    def check_structures(self, structures):
        assert structures == ["lv"]

    def labelled(self, split, views, phases):
        self.asked = (split, views, phases)
        return self.rows

    def masks(self, labels, structure):
        masks = np.zeros((len(labels), 20, 20), bool)
        for mask, label in zip(masks, labels, strict=True):
            mask[5 : 15 if label % 2 == 0 else 10, 5:15] = True
        return masks

    def frames(self, rows):
        return self.maps[rows]


class MapModel(BlockModel):
    """Model whose frames are parcel maps."""

    def resize(self, frames):
        return frames

    def maps(self, frames):
        return frames


def test_planes_are_measured_as_the_outlines_and_the_masks_in_mm():
    store = Frames()
    first, second = measure_planes(store, MapModel(), "val", samples=3)  # the third loop has one phase
    assert store.asked == ("val", ["A4C"], ("ED", "ES"))
    grid = Grid((2.0, 3.0), (0.5, 0.5))
    true = measure_beat(Beat(0, 1, None, False), {"lv": store.masks([0, 1], "lv")}, grid)
    assert first.true == pytest.approx(true, nan_ok=True) or vars(first.true)["edv_ml"] == true.edv_ml
    outlines = {"lv": (store.maps[:2] == 1) | (store.maps[:2] == 2)}
    outlines["lv"][1] = store.maps[1] == 1
    assert first.ours.edv_ml == pytest.approx(measure_beat(Beat(0, 1, None, False), outlines, grid).edv_ml)
    assert len(first.draws) == 3
    assert (first.sized, second.sized) == (True, False)
    assert "edv_ml" not in second.summary({})
    assert second.summary({})["ef_percent"].value == pytest.approx(first.ours.ef_percent)


def test_stores_that_were_not_stretched_are_refused():
    for other in (Preprocessing(20, keep_aspect=True), Preprocessing(20, pixel_mm=0.5)):
        with pytest.raises(DataError, match="its frames were not stretched: prepare it without keep_aspect"):
            next(measure_planes(Frames(preprocessing=other), MapModel()))


@pytest.fixture(scope="module")
def assembled(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("assembled")
    store = tiny.store("camus")
    common = ["--parcels", tiny.parcels()]
    boxes = ["name", *common, "--store", store, "--share_above=0.02", "--structures=[lv, la]", "--phases=[ED, ES]"]
    labels = ["--labels", store, "--label_split=train"]
    assert main([*boxes, *labels, "--out", str(folder / "boxes")]) == 0
    model = ["assemble", *common, f"--white_boxes=[{folder / 'boxes'}]", "--out", str(folder / "model")]
    assert main(model) == 0
    return folder / "model"


@pytest.mark.filterwarnings("always::alan.errors.AlanWarning")
def test_a_calibrated_model_differs_in_its_intervals_only(alan, tiny, assembled, tmp_path):
    store, out = tiny.store("camus"), tmp_path / "calibrated"
    command = ["calibrate", assembled, f"--stores=[{store}]", "--split=null", "--samples=5"]
    ran = alan(*command, "--out", out)
    assert ran.code == 0, ran.err
    assert "learnt from 4 patients of the same store and split" in ran.err
    before, after = AnalysisModel.load(assembled), AnalysisModel.load(out)
    assert after.parcels.fingerprint == before.parcels.fingerprint
    assert {*after.spread} <= {*MEASURED}
    planes = list(measure_planes(FrameStore(store), before, samples=5))
    with (out / CALIBRATION).open(encoding="utf-8") as file:
        rows = {row["measure"]: row for row in csv.DictReader(file)}
    assert {*rows} == {*after.spread}
    for name in ("ef_percent", "edv_ml", "esv_ml"):
        assert after.spread[name] == pytest.approx(needed_spread(name, planes), abs=1e-4)
        assert held(name, planes, after.spread).share >= 0.9
        assert float(rows[name]["held_before"]) == pytest.approx(held(name, planes, {}).share, abs=1e-4)
        assert float(rows[name]["held_after"]) == pytest.approx(cross_validate(name, planes).share, abs=1e-4)
        assert int(rows[name]["loops"]) == held(name, planes, {}).number
        assert int(rows[name]["patients"]) == 8
    assert "lv_mass_g" not in after.spread  # the model has no myocardium
    assert "lv_mass_g: known for 0 loops, its interval stays" in ran.err
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert alan(*command, "--out", out, "--device=auto").code == 0  # another device is no other run
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == stamps
    refused = alan(*command, "--out", out, "--confidence=0.9")
    assert (refused.code, "confidence" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split=val"], "with masks at end-diastole and end-systole in split val: give at least 10"),
        (["--stores=[]"], "stores is empty: give the frame stores of labelled patients"),
        (["--confidence=1"], "confidence"),
        (["--device=abacus"], "device is 'abacus', which cannot be used here: give cpu, cuda or auto"),
    ],
)
def test_invalid_input_is_refused(alan, tiny, assembled, tmp_path, options, message):  # noqa: PLR0917
    store = [f"--stores=[{tiny.store('camus')}]"]
    result = alan("calibrate", assembled, *store, "--samples=2", "--out", tmp_path / "out", *options)
    assert (result.code, message in result.err) == (2, True), result.err
    assert not (tmp_path / "out").exists()


def test_other_patients_of_the_store_are_no_reason_for_a_warning(alan, tiny, assembled, tmp_path):
    result = alan(
        "calibrate", assembled, f"--stores=[{tiny.store('camus')}]", "--split=test", "--out", tmp_path / "out"
    )
    assert "learnt from" not in result.err
