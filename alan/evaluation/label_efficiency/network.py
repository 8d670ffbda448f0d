"""Label efficiency of a network that is trained on the frames themselves."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import nn

from alan.backbone.normalise import Normalisation
from alan.bounds import PositiveInt, bounded
from alan.data.loaders.labelled import LabelledFrameDataModule
from alan.data.store.reader import FrameStore
from alan.errors import CheckpointError
from alan.evaluation.label_efficiency.features import Models
from alan.evaluation.label_efficiency.protocol import (
    Cell,
    LabelEfficiencyProtocol,
    Method,
    Prediction,
    Workspace,
)
from alan.evaluation.label_efficiency.segmenter import check_unseen
from alan.supervised.module import SegmentationModule
from alan.supervised.networks import NetworkSpec
from alan.supervised.segmenter import Segmenter, load_segmenter


@bounded
@dataclass(frozen=True)
class NetworkTraining:
    """Training of a network on frames; most settings are those of :class:`alan.supervised.SegmentationModule`.

    Attributes:
        network: The network.
        losses: Name of a loss to its weight.
        optimiser: Optimiser.
        lr: Learning rate.
        weight_decay: Weight decay of the optimiser.
        schedule: Schedule of the learning rate: constant, or a cosine down to 0 over the run.
        normalisation: Normalisation of grey values.
        augmentation: Name of an augmentation preset.
        steps: Optimiser steps. The last weights are measured, so no label is spent on choosing a checkpoint.
        batch_size: Frames per step; with fewer labelled frames, a step takes all of them.
        precision: Precision of Lightning's trainer; bf16-mixed is faster on processors that compute bf16 natively.
    """

    network: NetworkSpec = field(default_factory=NetworkSpec)
    losses: dict[str, float] = field(default_factory=lambda: {"cross_entropy": 1.0, "dice": 1.0})
    optimiser: Literal["adam", "adamw"] = "adamw"
    lr: float = 2e-3
    weight_decay: float = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    normalisation: Normalisation = "sector"
    augmentation: str = "echo"
    steps: PositiveInt = 400
    batch_size: PositiveInt = 16
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"

    def module(self, structures: Sequence[str], seed: int) -> SegmentationModule:
        """Build the Lightning module."""
        return SegmentationModule(
            structures=list(structures),
            losses=self.losses,
            network=self.network,
            optimiser=self.optimiser,
            lr=self.lr,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            normalisation=self.normalisation,
            augmentation=self.augmentation,
            seed=seed,
        )


@dataclass(frozen=True)
class NetworkMethod(Method):
    """Network trained on the labelled frames for a fixed number of steps.

    Attributes:
        network: Settings of the training.
        init: Segmenter file whose weights the training starts from. The rows of its last convolution go to the
            structures of the same name.
    """

    network: NetworkTraining
    init: str | None = None

    kind = "network"
    label = "network trained on the frames"
    family = "network"
    stochastic = True
    paths = ("init",)

    @property
    def pretrained(self) -> bool:
        """Whether the training starts from a segmenter file."""
        return self.init is not None

    def check(self, protocol: LabelEfficiencyProtocol, store: FrameStore, models: Models) -> None:
        """Build the network once, and check that the start fits it."""
        module = self.network.module(protocol.structures, 0)
        if self.init is not None:
            source = models.segmenter(self.init)
            start_from(module, source, self.init)
            check_unseen(source, self.init, store, protocol.test_split)

    def segment(self, work: Workspace, cell: Cell) -> Prediction:
        """Train for the given number of steps and predict with the last weights."""
        from lightning.pytorch import Trainer

        protocol, training = work.protocol, self.network
        module = training.module(protocol.structures, cell.seed)
        if self.init is not None:
            start_from(module, load_segmenter(self.init), self.init)
        data = LabelledFrameDataModule(
            [protocol.store],
            list(protocol.structures),
            train_split=protocol.label_split,
            val_split=protocol.test_split,  # never read: the data module checks that the splits share no patient
            views=None if protocol.views is None else list(protocol.views),
            phases=protocol.phases,
            label_patients=cell.patients,
            batch_size=training.batch_size,
            seed=cell.seed,
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            trainer = Trainer(
                max_steps=training.steps,
                max_epochs=-1,
                accelerator=protocol.accelerator,
                devices=1,
                precision=training.precision,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                limit_val_batches=0,
                num_sanity_val_steps=0,
            )
            trainer.fit(module, data)
        return work.predict(module.segmenter())


def start_from(module: SegmentationModule, source: Segmenter, path: str) -> None:
    """Start a training from the weights of a fitted segmenter.

    The rows of the last convolution are matched by the names of the structures; the source may have more of them.

    Args:
        module: The training, changed in place.
        source: The segmenter.
        path: Its file, for messages.

    Raises:
        CheckpointError: The network or the normalisation differ, or the source lacks a structure.
    """
    settings = source.settings()
    wanted = replace(module.spec, encoder_weights=None).to_dict()
    for name, mine in (("network", wanted), ("normalisation", module.model.normalisation)):
        if settings[name] != mine:
            raise CheckpointError(f"{path}: cannot start from it: its {name} is {settings[name]}, not {mine}")
    missing = [name for name in module.structures if name not in source.structures]
    if missing or (len(module.structures) == 1) != (len(source.structures) == 1):
        raise CheckpointError(
            f"{path}: cannot start from it: it segments {', '.join(source.structures)}; asked for are "
            f"{', '.join(module.structures)}"
        )
    state = dict(source.model.state_dict())
    if len(module.structures) > 1:
        rows = [0, *(1 + source.structures.index(name) for name in module.structures)]
        for name in _last_convolution(module.model):
            state[name] = state[name][rows]
    module.model.load_state_dict(state)


def _last_convolution(model: nn.Module) -> list[str]:
    """Return the names of the weights of the segmentation head's last convolution."""
    last = [
        name for name, part in model.named_modules() if "segmentation_head" in name and isinstance(part, nn.Conv2d)
    ]
    return [f"{last[-1]}.{name}" for name, _ in model.get_submodule(last[-1]).named_parameters()]
