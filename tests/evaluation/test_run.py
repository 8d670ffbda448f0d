"""Evaluations from protocol to run folder and report."""

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

from alan.data.store.reader import FrameStore
from alan.downstream.whitebox.opinion import ExpertOpinion, Opinion
from alan.downstream.whitebox.prior import ParcelPrior
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.selection import ParcelSelector
from alan.errors import (
    AlanError,
    CheckpointError,
    ConfigError,
    DataError,
    ParameterError,
    SelectionError,
    SplitLeakError,
)
from alan.evaluation import run as run_module
from alan.evaluation.label_efficiency.protocol import LabelEfficiencyProtocol, method_class
from alan.evaluation.metrics import dice, distances
from alan.evaluation.protocols import SegmentationProtocol, ViewProtocol
from alan.evaluation.run import run_evaluation
from alan.files import digest
from alan.parcels.model import load_parcels
from alan.report.html import write_report
from alan.shipped import shipped


def protocols(lab):
    segmentation = SegmentationProtocol(
        store=str(lab / "store.h5"),
        parcels={"parcels, K = 12": str(lab / "parcels.safetensors")},
        kmeans=(16,),
        published="camus",
    )
    views = ViewProtocol(
        store=str(lab / "store.h5"), backbone=str(lab / "backbone.safetensors"), views=("A2C", "A4C"), k=(1, 3)
    )
    return segmentation, views


@pytest.fixture(scope="module")
def run(lab, tmp_path_factory):
    segmentation, views = protocols(lab)
    curve = lab / "metrics.jsonl"
    curve.write_text('{"step": 0, "train/loss": 2.0}\n{"step": 5, "train/loss": 1.0, "knn": 0.5}\n')
    out = tmp_path_factory.mktemp("runs") / "one"
    folder = run_evaluation(
        out, segmentation=segmentation, views=views, title="Ellipses", curves={"DINO": str(curve)}
    )
    write_report(folder)
    return folder


def results_of(run):
    return json.loads((run / "results.json").read_text(), parse_constant=pytest.fail)


def test_the_run_folder_has_the_documented_files(run):
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert {"config.yaml", "results.json", "per_case.csv", "per_image_views.csv", "report.html"} <= names
    assert {"figures/methods.png", "figures/overlays_lv.png", "figures/confusion.png"} <= names
    assert not [name for name in names if name.endswith(".part")]
    assert yaml.safe_load((run / "config.yaml").read_text())["segmentation"]["rules"] == [
        "paper",
        "relaxed",
        "greedy",
    ]


def test_cases_equal_the_predictions_of_the_saved_models(run, lab):
    """Independent of the protocol: load a white box, segment the kept maps, measure by hand."""
    cases = pd.read_csv(run / "per_case.csv", keep_default_na=False, na_values=[""])
    store = FrameStore(lab / "store.h5")
    model = ParcelSegmenter.from_json(run / "models" / "lv-parcels-k-12-greedy.json")
    test = store.labelled(split="test")
    maps = np.load(run / "maps" / "0.npz")["maps"][-len(test) :]
    predicted = model.predict(maps)
    mine = cases[(cases.method == "parcels, K = 12") & (cases.rule == "greedy") & (cases.structure == "lv")]
    mine = mine.set_index("frame").loc[test["frame"]].reset_index()
    manual = store.masks(test["label"].to_numpy(), "lv")
    np.testing.assert_allclose(mine["dice"], dice(predicted, manual), atol=1e-5)
    restored = store.preprocessing.restore(predicted[2:3], (52, 44))[
        0
    ]  # the second patient, whose spacing is known
    original = store.original_mask(int(test["label"][2]), "lv")
    assert mine["dice_original"][2] == pytest.approx(float(dice(restored, original)), abs=1e-5)
    assert mine["hd95_mm"][2] == pytest.approx(distances(restored, original, (0.5, 0.4))[0], rel=1e-5)
    unknown = mine["id"].str.startswith(("p9_", "p14_"))  # without spacing
    assert unknown.any()
    assert mine.loc[unknown, ["hd95_mm", "asd_mm", "area_cm2"]].isna().all().all()
    assert mine.loc[~unknown & ~mine["empty"], "hd95_mm"].notna().all()


