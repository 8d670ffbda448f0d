"""A run that is interrupted and resumed sees the same batches as one that is not."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from alan.data.loaders.modules import FrameDataModule, SequenceDataModule
from alan.data.loaders.sampling import EpochSampler
from alan.errors import ParameterError

STEPS = 7  # batches per epoch: 29 training frames, 4 per batch


class Recorder(LightningModule):
    """Notes the indices of every training batch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch):
        self.seen.append((self.current_epoch, batch["index"].tolist()))
        return self.layer(batch["frames"].float().mean().view(1, 1)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Crash(Callback):
    """Raises within a step, after the given number of complete ones."""

    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.steps:
            raise RuntimeError("power cut")


def fit(module, data, callbacks=(), resume=None, **options):
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **{"max_epochs": 3, "enable_checkpointing": saves, **options},
    )
    trainer.fit(module, datamodule=data, ckpt_path=resume)
    return module.seen


@pytest.fixture
def data(memory):
    store = memory.store(lengths=(5, 9, 3, 12, 6, 8))

    def make(kind="frames", num_workers=0, **options):
        if kind == "frames":
            return FrameDataModule([str(store.path)], num_workers=num_workers, **{"batch_size": 4, **options})
        return SequenceDataModule([str(store.path)], n_frames=2, num_workers=num_workers, batch_size=2)

    return make


def checkpoint(folder, **options):
    return ModelCheckpoint(dirpath=folder / "run", filename="last", **{"every_n_train_steps": 1, **options})


@pytest.mark.parametrize("length", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 3 * STEPS}])
@pytest.mark.parametrize("steps", [1, STEPS - 1, STEPS, STEPS + 1, STEPS + 4, 2 * STEPS])
def test_an_interrupted_epoch_continues_with_the_next_batch(data, tmp_path, steps, length):
    straight = fit(Recorder(), data(), **length)
    assert len(straight) == 3 * STEPS
    first = Recorder()
    with pytest.raises(RuntimeError, match="power cut"):
        fit(first, data(), [checkpoint(tmp_path), Crash(steps)], **length)
    assert first.seen == straight[:steps]
    assert fit(Recorder(), data(), resume=tmp_path / "run" / "last.ckpt", **length) == straight[steps:]


@pytest.mark.parametrize("kind", ["frames", "sequences"])
def test_workers_that_read_ahead_lose_no_batch(data, tmp_path, kind):
    straight = fit(Recorder(), data(kind))
    steps = len(straight) // 3 + 1  # in the second epoch
    with pytest.raises(RuntimeError, match="power cut"):
        fit(Recorder(), data(kind, 2), [checkpoint(tmp_path), Crash(steps)])
    resumed = fit(Recorder(), data(kind, 2), resume=tmp_path / "run" / "last.ckpt")
    assert resumed == straight[steps:]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_resumes_after_a_whole_epoch(data, tmp_path, num_workers):
    straight = fit(Recorder(), data())
    at_end = checkpoint(tmp_path, every_n_train_steps=None, every_n_epochs=1, save_on_train_epoch_end=True)
    fit(Recorder(), data(num_workers=num_workers), [at_end], max_epochs=1)
    resumed = fit(Recorder(), data(num_workers=num_workers), resume=tmp_path / "run" / "last.ckpt")
    assert resumed == straight[STEPS:]


def test_a_run_resumes_twice(data, tmp_path):
    straight = fit(Recorder(), data())
    for steps, done in ((3, 0), (5, 3), (STEPS + 2, 5)):
        recorder = Recorder()
        resume = tmp_path / "run" / "last.ckpt" if done else None
        with pytest.raises(RuntimeError, match="power cut"):
            fit(recorder, data(), [checkpoint(tmp_path, enable_version_counter=False), Crash(steps)], resume)
        assert recorder.seen == straight[done:steps]


def test_limited_epochs_resume(data, tmp_path):
    straight = fit(Recorder(), data(), limit_train_batches=3)
    assert len(straight) == 9
    assert [row for _, row in straight[:3]] == [row for _, row in fit(Recorder(), data(), max_epochs=1)[:3]]
    with pytest.raises(RuntimeError, match="power cut"):
        fit(Recorder(), data(num_workers=2), [checkpoint(tmp_path), Crash(4)], limit_train_batches=3)
    resumed = fit(Recorder(), data(num_workers=2), resume=tmp_path / "run" / "last.ckpt", limit_train_batches=3)
    assert resumed == straight[4:]


