"""Head of k-means parcels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from alan.bounds import PositiveInt, bounded
from alan.parcels.count import ParcelCount
from alan.parcels.heads.base import TINY, TokenHead


@bounded
class KMeansHead(TokenHead):
    """k-means as a head: logits are minus the squared distances to K centres, after an optional projection.

    Made by :meth:`alan.parcels.KMeansParcels.to_head`.

    Args:
        dim: Width D of a token.
        n_parcels: Number of parcels K, 2 to 254.
        n_components: Number of principal components C; None uses no projection (C = D).
        spherical: Logits are the cosines between token and centres instead.

    Raises:
        ParameterError: A value is out of its bounds.
    """

    kind = "kmeans"
    centres: Tensor
    projection: Tensor | None

    def __init__(
        self,
        dim: PositiveInt,
        n_parcels: ParcelCount,
        n_components: PositiveInt | None = None,
        spherical: bool = False,
    ) -> None:
        super().__init__(dim, n_parcels)
        self.n_components = n_components
        self.spherical = spherical
        self.variant = "spherical" if spherical else ""
        self.register_buffer("centres", torch.zeros(n_parcels, n_components or dim))
        self.register_buffer("projection", None if n_components is None else torch.zeros(dim, n_components))

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute logits (..., K) of tokens (..., D): minus squared distances, or cosines if spherical."""
        x = self.standardise(tokens)
        if self.projection is not None:
            x = x @ self.projection
        if self.spherical:
            return F.normalize(x, dim=-1, eps=TINY) @ F.normalize(self.centres, dim=-1, eps=TINY).T
        # - |x - c|^2 = 2 x.c - |x|^2 - |c|^2
        logits = x @ (2 * self.centres.T)
        return logits.sub_(x.square().sum(-1, keepdim=True)).sub_(self.centres.square().sum(-1)).clamp_(max=0)
