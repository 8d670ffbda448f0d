"""Networks beside the white boxes: the same frames and figures, the leak check, the cost, an ensemble's gain."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from alan.data.store.reader import FrameStore
from alan.downstream.members import load_network, save_ensemble
from alan.errors import CheckpointError, DataError, ParameterError, SplitLeakError
from alan.evaluation.intervals import paired_difference
from alan.evaluation.networks import NetworkMaps, measure_cost, pixel_accuracy, values_of
from alan.evaluation.protocols import SegmentationProtocol
from alan.evaluation.run import run_evaluation
from alan.report.html import write_report
from alan.supervised.ensemble import EnsembleSegmenter
from alan.supervised.segmenter import Segmenter, save_segmenter, to_labels
from alan.supervised.settings import NetworkSpec

from ..discs import untrained_segmenter

SMALL = NetworkSpec(decoder="unet_acdc", encoder=None, decoder_channels=(4, 8))


def network(path, structures=("lv", "la"), seed=0, **provenance):
    raw = untrained_segmenter(SMALL, structures, seed=seed)
    one = Segmenter(raw.model, raw.spec, raw.structures, None, provenance)
    save_segmenter(one, path)
    return one


@pytest.fixture(scope="module")
def nets(lab, tmp_path_factory):
    """Two networks trained on the store's training split, their ensemble, and a binary one of unknown origin."""
    folder = tmp_path_factory.mktemp("nets")
    origin = {"stores": [FrameStore(lab / "store.h5").fingerprint], "train_split": "train", "val_split": "val"}
    members = {name: network(folder / f"{name}.safetensors", seed=n, **origin) for n, name in enumerate("ab")}
    validation = {
        "store": origin["stores"][0], "patients": 3, "frames": 6, "weights": "searched", "sampler": "random",
        "trials": 9, "objective": "iou", "split": "val", "score": 0.5, "equal": 0.4,
        "members": {"a": 0.3, "b": 0.4},
    }  # fmt: skip
    one = EnsembleSegmenter(
        members, {"a": 1, "b": 2}, {"stores": origin["stores"], "val_split": "val", "validation": validation}
    )
    save_ensemble(one, folder / "ensemble.json", {name: folder / f"{name}.safetensors" for name in members})
    network(folder / "binary.safetensors", ["lv+la"], seed=3)
    return folder


def protocol(lab, nets, **more):
    files = {"both": "ensemble.json", "first": "a.safetensors", "second": "b.safetensors"}
    return replace(
        SegmentationProtocol(
            store=str(lab / "store.h5"),
            networks={name: str(nets / file) for name, file in files.items()},
            structures=("lv", "la"),
            batch_size=4,
        ),
        **more,
    )


@pytest.fixture(scope="module")
def run(lab, nets, tmp_path_factory):
    folder = run_evaluation(
        tmp_path_factory.mktemp("runs") / "nets", segmentation=protocol(lab, nets), title="Networks"
    )
    write_report(folder)
    return folder


def read(run):
    summary = json.loads((run / "results.json").read_text())["segmentation"]
    return summary, pd.read_csv(run / "per_case.csv", keep_default_na=False, na_values=[""]).fillna({"rule": ""})


def test_scores_equal_scikit_learn(run, lab, nets):
    summary, cases = read(run)
    store = FrameStore(lab / "store.h5")
    test = store.labelled(split="test")
    truth = store.label_maps(test["label"], ["lv", "la"])

    for name, file in (("both", "ensemble.json"), ("first", "a.safetensors")):
        with torch.no_grad():
            probabilities = load_network(nets / file).probabilities(torch.from_numpy(store.frames(test["frame"])))
        predicted = to_labels(probabilities).numpy()
        for value, structure in enumerate(("lv", "la"), 1):
            mine = cases[(cases["method"] == name) & (cases["structure"] == structure)].set_index("frame")
            for i, frame in enumerate(test["frame"]):
                pair = (truth[i].ravel() == value, predicted[i].ravel() == value)
                assert mine["dice"][frame] == pytest.approx(f1_score(*pair), abs=1e-5)
                assert mine["iou"][frame] == pytest.approx(jaccard_score(*pair), abs=1e-5)
        row = next(row for row in summary["accuracy"] if row["method"] == name)
        assert row["accuracy"]["mean"] == pytest.approx(accuracy_score(truth.ravel(), predicted.ravel()))
    kinds = {(row["method"], row["kind"]) for row in summary["rows"]}
    assert kinds == {("both", "ensemble"), ("first", "network"), ("second", "network"), ("atlas", "atlas")}
    assert summary["white_boxes"] == []
    assert summary["example_methods"]["lv"] == {"method": "both", "rule": ""}