def test_the_summary_agrees_with_the_cases(run):
    results = results_of(run)["segmentation"]
    cases = pd.read_csv(run / "per_case.csv", keep_default_na=False, na_values=[""]).fillna({"rule": ""})
    measured = [row for row in results["rows"] if row["metrics"]]
    kinds = {row["kind"] for row in measured}
    assert kinds == {"parcels", "k-means", "random", "atlas"}
    for row in measured:
        mine = cases
        for key in ("method", "rule", "structure", "phase"):
            mine = mine[mine[key] == row[key]]
        assert row["metrics"]["dice"]["mean"] == pytest.approx(mine["dice"].mean(), abs=1e-5)
        assert (row["metrics"]["dice"]["n"], row["metrics"]["dice"]["groups"]) == (6, 6)
    assert (results["label"]["patients"], results["test"]["patients"], results["train_patients"]) == (3, 6, 6)
    assert {(e["phase"], e["rank"]) for e in results["examples"] if e["structure"] == "lv"} == {
        (phase, rank) for phase in ("ED", "ES") for rank in ("best", "median", "worst")
    }


def test_differences_to_the_atlas_are_paired(run):
    cases = pd.read_csv(run / "per_case.csv", keep_default_na=False, na_values=[""]).fillna({"rule": ""})
    row = results_of(run)["segmentation"]["against_atlas"][0]
    at = (cases["structure"] == row["structure"]) & (cases["phase"] == row["phase"])
    mine = cases[at & (cases["method"] == row["method"]) & (cases["rule"] == row["rule"])].set_index("frame")[
        "dice"
    ]
    atlas = cases[at & (cases["kind"] == "atlas")].set_index("frame")["dice"]
    assert row["dice"]["mean"] == pytest.approx((mine - atlas).mean(), abs=1e-5)


def test_examples_show_the_best_rule_on_the_labels(run):
    results = results_of(run)["segmentation"]
    for structure, shown in results["example_methods"].items():
        boxes = [b for b in results["white_boxes"] if b["kind"] == "parcels" and b["structure"] == structure]
        best = max(boxes, key=lambda box: box["label_dice"] or -1)
        assert shown == {"method": best["method"], "rule": best["rule"]}


def test_views_agree_with_their_file(run):
    views = results_of(run)["views"]
    images = pd.read_csv(run / "per_image_views.csv")
    assert len(views["rows"]) == 6  # backbone, random ViT, pixels; k = 1, 3
    for row in views["rows"]:
        mine = images[(images.method == row["method"]) & (images.k == row["k"])]
        assert row["total"]["mean"] == pytest.approx(mine["correct"].mean())
        recalls = mine.groupby("view")["correct"].mean()
        assert row["balanced"]["mean"] == pytest.approx(recalls.mean())
        assert np.trace(row["confusion"]) == mine["correct"].sum()
        assert np.sum(row["confusion"]) == 6
    pixels = [row for row in views["rows"] if row["kind"] == "pixels" and row["k"] == 3]
    assert pixels[0]["total"]["mean"] == 1.0  # the ventricle stands elsewhere in A2C: plain to see


def test_the_report_is_self_contained(run):
    page = (run / "report.html").read_text()
    for outside in ("http://", "https://", "<script", 'src="figures', "<link", "@import", "url("):
        assert outside not in page
    assert page.count("data:image/png;base64,") == 7  # methods, histograms, EF, two overlays, confusion, curve
    assert page.index("test frames (A2C and A4C) of 6 patients") < page.index("<table")
    assert "published, ALAN paper Table 2, n = 100" in page


def test_a_second_run_is_reused_and_an_interrupted_one_resumes(run, lab, monkeypatch, tmp_path):
    segmentation, views = protocols(lab)
    curves = {"DINO": str(lab / "metrics.jsonl")}
    before = (run / "results.json").read_bytes()
    run_evaluation(run, segmentation=segmentation, views=views, title="Ellipses", curves=curves)
    assert (run / "results.json").read_bytes() == before
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "results.json").unlink()

    def refuse(*_):
        raise AssertionError("parcel maps were computed again")

    monkeypatch.setattr("alan.parcels.ParcelModel.maps", refuse)
    run_evaluation(copy, segmentation=segmentation, views=views, title="Ellipses", curves=curves)
    again, first = results_of(copy), json.loads(before)
    assert again["segmentation"] == first["segmentation"]
    assert again["views"] == first["views"]


def test_a_run_killed_in_its_first_write_starts_again(lab, tmp_path, monkeypatch):
    """A hidden part file is all that such a process leaves; those of others stay refused."""
    monkeypatch.setattr(run_module, "_measure", lambda *_: {})
    out = tmp_path / "run"
    out.mkdir()
    (out / ".config.yaml.4242.part").write_text("title: Ell")
    run_evaluation(out, **dict(zip(("segmentation", "views"), protocols(lab), strict=True)))
    assert sorted(path.name for path in out.glob(".*.part")) == []
    assert (out / "results.json").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / ".thesis.part").write_text("x")
    with pytest.raises(DataError, match="not a run of this command"):
        run_evaluation(other, **dict(zip(("segmentation", "views"), protocols(lab), strict=True)))