def test_gradient_accumulation_resumes(data, tmp_path):
    straight = fit(Recorder(), data(), accumulate_grad_batches=2)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(Recorder(), data(), [checkpoint(tmp_path), Crash(2)], accumulate_grad_batches=2)
    resumed = fit(Recorder(), data(), resume=tmp_path / "run" / "last.ckpt", accumulate_grad_batches=2)
    assert resumed == straight[4:]


def test_the_loader_resumes_without_lightning(data):
    straight = data().train_dataloader()
    straight.sampler.set_epoch(5)
    expected = [batch["index"].tolist() for batch in straight]
    loader = data(num_workers=2).train_dataloader()
    loader.sampler.set_epoch(5)
    batches = iter(loader)
    seen = [next(batches)["index"].tolist() for _ in range(3)]
    state = loader.state_dict()
    assert (state["epoch"], state["batches"]) == (5, 3)
    other = data().train_dataloader()
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert seen + [batch["index"].tolist() for batch in other] == expected
    assert len(list(other)) == STEPS  # and the next iteration is whole again


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 5}, "batch_size 4, now 5"),
        ({"seed": 1}, "seed 0, now 1"),
        ({"split": "test"}, "samples 29, now 14"),
    ],
)
def test_another_order_is_refused(data, options, message):
    state = data().train_dataloader().state_dict()
    with pytest.raises(ParameterError, match=f"cannot resume within an epoch.*{message}"):
        data(**options).train_dataloader().load_state_dict(state)


def test_overfit_batches_still_works(data):
    with pytest.warns(UserWarning, match="turning off the train dataloader shuffling"):
        seen = fit(Recorder(), data(), overfit_batches=2, max_epochs=2)
    assert [row for _, row in seen] == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2


def test_ranks_share_the_batches_of_one_process(monkeypatch):
    items = list(range(29))
    whole = np.array(list(EpochSampler(items, seed=0, batch_size=2)))
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        part = np.array(list(EpochSampler(items, seed=0, batch_size=2)))
        assert len(part) == 9
        assert (part[:8].reshape(4, 2) == whole[:24].reshape(12, 2)[rank::3]).all()
        assert part[8] == whole[24 + rank]


def test_a_batch_size_that_ranks_cannot_share_is_refused(data, monkeypatch):
    state = data().train_dataloader().state_dict() | {"batches": 3}
    loader = data().train_dataloader()
    monkeypatch.setattr(loader.sampler, "num_replicas", 2)
    with pytest.raises(ParameterError, match="2 processes cannot share the 3 batches"):
        loader.load_state_dict(state)
    loader.load_state_dict(state | {"batches": 4})
    assert loader.state_dict()["batches"] == 4


def test_ranks_see_disjoint_parts(monkeypatch):
    items = list(range(29))
    parts = {}
    for rank in range(3):
        monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
        monkeypatch.setattr("torch.distributed.get_world_size", lambda: 3)
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        sampler = EpochSampler(items, seed=0)
        parts[rank] = list(sampler)
        assert len(parts[rank]) == len(sampler) == 9
        sampler.skip = 4
        assert list(sampler) == parts[rank][4:]
    assert len({index for part in parts.values() for index in part}) == 27


class Write(Callback):
    """Writes what this rank has seen."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, module):
        torch.save(module.seen, self.folder / f"rank{trainer.global_rank}.pt")


def test_two_processes_resume(data, tmp_path):
    options = {"strategy": "ddp_fork", "devices": 2}
    seen = {}
    for name, callbacks, resume, limit in (
        ("straight", [], None, {"max_epochs": 2}),
        ("part", [checkpoint(tmp_path)], None, {"max_steps": 4, "max_epochs": -1}),
        ("rest", [], tmp_path / "run" / "last.ckpt", {"max_epochs": 2}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        fit(Recorder(), data(), [*callbacks, Write(folder)], resume, **options, **limit)
        seen[name] = [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]
    for rank in range(2):
        assert len(seen["straight"][rank]) == 6  # 29 frames, 2 processes, 4 per batch, 2 epochs
        assert seen["part"][rank] == seen["straight"][rank][:4]
        assert seen["rest"][rank] == seen["straight"][rank][4:]
    for epoch in range(2):
        rows = [row for part in seen["straight"] for at, row in part if at == epoch]
        flat = [index for row in rows for index in row]
        assert len(flat) == len(set(flat)) == 24