def test_pixel_accuracy_excludes_unions(run, lab, nets):
    store = FrameStore(lab / "store.h5")
    labels = np.load(run / "maps" / "network1.npz")["maps"]
    one = NetworkMaps("first", "network", load_network(nets / "a.safetensors"), "", labels, None)
    plain, more = (
        pixel_accuracy([one], names, store, store.labelled(split="test"))
        for names in (("lv", "la"), ("lv", "la", "lv+la"))
    )
    assert more == plain != []


def test_the_gain_over_the_members_is_paired(run):
    summary, cases = read(run)
    (one,) = summary["ensembles"]
    best = [(m["name"], m["method"], round(m["weight"], 4)) for m in one["members"] if m["best"]]
    assert best == [("b", "second", 0.6667)]  # by the validation score, whatever the test says
    assert len(one["gains"]) == 2 * (2 * 2 + 1)  # structures and phases, and all together
    gain = next(
        g for g in one["gains"] if g["member"] == "first" and g["structure"] == "la" and g["phase"] == "ES"
    )
    at = (cases["structure"] == "la") & (cases["phase"] == "ES")
    a, b = (cases[at & (cases["method"] == name)].set_index("frame") for name in ("both", "first"))
    expected = paired_difference(a["iou"], b["iou"].reindex(a.index), a["patient"])
    for key in ("mean", "low", "high"):
        assert gain["iou"][key] == pytest.approx(getattr(expected, key), abs=1e-5)


def test_cost_and_origin_of_networks_are_recorded(run):
    summary, _ = read(run)
    rows = {row["method"]: row for row in summary["networks"]}
    assert rows["both"]["cost"]["parameters"] == 2 * rows["first"]["cost"]["parameters"] > 0
    assert rows["first"]["origin"] == "this store, train and val"
    assert rows["both"]["origin"] == "weights searched on this store, val"
    assert all(row["cost"]["ms"] > 0 and row["cost"]["batch_size"] == 4 for row in rows.values())


def test_the_report_shows_the_networks(run):
    page = (run / "report.html").read_text()
    for text in (
        "Segmentation</h2>", "Cost of the networks", "Gain of both over its members", "best on validation",
        "Pixel accuracy, %", "the first network of the configuration", "networks that were trained on the manual",
        "Both compared with its best member (second",
    ):  # fmt: skip
        assert text in page, text
    assert "for all structures at ED and ES" in page
    assert "image regions that a network found" not in page
    assert "below, the borders of all parcels" not in page
    assert page.count("data:image/png;base64,") == 4  # methods, histograms, two overlays


def test_networks_are_measured_beside_parcels(lab, nets, tmp_path):
    both = protocol(
        lab,
        nets,
        parcels={"parcels": str(lab / "parcels.safetensors")},
        networks={"a": str(nets / "a.safetensors"), "binary": str(nets / "binary.safetensors")},
        structures=("lv", "lv+la"),
        rules=("greedy",),
        kmeans=(),
    )
    run = run_evaluation(tmp_path / "run", segmentation=both)
    summary, cases = read(run)
    assert {row["kind"] for row in summary["rows"]} == {"parcels", "network", "atlas"}
    assert summary["example_methods"]["lv"]["rule"] == "greedy"
    rows = {row["method"]: row for row in summary["networks"]}
    assert rows["binary"]["missing"] == ["lv"]
    assert "not recorded" in rows["binary"]["origin"]
    assert summary["accuracy"] == []  # lv and lv+la overlap: a pixel has no one class
    store = FrameStore(lab / "store.h5")
    test = store.labelled(split="test")
    union = store.masks(test["label"], "lv") | store.masks(test["label"], "la")
    predicted = np.load(run / "maps" / "network0.npz")["maps"] > 0
    mine = cases[(cases["method"] == "a") & (cases["structure"] == "lv+la")].set_index("frame").loc[test["frame"]]
    expected = 2 * (union & predicted).sum((1, 2)) / (union.sum((1, 2)) + predicted.sum((1, 2)))
    np.testing.assert_allclose(mine["dice"], expected, atol=1e-5)
    page = write_report(run).read_text()
    assert "binary: does not segment the left ventricle" in page
    assert "Networks trained on manual outlines were also measured: a and binary." in page