def test_changed_inputs_are_measured_again(run, lab, monkeypatch):
    measured = []
    monkeypatch.setattr(run_module, "_measure", lambda *_: measured.append(1) or {})
    monkeypatch.setattr(run_module, "digest", lambda _: "another file")
    copy = lab / "changed"
    shutil.copytree(run, copy)
    run_evaluation(
        copy,
        **dict(zip(("segmentation", "views"), protocols(lab), strict=True)),
        title="Ellipses",
        curves={"DINO": str(lab / "metrics.jsonl")},
    )
    assert measured == [1]


def test_a_shipped_file_is_identified_by_its_content(lab):
    segmentation = replace(protocols(lab)[0], parcels={"shipped": "alan-sim-small-parcels"})
    inputs = run_module._inputs(segmentation, None, None, {})
    assert inputs["alan-sim-small-parcels"] == digest(shipped()["alan-sim-small-parcels"])


def test_another_configuration_is_refused_unless_overwritten(run, lab, monkeypatch, tmp_path):
    segmentation, views = protocols(lab)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    other = replace(segmentation, seed=7)
    with pytest.raises(ConfigError, match=r"segmentation\.seed.*overwrite"):
        run_evaluation(
            copy, segmentation=other, views=views, title="Ellipses", curves={"DINO": str(lab / "metrics.jsonl")}
        )
    (copy / "mine.txt").write_text("keep")
    monkeypatch.setattr(run_module, "_measure", lambda *_: {})
    run_evaluation(copy, segmentation=other, views=views, overwrite=True)
    assert (copy / "mine.txt").exists()
    assert not (copy / "per_case.csv").exists()
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "thesis.txt").write_text("x")
    with pytest.raises(DataError, match="not a run of this command"):
        run_evaluation(stranger, segmentation=other)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"label_split": "train"}, SplitLeakError, "train_split and label_split are both 'train'"),
        ({"structures": ("lv", "rv")}, DataError, "'rv'"),
        ({"structures": ()}, ParameterError, "structures"),
        ({"rules": ("paper", "paper")}, ParameterError, "rules"),
        ({"label_patients": 9}, ParameterError, "label_patients is 9: give 1 to 3"),
        ({"prior": "sim.h5"}, ParameterError, "prior is 'sim.h5', but only rule beta"),
        ({"prior": "sim.h5", "rules": ("beta",)}, DataError, "sim.h5"),
        ({"kmeans": (1,)}, ParameterError, r"kmeans\[0\] is 1: give a whole number of at least 2"),
        ({"parcels": {"x": "nowhere.safetensors"}}, CheckpointError, "nowhere"),
        ({"store": "nowhere.h5"}, DataError, "nowhere"),
    ],
)
def test_invalid_input_is_refused_and_leaves_no_files(lab, tmp_path, change, error, message):
    out = tmp_path / "run"
    with pytest.raises(error, match=message):
        run_evaluation(out, segmentation=replace(protocols(lab)[0], **change))
    assert issubclass(error, AlanError)
    assert not out.exists()


def test_every_protocol_is_checked_before_the_first_is_measured(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "_measure", None)
    store, method = str(lab / "store.h5"), method_class("atlas")("atlas")
    efficiency = LabelEfficiencyProtocol(store, [method], structures=("lv",), label_patients=(99,))
    with pytest.raises(ParameterError, match="label_patients is 99: give 1 to 6"):
        run_evaluation(tmp_path / "run", segmentation=protocols(lab)[0], label_efficiency=efficiency)
    assert not (tmp_path / "run").exists()


def test_an_evaluation_without_protocol_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        run_evaluation(tmp_path / "run")


def test_a_shared_patient_is_refused_by_name(lab, tmp_path):
    segmentation, _ = protocols(lab)
    with pytest.raises(SplitLeakError, match="'everyone' is in two splits"):
        run_evaluation(tmp_path / "run", segmentation=replace(segmentation, store=str(lab / "leaking.h5")))


