"""Decoder probe: a few convolutions on frozen tokens, trained on labelled frames."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Self

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge
from numpy.typing import ArrayLike
from torch import Tensor, nn

from alan.backbone.schedules import Schedule
from alan.bounds import NonNegativeFloat, PositiveFloat, PositiveInt, Rate, Seed
from alan.downstream.probes.base import ClassCount, MapSize, TokenProbe, token_statistics
from alan.errors import ParameterError
from alan.supervised.losses import WeightedLosses

#: Largest number of weights of a decoder.
MAX_WEIGHTS = 200_000
_GROUPS = 8


class TokenDecoder(nn.Module):
    """Map tokens to logits: 1 x 1 reduction, 3 x 3 convolution, upsampling, 3 x 3 convolution, 1 x 1 classifier.

    Args:
        dim: Width D of a token.
        classes: Number of classes C.
        width: Number of channels of the convolutions, a multiple of 8.
        scale: Factor by which the grid is enlarged between the two 3 x 3 convolutions.
        dropout: Probability with which a whole feature is dropped in training.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, classes: int, width: int, scale: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("scale", torch.tensor(scale))
        self.factor = scale
        self.dropout = nn.Dropout2d(dropout)
        self.reduce = _convolution(dim, width, 1)
        self.coarse = _convolution(width, width, 3)
        self.fine = _convolution(width, width, 3)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, h, w, D) float32 to logits (B, C, h scale, w scale)."""
        x = ((tokens - self.mean) / self.std).permute(0, 3, 1, 2)
        x = self.coarse(self.reduce(self.dropout(x)))
        if self.factor > 1:
            x = F.interpolate(x, scale_factor=self.factor, mode="bilinear", align_corners=False)
        logits: Tensor = self.head(self.fine(x))
        return logits


def _convolution(channels: int, width: int, side: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, side, padding=side // 2, bias=False), nn.GroupNorm(_GROUPS, width), nn.GELU()
    )


@dataclass(eq=False, repr=False)
class DecoderProbe(TokenProbe):
    """Segment with a small convolutional decoder on frozen tokens.

    The loss is cross-entropy plus Dice at the resolution of the label maps; the optimiser is AdamW with a cosine
    schedule down to 0. The number of steps is fixed, so that no labelled frame is needed to choose a checkpoint.
    The second convolution works at twice the resolution of the tokens if that is at most half the side of the
    label maps, otherwise at the resolution of the tokens; logits are upsampled bilinearly. The same seed gives the
    same weights on the same number of threads.

    Args:
        width: Number of channels of the convolutions, a multiple of 8; a decoder has at most 200,000 weights.
        dropout: Probability with which a whole feature of the tokens is dropped in training.
        steps: Number of optimiser steps.
        batch_size: Number of frames per step; all frames if there are fewer.
        lr: Initial learning rate.
        weight_decay: Weight decay of AdamW.
        n_classes: Number of classes, including the background; None uses the highest label in ``fit`` plus 1.
        size: (height, width) of the predicted label maps; None uses the size in ``fit``.
        seed: Seed of the initial weights, the order of the frames and the dropout.
        provenance: Fingerprint of the model that made the tokens.

    Attributes:
        network_: Fitted :class:`TokenDecoder`.
        losses_: (steps,) float64, loss of each step.

    Examples:
        >>> tokens = np.random.default_rng(0).normal(size=(6, 8, 8, 4)).astype(np.float32)
        >>> maps = np.repeat(np.repeat(tokens[..., 0] > 0, 4, 1), 4, 2).astype(np.uint8)
        >>> probe = DecoderProbe(16, steps=2).fit(tokens, maps)
        >>> probe.predict(tokens).shape
        (6, 32, 32)
    """

    width: Annotated[int, Ge(_GROUPS)] = 48
    _: KW_ONLY
    dropout: Rate = 0.1
    steps: PositiveInt = 300
    batch_size: PositiveInt = 8
    lr: PositiveFloat = 3e-3
    weight_decay: NonNegativeFloat = 1e-2
    n_classes: ClassCount | None = None
    size: MapSize | None = None
    seed: Seed = 0
    provenance: str = ""

    def check_parameters(self) -> None:
        """Check the parameters before fitting, see :meth:`TokenProbe.check_parameters`."""
        super().check_parameters()
        if self.width % _GROUPS:
            raise ParameterError(f"width is {self.width}: give a multiple of {_GROUPS}")

    def fit(self, tokens: ArrayLike, label_maps: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Train the decoder, see :meth:`TokenProbe.fit`.

        Raises:
            ParameterError: A parameter is out of bounds, an array is not as described, the decoder has too many
                weights, or the loss is not finite.
        """
        values, maps = self._begin(tokens, label_maps)
        grid = max(values.shape[1], values.shape[2])
        mean, std = token_statistics(values)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = self._build(2 if 4 * grid <= min(self.size_) else 1)
            network.mean.copy_(torch.from_numpy(mean))
            network.std.copy_(torch.from_numpy(std))
            optimiser = torch.optim.AdamW(network.parameters(), lr=self.lr, weight_decay=self.weight_decay)
            losses = WeightedLosses({"cross_entropy": 1.0, "dice": 1.0}, self.n_classes_)
            schedule, rng = Schedule(self.lr, 0.0, self.steps), np.random.default_rng(self.seed)
            waiting = np.zeros(0, np.int64)
            self.losses_ = np.zeros(self.steps)
            network.train()
            for step in range(self.steps):
                if len(waiting) < min(self.batch_size, len(values)):
                    waiting = np.concatenate([waiting, rng.permutation(len(values))])
                rows, waiting = np.sort(waiting[: self.batch_size]), waiting[self.batch_size :]
                for group in optimiser.param_groups:
                    group["lr"] = schedule(step)
                logits = network(torch.from_numpy(values[rows].astype(np.float32)))
                logits = F.interpolate(logits, self.size_, mode="bilinear", align_corners=False)
                loss = losses(logits, torch.from_numpy(maps[rows].astype(np.int64)))["total"]
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                self.losses_[step] = loss.item()
                if not np.isfinite(self.losses_[step]):
                    raise ParameterError(f"the loss is {loss.item()} at step {step}: lower lr ({self.lr})")
        self.network_: TokenDecoder = network.eval().requires_grad_(False)
        return self

    def _build(self, scale: int) -> TokenDecoder:
        arguments = (self.dim_, self.n_classes_, self.width, scale, self.dropout)
        with torch.device("meta"):  # counts the weights without allocating them
            count = sum(weights.numel() for weights in TokenDecoder(*arguments).parameters())
        if count > MAX_WEIGHTS:
            raise ParameterError(
                f"width is {self.width}, which makes {count:,} weights on tokens of width {self.dim_}: lower it; "
                f"a decoder has at most {MAX_WEIGHTS:,} weights"
            )
        return TokenDecoder(*arguments)

    def _logits(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.network_(tokens)
        return logits

    def _state(self) -> dict[str, Tensor]:
        return dict(self.network_.state_dict())

    def _set_state(self, state: dict[str, Tensor]) -> None:
        if tuple(state["mean"].shape) != (self.dim_,):
            raise ValueError(f"mean is {tuple(state['mean'].shape)}, expected {(self.dim_,)}")
        self.network_ = self._build(int(state["scale"]))
        self.network_.load_state_dict(state)
        self.network_.eval().requires_grad_(False)
