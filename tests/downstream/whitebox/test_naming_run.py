"""``alan name``: white boxes from simulated labels, their metadata, and invalid input."""

import numpy as np
import pytest
import yaml

from alan.data.store.reader import FrameStore
from alan.downstream.whitebox.fitting import LabelledMaps
from alan.downstream.whitebox.naming import share_of_equal_area
from alan.downstream.whitebox.opinion import ExpertOpinion, Opinion
from alan.downstream.whitebox.prior import ParcelPrior
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.steps import PostProcessing
from alan.parcels.model import load_parcels


@pytest.fixture
def args(tiny):
    return ["name", "--parcels", tiny.parcels(), "--store", tiny.store("camus"), "--views", "[A4C]"]


def test_priors_match_hand_counted_pixels(tiny, alan, args, tmp_path, listing):
    out = tmp_path / "named"
    args += ["--structures", "[lv, la]", "--share_above", 0.05]
    ran = alan(*args, "--out", out)
    assert ran.code == 0, ran.err
    assert listing(out) == ["config.yaml", "la.json", "lv.json", "prior-la.json", "prior-lv.json"]
    model, store = load_parcels(tiny.parcels()), FrameStore(tiny.store("camus"))
    table = store.labelled(views=["A4C"])
    maps, masks = model.maps(store.frames(table.frame)).numpy(), store.masks(table.label, "lv")
    shares = np.zeros((table.patient.nunique(), model.n_ids))
    weight = np.zeros_like(shares)
    for row, patient in enumerate(sorted(set(table.patient))):
        mine = (table.patient == patient).to_numpy()
        for k in range(model.n_parcels):
            inside = maps[mine] == k
            if inside.any():
                shares[row, k], weight[row, k] = masks[mine][inside].mean(), 1
    prior = ParcelPrior.from_json(out / "prior-lv.json")
    np.testing.assert_allclose(prior.inside, shares.sum(0), atol=1e-4)  # a patient is one observation
    np.testing.assert_allclose(prior.inside + prior.outside, weight.sum(0), atol=1e-4)

    box = ParcelSegmenter.from_json(out / "lv.json")
    assert box.steps == PostProcessing(closing_radius=0, contour=False, median_radius=5)
    known = box.selector_.provenance_
    assert (known["parcels"], known["labels"]) == (model.fingerprint, "none")
    assert known["learnt_from"]["human_labels"] == "none"
    assert known["learnt_from"]["simulated_labels"]["fingerprint"] == store.fingerprint
    assert known["learnt_from"]["simulated_labels"]["frames"] == len(table)
    assert box.selector_.n_images_ == 0

    before = (out / "lv.json").stat().st_mtime_ns
    again = alan(*args, "--out", out)
    assert again.code == 0
    assert "nothing to do" in again.err
    assert (out / "lv.json").stat().st_mtime_ns == before
    other = alan(*args, "--out", out, "--level", 0.6)
    assert (other.code, len(other.lines)) == (2, 1)
    assert "level" in other.err
    more = ["--postprocessing.contour", "true", "--overwrite", "true"]
    assert alan(*args, "--out", out, *more).code == 0
    changed = ParcelSegmenter.from_json(out / "lv.json")
    assert (changed.steps.contour, changed.steps.median_radius) == (True, 5)
    assert yaml.safe_load((out / "config.yaml").read_text())["postprocessing"]["contour"] is True


def test_each_phase_gets_a_white_box_from_its_own_frames(tiny, alan, args, tmp_path, listing):
    out = tmp_path / "named"
    args += ["--structures", "[lv]", "--share_above", 0.05]
    ran = alan(*args, "--phases", "[ED, ES]", "--out", out)
    assert ran.code == 0, ran.err
    assert listing(out) == ["config.yaml", "lv-ED.json", "lv-ES.json", "prior-lv-ED.json", "prior-lv-ES.json"]
    model, store = load_parcels(tiny.parcels()), FrameStore(tiny.store("camus"))
    found = []
    for phase in ("ED", "ES"):
        table = store.labelled(views=["A4C"], phases=[phase])
        maps, masks = model.maps(store.frames(table.frame)).numpy(), store.masks(table.label, "lv")
        expected = ParcelPrior.count(
            maps, masks, groups=table.patient, n_parcels=model.n_ids, background_id=model.background_id
        )
        prior = ParcelPrior.from_json(out / f"prior-lv-{phase}.json")
        np.testing.assert_allclose(prior.inside, expected.inside, atol=1e-4)
        box = ParcelSegmenter.from_json(out / f"lv-{phase}.json")
        assert box.selector_.provenance_["learnt_from"]["phase"] == phase
        found.append(prior.share)
    assert not np.allclose(*found, equal_nan=True)
    assert "nothing to do" in alan(*args, "--phases", "[ED, ES]", "--out", out).err