def test_networks_alone_need_no_labels(lab, nets, tmp_path):
    alone = protocol(lab, nets, atlas=False, label_split=None)
    summary, _ = read(run_evaluation(tmp_path / "run", segmentation=alone))
    assert summary["label"]["patients"] == 0
    assert write_report(tmp_path / "run").exists()


def test_an_interrupted_run_predicts_nothing_again(run, lab, nets, monkeypatch, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "results.json").unlink()
    monkeypatch.setattr("alan.evaluation.networks.to_labels", pytest.fail)
    run_evaluation(copy, segmentation=protocol(lab, nets), title="Networks")
    assert read(copy)[0]["rows"] == read(run)[0]["rows"]


@pytest.mark.parametrize(
    ("origin", "ok"),
    [
        ({"train_split": "test", "val_split": "val"}, False),
        ({"train_split": "train", "val_split": "test"}, False),
        ({"train_split": "train", "val_split": "val"}, True),
    ],
)
def test_a_network_trained_on_the_test_split_is_refused(lab, nets, tmp_path, origin, ok):
    path, out = tmp_path / "n.safetensors", tmp_path / "run"
    stores = [FrameStore(lab / "store.h5").fingerprint]
    one = network(path, seed=5, stores=stores, **origin)
    if ok:
        run_evaluation(out, segmentation=protocol(lab, nets, networks={"n": str(path)}))
        return
    with pytest.raises(SplitLeakError, match="network 'n' learned from split 'test'"):
        run_evaluation(out, segmentation=protocol(lab, nets, networks={"n": str(path)}))
    other = network(tmp_path / "o.safetensors", seed=6)
    save_ensemble(EnsembleSegmenter({"n": one, "o": other}), tmp_path / "e.json",
                  {"n": path, "o": tmp_path / "o.safetensors"})  # fmt: skip
    with pytest.raises(SplitLeakError, match="network 'e: n' learned from split 'test'"):
        run_evaluation(out, segmentation=protocol(lab, nets, networks={"e": str(tmp_path / "e.json")}))
    assert not out.exists()
    other = network(path, seed=5, stores=["another"], **origin)
    run_evaluation(out, segmentation=protocol(lab, nets, networks={"n": str(path)}))
    assert "another store" in read(out)[0]["networks"][0]["origin"]


@pytest.mark.parametrize(
    "bad",
    [
        ({"networks": {}, "atlas": False}, ParameterError, "at least one to measure"),
        ({"label_split": None}, ParameterError, "label_split is null"),
        ({"networks": {"atlas": "x"}}, ParameterError, "name of another row"),
        ({"networks": {"x": "nowhere.safetensors"}}, CheckpointError, "nowhere"),
        ({"networks": {"x": "nowhere.json"}}, DataError, "nowhere"),
        ({"structures": ("lv+rv",)}, DataError, "'rv'"),
    ],
)
def test_invalid_input_is_refused_and_leaves_no_files(lab, nets, tmp_path, bad):
    change, error, message = bad
    with pytest.raises(error, match=message):
        run_evaluation(tmp_path / "run", segmentation=protocol(lab, nets, **change))
    assert not (tmp_path / "run").exists()


def test_a_network_of_other_structures_is_refused(lab, nets, tmp_path):
    with pytest.raises(ParameterError, match=r"'binary' segments lv\+la, the protocol needs lv, la"):
        run_evaluation(
            tmp_path / "r", segmentation=protocol(lab, nets, networks={"binary": str(nets / "binary.safetensors")})
        )


def test_unions_have_several_label_values():
    assert values_of(("rv", "myo", "lv"), "lv+myo") == [2, 3]
    assert values_of(("rv", "myo", "lv"), "lv") == [3]
    assert values_of(("lv+myo",), "myo+lv") == [1]
    assert values_of(("lv+myo",), "lv") == []
    assert values_of(("rv",), "rv+lv") == []


def test_peak_memory_and_time_are_measured():
    class Known(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(7))
            self.runs = 0

        @torch.no_grad()
        def probabilities(self, frames):
            self.runs += 1
            a = torch.ones(512, 512)  # 1 MiB
            b = a + 1  # two at a time
            del a
            b += 1  # in place: nothing new
            c = b.view(-1) * 2
            del b
            return c.sqrt()

    one = Known()
    cost = measure_cost(one, np.zeros((2, 8, 8), np.uint8), batch_size=4, repeats=3)
    assert cost.peak_mib == pytest.approx(2, abs=0.01)
    assert (cost.parameters, cost.batch_size, cost.size, cost.device) == (7, 4, 8, "cpu")
    assert one.runs == 5
