"""Supervised training inside a larger experiment: trials of a search, active learning, label efficiency.

``alan fit`` trains one network with checkpoints and loggers. Here a network is trained in memory and returned as a
:class:`~alan.supervised.Segmenter`; the same settings give the same weights in both.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from alan.backbone.normalise import Normalisation
from alan.bounds import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Rate, bounded
from alan.data.loaders.datasets import Batch
from alan.data.loaders.labelled import LabelledFrames
from alan.data.loaders.sampling import resumable_loader, whole
from alan.errors import CheckpointError
from alan.precision import Precision, choose_precision
from alan.supervised.module import RateSchedule, SegmentationModule
from alan.supervised.networks import NetworkSpec
from alan.supervised.scores import SegmentationScores
from alan.supervised.segmenter import Segmenter, load_segmenter, to_labels

#: Settings that are arguments of :class:`~alan.supervised.SegmentationModule`.
_OF_MODULE = (
    "losses", "optimiser", "lr", "weight_decay", "schedule", "average", "normalisation", "augmentation",
)  # fmt: skip


@bounded
@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a supervised training: the network, its losses and optimiser, and the length of the training.

    Attributes:
        network: Network to train.
        losses: Name of each loss (``dice``, ``focal``, ``bce``, ``cross_entropy``) to its weight.
        optimiser: Optimiser, ``adam`` or ``adamw``.
        lr: Learning rate; the first value of a decaying schedule.
        weight_decay: Weight decay of the optimiser.
        schedule: Learning rate over the run: ``constant``, or down to 0 by a ``cosine`` or a ``polynomial``.
        average: Momentum of a moving average of the weights, which is scored and returned in their place; 0 uses
            the weights themselves.
        normalisation: Normalisation of grey values: ``unit``, ``frame`` or ``sector``.
        augmentation: Name of an augmentation preset, such as ``none``, ``echo`` or ``unet_acdc``.
        batch_size: Frames per step; with fewer labelled frames, a step takes all of them.
        epochs: Passes through the labelled frames.
        steps: Number of optimiser steps, whatever the number of frames; it replaces ``epochs``.
        accelerator: Device to train on, in Lightning's words: ``auto``, ``cpu`` or ``gpu``.
        precision: Numerical precision, in Lightning's words; ``auto`` takes bfloat16 where the device computes it
            natively, and float32 elsewhere.
        num_workers: Processes that read frames; 0 reads in the training process.
    """

    network: NetworkSpec = field(default_factory=NetworkSpec)
    losses: dict[str, PositiveFloat] = field(default_factory=lambda: {"dice": 1.0})
    optimiser: Literal["adam", "adamw"] = "adam"
    lr: PositiveFloat = 1e-4
    weight_decay: NonNegativeFloat = 0.0
    schedule: RateSchedule = "constant"
    average: Rate = 0.0
    normalisation: Normalisation = "unit"
    augmentation: str = "none"
    batch_size: PositiveInt = 8
    epochs: PositiveInt = 30
    steps: PositiveInt | None = None
    accelerator: str = "auto"
    precision: Precision = "32-true"
    num_workers: NonNegativeInt = 0

    def module_options(self) -> dict[str, Any]:
        """Arguments of :class:`~alan.supervised.SegmentationModule`, all but network, structures and seed."""
        return {name: getattr(self, name) for name in _OF_MODULE}

    def module(self, structures: Sequence[str], seed: int) -> SegmentationModule:
        """Build the untrained network with its losses.

        Args:
            structures: Names of the structures, in the order of the labels.
            seed: Seed of the initial weights, the augmentation and the dropout.

        Raises:
            ParameterError: A name is unknown, or a loss does not fit the number of structures.
            CheckpointError: Weights of the encoder cannot be read or fetched.
        """
        return SegmentationModule(
            structures=list(structures), network=self.network, seed=seed, **self.module_options()
        )

    def trainer_options(self, val_every: int | None = None) -> dict[str, Any]:
        """Arguments of Lightning's ``Trainer`` that set length, validation, device and precision.

        Args:
            val_every: Epochs between two validations, or steps where ``steps`` is set; None does not validate.
        """
        options: dict[str, Any] = {"max_epochs": self.epochs}
        if self.steps is not None:
            options = {"max_epochs": -1, "max_steps": self.steps}
        if val_every is not None and self.steps is None:
            options["check_val_every_n_epoch"] = val_every
        elif val_every is not None:
            options |= {"check_val_every_n_epoch": None, "val_check_interval": val_every}
        return {**options, "accelerator": self.accelerator, "devices": 1, "precision": self.precision}

    def without_dropout(self) -> TrainingSettings:
        """The same training of the network without its dropout layers."""
        return replace(self, network=replace(self.network, dropout=0.0))


#: Called after each validation with its number, from 1, and the scores of the module, such as ``val_iou``.
OnValidation = Callable[[int, dict[str, float]], None]