def test_a_leaking_view_split_is_reported_in_red(lab, tmp_path):
    views = replace(protocols(lab)[1], store=str(lab / "leaking.h5"), published=True, views=("A2C", "A4C"), k=(2,))
    run = run_evaluation(tmp_path / "run", views=views)
    page = write_report(run).read_text()
    assert 'class="alarm"' in page
    assert "Made by image: patients are in both splits." in page
    assert "published, ALAN paper Table 3, n = 1,041" in page
    silent = FrameStore(lab / "leaking.h5")
    assert silent.leaks
    with pytest.raises(SplitLeakError, match="both 'test'"):
        run_evaluation(tmp_path / "other", views=replace(views, train_split="test"))


def test_a_rule_without_parcels_has_a_row(lab, tmp_path, monkeypatch):
    fit = ParcelSelector.fit

    def strict(self, maps, masks, groups=None):
        self.overlap = 1.0 if self.rule == "paper" else None
        self.min_pixels = 900 if self.rule == "paper" else 10
        return fit(self, maps, masks, groups)

    monkeypatch.setattr(ParcelSelector, "fit", strict)
    segmentation = replace(
        protocols(lab)[0],
        structures=("lv",),
        rules=("paper", "greedy"),
        kmeans=(),
        label_patients=2,
        published=None,
    )
    run = run_evaluation(tmp_path / "run", segmentation=segmentation)
    summary = results_of(run)["segmentation"]
    nothing = [row for row in summary["rows"] if row["reason"]]
    assert [(row["rule"], row["phase"]) for row in nothing] == [("paper", "ED"), ("paper", "ES")]
    assert summary["label"]["patients"] == 2
    page = write_report(run).read_text()
    assert "no parcel selected: " in page


def test_a_list_for_each_phase_is_fitted_and_applied(lab, tmp_path):
    """Two white boxes are saved; each by hand gives the scores of its own phase."""
    segmentation = replace(
        protocols(lab)[0], structures=("lv",), rules=("greedy",), kmeans=(), published=None, per_phase=True
    )
    run = run_evaluation(tmp_path / "run", segmentation=segmentation)
    cases = pd.read_csv(run / "per_case.csv", keep_default_na=False, na_values=[""])
    cases = cases[cases["rule"] == "greedy"].set_index("frame")
    store, model = FrameStore(lab / "store.h5"), load_parcels(lab / "parcels.safetensors")
    for phase in ("ED", "ES"):
        label, test = (store.labelled(split=split, phases=(phase,)) for split in ("val", "test"))
        maps = [model.maps(store.frames(rows["frame"].to_numpy()), store.size).numpy() for rows in (label, test)]
        ids = model.n_parcels + (model.background_id is not None)
        selector = ParcelSelector("greedy", n_parcels=ids, background_id=model.background_id)
        fitted = ParcelSegmenter(selector, segmentation.postprocessing)
        fitted.fit(maps[0], store.masks(label["label"].to_numpy(), "lv"), label["patient"].to_numpy())
        expected = dice(fitted.predict(maps[1]), store.masks(test["label"].to_numpy(), "lv"))
        np.testing.assert_allclose(cases.loc[test["frame"], "dice"], expected, atol=1e-5)
        saved = ParcelSegmenter.from_json(run / "models" / f"lv-parcels-k-12-greedy-{phase.lower()}.json")
        assert saved.selector_.n_images_ == len(label) == 3
    page = write_report(run).read_text()
    assert "left ventricle at end-diastole" in page
    assert "left ventricle at end-systole" in page


def test_a_phase_without_parcels_is_reported(lab, tmp_path, monkeypatch):
    fit, phases = ParcelSelector.fit, iter(("ED", "ES"))

    def strict(self, maps, masks, groups=None):
        if next(phases) == "ES":
            raise SelectionError("nothing of it")
        return fit(self, maps, masks, groups)

    monkeypatch.setattr(ParcelSelector, "fit", strict)
    segmentation = replace(
        protocols(lab)[0],
        structures=("lv",),
        rules=("greedy",),
        kmeans=(),
        published=None,
        random_vit=False,
        per_phase=True,
    )
    rows = results_of(run_evaluation(tmp_path / "run", segmentation=segmentation))["segmentation"]["rows"]
    assert [(row["phase"], row["reason"]) for row in rows if row["rule"]] == [("ED", ""), ("ES", "nothing of it")]
    assert 0 <= rows[0]["metrics"]["dice"]["mean"] <= 1  # the other phase is measured all the same
    assert "at end-systole: no parcel selected. nothing of it" in write_report(tmp_path / "run").read_text()


