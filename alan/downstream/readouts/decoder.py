"""Decoder read-out of frozen tokens: a few convolutions, trained on labelled frames, the backbone untouched."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from alan.backbone.schedules import Schedule
from alan.downstream.readouts.base import TokenReadout, token_statistics
from alan.errors import ParameterError
from alan.supervised.losses import WeightedLosses

#: Weights that a light decoder may have.
MOST_WEIGHTS = 200_000
_GROUPS = 8


class TokenDecoder(nn.Module):
    """Tokens to logits: 1 x 1 reduction, a 3 x 3 convolution, upsampling, another one, 1 x 1 classes.

    Args:
        dim: D, width of a token.
        classes: C.
        width: channels in between, a multiple of 8.
        scale: by which the grid is enlarged between the two convolutions.
        dropout: probability with which a whole feature is left out in training.
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


class DecoderReadout(TokenReadout):
    """Segment by a light convolutional decoder on frozen tokens.

    Cross-entropy and Dice loss at the resolution of the label maps, AdamW with a cosine down to 0, a fixed number
    of steps: no labelled frame is spent on choosing a checkpoint. The second convolution works at twice the grid
    of the tokens where that is no more than half the side of the label maps, else at the grid itself; logits are
    enlarged bilinearly. The same seed gives the same weights, on the same number of threads.

    Args:
        width: channels of the convolutions, a multiple of 8; the decoder may have 200,000 weights.
        dropout: probability with which a whole feature of the tokens is left out in training.
        steps: optimiser steps.
        batch_size: frames a step; fewer where there are fewer.
        lr: learning rate at the start.
        weight_decay: of AdamW.
        n_classes: C, the background included; None takes the highest label in ``fit``, plus 1.
        size: (height, width) of predicted label maps; None takes that of ``fit``.
        seed: of the initial weights, the order of frames, and the dropout.
        provenance: fingerprint of the model that made the tokens.

    Attributes:
        network_: the fitted :class:`TokenDecoder`.
        losses_: (steps,) float64, the loss of each step.
    """

    network_: TokenDecoder

    def __init__(
        self,
        width: int = 48,
        *,
        dropout: float = 0.1,
        steps: int = 300,
        batch_size: int = 8,
        lr: float = 3e-3,
        weight_decay: float = 1e-2,
        n_classes: int | None = None,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        provenance: str = "",
    ) -> None:
        self.width = width
        self.dropout = dropout
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.n_classes = n_classes
        self.size = size
        self.seed = seed
        self.provenance = provenance

    def _check(self) -> None:
        if self.width < _GROUPS or self.width % _GROUPS:
            raise ParameterError(f"width is {self.width}; give a multiple of {_GROUPS}")
        if self.steps < 1 or self.batch_size < 1:
            raise ParameterError(f"steps is {self.steps}, batch_size {self.batch_size}; give 1 or more of each")
        if self.lr <= 0 or self.weight_decay < 0 or not 0 <= self.dropout < 1:
            raise ParameterError(
                f"lr {self.lr} must be above 0, weight_decay {self.weight_decay} not below 0, "
                f"dropout {self.dropout} in 0..1 (1 excluded)"
            )

    def fit(self, tokens: ArrayLike, label_maps: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Train the decoder, see :meth:`TokenReadout.fit`.

        Raises:
            ParameterError: a parameter or an array is not as described, too many weights, or a loss that is not
                finite.
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
        self.network_ = network.eval().requires_grad_(False)
        return self

    def _build(self, scale: int) -> TokenDecoder:
        network = TokenDecoder(self.dim_, self.n_classes_, self.width, scale, self.dropout)
        count = sum(weights.numel() for weights in network.parameters())
        if count > MOST_WEIGHTS:
            raise ParameterError(
                f"width {self.width} makes {count:,} weights on tokens of {self.dim_}; a decoder has at most "
                f"{MOST_WEIGHTS:,}: lower width"
            )
        return network

    def _logits(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.network_(tokens)
        return logits

    def _state(self) -> dict[str, Tensor]:
        return dict(self.network_.state_dict())

    def _set_state(self, state: dict[str, Tensor]) -> None:
        self.network_ = self._build(int(state["scale"]))
        self.network_.load_state_dict(state)
        self.network_.eval().requires_grad_(False)
