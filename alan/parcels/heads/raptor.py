"""Head of RAPTOR: a perceptron of three blocks (paper, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alan.bounds import PositiveInt, Rate, bounded
from alan.parcels.count import ParcelCount
from alan.parcels.heads.base import TokenHead


class _Block(nn.Module):
    """LayerNorm, Linear, dropout and activation, with an optional skip connection around all four."""

    def __init__(self, dim: int, out: int, dropout: float, activation: nn.Module, *, skip: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, out)
        self.dropout = nn.Dropout(dropout)
        self.activation = activation
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.dropout(self.linear(self.norm(x))))
        return x + y if self.skip else y


@bounded
class RaptorHead(TokenHead):
    """RAPTOR: a perceptron of three blocks that is applied to single tokens.

    A block computes ``x + activation(dropout(linear(layer_norm(x))))``. Block 1: D to D, GELU, skip,
    Xavier-uniform weights. Block 2: D to D, ReLU, skip, Kaiming-uniform weights. Block 3: D to K, no skip,
    Xavier-uniform weights; the softmax is applied outside, because a parcel map upsamples the logits first. Biases
    start at 0.

    Args:
        dim: Width D of a token.
        n_parcels: Number of parcels K, 2 to 254; the paper uses 32, 64 and 112.
        dropout: Dropout probability in all three blocks (in the third before the softmax).
        generator: Generator of the initial weights; None uses the global one.

    Raises:
        ParameterError: A value is out of its bounds.
    """

    kind = "raptor"

    def __init__(
        self,
        dim: PositiveInt,
        n_parcels: ParcelCount = 64,
        dropout: Rate = 0.2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(dim, n_parcels)
        self.dropout = dropout
        first = _Block(dim, dim, dropout, nn.GELU(), skip=True)
        second = _Block(dim, dim, dropout, nn.ReLU(), skip=True)
        third = _Block(dim, n_parcels, dropout, nn.Identity(), skip=False)
        nn.init.xavier_uniform_(first.linear.weight, generator=generator)
        nn.init.kaiming_uniform_(second.linear.weight, generator=generator)
        nn.init.xavier_uniform_(third.linear.weight, generator=generator)
        for block in (first, second, third):
            nn.init.zeros_(block.linear.bias)
        self.blocks = nn.Sequential(first, second, third)

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute the logits (..., K) of tokens (..., D)."""
        logits: Tensor = self.blocks(self.standardise(tokens))
        return logits
