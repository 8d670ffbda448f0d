"""DINO as a Lightning module: student, teacher, schedules, one EMA update an optimiser step."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from alan._version import __version__
from alan.backbone.checkpoint import ENTRY, check_same_network, export_backbone
from alan.backbone.dino.collapse import collapse_statistics, collapse_verdict
from alan.backbone.dino.head import DINOHead
from alan.backbone.dino.loss import DINOLoss, PatchLoss
from alan.backbone.locked import SECTOR_SHARE
from alan.backbone.normalise import normalise
from alan.backbone.schedules import Schedule
from alan.backbone.simulation.branch import fill_network
from alan.backbone.vit import VitSpec, build_vit, check_size
from alan.data.augmentation.multicrop import Crops, MultiCrop, Views
from alan.data.sector import sector_mask
from alan.errors import CheckpointError, ParameterError
from alan.seeding import step_generator

_log = logging.getLogger(__name__)


class Branch(nn.Module):
    """Student or teacher: the network with its heads for CLS and (optionally) patch tokens."""

    def __init__(self, vit: nn.Module, head: DINOHead, patch_head: DINOHead | None) -> None:
        super().__init__()
        self.vit: Any = vit
        self.head = head
        self.patch_head: Any = patch_head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images to CLS tokens (n, D) and patch tokens (n, h w, D) after the final norm."""
        tokens: Tensor = self.vit.forward_features(images)
        return tokens[:, 0], tokens[:, 1:]


