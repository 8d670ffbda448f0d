"""DINO's student or teacher: a network with projection heads."""

from __future__ import annotations

from typing import Annotated, Any

import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from alan.backbone.base import BackboneSpec
from alan.backbone.vit import Initialisation
from alan.bounds import PositiveInt, bounded

#: Width of a layer or number of prototypes: with 1 every output would be the same.
Width = Annotated[int, Ge(2)]


class DINOHead(nn.Module):
    """DINO's projection head: three-layer MLP, L2 norm, cosine similarity to the prototypes.

    The last layer is the published weight-normalised one with its gain fixed at 1: its rows are normalised on use.
    Source: Caron et al. 2021, section 3.1 and appendix C (``DINOHead`` of the published code).

    Args:
        dim: Width of the input.
        outputs: Number of prototypes K, 2 or more.
        hidden: Width of the MLP, 2 or more.
        bottleneck: Width of its output, 2 or more.
        batch_norm: Whether batch norm follows the two hidden layers. It is off in the published ViT recipe; short
            trainings of small networks need it.
        initialisation: Initial weights of the MLP: ``timm`` (truncated normal, 0.02) or ``xavier``.
    """

    @bounded
    def __init__(
        self,
        dim: PositiveInt,
        outputs: Width,
        hidden: Width = 2048,
        bottleneck: Width = 256,
        *,
        batch_norm: bool = False,
        initialisation: Initialisation = "timm",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (dim, hidden):
            layers.append(nn.Linear(width, hidden, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm1d(hidden))
            layers.append(nn.GELU())
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden, bottleneck))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                if initialisation == "xavier":
                    nn.init.xavier_uniform_(layer.weight)
                else:
                    nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.last_layer = nn.Linear(bottleneck, outputs, bias=False)
        if initialisation == "xavier":
            nn.init.normal_(self.last_layer.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (n, D) to cosines (n, K) in -1..1."""
        x = F.normalize(self.mlp(x), dim=-1)
        return F.linear(x, F.normalize(self.last_layer.weight, dim=-1))


class DINONetwork(nn.Module):
    """Student or teacher: the network, its head for CLS tokens and (optionally) its head for patch tokens.

    Args:
        spec: Specification of the network.
        network: The network.
        head: Head for CLS tokens.
        patch_head: Head for patch tokens; None disables the patch-level term.
    """

    def __init__(
        self, spec: BackboneSpec, network: nn.Module, head: DINOHead, patch_head: DINOHead | None
    ) -> None:
        super().__init__()
        self.spec = spec
        self.network = network
        self.head = head
        self.patch_head: Any = patch_head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map normalised images to CLS tokens (n, D) and patch tokens (n, h w, D) after the final norm."""
        frame, grid = self.spec.tokens(self.network, images)
        return frame, grid.flatten(1, 2)
