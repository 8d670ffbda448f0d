"""A backbone taught by simulation, as a Lightning module; unlabelled real frames can be learnt from beside it."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from alan._version import __version__
from alan.backbone.checkpoint import ENTRY, check_same_network, export_backbone, spec_entry
from alan.backbone.conv import ConvSpec
from alan.backbone.normalise import normalise
from alan.backbone.schedules import Schedule
from alan.backbone.simulation.alignment import ShareAlignment
from alan.backbone.simulation.branch import TaughtBranch, described, start_from
from alan.backbone.simulation.heads import Outputs, TargetWeights, agreement_losses
from alan.backbone.simulation.steps import augmented, frame_dice, resize_grid, shrink_mask, taught_losses
from alan.backbone.vit import VitSpec
from alan.data.augmentation.dense import DenseAugmentation, warp
from alan.errors import CheckpointError, ConfigError, ParameterError
from alan.seeding import step_generator


class SimulationModule(LightningModule):
    """Teach a network what only a simulator knows of each pixel; export it without what it was taught through.

    Batches are those of :class:`alan.data.SimulatedDataModule`. The teacher is the moving average of the
    student's weights: it is what is validated and exported. With ``unlabelled_weight`` above 0 it also teaches the
    student on unlabelled frames: it looks at the plain frame, the student at a strongly changed and warped one,
    and the student must agree with the teacher's answer warped likewise (mean teacher: Tarvainen and Valpola
    2017). No label of those frames is used. Random numbers of a step follow from the seed, the number of the batch
    and the rank, so that a resumed run is the uninterrupted one.

    Logged: ``loss`` and its terms; at validation ``val_dice`` (the mean over structures) and that of each
    structure, on other simulated patients.

    Args:
        structures: names, those of the data; ``lv`` and ``la`` among them for coordinates.
        conv: a convolutional network; its ``structures`` are set to those of the data.
        vit: or a vision transformer. Without either a convolutional network of the default size.
        weights: weights of the targets; 0 switches one off.
        augmentation: changes of place and of appearance, on the device of the model.
        lr: learning rate at the end of the warm-up; a cosine takes it down to ``final_lr``.
        final_lr: end of the cosine.
        warmup: share of the run in which the rate rises from 0.
        weight_decay: of AdamW.
        momentum: of the moving average; in the first n steps at most (n + 1) / (n + 10).
        unlabelled_weight: of the agreement on unlabelled frames; 0 switches it off.
        unlabelled_ramp: share of the run in which that weight rises linearly from 0.
        confidence: the teacher's largest probability from which on it is listened to, 0 to below 1.
        alignment: how far the teacher's shares of each tissue on unlabelled frames are corrected towards those of
            the simulator, 0 to 1, see :class:`alan.backbone.simulation.alignment.ShareAlignment`; 0 lets thin
            walls fade.
        init: a checkpoint of this module to start from, with its heads, or a backbone of the same network.
        seed: of the initial weights and of the augmentation.

    Raises:
        ParameterError: a value outside its range, or two networks.
        CheckpointError: ``init`` cannot be read, or is of another network.
    """

    export_name = "backbone.safetensors"

    def __init__(
        self,
        *,
        structures: list[str],
        conv: ConvSpec | None = None,
        vit: VitSpec | None = None,
        weights: TargetWeights = TargetWeights(),  # noqa: B008 (frozen)
        augmentation: DenseAugmentation = DenseAugmentation(),  # noqa: B008 (frozen)
        lr: float = 2e-3,
        final_lr: float = 1e-5,
        warmup: float = 0.03,
        weight_decay: float = 1e-3,
        momentum: float = 0.995,
        unlabelled_weight: float = 0.0,
        unlabelled_ramp: float = 0.2,
        confidence: float = 0.0,
        alignment: float = 1.0,
        init: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        shares = {
            "warmup": warmup,
            "momentum": momentum,
            "unlabelled_ramp": unlabelled_ramp,
            "alignment": alignment,
        }
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ParameterError(f"{name} is {value}: it must be in 0..1")
        if lr <= 0 or final_lr < 0 or weight_decay < 0 or unlabelled_weight < 0:
            raise ParameterError(
                f"lr {lr} must be above 0; final_lr {final_lr}, weight_decay {weight_decay} and unlabelled_weight "
                f"{unlabelled_weight} not below 0"
            )
        if not 0 <= confidence < 1:
            raise ParameterError(f"confidence is {confidence}: it must be in 0..1, below 1")
        if conv is not None and vit is not None:
            raise ParameterError("conv and vit are both given: choose one network")
        lacking = [name for name in ("lv", "la") if name not in structures]
        if weights.coordinates and lacking:
            raise ParameterError(
                f"coordinates need the structure {lacking[0]!r}: name it, or set weights.coordinates to 0"
            )
        self.structures = tuple(structures)
        self.spec: VitSpec | ConvSpec = vit or replace(conv or ConvSpec(), structures=self.structures)
        self.weights, self.augmentation, self.seed = weights, augmentation, seed
        self.lr, self.final_lr, self.warmup, self.weight_decay = lr, final_lr, warmup, weight_decay
        self.momentum = momentum
        self.unlabelled_weight, self.unlabelled_ramp = unlabelled_weight, unlabelled_ramp
        self.confidence = confidence
        self.student = TaughtBranch(self.spec, len(structures), seed)
        if init is not None:
            start_from(init, self.student, self.spec)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.alignment = ShareAlignment(len(structures) + 1, alignment)
        self._batches = 0  # batches seen: the random numbers of a step hang on it
        self._dice: list[Tensor] = []  # of the validation frames so far, (frames, structures)

    def setup(self, stage: str) -> None:
        """Check that data and network speak of the same structures, and that unlabelled frames are there.

        Raises:
            ConfigError: they do not, or they are not.
        """
        trainer: Any = self.trainer
        data = getattr(trainer, "datamodule", None)
        given = getattr(data, "structures", self.structures)
        if tuple(given) != self.structures:
            raise ConfigError(
                f"the data give labels of {', '.join(given)}, the network is for {', '.join(self.structures)}: "
                "set both to the same"
            )
        if self.unlabelled_weight and data is not None and not getattr(data, "unlabelled", None):
            raise ConfigError(
                f"unlabelled_weight is {self.unlabelled_weight}, but the data give no unlabelled frames: "
                "set data.init_args.unlabelled, or the weight to 0"
            )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Augment, compare with the truth (and with the teacher); returns the loss.

        Args:
            batch: ``frames`` and ``labels`` (B, S, S) uint8, ``view`` (B,) int64, ``phase`` (B,) float32, and for
                the agreement ``unlabelled`` (U, S, S) uint8.
            batch_idx: unused; the module counts its own batches across restarts.
        """
        key = (self.seed, self._batches, self.global_rank)
        self._batches += 1
        n = len(batch["frames"])
        generator = step_generator(self.device, *key)
        seen = augmented(batch["frames"], self.augmentation, self.spec, generator)
        images = seen.images
        if self.unlabelled_weight:
            other = augmented(batch["unlabelled"], self.augmentation, self.spec, generator)
            images = torch.cat([images, other.images])
        outputs: Outputs = self.student(images)
        if self.unlabelled_weight:
            side = outputs.tissue.shape[-1]
            self.alignment.see(batch["labels"])
            answer = self._answer(batch["unlabelled"], resize_grid(other.grid, side))
        with torch.autocast(self.device.type, enabled=False):
            terms = taught_losses(outputs.part(0, n), batch, seen, self.structures, self.weights)
            loss = torch.stack([getattr(self.weights, name) * term for name, term in terms.items()]).sum()
            if self.unlabelled_weight:
                losses = agreement_losses(
                    outputs.part(n), answer, shrink_mask(other.sector, side), self.confidence
                )
                agreement = sum(getattr(self.weights, name) * term for name, term in losses.items())
                terms["agreement"] = torch.as_tensor(agreement)
                loss = loss + self._unlabelled(self.global_step) * terms["agreement"]
        self.log("loss", loss, prog_bar=True)
        self.log_dict({f"loss_{name}": term for name, term in terms.items()})
        if not torch.isfinite(loss):
            raise ParameterError(f"the loss is {loss.item()} at step {self.global_step}: lower lr, or use 32-true")
        return loss

    @torch.no_grad()
    def _answer(self, frames: Tensor, grid: Tensor) -> Outputs:
        """The teacher's answer to plain frames, probabilities in ``tissue``, warped by a grid."""
        images = normalise(frames[:, None].float() / 255, self.spec.normalisation, self.spec.in_chans)
        self.teacher.eval()  # Lightning puts all of the module into training mode
        plain: Outputs = self.teacher(images)
        with torch.autocast(self.device.type, enabled=False):
            tissue = warp(self.alignment(plain.tissue.softmax(1)), grid)
            distance = warp(plain.distance, grid)
        return plain._replace(tissue=tissue, distance=distance)

    def _unlabelled(self, step: int) -> float:
        """Weight of the agreement at an optimiser step."""
        rise = self.unlabelled_ramp * self._steps()
        return self.unlabelled_weight * min(1.0, step / rise if rise else 1.0)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Segment held-out simulated frames by the teacher."""
        frames, labels = batch["frames"], batch["labels"].long()
        images = normalise(frames[:, None].float() / 255, self.spec.normalisation, self.spec.in_chans)
        logits = self.teacher(images).tissue
        size = (labels.shape[-2], labels.shape[-1])
        found = F.interpolate(logits, size, mode="bilinear", align_corners=False).argmax(1)
        self._dice.append(frame_dice(found, labels, len(self.structures)))

    def on_validation_epoch_end(self) -> None:
        """Log the Dice of each structure and their mean."""
        dice = torch.cat(self._dice).nanmean(0)
        self._dice = []
        self.log("val_dice", dice.nanmean(), prog_bar=True, sync_dist=True)
        values = {f"val_dice_{name}": x for name, x in zip(self.structures, dice, strict=True) if not x.isnan()}
        self.log_dict(values, sync_dist=True)

    def configure_optimizers(self) -> Optimizer:
        """AdamW over two groups: with weight decay, and without (biases and norms)."""
        parameters = list(self.student.parameters())
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.lr, weight_decay=self.weight_decay)

    def _steps(self) -> int:
        steps = self.trainer.estimated_stepping_batches
        if not 1 <= steps < math.inf:
            raise ParameterError("the schedules need the length of the run: set trainer.max_epochs or max_steps")
        return int(steps)

    def rate(self, step: int) -> float:
        """Learning rate at an optimiser step."""
        steps = self._steps()
        return Schedule(self.lr, self.final_lr, steps, round(self.warmup * steps))(step)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step at the scheduled rate, then move the teacher: once, however many batches it took."""
        step = self.global_step
        rate = self.rate(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        self.log("lr", rate)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.move_teacher(min(self.momentum, (step + 1) / (step + 10)))

    @torch.no_grad()
    def move_teacher(self, momentum: float) -> None:
        """Moving average of weights and running statistics: momentum x teacher + (1 - momentum) x student."""
        fast = self.student.state_dict()
        for name, slow in self.teacher.state_dict().items():
            if slow.is_floating_point():
                slow.lerp_(fast[name], 1 - momentum)
            else:
                slow.copy_(fast[name])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the backbone is, and the counter that the random numbers hang on."""
        checkpoint[ENTRY] = {
            **spec_entry(self.spec),
            "prefix": "teacher.network.",
            "provenance": self.provenance(),
            "batches": self._batches,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the counter up again.

        Raises:
            CheckpointError: the checkpoint is not one of this module, or is of another network.
        """
        entry = checkpoint.get(ENTRY, {})
        if entry.get("prefix") != "teacher.network.":
            raise CheckpointError("the checkpoint is not one of a simulation: give the last.ckpt of this run")
        check_same_network({"kind": entry["kind"], **entry["spec"]}, described(self.spec))
        self._batches = entry["batches"]

    def provenance(self) -> dict[str, Any]:
        """What an exported backbone says of its origin."""
        return {
            "trained_by": "simulation",
            "unlabelled_frames": self.unlabelled_weight > 0,
            "structures": list(self.structures),
            "alan": __version__,
            "steps": self.global_step,
            "batches": self._batches,
        }

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the teacher's network, the backbone of all that follows."""
        export_backbone(self.teacher.network, self.spec, path, self.provenance())