def test_each_phase_without_parcels_keeps_its_reason(lab, tmp_path, monkeypatch):
    fits = itertools.count()

    def refuse(self, maps, masks, groups=None):
        raise SelectionError(f"fit {next(fits)} selects nothing")

    monkeypatch.setattr(ParcelSelector, "fit", refuse)
    segmentation = replace(
        protocols(lab)[0],
        structures=("lv",),
        rules=("greedy",),
        kmeans=(),
        published=None,
        random_vit=False,
        per_phase=True,
    )
    summary = results_of(run_evaluation(tmp_path / "run", segmentation=segmentation))["segmentation"]
    expected = [("ED", "fit 0 selects nothing"), ("ES", "fit 1 selects nothing")]
    for rows in (summary["rows"], summary["white_boxes"]):
        assert [(row["phase"], row["reason"]) for row in rows if row["rule"]] == expected


def test_an_opinion_changes_the_beta_rule_only(lab, tmp_path):
    parcels = load_parcels(lab / "parcels.safetensors").fingerprint
    file = tmp_path / "lv.json"
    ExpertOpinion("lv", parcels, {0: Opinion.of("inside"), 1: Opinion.of("never")}).to_json(file)
    segmentation = replace(
        protocols(lab)[0],
        structures=("lv",),
        rules=("greedy", "beta"),
        kmeans=(),
        published=None,
        random_vit=False,
        opinions=(str(file),),
    )
    run = run_evaluation(tmp_path / "run", segmentation=segmentation)
    beta, greedy = (
        ParcelSegmenter.from_json(run / "models" / f"lv-parcels-k-12-{rule}.json").selector_
        for rule in ("beta", "greedy")
    )
    assert 0 in beta.interior_
    assert 1 not in beta.interior_
    assert beta.table_["expert_inside"].tolist()[:3] == [100, 0, 0]
    assert greedy.opinion is None
    ExpertOpinion("lv", parcels, {0: Opinion.of("never"), 1: Opinion.of("inside")}).to_json(file)
    run_evaluation(tmp_path / "run", segmentation=segmentation)  # the same configuration, another opinion
    beta = ParcelSegmenter.from_json(run / "models" / "lv-parcels-k-12-beta.json").selector_
    assert 1 in beta.interior_
    assert 0 not in beta.interior_
    ExpertOpinion("lv", "b" * 64, {}).to_json(file)
    with pytest.raises(ParameterError, match="about none of the parcels that are evaluated"):
        run_evaluation(tmp_path / "other", segmentation=segmentation)
    with pytest.raises(ParameterError, match="only rule beta on parcels uses them"):
        replace(segmentation, rules=("greedy",))


def test_a_prior_from_simulated_frames_is_used_by_the_beta_rule(lab, tmp_path):
    """The white box of the run equals one that is fitted by hand with a prior counted by hand."""
    segmentation = replace(
        protocols(lab)[0],
        structures=("lv",),
        rules=("greedy", "beta"),
        kmeans=(),
        published=None,
        random_vit=False,
        prior=str(lab / "leaking.h5"),
    )
    run = run_evaluation(tmp_path / "run", segmentation=segmentation)
    store, simulated = FrameStore(lab / "store.h5"), FrameStore(lab / "leaking.h5")
    model, counted, label = load_parcels(lab / "parcels.safetensors"), simulated.labelled(), store.labelled("val")
    maps = [
        model.maps(one.frames(rows["frame"].to_numpy()), one.size).numpy()
        for one, rows in ((simulated, counted), (store, label))
    ]
    ids = {"n_parcels": model.n_ids, "background_id": model.background_id}
    masks = simulated.masks(counted["label"].to_numpy(), "lv")
    prior = ParcelPrior.count(maps[0], masks, groups=counted["patient"].to_numpy(), **ids)
    expected = ParcelSelector("beta", prior=prior, **ids)
    expected.fit(maps[1], store.masks(label["label"].to_numpy(), "lv"), label["patient"].to_numpy())
    saved = ParcelSegmenter.from_json(run / "models" / "lv-parcels-k-12-beta.json").selector_
    np.testing.assert_array_equal(saved.interior_, expected.interior_)
    np.testing.assert_allclose(saved.share_, expected.share_, atol=1e-4)  # the file holds rounded counts
    greedy = ParcelSegmenter.from_json(run / "models" / "lv-parcels-k-12-greedy.json").selector_
    assert greedy.prior is None
    assert str(lab / "leaking.h5") in results_of(run)["provenance"]["inputs"]
    with pytest.raises(SplitLeakError, match="the prior is counted on the store that is measured"):
        run_evaluation(tmp_path / "other", segmentation=replace(segmentation, prior=segmentation.store))
