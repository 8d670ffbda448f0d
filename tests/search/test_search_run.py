"""``alan search``: a search on simulated frames, its report, retraining of the best point, and invalid input."""

import json
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch
import yaml

from alan.errors import CheckpointError, ConfigError
from alan.report.search import write_search_report
from alan.search.run import run_search
from alan.search.settings import SearchData, StudySettings
from alan.supervised.networks import PaddedNetwork
from alan.supervised.settings import NetworkSpec, TrainingSettings
from alan.supervised.timing import measure_latency, time_call

from .conftest import SPACE, objective


def config(tiny, folder, **changes):
    """A search of two points on the tiny CAMUS, as a file; changes are ``{"space.lrs": [...]}``."""
    parts = {
        "space": {
            "encoders": ["mobilenet_v2"],
            "decoders": ["unet"],
            "lrs": [1e-3],
            "batch_sizes": [2, 4],
            "depths": [3],
        },
        "data": {"stores": [tiny.store("camus", size=32)], "structures": ["lv", "la"]},
        "training": {
            "epochs": 2,
            "losses": {"cross_entropy": 1.0},
            "accelerator": "cpu",
        },
        "study": {"n_trials": 2, "heartbeat": 1},
    }
    for name, value in {"space.depths": [3], **changes}.items():
        *path, key = name.split(".")
        part = parts
        for step in path:
            part = part.setdefault(step, {})
        part[key] = value
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(parts), encoding="utf-8")
    return path


def quick(tiny, out, n_trials=4, space=SPACE, train=objective, **settings):
    """A search whose trials are a formula."""
    data, training = SearchData((tiny.store("camus", size=32),), ("lv",)), TrainingSettings(epochs=3)
    study = StudySettings(n_trials, heartbeat=1, **settings)
    return run_search(
        out, space, data, training, study, objective=train, builds=lambda *pair: None, progress=False
    )


def test_the_best_point_can_be_trained(tiny, alan, tmp_path):
    out = tmp_path / "run"
    file = config(tiny, tmp_path)
    ran = alan("search", "--config", file, "--out", out)
    assert ran.code == 0, ran.err
    assert f"alan fit --config {out / 'best.yaml'}" in ran.err
    assert ran.lines[0].endswith("space: 2 batch sizes = 2 points")
    table = pd.read_csv(out / "trials.csv")
    assert list(table["state"]) == ["complete"] * 2
    assert set(table["batch_size"]) == {2, 4}
    assert (table["latency_low"] > 0).all()
    assert (table["latency_low"] <= table["latency"]).all()
    assert (table["latency"] <= table["latency_high"]).all()
    results = json.loads((out / "results.json").read_text())
    assert results["best"][0]["iou"] == pytest.approx(table["iou"].max(), rel=1e-4)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "The best five" in page
    assert "there are 2." in page  # too few for importances
    assert alan("search", "--config", file, "--out", out).code == 0  # nothing left to do
    assert pd.read_csv(out / "trials.csv").equals(table)
    again = tmp_path / "again"
    ran = alan("fit", "--config", out / "best.yaml", "--out", again, "--trainer.enable_progress_bar=false")
    assert ran.code == 0, ran.err
    lines = [json.loads(line) for line in (again / "metrics.jsonl").read_text().splitlines()]
    scores = [line["val_iou"] for line in lines if "val_iou" in line]
    assert max(scores) == results["best"][0]["iou"]  # to the last bit
    assert (again / "segmenter.safetensors").is_file()


