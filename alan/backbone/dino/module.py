"""DINO as a Lightning module: student, teacher, schedules, one moving-average step per optimiser step."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from alan._version import __version__
from alan.backbone.base import SECTOR_SHARE, check_multiple
from alan.backbone.checkpoint import check_same_network, export_backbone, fill_network
from alan.backbone.dino.collapse import collapse_statistics, describe_collapse
from alan.backbone.dino.loss import DINOLoss, PatchLoss
from alan.backbone.dino.network import DINOHead, DINONetwork
from alan.backbone.schedules import Schedule
from alan.backbone.training import TrainingModule, decay_groups
from alan.backbone.vit import Initialisation, TransformerSpec, VitSpec
from alan.bounds import NonNegativeFloat, PositiveFloat, Rate, Seed, Share, bounded
from alan.data.augmentation.multicrop import Crops, MultiCrop, Views
from alan.data.sector import sector_mask
from alan.seeding import seeded

_log = logging.getLogger(__name__)


class DINOModule(TrainingModule):
    """Train a vision transformer without labels by DINO; the defaults are the paper's recipe (ViT-S/4 at 112 px).

    Durations are shares of the run, whose length in optimiser steps is the trainer's (``max_epochs`` or
    ``max_steps``): the paper's 10, 30 and 1 of 40 epochs. Gradients are clipped here as published, the norm of
    each parameter's gradient by itself, so leave the trainer's ``gradient_clip_val`` unset. The patch-level term
    counts patches inside the sector.

    A batch holds ``frames`` (B, S, S) uint8.

    Args:
        network: Specification of the network; ``drop_path`` applies to the student only.
        crops: Multi-crop augmentation, on the device of the model.
        drop_path: Probability of stochastic depth in the student's last block.
        outputs: Number of prototypes of the DINO head.
        hidden: Width of the MLP of the DINO head.
        bottleneck: Width before the last layer of the DINO head.
        batch_norm: Whether the heads have batch norm.
        base_lr: Learning rate for 256 frames per step; the rate is ``base_lr`` x frames / 256, where frames counts
            processes and accumulated batches.
        final_lr: Learning rate at the end of its cosine.
        warmup: Share of the run in which the learning rate rises from 0.
        weight_decay: First and last value of the cosine of the weight decay; biases and norms have none.
        momentum: First value of the teacher's momentum, whose cosine ends at 1.
        student_temperature: Temperature of the student's softmax.
        teacher_temperature: Temperature of the teacher's softmax at the start and after its warm-up.
        teacher_warmup: Share of the run in which the teacher's temperature changes linearly.
        centre_momentum: Momentum of the centre.
        freeze_last_layer: Share of the run in which the last layers of the heads keep their initial weights.
        gradient_clip: Largest norm of the gradient of one parameter; 0 switches clipping off.
        patch_weight: Weight of the patch-level term, 0 in the paper.
        patch_prototypes: Number of prototypes of the patch-level term.
        patch_temperature: Temperature of the teacher's softmax in the patch-level term.
        init: File of a backbone or of a run to start from, such as one trained on simulation, or the name of
            shipped weights; of the same network. The heads start with random weights.
        seed: Seed of the initial weights, the crops and the stochastic depth.

    Raises:
        ParameterError: A value is out of range; the message names it.
        CheckpointError: ``init`` cannot be read, or is of another network.
    """

    method = "DINO"
    export_name = "backbone.safetensors"
    student: DINONetwork
    teacher: DINONetwork

    @bounded
    def __init__(
        self,
        *,
        network: TransformerSpec = VitSpec(),  # noqa: B008 (frozen)
        crops: MultiCrop = MultiCrop(),  # noqa: B008 (frozen)
        drop_path: Rate = 0.1,
        outputs: int = 65536,
        hidden: int = 2048,
        bottleneck: int = 256,
        batch_norm: bool = False,
        base_lr: PositiveFloat = 5e-4,
        final_lr: NonNegativeFloat = 1e-6,
        warmup: Share = 10 / 40,
        weight_decay: tuple[NonNegativeFloat, NonNegativeFloat] = (0.04, 0.4),
        momentum: Share = 0.996,
        student_temperature: PositiveFloat = 0.1,
        teacher_temperature: tuple[PositiveFloat, PositiveFloat] = (0.04, 0.04),
        teacher_warmup: Share = 30 / 40,
        centre_momentum: Rate = 0.9,
        freeze_last_layer: Share = 1 / 40,
        gradient_clip: NonNegativeFloat = 3.0,
        patch_weight: NonNegativeFloat = 0.0,
        patch_prototypes: int = 128,
        patch_temperature: PositiveFloat = 0.05,
        init: str | None = None,
        seed: Seed = 0,
    ) -> None:
        super().__init__(seed)
        for name in ("global_size", "local_size"):
            check_multiple(getattr(crops, name), network.patch_size, name)
        self.spec, self.crops, self.outputs = network, crops, outputs
        self.base_lr, self.final_lr, self.warmup = base_lr, final_lr, warmup
        self.weight_decay, self.momentum = weight_decay, momentum
        self.teacher_temperature, self.teacher_warmup = teacher_temperature, teacher_warmup
        self.freeze_last_layer, self.gradient_clip = freeze_last_layer, gradient_clip
        self.patch_weight = patch_weight

        def branch(drop: float) -> DINONetwork:
            kind: Initialisation = getattr(network, "initialisation", "timm")
            built = network.build(drop)
            head = DINOHead(network.dim, outputs, hidden, bottleneck, batch_norm=batch_norm, initialisation=kind)
            if not patch_weight:
                return DINONetwork(network, built, head, None)
            half = hidden // 2, bottleneck // 2
            patch_head = DINOHead(network.dim, patch_prototypes, *half, batch_norm=batch_norm, initialisation=kind)
            return DINONetwork(network, built, head, patch_head)

        with seeded(seed):
            self.student, self.teacher = branch(drop_path), branch(0.0)
        if init is not None:
            fill_network(init, self.student.network, network)
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.dino_loss = DINOLoss(outputs, student_temperature, centre_momentum)
        self.patch_loss = PatchLoss(patch_prototypes, student_temperature, patch_temperature, centre_momentum)
        self._means: list[tuple[nn.Module, Tensor]] = []  # teacher outputs of the step, for the centres
        self._frames = 0  # frames per optimiser step, known from the first batch on
        self._warned = ""  # kind of collapse of the last warning

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Count the frames of an optimiser step in the first batch; the learning rate scales with them."""
        if not self._frames:
            self._frames = len(batch["frames"]) * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Crop the frames and compare student and teacher."""
        frames = batch["frames"]
        views, crops = self._crop(frames)
        with torch.no_grad():
            teacher_cls, teacher_tokens = self.teacher(crops[0])
            teacher = self.teacher.head(teacher_cls)
        with self.seeded(1):  # stochastic depth
            features = [self.student(images) for images in crops]
        student = self.student.head(torch.cat([cls for cls, _ in features]))
        temperature = self.schedules(self.global_step)["teacher_temperature"]
        with torch.autocast(self.device.type, enabled=False):
            loss: Tensor = self.dino_loss(student, teacher, len(frames), temperature)
        self._monitor(teacher, teacher_cls, temperature)
        self._means.append((self.dino_loss, teacher.float().mean(0)))
        self.log("dino_loss", loss, prog_bar=True)
        if self.patch_weight:
            patch = self._patch_step(features[0][1], teacher_tokens, views.globals)
            self.log("patch_loss", patch, prog_bar=True)
            loss = loss + self.patch_weight * patch
        return loss

    @torch.no_grad()
    def _crop(self, frames: Tensor) -> tuple[Views, list[Tensor]]:
        """Cut and normalise the crops of a batch, in fp32; global crops first, then local ones."""
        with torch.autocast(self.device.type, enabled=False):
            needed = self.patch_weight or self.crops.noise or self.spec.normalisation == "sector"
            sector = sector_mask(frames.float() / 255) if needed else None
            views = self.crops(frames, self.generator(device=self.device), sector)
            crops = [crop for crop in views if crop is not None]
            return views, [self.spec.normalise(crop.images, crop.sector) for crop in crops]

    def _patch_step(self, student_tokens: Tensor, teacher_tokens: Tensor, crops: Crops) -> Tensor:
        """Compute the patch-level loss of the two global crops."""
        side, outputs = self.crops.global_size // self.spec.patch_size, len(self.patch_loss.centre)
        with torch.no_grad():
            teacher = self.teacher.patch_head(teacher_tokens.flatten(0, 1)).view(-1, side, side, outputs)
        student = self.student.patch_head(student_tokens.flatten(0, 1)).view(-1, side, side, outputs)
        sector = torch.ones_like(crops.images) if crops.sector is None else crops.sector.float()
        with torch.autocast(self.device.type, enabled=False):
            inside = F.avg_pool2d(sector, self.spec.patch_size)[:, 0] > SECTOR_SHARE  # (2 B, n, n)
            loss: Tensor = self.patch_loss(student, teacher, crops.boxes, inside)
            total = (teacher.float() * inside[..., None]).sum((0, 1, 2))
        self._means.append((self.patch_loss, total / inside.sum().clamp(min=1)))
        return loss

    def _monitor(self, teacher: Tensor, cls: Tensor, temperature: float) -> None:
        """Log the collapse statistics when the trainer logs; warn once of each kind of collapse."""
        trainer: Any = self.trainer
        if (self._batches + 1) % trainer.log_every_n_steps:
            return
        statistics = collapse_statistics(self.dino_loss.targets(teacher, temperature), cls)
        self.log_dict(statistics)
        collapse = describe_collapse(statistics, self.outputs)
        if collapse and collapse[:20] != self._warned and self.global_step > self.warmup * self.total_steps():
            _log.warning("step %d: the training may be collapsing: %s", self.global_step, collapse)
            self._warned = collapse[:20]

    def schedules(self, step: int) -> dict[str, float]:
        """Return ``lr``, ``weight_decay``, ``momentum`` and ``teacher_temperature`` at an optimiser step."""
        steps = self.total_steps()
        first, last = self.teacher_temperature
        rise = round(self.teacher_warmup * steps)
        peak = self.base_lr * self._frames / 256
        return {
            "lr": Schedule(peak, self.final_lr, steps, round(self.warmup * steps))(step),
            "weight_decay": Schedule(*self.weight_decay, steps)(step),
            "momentum": Schedule(self.momentum, 1.0, steps)(step),
            "teacher_temperature": Schedule(last, last, steps, rise, first)(step),
        }

    def configure_optimizers(self) -> Optimizer:
        """Build AdamW over two groups: with weight decay, and without (biases and norms, as published)."""
        return torch.optim.AdamW(decay_groups(self.student), lr=self.base_lr, weight_decay=self.weight_decay[0])

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient of each parameter, and freeze the last layers at the start."""
        for parameter in self.student.parameters():
            if self.gradient_clip and parameter.grad is not None:
                nn.utils.clip_grad_norm_([parameter], self.gradient_clip)
        if self.global_step < self.freeze_last_layer * self.total_steps():
            for head in (self.student.head, self.student.patch_head):
                if head is not None:
                    head.last_layer.weight.grad = None

    def after_step(self, values: Mapping[str, float]) -> None:
        """Move the teacher and the centres: once per step, however many batches and processes it took."""
        super().after_step(values)
        for loss in (self.dino_loss, self.patch_loss):
            means = [mean for owner, mean in self._means if owner is loss]
            if means:
                loss.update_centre(self.mean_over_processes(torch.stack(means).mean(0)))
        self._means = []

    def checkpoint_entry(self) -> dict[str, Any]:
        """Return the network's specification and the frames per step that the learning rate depends on."""
        return {
            **self.spec.entry(),
            "prefix": "teacher.network.",
            "provenance": self.provenance(),
            "frames": self._frames,
        }

    def check_entry(self, entry: Mapping[str, Any]) -> None:
        """Restore the frames per step.

        Raises:
            CheckpointError: The checkpoint is of another network.
        """
        check_same_network({"kind": entry["kind"], **entry["spec"]}, self.spec.architecture())
        self._frames = entry["frames"]

    def provenance(self) -> dict[str, Any]:
        """Describe the origin of an exported backbone."""
        return {"trained_by": "DINO", "alan": __version__, "steps": self.global_step, "batches": self._batches}

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the teacher's network as a backbone."""
        export_backbone(self.teacher.network, self.spec, path, self.provenance())