def test_lists_of_equal_area_are_bounded_separately(tiny, alan, args, tmp_path):
    args += ["--structures", "[lv]", "--phases", "[ED, ES]", "--share_above", "area"]
    ran = alan(*args, "--out", tmp_path / "named")
    assert ran.code == 0, ran.err
    model, store = load_parcels(tiny.parcels()), FrameStore(tiny.store("camus"))
    for phase in ("ED", "ES"):
        table = store.labelled(views=["A4C"], phases=[phase])
        prior = ParcelPrior.from_json(tmp_path / "named" / f"prior-lv-{phase}.json")
        maps, masks = model.maps(store.frames(table.frame)).numpy(), store.masks(table.label, "lv")
        box = ParcelSegmenter.from_json(tmp_path / "named" / f"lv-{phase}.json")
        expected = share_of_equal_area(prior, LabelledMaps(maps, masks, table.patient.to_numpy()))
        assert box.selector_.share_above == pytest.approx(expected, rel=1e-4)  # the file rounds counts
    assert yaml.safe_load((tmp_path / "named" / "config.yaml").read_text())["share_above"] == "area"


def test_human_labels_update_the_white_boxes_and_are_recorded(tiny, alan, args, tmp_path):
    args += ["--structures", "[lv]", "--share_above", 0.05]
    real = ["--labels", tiny.store("camus"), "--label_patients", 1]
    found = {}
    for strength in (0.01, 100):
        out = tmp_path / f"run{strength}"
        ran = alan(*args, *real, "--prior_strength", strength, "--out", out)
        assert ran.code == 0, ran.err
        box = ParcelSegmenter.from_json(out / "lv.json")
        assert box.selector_.provenance_["learnt_from"]["human_labels"]["patients"] == 1
        assert box.selector_.n_images_ == box.selector_.provenance_["learnt_from"]["human_labels"]["frames"] >= 2
        found[strength] = box.selector_.share_
    assert not np.allclose(*found.values())


def test_invalid_input_is_refused_and_leaves_no_files(alan, args, tmp_path):
    out = tmp_path / "named"
    for wrong, message in (
        (["--structures", "[lv, rv]"], "no masks of 'rv'"),
        (["--structures", "[]"], "structures is empty"),
        (["--share_above", 1.0], "lv: "),
        (["--share_above", 2], "share_above is 2"),
        (["--parcels", "nowhere.safetensors"], "no such file"),
        (["--store", "nowhere.h5"], "no such frame store"),
        (["--split", "trian"], "did you mean 'train'"),
        (["--postprocessing.median_radius", -1], "median_radius is -1"),
        (["--labels", "nowhere.h5"], "no such frame store"),
        (["--batch_size", 0], "batch_size is 0"),
        (["--label_patients", 5], "label_patients is 5: give labels"),
        (["--postprocessing.medain_radius", 1], "did you mean 'median_radius'"),
    ):
        ran = alan(*args, "--out", out, *wrong)
        assert (ran.code, len(ran.lines)) == (2, 1), ran.err
        assert message in ran.err
        assert not out.exists()


def opinion_file(path, tiny, *parcels, structure="lv"):
    ExpertOpinion(structure, load_parcels(tiny.parcels()).fingerprint, dict(parcels)).to_json(path)
    return path


def test_an_opinion_counts_beside_the_simulated_labels(tiny, alan, args, tmp_path):
    args += ["--structures", "[lv]", "--share_above", 0.05]
    assert alan(*args, "--out", tmp_path / "before").code == 0
    before = ParcelSegmenter.from_json(tmp_path / "before" / "lv.json").selector_
    out = before.interior_[0]
    file = opinion_file(tmp_path / "mine.json", tiny, (int(out), Opinion.of("never")))
    ran = alan(*args, "--opinions", f"[{file}]", "--out", tmp_path / "after")
    assert ran.code == 0, ran.err
    after = ParcelSegmenter.from_json(tmp_path / "after" / "lv.json").selector_
    assert after.interior_.tolist() == before.interior_.tolist()[1:]
    assert after.table_.loc[out, ["expert_inside", "expert_outside"]].tolist() == [0, 100]
    other = opinion_file(tmp_path / "other.json", tiny, (0, Opinion.of(0.5)), structure="rv")
    ran = alan(*args, "--opinions", f"[{other}]", "--out", tmp_path / "none")
    assert (ran.code, len(ran.lines)) == (2, 1)
    assert "structure is 'rv': give one of lv" in ran.err
