"""A training that is stopped anywhere and started again equals one that was never stopped.

Weights, optimiser, metrics lines, the best checkpoint and the exported network are compared.
"""

import json
import os
import re
import signal
from itertools import combinations, product

import pytest
import torch
import yaml

from alan import precision
from alan.errors import CheckpointError
from alan.supervised.module import SegmentationModule
from alan.training_run import check_readable

from ..faults.harness import Plan, contents, differences, run

NETWORK = {"decoder": "unet_acdc", "encoder": None, "decoder_channels": [4, 8]}
#: Three epochs of four steps, with a validation in the middle and at the end of each.
SETTINGS = {
    "model": {
        "class_path": "alan.supervised.SegmentationModule",
        "init_args": {
            "structures": ["lv+myo+la"],
            "network": NETWORK,
            "augmentation": "none",
            "schedule": "cosine",
            "losses": {"dice": 1.0},
            "lr": 0.03,
        },
    },
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 3,
        "val_check_interval": 2,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
    },
}


@pytest.fixture(scope="module")
def command(tiny, tmp_path_factory):
    """``command(folder, every)``: the arguments of a training into a folder."""
    folder = tmp_path_factory.mktemp("resume")
    data = {
        "class_path": "alan.data.LabelledFrameDataModule",
        "init_args": {"stores": [tiny.store("camus")], "structures": ["lv+myo+la"], "batch_size": 4},
    }
    config = folder / "config.yaml"
    config.write_text(json.dumps({**SETTINGS, "data": data}), encoding="utf-8")
    return lambda out, every=1: ["fit", "--config", config, "--out", out, "--checkpoint_every", every]


@pytest.fixture(scope="module")
def straight(command, tmp_path_factory):
    """Files of uninterrupted trainings and their number of renames, by the interval of checkpoints."""
    folder, found = tmp_path_factory.mktemp("straight"), {}
    for every in (1, 3):
        ended = run(command(folder / str(every), every))
        assert ended.code == 0, ended.error
        found[every] = contents(folder / str(every), IGNORED), ended.events
    return found


#: Exit codes of an interrupted command.
INTERRUPTIONS = {signal.SIGINT: 130, signal.SIGTERM: 143}
#: Signals and the batches in which they are sent, and those of the campaign.
SIGNALS = [(signal.SIGINT, 0), (signal.SIGTERM, 3)]
OTHER_SIGNALS = [pair for pair in product(INTERRUPTIONS, (0, 1, 2, 3, 6)) if pair not in SIGNALS]
#: States which command and versions completed the run.
IGNORED = ["run.json"]


def check_restart(args, out, expected):
    """Start the command again and check that it completes the run."""
    again = run(args)
    assert again.code == 0, again.error
    assert differences(expected, contents(out, IGNORED)) == []
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "metrics.jsonl",
        "run.json",
        "segmenter.safetensors",
    ]


def test_the_best_validation_is_exported(straight):
    """This reveals a best score that a resumed run has forgotten."""
    lines = [json.loads(line) for line in straight[1][0]["metrics.jsonl"].splitlines()]
    scores = [line["val_dice"] for line in lines if "val_dice" in line]
    assert len(scores) == 6
    assert scores.index(max(scores)) in range(1, 5)
    assert straight[1][0].keys() == straight[3][0].keys()
    assert straight[1][0]["segmenter.safetensors"] == straight[3][0]["segmenter.safetensors"]


@pytest.mark.parametrize(
    ("every", "step"), [(1, 9), (3, 6), *(pytest.param(every, 1, marks=pytest.mark.faults) for every in (1, 3))]
)
def test_a_run_killed_at_a_rename_resumes(command, straight, every, step, tmp_path):
    """Before or after every few renames; before and after each in the campaign."""
    expected, events = straight[every]
    sides = (False, True) if step == 1 else (False,)
    for number, after in product(range(2 if step > 1 else 1, events + 1, step), sides):
        out = tmp_path / f"{number}{after}"
        ended = run(command(out, every), Plan(at=number, after=after))
        assert ended.code == -signal.SIGKILL
        check_restart(command(out, every), out, expected)


@pytest.mark.parametrize(
    ("number", "batch"),
    [*SIGNALS, *(pytest.param(*pair, marks=pytest.mark.faults) for pair in OTHER_SIGNALS)],
)
def test_a_signal_saves_the_current_step(command, straight, number, batch, tmp_path):
    """In the first batch, before a validation, at the end of an epoch, and in the next; no checkpoint is due."""
    ended = run(command(tmp_path / "run", 100), Plan(setup=lambda: signal_in(batch, number)))
    assert ended.code == INTERRUPTIONS[number]
    assert "interrupted" in ended.error.splitlines()[-1]
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    assert not (tmp_path / "run" / "segmenter.safetensors").exists()
    check_restart(command(tmp_path / "run", 100), tmp_path / "run", {**straight[1][0], **config_of(tmp_path)})


def test_a_checkpoint_that_changed_on_the_disk_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"w": torch.arange(5000.0)}, "global_step": 3}, path)
    check_readable(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # a bit of the weights
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)["global_step"] == 3  # torch does not detect it
    with pytest.raises(CheckpointError, match=r"last\.ckpt: cannot be read \(BadZipFile\): delete it, or"):
        check_readable(path)


def config_of(folder):
    return {"config.yaml": contents(folder / "run")["config.yaml"]}


