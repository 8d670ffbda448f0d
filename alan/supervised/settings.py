"""Settings of segmentation networks and of their training, read before PyTorch is imported."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from alan.backbone.kinds import Normalisation
from alan.bounds import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Rate, bounded
from alan.precision import Precision

#: Name of the network in plain torch, :class:`alan.supervised.UNet`, which has no encoder.
PLAIN = "unet_acdc"
DropoutPlace = Literal["last", "decoder"]
#: Course of the learning rate; ``polynomial`` is nnU-Net's, to the power of 0.9.
RateSchedule = Literal["constant", "cosine", "polynomial"]
#: Sampler of the weights of an ensemble, and the score that they maximise.
Sampler = Literal["random", "tpe"]
Objective = Literal["iou", "dice"]
#: What an ensemble averages.
Average = Literal["probabilities", "logits"]
#: Settings that are arguments of :class:`~alan.supervised.SegmentationModule`.
_OF_MODULE = (
    "losses", "optimiser", "lr", "weight_decay", "schedule", "average", "normalisation", "augmentation",
)  # fmt: skip


@bounded
@dataclass(frozen=True)
class NetworkSpec:
    """Configuration of a segmentation network.

    Attributes:
        decoder: ``unet_acdc`` or a decoder of segmentation_models_pytorch (``unet``, ``unetplusplus``, ``manet``,
            ``linknet``, ``fpn``, ``pspnet``, ``deeplabv3``, ``deeplabv3plus``, ``pan``, ``upernet``,
            ``segformer``, ``dpt``).
        encoder: Encoder of segmentation_models_pytorch, or ``tu-`` and a name of timm; null for ``unet_acdc``.
        in_channels: Channels of the input: 1, or 3 for the grey image three times.
        depth: Number of stages of the encoder; ``unet_acdc`` has as many levels as channels are given.
        decoder_channels: Channels of each level of ``unet``, ``unetplusplus``, ``manet`` (from the bottom) and
            ``unet_acdc`` (from the top, the bottleneck last); null uses the published ones.
        encoder_weights: Weights of the encoder: null for random ones, a file, or a name on the hub (``imagenet``).
        dropout: Probability of the dropout layers; 0 adds none.
        norm: Normalisation of activations: ``batch``, or ``instance``, which comes with leaky ReLUs as in nnU-Net;
            the network is changed throughout, encoder included.
        dropout_at: Place of the dropout layers: after the ``last`` convolution, or after every convolution of the
            ``decoder``.
    """

    decoder: str = "unet"
    encoder: str | None = "resnet34"
    in_channels: Literal[1, 3] = 1
    depth: PositiveInt = 5
    decoder_channels: tuple[PositiveInt, ...] | None = None
    encoder_weights: str | None = None
    dropout: Rate = 0.0
    dropout_at: DropoutPlace = "last"
    norm: Literal["batch", "instance"] = "batch"

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes by name, JSON-able; a norm of ``batch`` is left out, which keeps fingerprints."""
        found = asdict(self)
        if self.norm == "batch":
            del found["norm"]
        return found


@bounded
@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a supervised training: the network, its losses and optimiser, and the length of the training.

    Attributes:
        network: Network to train.
        losses: Weights of the losses by name (``dice``, ``focal``, ``softmax_focal``, ``bce``, ``cross_entropy``).
        optimiser: Optimiser, ``adam`` or ``adamw``.
        lr: Learning rate; the first value of a decaying schedule.
        weight_decay: Weight decay of the optimiser.
        schedule: Learning rate over the run: ``constant``, or down to 0 by a ``cosine`` or a ``polynomial``.
        average: Momentum of a moving average of the weights, which is scored and returned in their place; 0 uses
            the weights themselves.
        normalisation: Normalisation of grey values: ``unit``, ``sector`` or ``imagenet``.
        augmentation: Name of an augmentation preset, such as ``none``, ``echo`` or ``unet_acdc``.
        batch_size: Frames per step; with fewer labelled frames, a step takes all of them.
        epochs: Passes through the labelled frames.
        steps: Number of optimiser steps, whatever the number of frames; it replaces ``epochs``.
        accelerator: Accelerator of Lightning to train on: ``auto``, ``cpu`` or ``gpu``.
        precision: Numerical precision of Lightning; ``auto`` uses bfloat16 where the device computes it faster,
            and float32 elsewhere.
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
        """Return the arguments of the training module, all but network, structures and seed."""
        return {name: getattr(self, name) for name in _OF_MODULE}

    def trainer_options(self, val_every: int | None = None) -> dict[str, Any]:
        """Return the arguments of Lightning's ``Trainer`` that set length, validation, device and precision.

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
        """Return the same training of the network without its dropout layers."""
        return replace(self, network=replace(self.network, dropout=0.0))