class DINOModule(LightningModule):
    """Self-distillation without labels; the defaults are the paper's recipe (ViT-S/4 at 112 px).

    Durations are shares of the run, whose length in optimiser steps is the trainer's (``max_epochs`` or
    ``max_steps``): the paper's 10, 30 and 1 of 40 epochs. Gradients are clipped here as published, each
    parameter's norm for itself, so leave the trainer's ``gradient_clip_val`` unset. Random numbers of a step
    follow from the seed, the number of the batch and the rank, so that a resumed run is the uninterrupted one,
    bit by bit. The patch-level term counts patches inside the sector.

    Args:
        vit: the network; ``drop_path`` applies to the student only.
        crops: multi-crop augmentation, on the device of the model.
        drop_path: stochastic depth of the student.
        outputs: prototypes of the DINO head.
        hidden: width of its MLP.
        bottleneck: width before the last layer.
        batch_norm: BatchNorm in the heads.
        base_lr: learning rate for 256 frames a step; the rate is ``base_lr`` x frames / 256, where frames counts
            devices and accumulated batches.
        final_lr: end of its cosine.
        warmup: share of the run in which the rate rises from 0.
        weight_decay: first and last value of its cosine; none on biases and norms.
        momentum: first value of the teacher's momentum, whose cosine runs to 1.
        student_temperature: temperature of the student.
        teacher_temperature: temperature of the teacher at the start and after its warm-up.
        teacher_warmup: share of the run in which it rises linearly.
        centre_momentum: momentum of the centre.
        freeze_last_layer: share of the run in which the last layers stay as they were drawn.
        gradient_clip: largest norm of one parameter's gradient; 0 switches clipping off.
        patch_weight: weight of the patch-level term, 0 in the paper.
        patch_prototypes: its prototypes.
        patch_temperature: its teacher temperature.
        init: a backbone or a run to start from, such as one taught by simulation: any file that
            :func:`alan.backbone.checkpoint.read_weights` knows, or the name of shipped weights, of the same
            network; the heads start anew.
        seed: of the initial weights, the crops and the stochastic depth.

    Raises:
        ParameterError: a value is outside its range; the message names it.
        CheckpointError: ``init`` cannot be read, or is of another network.
    """

    export_name = "backbone.safetensors"

    def __init__(
        self,
        *,
        vit: VitSpec = VitSpec(),  # noqa: B008 (frozen)
        crops: MultiCrop = MultiCrop(),  # noqa: B008 (frozen)
        drop_path: float = 0.1,
        outputs: int = 65536,
        hidden: int = 2048,
        bottleneck: int = 256,
        batch_norm: bool = False,
        base_lr: float = 5e-4,
        final_lr: float = 1e-6,
        warmup: float = 10 / 40,
        weight_decay: tuple[float, float] = (0.04, 0.4),
        momentum: float = 0.996,
        student_temperature: float = 0.1,
        teacher_temperature: tuple[float, float] = (0.04, 0.04),
        teacher_warmup: float = 30 / 40,
        centre_momentum: float = 0.9,
        freeze_last_layer: float = 1 / 40,
        gradient_clip: float = 3.0,
        patch_weight: float = 0.0,
        patch_prototypes: int = 128,
        patch_temperature: float = 0.05,
        init: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        shares = {
            "drop_path": drop_path,
            "warmup": warmup,
            "momentum": momentum,
            "teacher_warmup": teacher_warmup,
            "freeze_last_layer": freeze_last_layer,
        }
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ParameterError(f"{name} is {value}: it must be in 0..1")
        if min(teacher_temperature) <= 0 or base_lr <= 0 or patch_weight < 0 or gradient_clip < 0:
            raise ParameterError(
                f"teacher_temperature {teacher_temperature} and base_lr {base_lr} must be above 0, "
                f"patch_weight {patch_weight} and gradient_clip {gradient_clip} not below 0"
            )
        for name in ("global_size", "local_size"):
            check_size(getattr(crops, name), vit.patch_size, name)
        self.spec, self.crops, self.outputs, self.seed = vit, crops, outputs, seed
        self.base_lr, self.final_lr, self.warmup = base_lr, final_lr, warmup
        self.weight_decay, self.momentum = weight_decay, momentum
        self.teacher_temperature, self.teacher_warmup = teacher_temperature, teacher_warmup
        self.freeze_last_layer, self.gradient_clip, self.patch_weight = (
            freeze_last_layer,
            gradient_clip,
            patch_weight,
        )

        def branch(drop: float) -> Branch:
            init = vit.initialisation
            network = build_vit(vit, drop)
            head = DINOHead(vit.dim, outputs, hidden, bottleneck, batch_norm=batch_norm, initialisation=init)
            if not patch_weight:
                return Branch(network, head, None)
            patch_head = DINOHead(
                vit.dim, patch_prototypes, hidden // 2, bottleneck // 2, batch_norm=batch_norm, initialisation=init
            )
            return Branch(network, head, patch_head)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.student, self.teacher = branch(drop_path), branch(0.0)
        if init is not None:
            fill_network(init, self.student.vit, vit)
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.dino_loss = DINOLoss(outputs, student_temperature, centre_momentum)
        self.patch_loss = PatchLoss(patch_prototypes, student_temperature, patch_temperature, centre_momentum)
        self._batches = 0  # batches seen: the crops' random numbers hang on it
        self._frames = 0  # frames of an optimiser step, known from the first batch on
        self._verdict = ""  # the collapse last warned of

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Learn the frames of an optimiser step from the first batch; the learning rate scales with them."""
        if not self._frames:
            self._frames = len(batch["frames"]) * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Crop, compare, update the centres; returns the loss.

        Args:
            batch: ``frames`` (B, S, S) uint8.
            batch_idx: unused; the module counts its own batches across restarts.
        """
        frames = batch["frames"]
        key = (self.seed, self._batches, self.global_rank)
        self._batches += 1
        views, crops = self._crop(frames, key)
        with torch.no_grad():
            teacher_cls, teacher_tokens = self.teacher(crops[0])
            teacher = self.teacher.head(teacher_cls)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(step_generator(torch.device("cpu"), *key, 1).initial_seed())  # stochastic depth
            features = [self.student(images) for images in crops]
        student = self.student.head(torch.cat([cls for cls, _ in features]))
        temperature = self.schedules(self.global_step)["teacher_temperature"]
        with torch.autocast(self.device.type, enabled=False):
            loss: Tensor = self.dino_loss(student, teacher, len(frames), temperature)
        self._monitor(teacher, teacher_cls, temperature)
        self.dino_loss.update_centre(self._mean_over_ranks(teacher.float().mean(0)))
        self.log("dino_loss", loss, prog_bar=True)
        if self.patch_weight:
            patch = self._patch_step(features[0][1], teacher_tokens, views.globals)
            self.log("patch_loss", patch, prog_bar=True)
            loss = loss + self.patch_weight * patch
        self.log_dict({"loss": loss, **self.schedules(self.global_step)})
        if not torch.isfinite(loss):
            raise ParameterError(
                f"the loss is {loss.item()} at step {self.global_step}: lower base_lr, or use precision 32-true"
            )
        return loss

    @torch.no_grad()
    def _crop(self, frames: Tensor, key: tuple[int, ...]) -> tuple[Views, list[Tensor]]:
        """Cut and normalise the crops of a batch, in fp32; global crops first, then local ones."""
        with torch.autocast(self.device.type, enabled=False):
            needed = self.patch_weight or self.crops.noise or self.spec.normalisation == "sector"
            sector = sector_mask(frames.float() / 255) if needed else None
            views = self.crops(frames, step_generator(self.device, *key), sector)
            kind, channels = self.spec.normalisation, self.spec.in_chans
            crops = [crop for crop in views if crop is not None]
            return views, [normalise(crop.images, kind, channels, crop.sector) for crop in crops]

    def _patch_step(self, student_tokens: Tensor, teacher_tokens: Tensor, crops: Crops) -> Tensor:
        """Patch-level loss of the two global crops; updates its centre."""
        side, outputs = self.crops.global_size // self.spec.patch_size, len(self.patch_loss.centre)
        with torch.no_grad():
            teacher = self.teacher.patch_head(teacher_tokens.flatten(0, 1)).view(-1, side, side, outputs)
        student = self.student.patch_head(student_tokens.flatten(0, 1)).view(-1, side, side, outputs)
        sector = torch.ones_like(crops.images) if crops.sector is None else crops.sector.float()
        with torch.autocast(self.device.type, enabled=False):
            inside = F.avg_pool2d(sector, self.spec.patch_size)[:, 0] > SECTOR_SHARE  # (2 B, n, n)
            loss: Tensor = self.patch_loss(student, teacher, crops.boxes, inside)
            total = (teacher.float() * inside[..., None]).sum((0, 1, 2))
        self.patch_loss.update_centre(self._mean_over_ranks(total / inside.sum().clamp(min=1)))
        return loss

    def _mean_over_ranks(self, value: Tensor) -> Tensor:
        mean = self.trainer.strategy.reduce(value, reduce_op="mean")
        return mean if isinstance(mean, Tensor) else value

    def _monitor(self, teacher: Tensor, cls: Tensor, temperature: float) -> None:
        """Log the collapse statistics with the logger's rhythm; warn once for each kind of collapse."""
        trainer: Any = self.trainer
        if self._batches % trainer.log_every_n_steps:
            return
        statistics = collapse_statistics(self.dino_loss.targets(teacher, temperature), cls)
        self.log_dict(statistics)
        verdict = collapse_verdict(statistics, self.outputs)
        if verdict and verdict[:20] != self._verdict and self.global_step > self.warmup * self._steps():
            _log.warning("step %d: the training may be collapsing: %s", self.global_step, verdict)
            self._verdict = verdict[:20]

    def _steps(self) -> int:
        """Optimiser steps of the whole run."""
        steps = self.trainer.estimated_stepping_batches
        if not 1 <= steps < math.inf:
            raise ParameterError("the schedules need the length of the run: set trainer.max_epochs or max_steps")
        return int(steps)

    def schedules(self, step: int) -> dict[str, float]:
        """``lr``, ``weight_decay``, ``momentum`` and ``teacher_temperature`` at an optimiser step."""
        steps = self._steps()
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
        """AdamW over two groups: with weight decay, and without (biases and norms, as published)."""
        decayed: list[Tensor] = []
        bare: list[Tensor] = []
        for name, parameter in self.student.named_parameters():
            (bare if parameter.ndim == 1 or name.endswith(".bias") else decayed).append(parameter)
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": bare, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.base_lr, weight_decay=self.weight_decay[0])

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip each parameter's gradient, and leave the last layers alone at the start."""
        for parameter in self.student.parameters():
            if self.gradient_clip and parameter.grad is not None:
                nn.utils.clip_grad_norm_([parameter], self.gradient_clip)
        if self.global_step < self.freeze_last_layer * self._steps():
            for head in (self.student.head, self.student.patch_head):
                if head is not None:
                    head.last_layer.weight.grad = None

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step at the scheduled rate and decay, then move the teacher: once, however many batches it took."""
        values = self.schedules(self.global_step)
        optimizer.param_groups[0]["weight_decay"] = values["weight_decay"]
        for group in optimizer.param_groups:
            group["lr"] = values["lr"]
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.move_teacher(values["momentum"])

    @torch.no_grad()
    def move_teacher(self, momentum: float) -> None:
        """Exponential moving average: teacher = momentum x teacher + (1 - momentum) x student."""
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast, 1 - momentum)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the network's specification and the counters that the random numbers and the rate hang on."""
        checkpoint[ENTRY] = {
            "spec": self.spec.to_dict(),
            "provenance": self.provenance(),
            "batches": self._batches,
            "frames": self._frames,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the counters up again.

        Raises:
            CheckpointError: the checkpoint is not one of this module, or is of another network.
        """
        entry = checkpoint.get(ENTRY, {})
        if "batches" not in entry:
            raise CheckpointError("the checkpoint is not one of a DINO training: give the last.ckpt of this run")
        check_same_network(entry["spec"], self.spec.to_dict())
        self._batches, self._frames = entry["batches"], entry["frames"]

    def provenance(self) -> dict[str, Any]:
        """What an exported backbone says of its origin."""
        return {"trained_by": "DINO", "alan": __version__, "steps": self.global_step, "batches": self._batches}

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the teacher's network, the backbone of all that follows."""
        export_backbone(self.teacher.vit, self.spec, path, self.provenance())
