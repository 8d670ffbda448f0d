"""The view probe: the vote by hand and by a slow loop; logged while training, without changing it."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from alan.backbone import probe as probe_module
from alan.backbone.dino.module import DINOModule
from alan.backbone.probe import ViewProbe, knn_accuracy
from alan.backbone.vit import VitSpec
from alan.data.augmentation.multicrop import MultiCrop
from alan.errors import ParameterError

SPEC = VitSpec(image_size=16, patch_size=8, in_chans=1, dim=16, depth=1, heads=2, normalisation="unit")


def angle(*degrees):
    return torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])


def test_vote_by_hand():
    train, labels, test, truth = angle(0, 25, 26), torch.tensor([0, 1, 1]), angle(10), torch.tensor([0])
    assert knn_accuracy(train, labels, test, truth, k=1, temperature=0.07) == 1
    assert knn_accuracy(train, labels, test, truth, k=3, temperature=0.07) == 0  # two a little farther outvote one
    assert knn_accuracy(train, labels, test, truth, k=3, temperature=0.01) == 1  # unless the nearest weighs more


def test_vote_by_a_slow_loop():
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(30, 3, generator=generator), torch.randn(20, 3, generator=generator)
    labels, truth = torch.arange(30) % 3, torch.arange(20) % 3
    right = 0
    for x, y in zip(test, truth, strict=True):
        pairs = sorted(((float(x @ t / x.norm() / t.norm()), int(c)) for t, c in zip(train, labels, strict=True)))
        votes = [0.0] * 3
        for similarity, view in pairs[-5:]:
            votes[view] += math.exp(similarity / 0.07)
        right += votes.index(max(votes)) == y
    assert knn_accuracy(train, labels, test, truth, k=5, temperature=0.07) == pytest.approx(right / 20)


class FakeStore:
    """Two views that differ in the bright half; frames 0 and 1 of a sequence of three are black."""

    views = ("A2C", "A4C")

    def __init__(self, path):
        self.sequences = [
            SimpleNamespace(
                split=split, view=self.views[i % len(self.views)], ed=6 * b + 3 * i + 2, start=0, length=3
            )
            for b, split in enumerate(("train", "val"))
            for i in range(2)
        ]

    def frames(self, rows):
        frames = np.zeros((len(rows), 16, 16), np.uint8)
        for frame, row in zip(frames, rows, strict=True):
            if row % 3 == 2:
                frame[(slice(None), slice(8, 16) if row % 2 else slice(0, 8))] = 200
        return frames


class Data(LightningDataModule):
    def train_dataloader(self):
        frames = torch.randint(0, 256, (16, 16, 16), generator=torch.Generator().manual_seed(0)).byte()
        return DataLoader([{"frames": batch} for batch in frames.split(4)], batch_size=None)


def fit(folder, *callbacks):
    model = DINOModule(
        vit=SPEC, crops=MultiCrop(global_size=16, local_size=8, n_local=1), outputs=8, hidden=8, bottleneck=4
    )
    run = Trainer(
        default_root_dir=folder,
        max_steps=4,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    run.fit(model, Data())
    return run, model


def test_probe_is_logged_and_does_not_touch_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(probe_module, "FrameStore", FakeStore)
    run, model = fit(tmp_path, ViewProbe("store.h5", k=1, every_n_steps=2))
    assert run.callback_metrics["view_accuracy"] == 1
    assert model.training
    assert model.student.vit.norm.weight.requires_grad
    _, plain = fit(tmp_path)
    assert all(torch.equal(x, plain.state_dict()[name]) for name, x in model.state_dict().items())


def test_probe_needs_two_views_and_sane_values(tmp_path, monkeypatch):
    monkeypatch.setattr(probe_module, "FrameStore", FakeStore)
    monkeypatch.setattr(FakeStore, "views", ("A4C",))
    with pytest.raises(ParameterError, match="two views"):
        fit(tmp_path, ViewProbe("store.h5"))
    with pytest.raises(ParameterError, match="k 0"):
        ViewProbe("store.h5", k=0)
