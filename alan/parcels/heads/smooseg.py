"""Head of SmooSeg: a projector and two predictors (Lan et al., NeurIPS 2023, section 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alan.bounds import PositiveFloat, PositiveInt, Rate, bounded
from alan.parcels.count import ParcelCount
from alan.parcels.heads.base import TINY, TokenHead


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
