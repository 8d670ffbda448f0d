"""DINO's projection head."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from alan.backbone.vit import Initialisation
from alan.errors import ParameterError


class DINOHead(nn.Module):
    """Three-layer MLP, L2 norm, then cosine similarity to the output prototypes.

    The last layer is the published weight-normalised one with its gain fixed at 1: its rows are normalised on use.
    Source: Caron et al. 2021, section 3.1 and appendix C (``DINOHead`` of the published code).

    Args:
        dim: width of the input.
        outputs: prototypes K.
        hidden: width of the MLP.
        bottleneck: width of its output.
        batch_norm: BatchNorm after the two hidden layers (off in the published ViT recipe; short trainings of
            small networks need it).
        initialisation: ``timm`` (truncated normal, 0.02) or ``xavier`` for the linear layers of the MLP.
    """

    def __init__(
        self,
        dim: int,
        outputs: int,
        hidden: int = 2048,
        bottleneck: int = 256,
        *,
        batch_norm: bool = False,
        initialisation: Initialisation = "timm",
    ) -> None:
        super().__init__()
        for name, value in {"outputs": outputs, "hidden": hidden, "bottleneck": bottleneck}.items():
            if value < 2:
                raise ParameterError(f"{name} of the DINO head is {value}: it must be at least 2")
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
