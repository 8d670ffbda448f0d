"""Low-rank adapters of a vision transformer, as parametrisations of its weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from alan.bounds import PositiveInt, bounded


class LowRank(nn.Module):
    """A weight (out, in) plus the product of two narrow matrices, which begins at 0 (LoRA: Hu et al., ICLR 2022).

    Args:
        weight: The weight, for its shape.
        rank: Inner dimension of the product.
    """

    @bounded
    def __init__(self, weight: Tensor, rank: PositiveInt) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, weight.shape[1]))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank))
        nn.init.normal_(self.down, std=weight.shape[1] ** -0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the sum."""
        return weight + self.up @ self.down


def add_adapters(blocks: Iterable[nn.Module], rank: int) -> None:
    """Add adapters to the linear layers of the attention of transformer blocks; freeze the rest of the blocks.

    Args:
        blocks: Blocks with an ``attn`` each.
        rank: Rank of the adapters.
    """
    for block in blocks:
        block.requires_grad_(False)
        for layer in [x for x in block.get_submodule("attn").modules() if isinstance(x, nn.Linear)]:
            parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))


def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the state of a module with its adapters added to the weights, under the names without adapters."""
    state = {}
    for name, value in module.state_dict().items():
        owner, adapted, kind = name.rpartition(".parametrizations.")
        if not adapted:
            state[name] = value
        elif kind.endswith(".original"):
            attribute = kind.removesuffix(".original")
            state[f"{owner}.{attribute}"] = getattr(module.get_submodule(owner), attribute).detach()
    return state
