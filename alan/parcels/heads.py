"""Token heads: networks that turn the tokens of a locked backbone into parcel logits, one token at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alan.errors import CheckpointError, ParameterError, nearest

#: Ids and the background (id K) must fit into uint8, and 255 stays free.
MAX_PARCELS = 254
_TINY = 1e-12


def check_n_parcels(n_parcels: int) -> None:
    """Refuse a number of parcels that makes no parcel map.

    Raises:
        ParameterError: below 2, or too many for uint8 maps.
    """
    if not 2 <= n_parcels <= MAX_PARCELS:
        raise ParameterError(
            f"n_parcels is {n_parcels}: choose 2 to {MAX_PARCELS} (a single parcel says nothing, maps are uint8)"
        )


class TokenHead(nn.Module):
    """Base of heads: tokens (..., D) in, logits (..., K) out, standardisation per channel inside.

    Mean and standard deviation are buffers, saved with the head; 0 and 1 until :meth:`set_statistics` is called.

    Attributes:
        dim: D, width of a token.
        n_parcels: K.
    """

    mean: Tensor
    std: Tensor
    #: What the tensors do not say of the map from tokens to logits; part of a parcel model's fingerprint.
    variant: str = ""

    def __init__(self, dim: int, n_parcels: int) -> None:
        """Set the buffers up.

        Raises:
            ParameterError: a number of parcels outside 2 to 254.
        """
        check_n_parcels(n_parcels)
        super().__init__()
        self.dim = dim
        self.n_parcels = n_parcels
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set the standardisation.

        Args:
            mean: (D,) mean of each channel over the training tokens.
            std: (D,) standard deviation; a channel that does not vary (0) is only centred.
        """
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def standardised(self, tokens: Tensor) -> Tensor:
        """Tokens (..., D), each channel minus its mean, over its standard deviation.

        Raises:
            ParameterError: tokens of another width.
        """
        if tokens.shape[-1] != self.dim:
            raise ParameterError(
                f"tokens have {tokens.shape[-1]} channels, the head takes {self.dim}: use its own backbone"
            )
        return (tokens - self.mean) / self.std

    def settings(self) -> dict[str, Any]:
        """Constructor arguments and ``kind``, JSON-able: what :func:`build_head` takes."""
        raise NotImplementedError


class _Block(nn.Module):
    """LayerNorm, Linear, dropout, activation, and a skip past all four."""

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