def test_the_report_shows_two_objectives_and_failures(tiny, alan, tmp_path):
    def failing(point, report):
        if point.encoder == "vgg11":
            raise MemoryError("no room for <b>vgg11</b>")
        return objective(point, report)

    out = quick(tiny, tmp_path / "run", 30, train=failing, objectives=("iou", "latency"))
    assert alan("report", "--run", out).code == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    results = json.loads((out / "results.json").read_text())
    assert results["failed"]
    assert page.count("out of memory (no room for &lt;b&gt;vgg11") == len(results["failed"])
    for name in ("history", "parallel", "importances", "pareto"):
        assert (out / "figures" / f"{name}.png").is_file()
    assert "No trial has failed" not in page
    assert "label_patients null" not in page  # all labels were used
    results["training"]["label_patients"] = 3
    (out / "results.json").write_text(json.dumps(results))
    assert "--data.init_args.label_patients null" in write_search_report(out).read_text(encoding="utf-8")
    del results["stores"]
    (out / "results.json").write_text(json.dumps(results))
    old = alan("report", "--run", out)
    assert old.code == 2
    assert (
        "results.json: cannot be read (KeyError: 'stores'); it was edited, or written by another" in old.lines[-1]
    )
    assert len(results["pareto"]) >= 2
    names = ["best.yaml", *(f"best_{rank}.yaml" for rank in range(2, 6))]
    for name, best in zip(names, results["best"], strict=True):
        network = yaml.safe_load((out / name).read_text())["model"]["init_args"]
        point = (network["network"]["encoder"], network["network"]["decoder"], network["lr"])
        assert point == (best["encoder"], best["decoder"], best["lr"])


def test_a_search_without_a_finished_trial_is_reported(tiny, tmp_path):
    def failing(point, report):
        raise RuntimeError("no luck")

    out = quick(tiny, tmp_path / "run", 3, train=failing)
    assert "No trial has finished" in write_search_report(out).read_text(encoding="utf-8")
    assert not (out / "best.yaml").exists()


def test_foreign_folders_and_studies_are_refused(tiny, tmp_path):
    out = quick(tiny, tmp_path / "run")
    before = (out / "config.yaml").read_bytes()
    with pytest.raises(ConfigError, match=r"differs in its space \(lrs\): .* another study\.name"):
        quick(tiny, out, space=replace(SPACE, lrs=(1e-3,)))
    assert (out / "config.yaml").read_bytes() == before
    shared = f"sqlite:///{out / 'study.db'}"
    with pytest.raises(ConfigError, match="differs in its space"):
        quick(tiny, tmp_path / "other", space=replace(SPACE, lrs=(1e-3,)), storage=shared)
    assert not (tmp_path / "other").exists()
    quick(tiny, tmp_path / "third", 6, storage=shared)  # several folders, one study
    assert len(pd.read_csv(tmp_path / "third" / "trials.csv")) == 6
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="holds no run of alan search"):
        quick(tiny, tmp_path / "full")


@pytest.mark.parametrize(
    "case",
    [
        ({"space.encoders": ["resnet81"]}, ["'resnet81'", "did you mean resnet18"]),
        ({"space.decoders": ["linket"]}, ["'linket'", "did you mean 'linknet'"]),
        ({"space.encoders": ["densenet121"], "space.decoders": ["pan"], "space.depths": [5]}, ["no depth works"]),
        ({"space.decoders": ["pspnet"], "space.depths": [6]}, ["depth 5 would work"]),
        ({"space.lrs": []}, ["lrs is empty"]),
        ({"space.batchsizes": [4]}, ["'batchsizes'", "'batch_sizes'"]),
        ({"study.n_trials": 0}, ["n_trials is 0"]),
        ({"study.pruner": "median", "study.objectives": ["iou", "latency"]}, ["'median'", "one objective"]),
        ({"study.storage": "postgres//nowhere"}, ["not a database URL"]),
        ({"study.storage": "sqlite:////nowhere/study.db"}, ["/nowhere/study.db", "unable to open"]),
        ({"data.structures": ["lvv"]}, ["'lvv'"]),
        ({"training.losses": {"bce": 1.0}}, ["'bce' does not fit 3"]),
        ({"study.val_every": 5}, ["val_every is 5", "at most 2, the epochs"]),
        ({"data.val_split": "test"}, ["keep test for the end"]),
        ({"training.augmentation": "ehco"}, ["'ehco'", "did you mean 'echo'"]),
        ({"training.lr": 0.1}, ["training.lr is set", "space.lrs"]),
        ({"training.network.depth": 4}, ["training.network.depth is set", "space.depths"]),
    ],
    ids=lambda case: "-".join(case[0]),
)
def test_invalid_input_is_refused(tiny, alan, tmp_path, listing, case):
    changes, words = case
    file = config(tiny, tmp_path, **changes)
    ran = alan("search", "--config", file, "--out", tmp_path / "run")
    assert ran.code == 2, ran.err
    errors = [line for line in ran.lines if not line.startswith("space:")]
    assert len(errors) == 1, ran.err
    for word in words:
        assert word in errors[0]
    assert listing(tmp_path) == ["search.yaml"]


