"""One training of the loop: a fresh network on the frames that are labelled so far."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader
from tqdm import tqdm

from alan.backbone.normalise import Normalisation
from alan.data.loaders.datasets import Batch
from alan.data.loaders.labelled import LabelledFrames
from alan.data.loaders.sampling import resumable_loader, whole
from alan.errors import ParameterError
from alan.supervised.module import SegmentationModule
from alan.supervised.networks import NetworkSpec
from alan.supervised.scores import SegmentationScores
from alan.supervised.segmenter import Segmenter, to_labels


@dataclass(frozen=True)
class Training:
    """How the networks of every phase are trained, each from the start.

    Attributes:
        network: the network; its dropout is that of the scoring model, the segmenting one has none.
        losses: as in :class:`alan.supervised.SegmentationModule`, as are ``optimiser`` to ``augmentation``.
        optimiser: ``adam`` or ``adamw``.
        lr: learning rate.
        weight_decay: of the optimiser.
        schedule: ``constant`` or ``cosine``.
        normalisation: of grey values.
        augmentation: name of a preset.
        batch_size: images a step; fewer where fewer are labelled.
        epochs: passes through the labelled images in a phase.
        steps: steps in a phase, whatever the number of images; takes the place of ``epochs``.
        accelerator: Lightning's word: ``auto``, ``cpu``, ``gpu``.
        precision: Lightning's word.
        num_workers: processes that read.
    """

    network: NetworkSpec = field(default_factory=NetworkSpec)
    losses: dict[str, float] = field(default_factory=lambda: {"dice": 1.0, "bce": 1.0})
    optimiser: Literal["adam", "adamw"] = "adam"
    lr: float = 1e-4
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    normalisation: Normalisation = "unit"
    augmentation: str = "none"
    batch_size: int = 8
    epochs: int = 30
    steps: int | None = None
    accelerator: str = "auto"
    precision: Any = "32-true"
    num_workers: int = 0

    def module(self, structures: list[str], seed: int, *, dropout: bool) -> SegmentationModule:
        """The untrained network with its losses.

        Raises:
            ParameterError: a value out of range.
            CheckpointError: encoder weights that cannot be had.
        """
        for name in ("batch_size", "epochs", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(f"training.{name}={value}: must be 1 or more")
        return SegmentationModule(
            structures=structures,
            losses=self.losses,
            network=self.network if dropout else replace(self.network, dropout=0.0),
            optimiser=self.optimiser,
            lr=self.lr,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            normalisation=self.normalisation,
            augmentation=self.augmentation,
            seed=seed,
        )


class _Bar(Callback):
    """One progress bar a training, gone when it is over."""

    def __init__(self, desc: str) -> None:
        self.desc = desc

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.bar = tqdm(total=int(trainer.estimated_stepping_batches), desc=self.desc, unit="step", leave=False)

    def on_train_batch_end(self, *_: Any) -> None:
        self.bar.update()

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.bar.close()


def train(training: Training, frames: LabelledFrames, seed: int, *, dropout: bool, desc: str) -> Segmenter:
    """Train a fresh network; the result follows from the arguments alone.

    Args:
        training: how.
        frames: what to learn from.
        seed: of the initial weights, the order, the augmentation and the dropout.
        dropout: with the network's dropout (to score), or without (to segment).
        desc: what the progress bar says.

    Returns:
        The network as it stands after the last step, on the device of the training.

    Raises:
        AlanError: as :class:`alan.supervised.SegmentationModule`.
        KeyboardInterrupt: the training was interrupted.
    """
    module = training.module(list(frames.structures), seed, dropout=dropout)
    size = min(training.batch_size, len(frames))
    loader = resumable_loader(frames, size, seed=seed, drop_last=True, num_workers=training.num_workers)
    trainer = Trainer(
        max_epochs=-1 if training.steps else training.epochs,
        max_steps=training.steps or -1,
        accelerator=training.accelerator,
        devices=1,
        precision=training.precision,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[_Bar(desc)],
    )
    try:
        trainer.fit(module, loader)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning makes an exit of it
            raise KeyboardInterrupt from error
        raise
    segmenter = Segmenter(module.model, module.spec, module.structures, frames.stores.size)
    return segmenter.to(trainer.strategy.root_device)


def measure(segmenter: Segmenter, frames: LabelledFrames, batch_size: int) -> dict[str, float]:
    """Scores of a network on labelled frames.

    Args:
        segmenter: the network.
        frames: frames with their labels.
        batch_size: frames at a time.

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