class RaptorHead(TokenHead):
    """RAPTOR: a three-block perceptron over single tokens (paper, section 3).

    A block computes ``x + activation(dropout(linear(layer_norm(x))))``. Block 1: D to D, GELU, skip,
    Xavier-uniform weights. Block 2: D to D, ReLU, skip, Kaiming-uniform weights. Block 3: D to K, no skip,
    Xavier-uniform weights; its softmax stands outside, since a parcel map upsamples the logits first. Biases
    start at 0.

    Args:
        dim: D, width of a token.
        n_parcels: K, 2 to 254; the paper's are 32, 64 and 112.
        dropout: probability in [0, 1), in all three blocks (before the softmax in the third).
        generator: draws the weights; None: torch's global one.

    Raises:
        ParameterError: K or the dropout is out of range.
    """

    def __init__(
        self, dim: int, n_parcels: int = 64, dropout: float = 0.2, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(dim, n_parcels)
        if not 0 <= dropout < 1:
            raise ParameterError(f"dropout is {dropout}: it is a probability, 0 to below 1")
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
        """Logits (..., K) of tokens (..., D)."""
        logits: Tensor = self.blocks(self.standardised(tokens))
        return logits

    def settings(self) -> dict[str, Any]:
        """Constructor arguments and ``kind``, JSON-able."""
        return {"kind": "raptor", "dim": self.dim, "n_parcels": self.n_parcels, "dropout": self.dropout}


class KMeansHead(TokenHead):
    """k-means as a head: logits are minus the squared distances to K centres, after an optional linear projection.

    Made by :meth:`alan.parcels.KMeansParcels.to_head`.

    Args:
        dim: D, width of a token.
        n_parcels: K, 2 to 254.
        n_components: C, width of the projection (principal components); None: no projection, C = D.
        spherical: logits are the cosines between token and centres instead.
    """

    centres: Tensor
    projection: Tensor | None

    def __init__(self, dim: int, n_parcels: int, n_components: int | None = None, spherical: bool = False) -> None:
        super().__init__(dim, n_parcels)
        self.n_components = n_components
        self.spherical = spherical
        self.variant = "spherical" if spherical else ""
        self.register_buffer("centres", torch.zeros(n_parcels, n_components or dim))
        self.register_buffer("projection", None if n_components is None else torch.zeros(dim, n_components))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (..., K) of tokens (..., D): minus squared distances, at most 0; spherical: cosines, -1 to 1."""
        x = self.standardised(tokens)
        if self.projection is not None:
            x = x @ self.projection
        if self.spherical:
            return F.normalize(x, dim=-1, eps=_TINY) @ F.normalize(self.centres, dim=-1, eps=_TINY).T
        # - |x - c|^2 = 2 x.c - |x|^2 - |c|^2
        logits = 2 * x @ self.centres.T - x.square().sum(-1, keepdim=True) - self.centres.square().sum(-1)
        return logits.clamp(max=0)

    def settings(self) -> dict[str, Any]:
        """Constructor arguments and ``kind``, JSON-able."""
        return {
            "kind": "kmeans",
            "dim": self.dim,
            "n_parcels": self.n_parcels,
            "n_components": self.n_components,
            "spherical": self.spherical,
        }


class SmooSegHead(TokenHead):
    """SmooSeg's projector and its two predictors (Lan et al., NeurIPS 2023, section 3.3).

    The projector maps a token to a code of C values: a linear way and a way through one hidden layer (D wide,
    SiLU), added. A predictor is K prototypes; its logits are the cosines of code and prototypes over a
    temperature. The student's prototypes are trained, the teacher's follow them as a moving average and give the
    parcels.

    Args:
        dim: D, width of a token.
        n_parcels: K, 2 to 254.
        n_codes: C, width of a code.
        dropout: probability in [0, 1), on the tokens before either way of the projector.
        temperature: of the teacher's logits.
        generator: draws the weights; None: torch's global one.

    Raises:
        ParameterError: K, the width, the dropout or the temperature is out of range.
    """

    teacher: Tensor

    def __init__(
        self,
        dim: int,
        n_parcels: int = 64,
        *,
        n_codes: int = 64,
        dropout: float = 0.1,
        temperature: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(dim, n_parcels)
        if n_codes < 1 or not 0 <= dropout < 1 or temperature <= 0:
            raise ParameterError(
                f"n_codes is {n_codes}, dropout {dropout}, temperature {temperature}: at least 1, 0 to below 1, "
                "above 0"
            )
        self.n_codes, self.temperature = n_codes, temperature
        self.variant = f"temperature {temperature}"
        self.dropout = nn.Dropout(dropout)
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
        """Codes (..., C) of unit length of tokens (..., D)."""
        x = self.standardised(tokens)
        code = self.direct(self.dropout(x)) + self.out(F.silu(self.hidden(self.dropout(x))))
        return F.normalize(code, dim=-1, eps=_TINY)

    def teacher_logits(self, codes: Tensor) -> Tensor:
        """Teacher's logits (..., K) of unit codes (..., C): cosines over the temperature."""
        return codes @ F.normalize(self.teacher, dim=-1, eps=_TINY).T / self.temperature

    def student_cosines(self, codes: Tensor) -> Tensor:
        """Cosines (..., K) of unit codes (..., C) and the student's prototypes."""
        return codes @ F.normalize(self.student, dim=-1, eps=_TINY).T

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the teacher: ``teacher = momentum * teacher + (1 - momentum) * student``."""
        self.teacher.lerp_(self.student, 1 - momentum)

    def forward(self, tokens: Tensor) -> Tensor:
        """Teacher's logits (..., K) of tokens (..., D)."""
        return self.teacher_logits(self.codes(tokens))

    def settings(self) -> dict[str, Any]:
        """Constructor arguments and ``kind``, JSON-able."""
        return {
            "kind": "smooseg",
            "dim": self.dim,
            "n_parcels": self.n_parcels,
            "n_codes": self.n_codes,
            "dropout": self.dropout.p,
            "temperature": self.temperature,
        }


_KINDS: dict[str, type[TokenHead]] = {"raptor": RaptorHead, "kmeans": KMeansHead, "smooseg": SmooSegHead}


def build_head(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> TokenHead:
    """Build a head from :meth:`TokenHead.settings` and fill it from its state dict.

    Raises:
        CheckpointError: an unknown kind, or tensors that do not fit the settings.
    """
    arguments = dict(settings)
    kind = arguments.pop("kind", None)
    if kind not in _KINDS:
        raise CheckpointError(f"unknown kind of head {kind!r}: {nearest(str(kind), _KINDS)}")
    try:
        head = _KINDS[kind](**arguments)
        head.load_state_dict(dict(state))
    except (TypeError, RuntimeError, ParameterError) as error:
        raise CheckpointError(f"the head's tensors do not fit its settings {dict(settings)}: {error}") from error
    return head
