"""Base of token heads: standardisation of the tokens and the settings that rebuild a head."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from alan.bounds import PositiveInt, bounded
from alan.errors import ParameterError
from alan.parcels.count import ParcelCount

#: Smallest norm by which a vector is divided.
TINY = 1e-12


@bounded
class TokenHead(nn.Module):
    """Base class of heads: tokens (..., D) to logits (..., K), with standardisation per channel.

    Mean and standard deviation are buffers and are saved with the head; they are 0 and 1 until
    :meth:`set_statistics` is called. A subclass stores its constructor arguments as attributes, sets :attr:`kind`,
    implements ``forward``, and is listed in :data:`alan.parcels.heads.registry.HEADS`.

    Args:
        dim: Width D of a token.
        n_parcels: Number of parcels K, 2 to 254.

    Raises:
        ParameterError: A value is out of its bounds.
    """

    mean: Tensor
    std: Tensor
    #: Name of the head in files.
    kind: ClassVar[str]
    #: Part of the map from tokens to logits that the tensors do not show; part of the fingerprint of the model.
    variant: str = ""

    def __init__(self, dim: PositiveInt, n_parcels: ParcelCount) -> None:
        super().__init__()
        self.dim = dim
        self.n_parcels = n_parcels
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set the standardisation.

        Args:
            mean: (D,) mean of each channel over the training tokens.
            std: (D,) standard deviation; a constant channel (0) is only centred.
        """
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def standardise(self, tokens: Tensor) -> Tensor:
        """Standardise tokens (..., D): subtract the mean of each channel, divide by its standard deviation.

        Raises:
            ParameterError: The tokens have another width.
        """
        if tokens.shape[-1] != self.dim:
            raise ParameterError(
                f"tokens have {tokens.shape[-1]} channels, the head expects {self.dim}: use its own backbone"
            )
        return (tokens - self.mean) / self.std

    def settings(self) -> dict[str, Any]:
        """Return the constructor arguments and ``kind`` as JSON-able values, for ``build_head``."""
        names = [name for name in inspect.signature(type(self)).parameters if name != "generator"]
        return {"kind": self.kind, **{name: getattr(self, name) for name in names}}
