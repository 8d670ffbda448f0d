"""Run folders of ``alan fit`` (killed, resumed, refused, overwritten), and the whole chain on tiny data."""

import contextlib
import json
import re
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from alan.backbone.dino.module import DINOModule
from alan.backbone.load import load_backbone
from alan.cache.reader import FeatureCache
from alan.cli.main import main
from alan.data.store.reader import FrameStore
from alan.parcels.model import load_parcels

from ..faults import harness

#: A DINO training of a second: six steps of four frames, a checkpoint every second step.
STEPS = 6
PHASES = ("ED", "ES")
MODEL = {
    "network": {"image_size": 32, "patch_size": 8, "in_chans": 1, "dim": 16, "depth": 1, "heads": 2},
    "crops": {"global_size": 32, "local_size": 16, "n_local": 2},
    "outputs": 32,
    "hidden": 16,
    "bottleneck": 8,
    "patch_weight": 1.0,
    "drop_path": 0.2,
}


def config(path, tiny, **changes):
    """Write the training's YAML; JSON is YAML."""
    settings = {
        "seed_everything": 0,
        "model": {"class_path": "alan.backbone.DINOModule", "init_args": {**MODEL, **changes}},
        "data": {
            "class_path": "alan.data.FrameDataModule",
            "init_args": {"stores": [tiny.store("camus")], "batch_size": 4},
        },
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": -1,
            "max_steps": STEPS,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
        },
        "checkpoint_every": 2,
    }
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def steps(folder):
    """The steps in ``metrics.jsonl``, in the order of the file."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["step"] for line in lines]


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


def everything(folder):
    """Weights, optimiser and counters at the end of a training."""
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    state = dict(saved["state_dict"])
    for number, entry in saved["optimizer_states"][0]["state"].items():
        state |= {f"optimizer.{number}.{name}": value for name, value in entry.items()}
    return {**state, "step": torch.tensor(saved["global_step"])}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.fixture(scope="module")
def straight(tiny, tmp_path_factory):
    """A finished, uninterrupted run."""
    folder = tmp_path_factory.mktemp("straight")
    assert main(["fit", "--config", str(config(folder / "c.yaml", tiny)), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def stop():
    """``with stop(batch)``: the training is interrupted in that batch (counted from 0), as by Ctrl+C."""
    step = DINOModule.training_step
    before = signal.getsignal(signal.SIGINT)

    @contextlib.contextmanager
    def at(number):
        def interrupted(self, batch, batch_idx):
            if self._batches == number:
                raise KeyboardInterrupt
            return step(self, batch, batch_idx)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DINOModule, "training_step", interrupted)
            yield
        signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored

    return at


def test_an_uninterrupted_run_writes_every_file(straight):
    assert sorted(path.name for path in straight.iterdir()) == [
        "backbone.safetensors",
        "checkpoints",
        "config.yaml",
        "metrics.jsonl",
        "run.json",
    ]
    assert [path.name for path in (straight / "checkpoints").iterdir()] == ["last.ckpt"]
    assert steps(straight) == list(range(STEPS))
    assert everything(straight)["step"] == STEPS


@pytest.mark.parametrize("number", [0, 1, 3, 5])
def test_an_interrupted_run_resumes(number, tiny, alan, stop, straight, tmp_path):  # noqa: PLR0917 (fixtures)
    """Before the first step, before the first checkpoint, and between two."""
    args = ("fit", "--config", config(tmp_path / "c.yaml", tiny), "--out", tmp_path / "run")
    with stop(number):
        ran = alan(*args)
    assert ran.code == 130
    assert "interrupted" in ran.err
    assert not (tmp_path / "run" / "backbone.safetensors").exists()
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists() == (number >= 2)
    assert alan(*args).code == 0
    assert same(everything(tmp_path / "run"), everything(straight))
    assert steps(tmp_path / "run") == list(range(STEPS))
    assert losses(tmp_path / "run") == losses(straight)


def kill_in_the_fourth_batch():
    step = DINOModule.training_step

    def killed(self, batch, batch_idx):
        if self._batches == 3:
            signal.raise_signal(signal.SIGKILL)
        return step(self, batch, batch_idx)

    DINOModule.training_step = killed


def test_a_killed_run_resumes(tiny, alan, straight, tmp_path):
    """SIGKILL in the fourth batch, after the checkpoint of the second step."""
    args = ["fit", "--config", str(config(tmp_path / "c.yaml", tiny)), "--out", str(tmp_path / "run")]
    died = harness.run(args, harness.Plan(setup=kill_in_the_fourth_batch))
    assert died.code == -signal.SIGKILL, died.error
    assert steps(tmp_path / "run") == [0, 1, 2]
    assert alan(*args).code == 0
    assert same(everything(tmp_path / "run"), everything(straight))
    assert steps(tmp_path / "run") == list(range(STEPS))
    assert same(load_file(tmp_path / "run" / "backbone.safetensors"), load_file(straight / "backbone.safetensors"))


@pytest.fixture
def used(tiny, alan, tmp_path):
    """A finished run of its own, and its arguments."""
    args = ("fit", "--config", config(tmp_path / "c.yaml", tiny), "--out", tmp_path / "run")
    assert alan(*args).code == 0
    return tmp_path / "run", args


def contents(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_is_left_unchanged(used, alan):
    folder, args = used
    before = contents(folder)
    assert alan(*args).code == 0
    assert contents(folder) == before


def test_another_configuration_is_refused_unless_overwritten(used, tiny, alan):
    folder, args = used
    before = contents(folder)
    config(args[2], tiny, seed=1)
    ran = alan(*args)
    assert ran.code == 2
    assert len(ran.lines) == 1
    assert "another configuration (model.init_args.seed)" in ran.lines[0]
    assert "--overwrite true" in ran.lines[0]
    assert contents(folder) == before
    assert alan(*args, "--overwrite", "true").code == 0
    assert steps(folder) == list(range(STEPS))
    after = contents(folder)
    assert after.keys() == before.keys()
    assert not [path for path in after if after[path] == before[path]]
    # and a configuration that cannot be built does not cost the run that is there
    config(args[2], tiny, warmup=2.0)
    assert alan(*args, "--overwrite", "true").code == 2
    assert contents(folder) == after


def test_auto_precision_is_recorded_and_kept_on_another_machine(tiny, alan, stop, tmp_path, monkeypatch):
    args = ("fit", "--config", config(tmp_path / "c.yaml", tiny), "--out", tmp_path / "run")
    args += ("--trainer.precision", "auto")
    monkeypatch.setattr("alan.precision.fast_bf16", lambda accelerator: False)
    with stop(3):
        assert alan(*args).code == 130
    saved = (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")
    assert "precision: 32-true" in saved
    monkeypatch.setattr("alan.precision.fast_bf16", lambda accelerator: True)
    assert alan(*args).code == 0
    assert (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8") == saved
    assert alan(*args, "--trainer.precision", "bf16-mixed").code == 2


def test_a_foreign_folder_is_refused(tiny, alan, listing, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work", encoding="utf-8")
    ran = alan("fit", "--config", config(tmp_path / "c.yaml", tiny), "--out", folder, "--overwrite", "true")
    assert ran.code == 2
    assert "holds files but no config.yaml" in ran.lines[0]
    assert listing(folder) == ["thesis.tex"]


def test_a_truncated_checkpoint_is_refused_in_one_line(used, alan):
    folder, args = used
    last = folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    before = contents(folder)
    ran = alan(*args)
    assert ran.code == 2
    assert len(ran.lines) == 1
    assert str(last) in ran.lines[0]
    assert "--overwrite true" in ran.lines[0]
    assert contents(folder) == before
    assert alan(*args, "--overwrite", "true").code == 0
    assert everything(folder)["step"] == STEPS


@pytest.fixture(scope="module")
def chain(tiny, tmp_path_factory):
    """The folder of the whole chain, each step through the command line: archives to report."""
    folder = tmp_path_factory.mktemp("chain")

    def run(verb, *args):
        threads = torch.get_num_threads()
        assert main([verb, *(str(arg) for arg in args)]) == 0
        assert torch.get_num_threads() == threads

    for kind, patients in (("camus", 9), ("tmed", 8)):
        args = ["--layout", kind, "--n_patients", patients, "--size", 64, "--n_frames", 3, "--split=[0.4,0.3,0.3]"]
        run("simulate", "--out", folder / kind, *args, "--progress", "false")
        prepare = ["--kind", kind, "--root", folder / kind, "--size", 64, "--workers", 0]
        run("prepare", *prepare, "--out", folder / f"{kind}.h5")
    settings = json.loads(config(folder / "dino.yaml", tiny).read_text(encoding="utf-8"))
    settings["data"]["init_args"]["stores"] = [str(folder / "camus.h5"), str(folder / "tmed.h5")]
    (folder / "dino.yaml").write_text(json.dumps(settings), encoding="utf-8")
    run("fit", "--config", folder / "dino.yaml", "--out", folder / "dino")
    backbone = folder / "dino" / "backbone.safetensors"
    settings["model"] = {
        "class_path": "alan.parcels.RaptorModule",
        "init_args": {"backbone": str(backbone), "n_parcels": 8, "sector_only": True},
    }
    settings["data"] = {
        "class_path": "alan.data.SequenceDataModule",
        "init_args": {"stores": [str(folder / "camus.h5")], "n_frames": 3, "period": 1, "batch_size": 3},
    }
    (folder / "raptor.yaml").write_text(json.dumps(settings), encoding="utf-8")
    run("fit", "--config", folder / "raptor.yaml", "--out", folder / "raptor")
    parcels = folder / "raptor" / "parcels.safetensors"
    models = ["--store", folder / "camus.h5", "--backbone", backbone, "--parcels", parcels]
    run("cache", *models, "--features=[cls,tokens,maps]", "--accelerator", "cpu", "--out", folder / "cache.h5")
    evaluation = {
        "out": str(folder / "report"),
        "title": "Tiny & honest",
        "segmentation": {
            "store": str(folder / "camus.h5"),
            "parcels": {"RAPTOR": str(parcels)},
            "structures": ["lv", "la"],
            "kmeans": [8],
            "kmeans_frames": 20,
        },
        "views": {"store": str(folder / "tmed.h5"), "backbone": str(backbone), "k": [2, 5]},
        "curves": {name: str(folder / name / "metrics.jsonl") for name in ("dino", "raptor")},
    }
    (folder / "evaluate.yaml").write_text(json.dumps(evaluation), encoding="utf-8")
    run("evaluate", "--config", folder / "evaluate.yaml")
    return folder


def test_the_cache_contains_the_outputs_of_the_models(chain):
    store = FrameStore(chain / "camus.h5")
    backbone = load_backbone(chain / "dino" / "backbone.safetensors")
    model = load_parcels(chain / "raptor" / "parcels.safetensors")
    cache = FeatureCache(chain / "cache.h5", backbone, model, store)
    index = np.array([0, len(store) - 1, 5])
    frames = torch.from_numpy(store.frames(index))
    np.testing.assert_allclose(cache.read("cls", index), backbone(frames).cls.numpy(), atol=1e-4)
    assert (cache.read("maps", index) == model.maps(frames).numpy()).mean() > 0.99  # near-ties may fall either way
    assert len(cache) == len(store)


def test_results_contain_every_structure_rule_and_baseline(chain):
    results = json.loads((chain / "report" / "results.json").read_text(encoding="utf-8"))
    part = results["segmentation"]
    rows = {(row["method"], row["rule"], row["structure"], row["phase"]) for row in part["rows"]}
    sources = ("RAPTOR", "k-means, K = 8", "random ViT, K = 8")
    chosen = {(source, rule) for source in sources for rule in ("paper", "relaxed", "greedy")} | {("atlas", "")}
    expected = {(*names, structure, phase) for names in chosen for structure in ("lv", "la") for phase in PHASES}
    assert rows == expected
    metrics = {"dice", "iou", "dice_original", "iou_original", "hd95_mm", "asd_mm"}
    measured = [row for row in part["rows"] if not row["reason"]]
    assert all(set(row["metrics"]) == metrics for row in measured)
    assert {row["kind"] for row in measured} >= {"parcels", "k-means", "random", "atlas"}
    for row in measured:
        dice = row["metrics"]["dice"]
        assert dice["low"] <= dice["mean"] <= dice["high"]
        assert dice["n"] + dice["undefined"] == part["test"]["phases"][row["phase"]]
        assert dice["groups"] == part["test"]["patients"]
    assert {(row["method"], row["rule"]) for row in part["against_atlas"]} <= chosen - {("atlas", "")}
    assert {e["rank"] for e in part["examples"]} == {"best", "median", "worst"}
    assert {(row["method"], row["k"]) for row in results["views"]["rows"]} == {
        (method, k) for method in ("backbone", "random ViT", "standardised pixels") for k in (2, 5)
    }
    inputs = results["provenance"]["inputs"]
    assert inputs[str(chain / "camus.h5")] == FrameStore(chain / "camus.h5").fingerprint
    assert str(chain / "raptor" / "parcels.safetensors") in inputs


def test_no_patient_is_in_two_splits(chain):
    store = FrameStore(chain / "camus.h5")
    splits = {split: {s.patient for s in store.select(split=split)} for split in ("train", "val", "test")}
    assert all(splits.values())
    assert sum(map(len, splits.values())) == len(set.union(*splits.values())) == 9
    cases = pd.read_csv(chain / "report" / "per_case.csv", dtype={"patient": str})
    assert set(cases["patient"]) == splits["test"]
    results = json.loads((chain / "report" / "results.json").read_text(encoding="utf-8"))
    assert results["segmentation"]["label"]["patients"] == len(splits["val"])
    assert results["segmentation"]["train_patients"] == len(splits["train"])


def test_the_report_is_one_self_contained_page(chain):
    page = (chain / "report" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|src=\"(?!data:)|url\((?!data:)", page)
    assert "<title>Tiny &amp; honest</title>" in page
    for word in ("left ventricle", "left atrium", "RAPTOR", "k-means, K = 8", "random ViT, K = 8", "atlas"):
        assert word.lower() in page.lower(), word
    for word in ("paper", "relaxed", "greedy", "PLAX", "PSAX", "standardised pixels", "Training of dino"):
        assert word in page, word
    figures = {path.stem for path in (chain / "report" / "figures").glob("*.png")}
    assert {"methods", "dice_histograms", "overlays_lv", "overlays_la", "confusion"} <= figures
    assert page.count("data:image/png;base64,") == len(figures)


def test_a_repeated_evaluation_measures_nothing(chain, alan):
    before = contents(chain / "report")
    ran = alan("evaluate", "--config", chain / "evaluate.yaml")
    assert ran.code == 0
    assert "Compared with the atlas" in ran.err
    after = contents(chain / "report")
    assert {path.name for path in after if after[path][1] != before[path][1]} == {
        "report.html",
        "columns.csv",
        "summary.csv",
        "summary.tex",
        *(path.name for path in (chain / "report" / "figures").iterdir()),
    }
