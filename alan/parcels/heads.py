"""Token heads: from the tokens of a backbone to the logits of the parcels."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alan.bounds import PositiveFloat, PositiveInt, Rate, bounded
from alan.errors import CheckpointError, ParameterError, nearest
from alan.parcels.count import ParcelCount

#: Smallest norm by which a vector is divided.
TINY = 1e-12


@bounded
class TokenHead(nn.Module):
    """Base class of heads: tokens (..., D) to logits (..., K), with standardisation per channel.

    Mean and standard deviation are buffers and are saved with the head; they are 0 and 1 until
    :meth:`set_statistics` is called. A subclass stores its constructor arguments as attributes, sets :attr:`kind`,
    implements ``forward``, and is listed in :data:`alan.parcels.heads.HEADS`.

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


@bounded
class SmooSegHead(TokenHead):
    """Projector and predictors of SmooSeg.

    The projector maps a token to a code of C values: the sum of a linear layer and of a path through one hidden
    layer (width D, SiLU). A predictor consists of K prototypes; its logits are the cosines between code and
    prototypes, divided by a temperature. The prototypes of the student are trained; those of the teacher are their
    moving average and give the parcels.

    Args:
        dim: Width D of a token.
        n_parcels: Number of parcels K, 2 to 254.
        n_codes: Width C of a code.
        dropout: Dropout probability of the tokens before either path of the projector.
        temperature: Temperature of the logits of the teacher.
        generator: Generator of the initial weights; None uses the global one.

    Raises:
        ParameterError: A value is out of its bounds.
    """

    kind = "smooseg"
    teacher: Tensor

    def __init__(
        self,
        dim: PositiveInt,
        n_parcels: ParcelCount = 64,
        *,
        n_codes: PositiveInt = 64,
        dropout: Rate = 0.1,
        temperature: PositiveFloat = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(dim, n_parcels)
        self.n_codes, self.dropout, self.temperature = n_codes, dropout, temperature
        self.variant = f"temperature {temperature}"
        self.drop = nn.Dropout(dropout)
        self.direct = nn.Linear(dim, n_codes)
        self.hidden = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, n_codes)
        for layer in (self.direct, self.hidden, self.out):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
        prototypes = F.normalize(torch.randn(n_parcels, n_codes, generator=generator), dim=-1)
        self.student = nn.Parameter(prototypes)
        self.register_buffer("teacher", prototypes.clone())

    def codes(self, tokens: Tensor) -> Tensor:
        """Compute the codes (..., C) of unit length of tokens (..., D)."""
        x = self.standardise(tokens)
        code = self.direct(self.drop(x)) + self.out(F.silu(self.hidden(self.drop(x))))
        return F.normalize(code, dim=-1, eps=TINY)

    def teacher_logits(self, codes: Tensor) -> Tensor:
        """Compute logits (..., K) of the teacher for unit codes (..., C): cosines over the temperature."""
        return codes @ F.normalize(self.teacher, dim=-1, eps=TINY).T / self.temperature

    def student_cosines(self, codes: Tensor) -> Tensor:
        """Compute the cosines (..., K) between unit codes (..., C) and the prototypes of the student."""
        return codes @ F.normalize(self.student, dim=-1, eps=TINY).T

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Update the teacher: ``teacher = momentum * teacher + (1 - momentum) * student``."""
        self.teacher.lerp_(self.student, 1 - momentum)

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute the logits (..., K) of the teacher for tokens (..., D)."""
        return self.teacher_logits(self.codes(tokens))


#: Heads by the name that files use.
HEADS: dict[str, type[TokenHead]] = {head.kind: head for head in (RaptorHead, KMeansHead, SmooSegHead)}


def build_head(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> TokenHead:
    """Build a head from :meth:`TokenHead.settings` and load its state dict.

    Sizes are compared with the tensors before anything is allocated.

    Raises:
        CheckpointError: The kind is unknown, or the tensors do not fit the settings.
    """
    try:
        arguments = dict(settings)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the settings of the head are {settings!r}: export the parcels again") from error
    kind = arguments.pop("kind", None)
    if not isinstance(kind, str) or kind not in HEADS:
        raise CheckpointError(f"unknown kind of head {kind!r}: {nearest(str(kind), HEADS)}")
    largest = max((side for tensor in state.values() for side in tensor.shape), default=0)
    for name, value in arguments.items():
        if isinstance(value, int) and value > largest:
            raise CheckpointError(
                f"the tensors of the head do not fit its settings: {name} is {value}, the largest tensor has "
                f"{largest} rows: export the parcels again"
            )
    try:
        head = HEADS[kind](**arguments)
        head.load_state_dict(dict(state))
    except (TypeError, RuntimeError, ParameterError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"the tensors of the head do not fit its settings {dict(settings)}: {reason}: export the parcels again"
        ) from error
    return head
