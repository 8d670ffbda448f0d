"""Supervised segmentation as a Lightning module."""

from __future__ import annotations

import copy
import math
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import Optimizer

from alan._version import __version__
from alan.backbone.checkpoint import check_same_network
from alan.backbone.normalise import Normalisation
from alan.backbone.schedules import Schedule
from alan.data.augmentation.presets import Augmentation
from alan.data.structures import check_structures, n_classes
from alan.errors import CheckpointError, ConfigError, ParameterError, nearest
from alan.seeding import step_generator
from alan.supervised.losses import WeightedLosses
from alan.supervised.networks import NetworkSpec
from alan.supervised.padded import PaddedNetwork
from alan.supervised.scores import SegmentationScores
from alan.supervised.segmenter import ENTRY, Segmenter, save_segmenter, to_labels, to_probabilities

_OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class SegmentationModule(LightningModule):
    """Train a segmentation network on labelled frames.

    Batches are those of :class:`alan.data.LabelledFrameDataModule`. All random numbers of a step
    (augmentation, dropout) follow from the seed, the number of the batch and the rank: a resumed run is the
    uninterrupted one, and the global generators are left alone. ``alan fit`` keeps the checkpoint with the best
    validation score beside the last one, and exports the best.

    Logged: ``loss`` and its terms; at validation ``val_loss``, ``val_dice``, ``val_iou`` (means over structures),
    both for each structure, and ``val_accuracy``.

    Args:
        structures: names, or unions of names (``lv+myo``); one is binary (sigmoid), several are classes beside the
            background (softmax). They must be those of the data.
        losses: name of a loss (``dice``, ``focal``, ``bce``, ``cross_entropy``) to its weight.
        network: the network.
        optimiser: ``adam`` or ``adamw``.
        lr: learning rate, its first value with the cosine.
        weight_decay: of the optimiser.
        schedule: ``constant``, or ``cosine`` down to 0 over the run.
        normalisation: of grey values, see :func:`alan.backbone.normalise.normalise`.
        augmentation: a name out of :data:`alan.data.augmentation.presets.PRESETS`.
        seed: of the initial weights, the augmentation and the dropout.

    Raises:
        ParameterError: an unknown name or a value outside its range.
        CheckpointError: weights of the encoder that cannot be had.
    """

    export_name = "segmenter.safetensors"
    #: Validation score of the best checkpoint, and whether more or less is better.
    monitor = ("val_dice", "max")

    def __init__(
        self,
        *,
        structures: list[str],
        losses: dict[str, float],
        network: NetworkSpec = NetworkSpec(),  # noqa: B008 (frozen)
        optimiser: Literal["adam", "adamw"] = "adam",
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        schedule: Literal["constant", "cosine"] = "constant",
        normalisation: Normalisation = "unit",
        augmentation: str = "none",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if lr <= 0 or weight_decay < 0:
            raise ParameterError(f"lr {lr} must be above 0, weight_decay {weight_decay} not below 0")
        if optimiser not in _OPTIMISERS:
            raise ParameterError(f"unknown optimiser {optimiser!r}: {nearest(optimiser, _OPTIMISERS)}")
        if schedule not in ("constant", "cosine"):
            raise ParameterError(f"unknown schedule {schedule!r}: {nearest(schedule, ('constant', 'cosine'))}")
        self.structures = check_structures(structures)
        self.spec, self.seed = network, seed
        self.optimiser, self.lr, self.weight_decay, self.schedule = optimiser, lr, weight_decay, schedule
        classes = n_classes(self.structures)
        self.losses = WeightedLosses(losses, classes)
        self.augmentation = Augmentation(augmentation, len(self.structures) + 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = PaddedNetwork(network, classes, normalisation)
        self.scores = SegmentationScores(self.structures)
        self._batches = 0  # batches seen: the random numbers of a step hang on it

    def setup(self, stage: str) -> None:
        """Check that data and network speak of the same structures.

        Raises:
            ConfigError: they do not.
        """
        trainer: Any = self.trainer
        given = getattr(getattr(trainer, "datamodule", None), "structures", self.structures)
        if tuple(given) != self.structures:
            raise ConfigError(
                f"the data give masks of {len(given)} structure(s) ({', '.join(given)}), the network has "
                f"{len(self.structures)} ({', '.join(self.structures)}): set both to the same"
            )

    def forward(self, frames: Tensor) -> Tensor:
        """Logits (B, C, H, W) of frames (B, H, W) uint8."""
        logits: Tensor = self.model(frames[:, None].float() / 255)
        return logits

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Augment, compare; returns the loss.

        Args:
            batch: ``frames`` (B, S, S) uint8 and ``labels`` (B, S, S) uint8.
            batch_idx: unused; the module counts its own batches across restarts.

        Raises:
            ParameterError: labels beyond the structures, or a loss that is not finite.
        """
        self._check_labels(batch["labels"])
        key = (self.seed, self._batches, self.global_rank)
        self._batches += 1
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(step_generator(torch.device("cpu"), *key).initial_seed())
            with torch.autocast(self.device.type, enabled=False):
                images, labels = self.augmentation(batch["frames"][:, None].float() / 255, batch["labels"])
            logits = self._logits(images)
        with torch.autocast(self.device.type, enabled=False):
            terms = self.losses(logits, labels)
        loss: Tensor = terms.pop("total")
        self.log("loss", loss, prog_bar=True)
        if len(terms) > 1:
            self.log_dict({f"loss_{name}": term for name, term in terms.items()})
        if not torch.isfinite(loss):
            raise ParameterError(f"the loss is {loss.item()} at step {self.global_step}: lower lr, or use 32-true")
        return loss

    def _logits(self, images: Tensor) -> Tensor:
        try:
            logits: Tensor = self.model(images)
        except ValueError as error:  # batch norm after a pooling to one pixel
            if len(images) > 1:
                raise
            raise ParameterError(
                f"{self.spec.decoder} cannot learn from a batch of one: set batch_size to 2"
            ) from error
        return logits

    def _check_labels(self, labels: Tensor) -> None:
        largest = int(labels.max()) if self._batches == 0 else 0
        if largest > len(self.structures):
            raise ParameterError(
                f"the masks hold the label {largest}, the network has {len(self.structures)} structure(s) "
                f"({', '.join(self.structures)}): name every structure of the masks, or leave it out of the data"
            )

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Count a batch of ``frames`` and ``labels`` into the validation scores."""
        logits, labels = self(batch["frames"]), batch["labels"].long()
        with torch.autocast(self.device.type, enabled=False):
            loss = self.losses(logits, labels)["total"]
        self.log("val_loss", loss, batch_size=len(labels), sync_dist=True)
        self.scores.update(to_labels(to_probabilities(logits.float())), labels)

    def on_validation_epoch_end(self) -> None:
        """Log the validation scores."""
        scores = {f"val_{name}": value for name, value in self.scores.compute().items()}
        self.log(self.monitor[0], scores.pop(self.monitor[0]), prog_bar=True)
        self.log_dict(scores)

    def configure_optimizers(self) -> Optimizer:
        """Adam or AdamW over all weights."""
        options = {"lr": self.lr, "weight_decay": self.weight_decay}
        optimiser: Optimizer = _OPTIMISERS[self.optimiser](self.model.parameters(), **options)
        return optimiser

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step at the scheduled rate.

        Lightning is asked for the length of the run here, not in :meth:`configure_optimizers`: there it would
        build the loader before the loader's place is restored, and a resumed run would see other batches.
        """
        rate = self.rate(self.global_step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        self.log("lr", rate)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def rate(self, step: int) -> float:
        """Learning rate at an optimiser step.

        Raises:
            ParameterError: a cosine over a run without an end.
        """
        if self.schedule == "constant":
            return self.lr
        steps = self.trainer.estimated_stepping_batches
        if not 1 <= steps < math.inf:
            raise ParameterError("the cosine needs the length of the run: set trainer.max_epochs or max_steps")
        return Schedule(self.lr, 0.0, int(steps))(step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the counter that the random numbers hang on."""
        checkpoint[ENTRY] = {"network": self.spec.to_dict(), "batches": self._batches}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the counter up again.

        Raises:
            CheckpointError: the checkpoint is not one of this module, or is of another network.
        """
        entry = checkpoint.get(ENTRY, {})
        if "network" not in entry:
            raise CheckpointError("the checkpoint is not one of a segmentation: give the last.ckpt of this run")
        check_same_network(entry["network"], self.spec.to_dict())
        self._batches = entry["batches"]

    def segmenter(self) -> Segmenter:
        """The network with the best validation score so far (as it stands where there is none), a copy."""
        model, score = copy.deepcopy(self.model), None
        best = self._best()
        if best is not None:
            path = Path(best.best_model_path)
            if not path.is_file():
                raise CheckpointError(f"{path}: the best checkpoint of this run is gone; train it again")
            state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
            model.load_state_dict(
                {key.removeprefix("model."): x for key, x in state.items() if key.startswith("model.")}
            )
            score = float(best.best_model_score) if best.best_model_score is not None else None
        trainer: Any = self._trainer
        data: dict[str, Any] = getattr(getattr(trainer, "datamodule", None), "provenance", dict)()
        provenance = {
            "trained_by": "supervised",
            "alan": __version__,
            "steps": self.global_step,
            self.monitor[0]: score,
            "command": shlex.join(["alan", *sys.argv[1:]]),
            **data,
        }
        return Segmenter(model, self.spec, self.structures, data.get("size"), provenance)

    def _best(self) -> ModelCheckpoint | None:
        """The callback that keeps the best checkpoint, if the trainer has one and it has kept something."""
        for callback in self._trainer.checkpoint_callbacks if self._trainer else []:
            if isinstance(callback, ModelCheckpoint) and callback.monitor == self.monitor[0]:
                return callback if callback.best_model_path else None
        return None

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`segmenter`, see :func:`alan.supervised.save_segmenter`."""
        save_segmenter(self.segmenter(), path)
