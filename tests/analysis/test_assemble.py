"""``alan assemble``: a movable model folder for ``alan analyze``."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from alan.analysis import AnalysisModel, Manifest
from alan.analysis.bank import draw_archive
from alan.analysis.phase_boxes import read_boxes
from alan.analysis.view_bank_file import CLASSES
from alan.cli.main import main
from alan.data.store.reader import FrameStore
from alan.downstream import ParcelSegmenter
from alan.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def named(tiny, tmp_path_factory):
    """Runs of ``alan name``: the ventricle for each phase and for one, the walls for both."""
    folder = tmp_path_factory.mktemp("named")
    common = ["name", "--parcels", tiny.parcels(), "--store", tiny.store("camus"), "--share_above=0.02"]
    for run, options in {
        "lv": ["--structures=[lv]", "--phases=[ED, ES]"],
        "wall": ["--structures=[myo, la]"],
        "lv_ES": ["--structures=[lv]", "--phases=[ES]"],
    }.items():
        assert main([*map(str, common), "--out", str(folder / run), *options]) == 0
    return folder


@pytest.fixture
def command(tiny, named):
    return ["assemble", "--parcels", tiny.parcels(), f"--white_boxes=[{named / 'lv'}, {named / 'wall'}]"]


def test_an_assembled_model_can_be_moved(tiny, alan, command, named, tmp_path):
    assert alan(*command, "--out", tmp_path / "model").code == 0
    shutil.move(tmp_path / "model", tmp_path / "moved")
    model = AnalysisModel.load(tmp_path / "moved")
    assert model.bank is None
    assert list(model.views) == ["A4C", "A2C"]
    boxes = model.views["A2C"]
    assert list(boxes) == ["lv", "myo", "la"]
    assert boxes["lv"].ed is not boxes["lv"].es
    assert boxes["la"].ed is boxes["la"].es
    for name, box in (("lv/lv-ES", boxes["lv"].es), ("wall/myo", boxes["myo"].ed)):
        source = ParcelSegmenter.from_json(named / f"{name}.json").selector_
        assert box.selector_.interior_.tolist() == source.interior_.tolist()
        assert box.selector_.share_ == pytest.approx(source.share_, abs=1e-4)


def test_further_models_are_copied_and_measure_their_views(alan, command, tmp_path):
    others = "--others=[alan-sim-plax, alan-sim-psax]"
    assert alan(*command, "--views=[A4C]", others, "--out", tmp_path / "model").code == 0
    shutil.move(tmp_path / "model", tmp_path / "moved")
    model = AnalysisModel.load(tmp_path / "moved")
    assert model.all_views() == ["A4C", "PLAX", "PSAX"]
    shipped = AnalysisModel.load("alan-sim-psax")
    assert model.of("PSAX").fingerprint == shipped.fingerprint
    result = alan(*command, "--views=[PLAX]", others, "--out", tmp_path / "twice")
    assert (result.code, "both measure PLAX" in result.err) == (2, True)
    same = alan(*command, "--views=[A4C]", "--others=[a/model, b/model]", "--out", tmp_path / "twice")
    assert (same.code, "their names must differ" in same.err) == (2, True)
    assert not (tmp_path / "twice").exists()


def test_white_boxes_of_the_phases_may_lie_in_two_folders(named):
    whole, (ed, es) = read_boxes([named / "lv"])["lv"], (named / "lv_ED", named / "lv_ES")
    shutil.copytree(named / "lv", ed)
    (ed / "config.yaml").write_text("structures: [lv]\nphases: [ED]\n", encoding="utf-8")
    split = read_boxes([ed, es])["lv"]
    for box, same in ((split.ed, whole.ed), (split.es, whole.es)):
        assert box.selector_.interior_.tolist() == same.selector_.interior_.tolist()
    with pytest.raises(DataError, match="no white box of lv for ES: give the folder of this phase"):
        read_boxes([ed])
    with pytest.raises(ConfigError, match="another folder has a white box of lv too"):
        read_boxes([named / "lv", es])


def test_a_repeated_run_changes_nothing_and_a_different_one_is_refused(alan, command, tmp_path):
    out = tmp_path / "model"
    assert alan(*command, "--out", out).code == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert alan(*command, "--out", out).code == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    refused = alan(*command, "--out", out, "--views=[A4C]")
    assert (refused.code, "views" in refused.err) == (2, True)
    assert alan(*command, "--out", out, "--views=[A4C]", "--overwrite=true").code == 0
    assert list(Manifest.load(out).views) == ["A4C"]


def test_the_bank_of_views_is_built(alan, tiny, tmp_path):
    """The shipped parcels with a convolutional backbone: N frames of each view and of other pictures."""
    store = tiny.store("camus")
    name = ["name", "--parcels", "alan-sim-parcels", "--store", store, "--structures=[lv]", "--phases=[ED, ES]"]
    assert alan(*name, "--out", tmp_path / "lv").code == 0
    command = [
        "assemble",
        "--parcels",
        "alan-sim-parcels",
        f"--white_boxes=[{tmp_path / 'lv'}]",
        f"--bank=[{store}]",
    ]
    assert alan(*command, "--out", tmp_path / "model", "--bank_frames=2", "--bank_other=3").code == 0
    bank = AnalysisModel.load(tmp_path / "model").bank
    views = {s.view for s in FrameStore(store).sequences if s.split == "train"}
    assert {view: bank.views.count(view) for view in CLASSES if view in bank.views} == {
        **dict.fromkeys(sorted(views), 2),
        "other": 3,
    }
    assert bank.shift is None
    assert bank.directions is not None
    assert (
        alan(
            *command, "--out", tmp_path / "near", "--bank_frames=2", "--bank_other=3", f"--archive=[{store}]"
        ).code
        == 0
    )
    near = AnalysisModel.load(tmp_path / "near").bank
    train = FrameStore(store).select("train")
    assert near.shift.shape == near.pooled.shape[1:]
    apical = [near.pooled[[view == name for view in near.views]].mean(0) for name in ("A4C", "A2C")]
    drawn = near.pool(near.backbone, draw_archive([FrameStore(store)], "train", 112, 0))[0]
    assert len(drawn) == len(train)
    np.testing.assert_allclose(near.shift, drawn.mean(0) - np.mean(apical, 0), atol=2e-3)
    refused = alan(*command[:-1], "--out", tmp_path / "none", f"--archive=[{store}]")
    assert (refused.code, "give bank too" in refused.err) == (2, True)
    few = ["--bank_frames", json.dumps({"A4C": 1, "A2C": 2}), "--bank_other=0", "--bank_copies=0"]
    assert alan(*command, "--out", tmp_path / "few", *few).code == 0
    bank = AnalysisModel.load(tmp_path / "few").bank
    assert sorted(bank.views) == ["A2C", "A2C", "A4C"]
    assert bank.directions is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--views=[A5C]"], "views is 'A5C': give some of"),
        (["--views=[]"], "views is empty"),
        (["--white_boxes=[{lv}, {lv}]"], "another folder has a white box of lv too"),
        (["--white_boxes=[{lv}/..]"], "not a run of `alan name` (it has no config.yaml): give its folder"),
        (["--white_boxes=[]"], "white_boxes is empty: give the run folders"),
        (["--parcels=alan-sim-parcels"], "was fitted on parcels"),
        (["--bank=[{store}]", '--bank_frames={"PLAX": 3}'], "bank_frames names PLAX"),
    ],
)
def test_invalid_input_is_refused(alan, command, tmp_path, options, message):
    lists = command[-1].removeprefix("--white_boxes=[").partition(",")[0]
    store = Path(command[2]).with_name("camus.h5")
    given = [text.replace("{lv}", lists).replace("{store}", str(store)) for text in options]
    result = alan(*command, "--out", tmp_path / "model", *given)
    assert (result.code, message in result.err) == (2, True), result.err
    assert not (tmp_path / "model").exists()
