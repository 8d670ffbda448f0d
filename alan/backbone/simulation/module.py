"""Training of a backbone on simulated frames, as a Lightning module; unlabelled real frames can be added."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from alan._version import __version__
from alan.backbone.base import BackboneSpec
from alan.backbone.checkpoint import check_same_network, export_backbone
from alan.backbone.conv import ConvSpec
from alan.backbone.schedules import Schedule
from alan.backbone.simulation.adapters import merged_state
from alan.backbone.simulation.alignment import ShareAlignment
from alan.backbone.simulation.heads import Outputs, agreement_losses, features_loss
from alan.backbone.simulation.network import DenseNetwork, TeacherEnsemble
from alan.backbone.simulation.objective import SimulationObjective, frame_dice, resize_grid, shrink_mask
from alan.backbone.training import TrainingModule, decay_groups
from alan.bounds import NonNegativeFloat, NonNegativeInt, PositiveFloat, Rate, Seed, Share, bounded
from alan.data.augmentation.dense import warp
from alan.errors import ConfigError, ParameterError


class SimulationModule(TrainingModule):
    """Train a network on dense targets that only a simulator provides; export it without its heads.

    Batches are those of :class:`alan.data.SimulatedDataModule`: ``frames`` and ``labels`` (B, S, S) uint8,
    ``view`` (B,) int64, ``phase`` (B,) float32, and for the agreement ``unlabelled`` (U, S, S) uint8. The teacher
    is the moving average of the student's weights: it is validated and exported. With ``unlabelled_weight`` above
    0 the student also learns from unlabelled frames: the teacher predicts the plain frame, the student a strongly
    augmented and warped one, and must agree with the teacher's prediction warped likewise (mean teacher: Tarvainen
    and Valpola 2017). No label of those frames is used. With ``teachers``, the mean prediction of other trained
    networks takes the place of the moving average, so that several large networks are distilled into a small one
    (Hinton et al. 2015): on real frames or, with a simulated archive as the unlabelled one, on simulated frames.

    Logged: ``loss`` and its terms; at validation ``val_dice`` (the mean over structures) and the Dice of each
    structure, on other simulated patients.

    Args:
        objective: Targets, losses and augmentation of the training on simulated frames.
        network: Specification of the network, of any backbone type; the ``structures`` of a convolutional one are
            set to those of the objective.
        lr: Learning rate at the end of the warm-up; a cosine then lowers it to ``final_lr``.
        final_lr: Learning rate at the end of the cosine.
        warmup: Share of the run in which the learning rate rises from 0.
        weight_decay: Weight decay of AdamW; biases and norms have none.
        network_lr: Learning rate of the network relative to that of the heads; below 1 a pre-trained network stays
            near its start.
        trained_blocks: Number of last blocks of a vision transformer that are trained; null trains all of it.
        adapter_rank: Rank of low-rank adapters (LoRA) at the attention of these blocks, trained in place of the
            blocks with the final norm and the heads, and added to the weights in checkpoints and the exported
            network; 0 has none.
        momentum: Momentum of the moving average; in step n at most (n + 1) / (n + 10).
        unlabelled_weight: Weight of the agreement on unlabelled frames; 0 switches it off.
        unlabelled_ramp: Share of the run in which that weight rises linearly from 0.
        confidence: Largest probability of the teacher below which it is ignored, 0 to below 1.
        teachers: Files of trained networks whose mean prediction the student must agree with on unlabelled frames:
            checkpoints of this module, or backbones with predictions of their own, or names of shipped ones.
            Empty: the moving average is the teacher.
        teacher_weights: Weight of each teacher in the mean; null weighs all alike.
        features_weight: Weight of the agreement of the vector of each frame (the mean of the deepest map), by
            which views are recognised, with that of the network of ``features_of``; a distillation changes it
            otherwise.
        features_of: File of a network of the same architecture, as ``init``; null takes that of ``init``.
        alignment: Degree to which the teacher's share of each tissue on unlabelled frames is corrected towards
            that of the simulator, 0 to 1; with 0, thin walls fade.
        init: File of a checkpoint of this module to start from, with its heads, or of a backbone of the same
            network, or the name of shipped weights.
        seed: Seed of the initial weights and of the augmentation.

    Raises:
        ParameterError: A value is out of range, or ``features_weight`` is given without a network to agree with.
        CheckpointError: ``init`` cannot be read, or is of another network.
    """

    method = "simulation"
    export_name = "backbone.safetensors"
    average_buffers = True
    student: DenseNetwork
    teacher: DenseNetwork

    @bounded
    def __init__(
        self,
        *,
        objective: SimulationObjective,
        network: BackboneSpec = ConvSpec(),  # noqa: B008 (frozen)
        lr: PositiveFloat = 2e-3,
        final_lr: NonNegativeFloat = 1e-5,
        warmup: Share = 0.03,
        weight_decay: NonNegativeFloat = 1e-3,
        network_lr: PositiveFloat = 1.0,
        trained_blocks: NonNegativeInt | None = None,
        adapter_rank: NonNegativeInt = 0,
        momentum: Share = 0.995,
        unlabelled_weight: NonNegativeFloat = 0.0,
        unlabelled_ramp: Share = 0.2,
        confidence: Rate = 0.0,
        teachers: Sequence[str] = (),
        teacher_weights: Sequence[float] | None = None,
        features_weight: NonNegativeFloat = 0.0,
        features_of: str | None = None,
        alignment: Share = 1.0,
        init: str | None = None,
        seed: Seed = 0,
    ) -> None:
        super().__init__(seed)
        self.objective = objective
        self.structures = tuple(objective.structures)
        self.spec = network.with_structures(self.structures)
        self.lr, self.final_lr, self.warmup, self.weight_decay = lr, final_lr, warmup, weight_decay
        self.momentum, self.confidence = momentum, confidence
        self.unlabelled_weight, self.unlabelled_ramp = unlabelled_weight, unlabelled_ramp
        self.student = DenseNetwork(self.spec, len(self.structures), seed)
        if init is not None:
            self.student.start_from(init)
        self.network_lr = network_lr
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)  # without adapters
        if trained_blocks is not None or adapter_rank:
            self.student.train_last(trained_blocks, adapter_rank)
        # not part of the module's state: a checkpoint need not hold the teachers
        self._teachers = [TeacherEnsemble(teachers, len(self.structures), teacher_weights)] if teachers else []
        self.features_weight = features_weight
        self._example: list[DenseNetwork] = []
        if features_weight:
            if (example := features_of or init) is None:
                raise ParameterError(
                    f"features_weight is {features_weight}, but there is no network to agree with: give "
                    "features_of or init"
                )
            self._example = [copy.deepcopy(self.teacher)]
            self._example[0].start_from(example)
        self.alignment = ShareAlignment(len(self.structures) + 1, alignment)
        self._dice: list[Tensor] = []  # validation frames so far, (frames, structures)

    def setup(self, stage: str) -> None:
        """Check that the data have the structures, and the unlabelled frames if they are needed.

        Raises:
            ConfigError: A structure or the unlabelled frames are missing.
        """
        self.check_structures(self.structures)
        trainer: Any = self.trainer
        data = getattr(trainer, "datamodule", None)
        if self.unlabelled_weight and data is not None and not getattr(data, "unlabelled", None):
            raise ConfigError(
                f"unlabelled_weight is {self.unlabelled_weight}, but the data have no unlabelled frames: "
                "set data.init_args.unlabelled, or the weight to 0"
            )

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Augment the frames and compare the student with the labels (and with the teacher)."""
        n = len(batch["frames"])
        generator = self.generator(device=self.device)
        frames = self.objective.augment(batch["frames"], self.spec, generator)
        images = frames.images
        if self.unlabelled_weight:
            other = self.objective.augment(batch["unlabelled"], self.spec, generator)
            images = torch.cat([images, other.images])
        outputs: Outputs = self.student(images)
        if self.unlabelled_weight:
            side = outputs.tissue.shape[-1]
            self.alignment.observe(batch["labels"])
            answer = self._teacher_predictions(batch["unlabelled"], resize_grid(other.grid, side))
        with torch.autocast(self.device.type, enabled=False):
            terms = self.objective.losses(outputs.part(0, n), batch, frames)
            loss = self.objective.weighted_sum(terms)
            if self.features_weight:
                terms["features"] = features_loss(outputs.features, self._example_features(images))
                loss = loss + self.features_weight * terms["features"]
            if self.unlabelled_weight:
                inside = shrink_mask(other.sector, side)
                agreement = agreement_losses(outputs.part(n), *answer, inside, self.confidence)
                terms["agreement"] = self.objective.weighted_sum(agreement)
                loss = loss + self._agreement_weight(self.global_step) * terms["agreement"]
        self.log_dict({f"loss_{name}": term for name, term in terms.items()})
        return loss

    def student_state(self) -> dict[str, Tensor]:
        """Return the student's tensors, adapters added to the weights."""
        return merged_state(self.student)

    @torch.no_grad()
    def _example_features(self, images: Tensor) -> Tensor:
        """Compute the vectors (B, D) of normalised images by the network whose vectors are preserved."""
        outputs: Outputs = self._example[0].to(self.device).eval()(images)
        return outputs.features

    @torch.no_grad()
    def _teacher_predictions(self, frames: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Predict plain frames with the teacher; warp tissue probabilities and distances to a grid."""
        if self._teachers:
            tissue, distance = self._teachers[0].to(self.device)(frames, grid.shape[1])
        else:
            self.teacher.eval()  # Lightning puts all of the module into training mode
            plain: Outputs = self.teacher(self.spec.normalise(frames[:, None].float() / 255))
            tissue, distance = plain.tissue.softmax(1), plain.distance
        with torch.autocast(self.device.type, enabled=False):
            return warp(self.alignment(tissue), grid), warp(distance, grid)

    def _agreement_weight(self, step: int) -> float:
        """Return the weight of the agreement at an optimiser step."""
        rise = self.unlabelled_ramp * self.total_steps()
        return self.unlabelled_weight * min(1.0, step / rise if rise else 1.0)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Segment held-out simulated frames with the teacher."""
        frames, labels = batch["frames"], batch["labels"].long()
        logits = self.teacher(self.spec.normalise(frames[:, None].float() / 255)).tissue
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
        """Build AdamW over four groups: network and heads, each with and without weight decay."""
        groups = [
            {**group, "lr_share": share}
            for part, share in ((self.student.network, self.network_lr), (self.student.heads, 1.0))
            for group in decay_groups(part)
        ]
        return torch.optim.AdamW(groups, lr=self.lr, weight_decay=self.weight_decay)

    def schedules(self, step: int) -> dict[str, float]:
        """Return ``lr`` and ``momentum`` at an optimiser step."""
        steps = self.total_steps()
        rate = Schedule(self.lr, self.final_lr, steps, round(self.warmup * steps))(step)
        return {"lr": rate, "momentum": min(self.momentum, (step + 1) / (step + 10))}

    def checkpoint_entry(self) -> dict[str, Any]:
        """Return the network's specification and its origin."""
        return {**self.spec.entry(), "prefix": "teacher.network.", "provenance": self.provenance()}

    def check_entry(self, entry: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of another network.

        Raises:
            CheckpointError: It is of another network.
        """
        check_same_network({"kind": entry["kind"], **entry["spec"]}, self.spec.architecture())

    def provenance(self) -> dict[str, Any]:
        """Describe the origin of an exported backbone."""
        return {
            "trained_by": self.method,
            "unlabelled_frames": self.unlabelled_weight > 0,
            "structures": list(self.structures),
            "alan": __version__,
            "steps": self.global_step,
            "batches": self._batches,
        }

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the teacher's network as a backbone."""
        export_backbone(self.teacher.network, self.spec, path, self.provenance())