def train(
    settings: TrainingSettings,
    frames: LabelledFrames,
    seed: int,
    *,
    start: str | None = None,
    val: LabelledFrames | None = None,
    val_every: int = 1,
    on_validation: OnValidation = lambda number, scores: None,
    desc: str | None = None,
) -> Segmenter:
    """Train a network; the weights depend on the arguments alone.

    Args:
        settings: How to train.
        frames: Labelled training frames.
        seed: Seed of the initial weights, the order of frames, the augmentation and the dropout.
        start: Path of a segmenter whose weights the training starts from, see :func:`start_from`.
        val: Labelled frames to validate on during the training; None does not validate.
        val_every: Epochs (or steps, where ``settings.steps`` is set) between two validations.
        on_validation: Called after each validation; an exception that it raises ends the training.
        desc: Text of a progress bar; None shows none.

    Returns:
        The network after the last step, on the device of the training.

    Raises:
        ParameterError: A setting does not fit, or the loss is not finite.
        CheckpointError: Weights that cannot be read, or do not fit the network.
        KeyboardInterrupt: The training was interrupted.
    """
    module = settings.module(frames.structures, seed)
    if start is not None:
        start_from(module, load_segmenter(start), start)
    size, workers = settings.batch_size, settings.num_workers
    loader = resumable_loader(frames, min(size, len(frames)), seed=seed, drop_last=True, num_workers=workers)
    val_loader = None if val is None else DataLoader(val, size, num_workers=workers, collate_fn=whole)
    callbacks: list[Callback] = [_Validations(on_validation)]
    if desc is not None:
        callbacks.append(_Bar(desc))
    options = settings.trainer_options(None if val is None else val_every)
    options["precision"] = choose_precision(settings.precision, settings.accelerator)
    with quiet_lightning():
        trainer = Trainer(
            **options,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0 if val is None else 1.0,
        )
        try:
            trainer.fit(module, loader, val_loader)
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns it into an exit
                raise KeyboardInterrupt from error
            raise
    segmenter = Segmenter(module.averaged, module.spec, module.structures, frames.stores.size)
    return segmenter.to(trainer.strategy.root_device)


def measure(segmenter: Segmenter, frames: LabelledFrames, batch_size: int) -> dict[str, float]:
    """Score a network on labelled frames.

    Args:
        segmenter: The network.
        frames: Frames with their labels.
        batch_size: Frames per batch.

    Returns:
        ``iou`` and ``dice`` (means over structures), both for each structure (``iou_lv``), and ``accuracy``, as
        :class:`alan.supervised.scores.SegmentationScores` defines them.
    """
    scores = SegmentationScores(frames.structures)
    loader: DataLoader[Batch] = DataLoader(frames, batch_size=batch_size, collate_fn=whole)
    for batch in loader:
        with torch.no_grad():
            predicted = to_labels(segmenter.probabilities(batch["frames"]))
        scores.update(predicted.cpu(), batch["labels"].long())
    return {name: float(value) for name, value in scores.compute().items()}


def start_from(module: SegmentationModule, source: Segmenter, path: str) -> None:
    """Copy the weights of a fitted segmenter into a network that is to be trained.

    The rows of the last convolution are matched by the names of the structures; the source may have more of them.

    Args:
        module: The module to train; it is changed in place.
        source: The fitted segmenter.
        path: Its file, for messages.

    Raises:
        CheckpointError: The network, the normalisation or the structures differ.
    """
    settings = source.settings()
    wanted = replace(module.spec, encoder_weights=None).to_dict()
    for name, mine in (("network", wanted), ("normalisation", module.model.normalisation)):
        if settings[name] != mine:
            raise CheckpointError(f"{path}: cannot start from it: its {name} is {settings[name]}, not {mine}")
    lacking = [name for name in module.structures if name not in source.structures]
    if lacking or (len(module.structures) == 1) != (len(source.structures) == 1):
        raise CheckpointError(
            f"{path}: cannot start from it: it segments {', '.join(source.structures)}, asked for are "
            f"{', '.join(module.structures)}"
        )
    state = dict(source.model.state_dict())
    if len(module.structures) > 1:
        rows = [0, *(1 + source.structures.index(name) for name in module.structures)]
        for name in _last_convolution(module.model):
            state[name] = state[name][rows]
    module.model.load_state_dict(state)
    module.averaged.load_state_dict(state)


def _last_convolution(model: nn.Module) -> list[str]:
    """Names of the parameters of the segmentation head's last convolution."""
    last = [
        name for name, part in model.named_modules() if "segmentation_head" in name and isinstance(part, nn.Conv2d)
    ]
    return [f"{last[-1]}.{name}" for name, _ in model.get_submodule(last[-1]).named_parameters()]


class _Validations(Callback):
    """Pass the validation scores on."""

    def __init__(self, on_validation: OnValidation) -> None:
        self.on_validation = on_validation
        self.number = 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.number += 1
        found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val_")}
        self.on_validation(self.number, found)


class _Bar(Callback):
    """A progress bar that disappears when the training ends."""

    def __init__(self, desc: str) -> None:
        self.desc = desc

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar = tqdm(total=int(trainer.estimated_stepping_batches), desc=self.desc, unit="step", leave=False)

    def on_train_batch_end(self, *_: Any) -> None:
        self.bar.update()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.close()


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hide Lightning's warnings and every log line below an error, which would break the bar of the experiment."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "alan.supervised")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
