"""How many parcels a head really uses, and a warning when they collapse into few."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from alan.errors import AlanWarning

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


def collapsed(usage: Usage, n_parcels: int) -> bool:
    """Whether fewer than 10% of the K parcels are in use."""
    return usage.in_use < COLLAPSE * n_parcels


def warn_of_collapse(usage: Usage, n_parcels: int, step: int) -> None:
    """Emit an ``AlanWarning`` that says what to try."""
    warnings.warn(
        f"step {step}: {usage.in_use} of {n_parcels} parcels are in use, they have collapsed: raise the shifts "
        "(0.5 keeps more than 0.3), set sector_only, lower lr, or look whether the backbone's features differ",
        AlanWarning,
        stacklevel=2,
    )