def test_a_database_out_of_reach_is_refused_before_the_stores_are_read(tmp_path):
    data, study = (
        SearchData((str(tmp_path / "none.h5"),), ("lv",)),
        StudySettings(2, storage="postgresql://alan:secret@127.0.0.1:1/name"),
    )
    with pytest.raises(ConfigError, match=r"alan:\*\*\*@127.0.0.1:1/name cannot be used"):
        run_search(tmp_path / "run", SPACE, data, TrainingSettings(epochs=1), study, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_missing_optuna_names_the_extra(tiny, alan, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    ran = alan("search", "--config", config(tiny, tmp_path), "--out", tmp_path / "run")
    assert (ran.code, ran.lines) == (2, ["alan: error: optuna is not installed: pip install 'alan-echo[search]'"])


def test_a_study_depends_on_the_content_of_its_weights(tiny, tmp_path):
    first, moved = tmp_path / "w.safetensors", tmp_path / "moved.safetensors"
    first.write_bytes(b"one")

    def search(weights, n_trials):
        return quick(tiny, tmp_path / "run", n_trials, replace(SPACE, weights={"resnet18": str(weights)}))

    search(first, 2)
    first.rename(moved)
    assert len(pd.read_csv(search(moved, 3) / "trials.csv")) == 3
    moved.write_bytes(b"another")
    with pytest.raises(ConfigError, match=r"differs in its space \(weights\)"):
        search(moved, 4)
    with pytest.raises(CheckpointError, match="no such file of weights for resnet18"):
        search(first, 4)


def test_quartiles_of_a_time_match_hand_computed_values():
    times = iter([0, 9, 10, 11, 20, 22, 30, 33, 40, 44, 50, 55])  # 9 to warm up, then 1, 2, 3, 4, 5
    timing = time_call(lambda: None, torch.device("cpu"), repeats=5, warmup=1, clock=lambda: next(times))
    assert timing == (3, 2, 4)


def test_latency_is_measured_by_the_given_clock():
    network = PaddedNetwork(NetworkSpec("unet_acdc", None, decoder_channels=(4, 8)), 1, "unit")
    ticks = iter(range(100))
    assert measure_latency(network, 32, repeats=3, warmup=1, clock=lambda: float(next(ticks))) == (1, 1, 1)
    assert next(ticks) == 8  # twice per pass


def test_measuring_latency_does_not_change_the_network():
    network = PaddedNetwork(NetworkSpec("unet_acdc", None, decoder_channels=(4, 8)), 1, "unit")
    before = {name: x.clone() for name, x in network.state_dict().items()}
    calls = []
    network.register_forward_hook(lambda module, args, output: calls.append((module.training, args[0].shape)))
    timing = measure_latency(network, 32, repeats=5, warmup=2)
    assert 0 < timing.low <= timing.median <= timing.high < 5
    assert calls == [(False, (1, 1, 32, 32))] * 7
    assert network.training
    assert all((x == before[name]).all() for name, x in network.state_dict().items())
