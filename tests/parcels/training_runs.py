"""Short trainings of token heads: moving textures, their data modules, a trainer, and weights to compare."""

import warnings

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from alan.backbone.load import random_backbone
from alan.backbone.vit import VitSpec

SPEC = VitSpec(image_size=32, patch_size=8, in_chans=1, dim=16, depth=1, heads=2)


def clips(n=8, n_frames=3, size=32):
    """Two textures side by side, their border moving; black at the right."""
    g = torch.Generator().manual_seed(0)
    out = torch.zeros(n, n_frames, size, size, dtype=torch.uint8)
    for clip in out:
        for t, frame in enumerate(clip):
            border = 10 + 2 * t
            frame[:, :border] = torch.randint(20, 60, (size, border), generator=g)
            frame[:, border:24] = torch.randint(100, 250, (size, 24 - border), generator=g)
    return out


class Clips(Dataset):
    def __init__(self, frames):
        self.frames = frames

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, i):
        n = self.frames.shape[1]
        return {"frames": self.frames[i], "index": i * n + torch.arange(n)}


class ClipModule(LightningDataModule):
    def __init__(self, batch_size=4, frames=None):
        super().__init__()
        self.batch_size, self.frames = batch_size, clips() if frames is None else frames

    def train_dataloader(self):
        return DataLoader(Clips(self.frames), self.batch_size)


class TokenClips(ClipModule):
    """What a token cache feeds."""

    def __init__(self, sector=True):
        super().__init__()
        self.sector = sector

    def train_dataloader(self):
        backbone, rows = random_backbone(SPEC), []
        for i, clip in enumerate(self.frames):
            row = {"tokens": backbone(clip).tokens, "index": 3 * i + torch.arange(3)}
            rows.append(row | ({"sector": backbone.sector(clip)} if self.sector else {}))
        return DataLoader(rows, self.batch_size)


class Log(Callback):
    def __init__(self):
        self.rows = []

    def on_train_batch_end(self, trainer, *_):
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def fit(module, data=None, steps=6, *, ckpt_path=None, callbacks=(), **options):
    log = Log()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        max_steps=steps,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[log, *callbacks],
        **{"logger": False, "log_every_n_steps": 1} | options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, datamodule=data or ClipModule(), ckpt_path=ckpt_path, weights_only=True)
    return log.rows, trainer


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
