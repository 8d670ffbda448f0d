"""Runs that are stopped anywhere, around validations too, end as the uninterrupted one; ``precision: auto``."""

import json
import logging

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from alan import trainer as trainer_module
from alan.data.loaders.sampling import resumable_loader
from alan.errors import ParameterError
from alan.trainer import LastCheckpoint, Trainer
from alan.training_run import JsonLinesLogger

STEPS = 7


class StoppedError(Exception):
    """Simulates a kill: nothing catches it."""


class Numbers(Dataset):
    def __len__(self):
        return 10

    def __getitems__(self, items):
        return torch.tensor([[float(item % 10)] for item in items])


class Data(LightningDataModule):
    """Five batches per epoch."""

    def train_dataloader(self):
        return resumable_loader(Numbers(), 2, seed=0, drop_last=True, num_workers=0)

    def val_dataloader(self):
        return DataLoader(torch.arange(4.0)[:, None], batch_size=2)


class Line(LightningModule):
    """A line that is fitted; ``events`` counts what happens, and the one numbered ``stop`` does not."""

    def __init__(self, stop=None):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.line = torch.nn.Linear(1, 1)
        self.stop, self.events = stop, 0

    def event(self):
        self.events += 1
        if self.events == self.stop:
            raise StoppedError

    def training_step(self, batch, batch_idx):
        self.event()
        loss = (self.line(batch) - 3 * batch).square().mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.event()
        self.log("val_error", (self.line(batch) - 3 * batch).abs().mean())

    def on_validation_epoch_end(self):
        self.event()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


def fit(folder, module, ckpt_path=None, **options):
    """The trainer of a run that goes on from ``last.ckpt`` where there is one."""
    logger = JsonLinesLogger(folder)
    last = LastCheckpoint(folder / "checkpoints", 2, logger)
    best = ModelCheckpoint(
        folder / "checkpoints",
        "best",
        monitor="val_error",
        save_weights_only=True,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )
    run = Trainer(
        default_root_dir=folder,
        max_steps=STEPS,
        max_epochs=-1,
        accelerator="cpu",
        logger=logger,
        callbacks=[last, best],
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    save = run.save_checkpoint

    def saving(*args, **kwargs):  # a kill before and after every checkpoint, the best one included
        module.event()
        save(*args, **kwargs)
        module.event()

    run.save_checkpoint = saving
    path = folder / "checkpoints" / "last.ckpt"
    run.fit(module, Data(), ckpt_path=path if path.exists() else None, weights_only=True)
    return run, best


def outcome(folder, run, module, best):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    tensors = {**module.state_dict(), **{f"best {name}": x for name, x in kept.items()}}
    weights = {name: x.flatten().tolist() for name, x in tensors.items()}
    return lines, weights, float(best.best_model_score), run.global_step, run.current_epoch


VALIDATIONS = {
    "at checkpoints": {"val_check_interval": 2, "check_val_every_n_epoch": None},
    "epoch end": {},
    "accumulated": {"val_check_interval": 3, "check_val_every_n_epoch": None, "accumulate_grad_batches": 2},
}


@pytest.mark.parametrize("options", VALIDATIONS.values(), ids=VALIDATIONS)
def test_a_run_stopped_anywhere_ends_like_the_uninterrupted_one(tmp_path, options):
    """StoppedError once at every training batch, validation batch, and before and after every checkpoint."""
    module = Line()
    run, best = fit(tmp_path / "straight", module, **options)
    expected = outcome(tmp_path / "straight", run, module, best)
    assert [line["step"] for line in expected[0] if "loss" in line] == list(range(STEPS))
    assert sum("val_error" in line for line in expected[0]) >= 1
    for stop in range(1, module.events + 1):
        folder = tmp_path / str(stop)
        with pytest.raises(StoppedError):
            fit(folder, Line(stop), **options)
        module_again = Line()
        run, best = fit(folder, module_again, **options)
        assert outcome(folder, run, module_again, best) == expected, stop


def test_auto_precision_is_resolved_for_the_device(monkeypatch):
    asked = []
    monkeypatch.setattr(trainer_module, "choose_precision", lambda *args: asked.append(args) or "bf16-mixed")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    assert Trainer(precision="auto", accelerator="cpu", **quiet).precision == "bf16-mixed"
    assert asked == [("auto", "cpu")]
    assert Trainer(precision="32-true", accelerator="cpu", **quiet).precision == "32-true"
    assert Trainer(accelerator="cpu", **quiet).precision == "32-true"
    assert len(asked) == 1


def test_an_invalid_checkpoint_interval_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="checkpoint_every is 0: give a whole number of at least 1"):
        LastCheckpoint(tmp_path, 0)


def test_lightning_does_not_advertise_its_logger(caplog, monkeypatch):
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    monkeypatch.setattr(log, "handlers", [caplog.handler])
    with caplog.at_level("INFO", log.name):
        Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    assert "GPU available" in caplog.text
    assert "litlogger" not in caplog.text
