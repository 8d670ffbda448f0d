"""How many parcels a head really uses, and a word on it when they collapse into few."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: A parcel is in use when it holds more than this share of the tokens.
SHARE = 0.002
#: Below this share of parcels in use, parcels have collapsed.
COLLAPSE = 0.1


class Usage(NamedTuple):
    """Parcels in use.

    Attributes:
        in_use: number of parcels that hold more than 0.2% of the tokens, 0 to K.
        perplexity: exp of the entropy of the parcels' shares, 1 (one parcel holds all) to K; NaN without tokens.
    """

    in_use: int
    perplexity: float


def parcel_usage(ids: Tensor, n_parcels: int) -> Usage:
    """Count the parcels in use.

    Args:
        ids: integer parcel ids 0 to K - 1, any shape.
        n_parcels: K.
    """
    counts = torch.bincount(ids.flatten().long(), minlength=n_parcels).double()
    share = counts / counts.sum()  # NaN without tokens
    entropy = -torch.xlogy(share, share).sum()
    return Usage(int((share > SHARE).sum()), float(entropy.exp()))


def collapse_verdict(usage: Usage, n_parcels: int) -> str:
    """Say what to try when fewer than 10% of the K parcels are in use; empty when all is well."""
    if usage.in_use >= COLLAPSE * n_parcels:
        return ""
    return (
        f"{usage.in_use} of {n_parcels} parcels are in use: raise the shifts (0.5 keeps more than 0.3), set "
        "sector_only, lower lr, or look whether the backbone's features differ at all"
    )
