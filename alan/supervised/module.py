"""Supervised segmentation as a Lightning module."""

from __future__ import annotations

import copy
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import Optimizer

from alan._version import __version__
from alan.backbone.checkpoint import check_same_network, load_plain
from alan.backbone.kinds import Normalisation
from alan.backbone.schedules import Schedule
from alan.backbone.training import TrainingModule
from alan.bounds import NonNegativeFloat, PositiveFloat, Rate, Seed, bounded
from alan.data.augmentation.presets import Augmentation
from alan.data.structures import check_structures, n_classes
from alan.errors import CheckpointError, ParameterError
from alan.seeding import seeded
from alan.supervised.losses import WeightedLosses
from alan.supervised.networks import PaddedNetwork
from alan.supervised.scores import SegmentationScores
from alan.supervised.segmenter import ENTRY, Segmenter, save_segmenter, to_labels, to_probabilities
from alan.supervised.settings import NetworkSpec, RateSchedule, TrainingSettings

_OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
_POWER = 0.9


class SegmentationModule(TrainingModule):
    """Train a segmentation network on labelled frames.

    Batches are those of :class:`alan.data.LabelledFrameDataModule`: ``frames`` (B, S, S) uint8 and ``labels`` (B,
    S, S) uint8. ``alan fit`` keeps the checkpoint with the best validation score and the last one, and exports the
    best.

    Logged: ``loss`` and its terms; at validation ``val_loss``, ``val_dice`` and ``val_iou`` (means over
    structures), the latter two for each structure, and ``val_accuracy``.

    Args:
        structures: Names of the structures, or unions of names (``lv+myo``), as in the data; one is binary
            (sigmoid), several are classes in addition to the background (softmax).
        losses: Name of a loss (``dice``, ``focal``, ``softmax_focal``, ``bce``, ``cross_entropy``) to its
            weight.
        network: Decoder and encoder of the network.
        optimiser: Optimiser: ``adam`` or ``adamw``.
        lr: Learning rate; the first value of a decaying schedule.
        weight_decay: Weight decay of the optimiser.
        schedule: Learning rate over the run: ``constant``, or down to 0 by a ``cosine`` or a ``polynomial``.
        average: Momentum of a moving average of the weights, which is validated and exported in their place; 0
            uses the weights themselves.
        normalisation: Normalisation of grey values, see :func:`alan.backbone.normalise.normalise`.
        augmentation: Name of an augmentation preset, see :data:`alan.data.augmentation.presets.PRESETS`.
        seed: Seed of the initial weights, the augmentation and the dropout.

    Raises:
        ParameterError: A name is unknown or a value is out of range.
        CheckpointError: Weights of the encoder cannot be found.
    """

    method = "segmentation"
    entry_key = ENTRY
    export_name = "segmenter.safetensors"
    average_buffers = True
    #: Validation score of the best checkpoint, and whether the largest or the smallest is the best.
    monitor = ("val_dice", "max")

    @bounded
    def __init__(
        self,
        *,
        structures: list[str],
        losses: dict[str, float],
        network: NetworkSpec = NetworkSpec(),  # noqa: B008 (frozen)
        optimiser: Literal["adam", "adamw"] = "adam",
        lr: PositiveFloat = 1e-4,
        weight_decay: NonNegativeFloat = 0.0,
        schedule: RateSchedule = "constant",
        average: Rate = 0.0,
        normalisation: Normalisation = "unit",
        augmentation: str = "none",
        seed: Seed = 0,
    ) -> None:
        super().__init__(seed)
        self.structures = check_structures(structures)
        self.spec = network
        self.optimiser, self.lr, self.weight_decay, self.schedule = optimiser, lr, weight_decay, schedule
        classes = n_classes(self.structures)
        self.losses = WeightedLosses(losses, classes)
        self.augmentation = Augmentation(augmentation, len(self.structures) + 1)
        with seeded(seed):
            self.model = PaddedNetwork(network, classes, normalisation)
        self.average = average
        if average:
            self.teacher = copy.deepcopy(self.model).requires_grad_(False)
        self.scores = SegmentationScores(self.structures)

    @classmethod
    def from_settings(cls, settings: TrainingSettings, structures: Sequence[str], seed: int) -> Self:
        """Build the untrained network with its losses.

        Args:
            settings: Settings of the training.
            structures: Names of the structures, in the order of the labels.
            seed: Seed of the initial weights, the augmentation and the dropout.

        Raises:
            ParameterError: A name is unknown, or a loss does not fit the number of structures.
            CheckpointError: Weights of the encoder cannot be read or fetched.
        """
        return cls(structures=list(structures), network=settings.network, seed=seed, **settings.module_options())

    def setup(self, stage: str) -> None:
        """Check that data and network use the same structures.

        Raises:
            ConfigError: They do not.
        """
        self.check_structures(self.structures)

    def forward(self, frames: Tensor) -> Tensor:
        """Compute the logits (B, C, H, W) of frames (B, H, W) uint8."""
        logits: Tensor = self.averaged(frames[:, None].float() / 255)
        return logits

    @property
    def student(self) -> PaddedNetwork:  # type: ignore[override]
        """Network that the optimiser trains."""
        return self.model

    @property
    def averaged(self) -> PaddedNetwork:
        """Network that is validated and exported."""
        network: Any = self.teacher if self.average else self.model
        return cast("PaddedNetwork", network)

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Augment the frames, predict and compare.

        Raises:
            ParameterError: The labels hold more than the structures.
        """
        self._check_labels(batch["labels"])
        with self.seeded():  # augmentation and dropout
            with torch.autocast(self.device.type, enabled=False):
                images, labels = self.augmentation(batch["frames"][:, None].float() / 255, batch["labels"])
            logits = self._logits(images)
        with torch.autocast(self.device.type, enabled=False):
            terms = self.losses(logits, labels)
        loss: Tensor = terms.pop("total")
        if len(terms) > 1:
            self.log_dict({f"loss_{name}": term for name, term in terms.items()})
        return loss

    def _logits(self, images: Tensor) -> Tensor:
        try:
            logits: Tensor = self.model(images)
        except ValueError as error:  # batch norm after a pooling to one pixel
            if len(images) > 1:
                raise
            raise ParameterError(
                f"{self.spec.decoder} cannot be trained with batches of one frame: set batch_size to 2"
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
        """Add a batch of ``frames`` and ``labels`` to the validation scores."""
        logits, labels = self(batch["frames"]), batch["labels"].long()
        with torch.autocast(self.device.type, enabled=False):
            loss = self.losses(logits, labels)["total"]
        self.log("val_loss", loss, batch_size=len(labels), sync_dist=True)
        self.scores.update(to_labels(to_probabilities(logits.float())), labels)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Segment ``frames``: label maps (B, S, S) int64, 0 for background and i + 1 for structure i."""
        return to_labels(to_probabilities(self(batch["frames"]).float()))

    def on_validation_epoch_end(self) -> None:
        """Log the validation scores."""
        scores = {f"val_{name}": value for name, value in self.scores.compute().items()}
        self.log(self.monitor[0], scores.pop(self.monitor[0]), prog_bar=True)
        self.log_dict(scores)

    def configure_optimizers(self) -> Optimizer:
        """Build Adam or AdamW over all weights."""
        options = {"lr": self.lr, "weight_decay": self.weight_decay}
        optimiser: Optimizer = _OPTIMISERS[self.optimiser](self.model.parameters(), **options)
        return optimiser

    def schedules(self, step: int) -> dict[str, float]:
        """Return ``lr``, and ``momentum`` of the moving average, at an optimiser step.

        Raises:
            ParameterError: The learning rate decays over a run without an end.
        """
        values = {"lr": self.lr}
        if self.schedule == "cosine":
            values["lr"] = Schedule(self.lr, 0.0, self.total_steps())(step)
        elif self.schedule == "polynomial":
            values["lr"] = self.lr * (1 - min(step, self.total_steps()) / self.total_steps()) ** _POWER
        if self.average:  # the random start is forgotten soon
            values["momentum"] = min(self.average, (1 + step) / (10 + step))
        return values

    def checkpoint_entry(self) -> dict[str, Any]:
        """Return the settings of the network."""
        return {"network": self.spec.to_dict()}

    def check_entry(self, entry: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of another network.

        Raises:
            CheckpointError: It is of another network.
        """
        check_same_network(entry["network"], self.spec.to_dict())

    def segmenter(self) -> Segmenter:
        """Copy the network with the best validation score so far, or the current one where there is none."""
        model, score = copy.deepcopy(self.averaged), None
        best = self._best()
        if best is not None:
            path = Path(best.best_model_path)
            if not path.is_file():
                raise CheckpointError(f"{path}: the best checkpoint of this run is missing; train it again")
            state = load_plain(path)["state_dict"]
            prefix = "teacher." if self.average else "model."
            model.load_state_dict({k.removeprefix(prefix): x for k, x in state.items() if k.startswith(prefix)})
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
        """Find the callback that keeps the best checkpoint, if the trainer has one and it has kept something."""
        for callback in self._trainer.checkpoint_callbacks if self._trainer else []:
            if isinstance(callback, ModelCheckpoint) and callback.monitor == self.monitor[0]:
                return callback if callback.best_model_path else None
        return None

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`segmenter`, see :func:`alan.supervised.save_segmenter`."""
        save_segmenter(self.segmenter(), path)
