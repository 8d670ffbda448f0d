"""A view probe while DINO trains: are the teacher's CLS tokens of one view near each other?"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from alan.backbone.dino.module import DINOModule
from alan.backbone.locked import VitBackbone
from alan.data.store.reader import FrameStore
from alan.errors import ParameterError


def knn_accuracy(
    train: Tensor, labels: Tensor, test: Tensor, truth: Tensor, *, k: int, temperature: float
) -> float:
    """Accuracy of the nearest neighbours' vote, weighted by exp(cosine similarity / temperature).

    Args:
        train: (n, D) features.
        labels: (n,) int64.
        test: (m, D) features.
        truth: (m,) int64.
        k: neighbours, at most n are used.
        temperature: of the weights.

    Returns:
        Share in 0..1.
    """
    similarity = F.normalize(test, dim=1) @ F.normalize(train, dim=1).T  # (m, n)
    nearest, index = similarity.topk(min(k, len(train)), dim=1)
    votes = F.one_hot(labels[index], int(labels.max()) + 1) * (nearest / temperature).exp()[..., None]
    return (votes.sum(1).argmax(1) == truth).float().mean().item()


class ViewProbe(Callback):
    """Log ``view_accuracy`` every so many steps: weighted kNN over views, one frame a sequence.

    The store's ``train`` side votes on its ``val`` side (``test`` where there is none). The frame is ED where it
    is known, else the middle one. Nothing of it enters the training.

    Args:
        store: path of a frame store with at least two views.
        k: neighbours.
        temperature: of the vote.
        every_n_steps: optimiser steps between two probes.

    Raises:
        ParameterError: ``k`` or ``every_n_steps`` below 1; or, when training starts, a store without two sides or
            with one view only.
    """

    def __init__(self, store: str, k: int = 10, temperature: float = 0.07, every_n_steps: int = 500) -> None:
        super().__init__()
        if k < 1 or every_n_steps < 1:
            raise ParameterError(f"k {k} and every_n_steps {every_n_steps} must be at least 1")
        self.store, self.k, self.temperature, self.every_n_steps = store, k, temperature, every_n_steps
        self._done = -1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the probe's frames."""
        store = FrameStore(self.store)
        sides = {
            side: [s for s in store.sequences if s.split == side and s.view] for side in ("train", "val", "test")
        }
        voters, judged = sides["train"], sides["val"] or sides["test"]
        views = sorted({s.view for s in voters})
        judged = [s for s in judged if s.view in views]
        if len(views) < 2 or not judged:
            raise ParameterError(
                f"{self.store} has views {views} in train and {len(judged)} sequences of them in val or test: "
                "the view probe needs two views and two sides"
            )
        rows = [s.start + s.length // 2 if s.ed is None else s.ed for s in (*voters, *judged)]
        self._frames = torch.from_numpy(store.frames(rows))
        self._labels = torch.tensor([views.index(s.view) for s in (*voters, *judged)])
        self._voters = len(voters)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Probe the teacher."""
        if trainer.global_step % self.every_n_steps or trainer.global_step == self._done:
            return
        if not isinstance(pl_module, DINOModule):
            raise ParameterError(f"ViewProbe reads a DINOModule, not a {type(pl_module).__name__}")
        self._done = trainer.global_step
        backbone = VitBackbone(copy.deepcopy(pl_module.teacher.vit), pl_module.spec).to(pl_module.device)
        cls = torch.cat([backbone(frames).cls.cpu() for frames in torch.split(self._frames, 64)])
        n = self._voters
        accuracy = knn_accuracy(
            cls[:n], self._labels[:n], cls[n:], self._labels[n:], k=self.k, temperature=self.temperature
        )
        pl_module.log("view_accuracy", accuracy)
