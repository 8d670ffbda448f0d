"""Run folders of ``alan fit`` (killed, continued, refused, begun anew), and the whole chain on tiny data."""

import contextlib
import json
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from alan.backbone.dino import DINOModule

#: A DINO training of a second: six steps of four frames, a checkpoint every second step.
STEPS = 6
MODEL = {
    "vit": {"image_size": 32, "patch_size": 8, "in_chans": 1, "dim": 16, "depth": 1, "heads": 2},
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
        "model": {"class_path": "alan.backbone.dino.DINOModule", "init_args": {**MODEL, **changes}},
        "data": {
            "class_path": "alan.data.modules.FrameDataModule",
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
    from alan.cli import main

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


def test_an_uninterrupted_run_is_whole(straight):
    assert sorted(path.name for path in straight.iterdir()) == [
        "backbone.safetensors",
        "checkpoints",
        "config.yaml",
        "metrics.jsonl",
    ]
    assert [path.name for path in (straight / "checkpoints").iterdir()] == ["last.ckpt"]
    assert steps(straight) == list(range(STEPS))
    assert everything(straight)["step"] == STEPS


@pytest.mark.parametrize("number", [0, 1, 3, 5])
def test_interrupted_and_run_again(number, tiny, alan, stop, straight, tmp_path):  # noqa: PLR0917 (fixtures)
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


def test_killed_and_run_again(tiny, alan, straight, tmp_path):
    """SIGKILL in the fourth batch, after the checkpoint of the second step."""
    script = """
import os, signal, sys
import torch
from alan.backbone.dino import DINOModule
from alan.cli import main
torch.set_num_threads(1)
step = DINOModule.training_step
def killed(self, batch, batch_idx):
    if self._batches == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, batch_idx)
DINOModule.training_step = killed
main(sys.argv[1:])
"""
    args = ["fit", "--config", str(config(tmp_path / "c.yaml", tiny)), "--out", str(tmp_path / "run")]
    died = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, timeout=300, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
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


def test_a_finished_run_is_left_alone(used, alan):
    folder, args = used
    before = contents(folder)
    assert alan(*args).code == 0
    assert contents(folder) == before


def test_another_configuration_is_refused_and_overwrite_begins_anew(used, tiny, alan):
    folder, args = used
    before = contents(folder)
    config(args[2], tiny, seed=1)
    ran = alan(*args)
    assert ran.code == 2
    assert len(ran.lines) == 1
    assert "another configuration (it differs in: model)" in ran.lines[0]
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


def test_a_foreign_folder_is_refused(tiny, alan, listing, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work", encoding="utf-8")
    ran = alan("fit", "--config", config(tmp_path / "c.yaml", tiny), "--out", folder, "--overwrite", "true")
    assert ran.code == 2
    assert "not empty" in ran.lines[0]
    assert listing(folder) == ["thesis.tex"]


def test_a_truncated_checkpoint_is_one_line(used, alan):
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
