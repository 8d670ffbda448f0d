"""Number of parcels that a head uses, and a warning if they collapse into few."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Share of the tokens above which a parcel counts as used.
SHARE = 0.002
#: Share of used parcels below which parcels count as collapsed.
COLLAPSE = 0.1


class Usage(NamedTuple):
    """Usage of parcels.

    Attributes:
        in_use: Number of parcels with more than 0.2% of the tokens, 0 to K.
        perplexity: Exponential of the entropy of the shares of the parcels, 1 (one parcel has all tokens) to K;
            NaN without tokens.
    """

    in_use: int
    perplexity: float


def parcel_usage(ids: Tensor, n_parcels: int) -> Usage:
    """Measure the usage of parcels.

    Args:
        ids: Integer parcel ids 0 to K - 1, any shape.
        n_parcels: Number of parcels K.
    """
    counts = torch.bincount(ids.flatten().long(), minlength=n_parcels).double()
    share = counts / counts.sum()  # NaN without tokens
    entropy = -torch.xlogy(share, share).sum()
    return Usage(int((share > SHARE).sum()), float(entropy.exp()))


def parcel_collapse(usage: Usage, n_parcels: int) -> str:
    """Write a warning with remedies if fewer than 10% of the K parcels are in use; empty otherwise."""
    if usage.in_use >= COLLAPSE * n_parcels:
        return ""
    return (
        f"{usage.in_use} of {n_parcels} parcels are in use: raise the shifts (0.5 keeps more than 0.3), set "
        "sector_only, lower lr, or check that the features of the backbone differ between tokens"
    )
