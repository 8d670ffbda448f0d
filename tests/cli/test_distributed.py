"""Two processes train what one process trains that accumulates two batches, and either may resume the other's run.

The processes are forks, which talk through gloo as those of torchrun do; ``make faults`` starts torchrun itself.
"""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from alan.trainer import LastCheckpoint

from ..faults.harness import Plan, run

#: Samples per batch and process, so that an epoch has an even number of batches, and the exported file.
TRAININGS = {"dino": (4, "backbone.safetensors"), "raptor": (2, "parcels.safetensors")}
#: Steps, more than an epoch has, and those before the resume, in the middle of an epoch.
STEPS, BEFORE = 6, 3


@pytest.fixture(scope="module")
def command(tiny, tmp_path_factory):
    """``command(kind, processes, out, *options)``: the arguments of a training."""
    folder = tmp_path_factory.mktemp("distributed")
    vit = {"image_size": 32, "patch_size": 8, "in_chans": 1, "dim": 16, "depth": 1, "heads": 2}
    dino = {"network": vit, "crops": {"global_size": 32, "local_size": 16, "n_local": 2}, "outputs": 16}
    dino |= {"hidden": 16, "bottleneck": 8, "patch_weight": 1.0, "patch_prototypes": 6, "base_lr": 0.1}
    raptor = {"backbone": tiny.backbone(), "n_parcels": 4}
    frames = {"stores": [tiny.store("camus")], "num_workers": 0}
    configs = {
        "dino": (("backbone.DINOModule", dino), ("data.FrameDataModule", frames)),
        "raptor": (
            ("parcels.RaptorModule", raptor),
            ("data.SequenceDataModule", {**frames, "n_frames": 3, "period": 1}),
        ),
    }

    def words(kind, processes, out, *options, strategy="ddp_fork"):
        (model, model_options), (data, data_options) = configs[kind]
        trainer = {"accelerator": "cpu", "max_epochs": -1, "max_steps": STEPS, "enable_progress_bar": False}
        config = {
            "model": {"class_path": f"alan.{model}", "init_args": model_options},
            "data": {
                "class_path": f"alan.{data}",
                "init_args": {**data_options, "batch_size": TRAININGS[kind][0]},
            },
            "trainer": {
                **trainer,
                "devices": processes,
                "accumulate_grad_batches": 2 // processes,
                "strategy": strategy if processes > 1 else "auto",
            },
        }
        path = folder / f"{out.name}.yaml"
        path.write_text(json.dumps(config), encoding="utf-8")
        return ["fit", "--config", path, "--out", out, "--checkpoint_every", 1, *options]

    return words


def check_equal(out, expected, kind):
    one, two = (load_file(folder / TRAININGS[kind][1]) for folder in (expected, out))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


@pytest.fixture(scope="module")
def one(command, tmp_path_factory):
    """``one(kind)``: the run folder of a single process."""
    folder = tmp_path_factory.mktemp("one")

    def train(kind):
        if not (folder / kind).exists():
            ended = run(command(kind, 1, folder / kind))
            assert ended.code == 0, ended.error
        return folder / kind

    return train


@pytest.mark.parametrize("kind", TRAININGS)
def test_two_processes_equal_one_that_accumulates_two_batches(kind, command, one, tmp_path):
    ended = run(command(kind, 2, tmp_path / "two"))
    assert ended.code == 0, ended.error
    check_equal(tmp_path / "two", one(kind), kind)


@pytest.mark.parametrize(
    ("kind", "processes"),
    [
        ("dino", 2),
        ("raptor", 1),
        *(pytest.param(*other, marks=pytest.mark.faults) for other in (("dino", 1), ("raptor", 2))),
    ],
)
def test_a_run_resumes_with_another_number_of_processes(kind, processes, command, one, tmp_path):
    """The first run is stopped within an epoch."""
    ended = run(command(kind, processes, tmp_path / "first"), Plan(setup=lambda: end_after(BEFORE)))
    assert ended.code, ended.error
    last = tmp_path / "first" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == BEFORE
    ended = run(command(kind, 3 - processes, tmp_path / "rest", "--ckpt_path", last))
    assert ended.code == 0, ended.error
    check_equal(tmp_path / "rest", one(kind), kind)


def end_after(step):
    """End every process at the checkpoint of a step."""
    done = LastCheckpoint.on_batch_done

    def on_batch_done(self, trainer):
        done(self, trainer)
        if trainer.global_step == step:
            raise SystemExit(1)

    LastCheckpoint.on_batch_done = on_batch_done


@pytest.mark.faults
@pytest.mark.parametrize("kind", TRAININGS)
def test_a_training_runs_under_torchrun(kind, command, one, tmp_path):
    words = command(kind, 2, tmp_path / "two", strategy="ddp")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "alan"]
    done = subprocess.run(
        [sys.executable, *launcher, *map(str, words)], capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    check_equal(tmp_path / "two", one(kind), kind)