def signal_in(batch, number):
    """Send a signal to the training in a batch, counted from 0."""
    step = SegmentationModule.training_step

    def training_step(self, *args):
        if self._batches == batch:
            signal.raise_signal(number)
        return step(self, *args)

    SegmentationModule.training_step = training_step


def test_a_signal_in_the_last_step_repeats_nothing(command, straight, tmp_path):
    args = command(tmp_path / "run")
    assert run(args, Plan(setup=lambda: signal_in(11, signal.SIGTERM))).code == 143
    check_restart(args, tmp_path / "run", straight[1][0])


def test_a_second_process_is_refused(command, straight, tmp_path):
    """A second process is refused in one line that names the first, which continues undisturbed."""
    out, ended = tmp_path / "run", []

    def second():
        step = SegmentationModule.training_step

        def training_step(self, *args):
            if self._batches == 2:
                ended.append(run(command(out)))
                words = rf"alan: error: {out}: process {os.getpid()} of .* is writing to it: .*"
                lines = {*ended[0].error.splitlines()}  # the fork logs to the first one's console, too
                assert (ended[0].code, [bool(re.fullmatch(words, line)) for line in lines]) == (2, [True])
            return step(self, *args)

        SegmentationModule.training_step = training_step

    assert run(command(out), Plan(setup=second)).code == 0
    assert differences(straight[1][0], contents(out, IGNORED)) == []


def test_metrics_are_written_beside_other_loggers(command, tmp_path):
    logger = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": str(tmp_path / "csv")},
    }
    options = ["--trainer.max_steps", 2, "--trainer.max_epochs", -1]
    for number, given in enumerate((logger, [logger], "CSVLogger", False, True)):
        out = tmp_path / str(number)
        extra = ["--trainer.logger.save_dir", tmp_path / "csv"] if given == "CSVLogger" else []
        value = given if isinstance(given, str) else json.dumps(given)
        ended = run([*command(out), *options, "--trainer.logger", value, *extra])
        assert ended.code == 0, ended.error
        lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["step"] for line in lines] == [0, 1, 1]
    assert len(list((tmp_path / "csv").rglob("metrics.csv"))) == 3


def test_fast_dev_run_writes_no_run_folder(command, tmp_path):
    out = tmp_path / "run"
    ended = run([*command(out), "--trainer.fast_dev_run", "true"])
    assert ended.code == 0, ended.error
    assert not out.exists()
    assert run([*command(out), "--trainer.max_steps", "1"]).code == 0
    before = contents(out)
    assert run([*command(out), "--overwrite", "true", "--trainer.fast_dev_run", "1"]).code == 0
    assert contents(out) == before


def test_a_training_without_a_step_is_refused(command, tmp_path):
    ended = run([*command(tmp_path / "run"), "--trainer.max_steps", "0"])
    assert ended.code == 2
    assert "trainer.max_steps is 0: give at least 1, or -1 for no limit" in ended.error
    assert not (tmp_path / "run").exists()


def test_an_unsuitable_callback_is_refused_in_one_line(command, tmp_path):
    callback = {"class_path": "EarlyStopping", "init_args": {"monitor": "val_dise"}}
    ended = run([*command(tmp_path / "run"), "--trainer.callbacks", json.dumps([callback])])
    assert ended.code == 2
    assert (
        "trainer.callbacks: Early stopping conditioned on metric `val_dise` which is not available" in ended.error
    )
    assert "Traceback" not in ended.error


def test_bare_class_names_are_recorded_as_public_paths(command, tiny, tmp_path):
    args = [
        *("fit", "--model", "SegmentationModule", "--model.structures=[lv]", "--model.losses={dice: 1}"),
        *(f"--model.network={json.dumps(NETWORK)}", "--model.augmentation=none"),
        *("--data", "LabelledFrameDataModule", "--data.structures=[lv]"),
        *(f"--data.stores=[{tiny.store('camus')}]", "--trainer.max_steps=1", "--trainer.accelerator=cpu"),
        *("--trainer.precision=auto", "--out", tmp_path / "run"),
    ]
    ended = run(args, Plan(setup=lambda: native(True)))
    assert ended.code == 0, ended.error
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert config["model"]["class_path"] == "alan.supervised.SegmentationModule"
    assert config["data"]["class_path"] == "alan.data.LabelledFrameDataModule"
    assert config["trainer"]["precision"] == "bf16-mixed"
    before = contents(tmp_path / "run")
    ended = run(args, Plan(setup=lambda: native(False)))  # on another machine
    assert ended.code == 0, ended.error
    assert contents(tmp_path / "run") == before


def test_the_seed_of_a_run_reaches_model_and_data(command, tmp_path):
    networks = []
    for n, (options, seeds) in enumerate(
        (
            (["--seed_everything=3"], (3, 3)),
            (["--seed_everything=3", "--model.init_args.seed=5"], (5, 3)),
            (["--seed_everything=false"], (0, 0)),
            ([], (0, 0)),
        )
    ):
        out = tmp_path / str(n)
        ended = run([*command(out), *options, "--trainer.max_steps=2"])
        assert ended.code == 0, ended.error
        config = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
        assert tuple(config[part]["init_args"]["seed"] for part in ("model", "data")) == seeds
        networks.append(contents(out)["segmenter.safetensors"])
    assert networks.pop() == networks[-1]
    assert all(first != second for first, second in combinations(networks, 2))


def native(answer):
    """Pretend that the processor computes bfloat16 faster than float32, or does not."""
    precision.fast_bf16 = lambda _: answer
