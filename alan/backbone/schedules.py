"""Schedules of DINO as functions of the optimiser step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from alan.bounds import NonNegativeInt, PositiveInt, bounded
from alan.errors import ParameterError


@bounded
@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then half a cosine: the published ``cosine_scheduler`` step by step.

    Attributes:
        base: Value at the end of the warm-up.
        final: Value at the end of the cosine, reached one step after the last.
        steps: Number of optimiser steps of the run.
        warmup: Number of steps of the warm-up, at most ``steps``.
        start: Value at step 0 of the warm-up.

    Raises:
        ParameterError: A value is out of range.
    """

    base: float
    final: float
    steps: PositiveInt
    warmup: NonNegativeInt = 0
    start: float = 0.0

    def __post_init__(self) -> None:
        if self.warmup > self.steps:
            raise ParameterError(f"warmup is {self.warmup}: give at most the {self.steps} steps of the run")

    def __call__(self, step: int) -> float:
        """Return the value at an optimiser step, 0 to steps - 1; constant afterwards."""
        step = min(step, self.steps - 1)
        if step < self.warmup:
            # np.linspace(start, base, warmup): the last step of the warm-up has the base value
            return self.start + (self.base - self.start) * step / max(self.warmup - 1, 1)
        share = (step - self.warmup) / (self.steps - self.warmup)
        return self.final + 0.5 * (self.base - self.final) * (1 + math.cos(math.pi * share))
