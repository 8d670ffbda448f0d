"""DINO's schedules, as functions of the optimiser step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from alan.errors import ParameterError


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then half a cosine; the published ``cosine_scheduler``, step by step.

    Attributes:
        base: value at the end of the warm-up.
        final: value that the cosine runs to (reached one step after the last).
        steps: optimiser steps of the run.
        warmup: steps of the warm-up.
        start: value at step 0 of the warm-up.
    """

    base: float
    final: float
    steps: int
    warmup: int = 0
    start: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.warmup <= self.steps:
            raise ParameterError(
                f"a schedule of {self.steps} steps with {self.warmup} of warm-up: steps must be at least 1, "
                "and the warm-up no longer than the run"
            )

    def __call__(self, step: int) -> float:
        """Value at an optimiser step, 0 to steps - 1; constant afterwards."""
        step = min(step, self.steps - 1)
        if step < self.warmup:
            # np.linspace(start, base, warmup): the last step of the warm-up has the base value
            return self.start + (self.base - self.start) * step / max(self.warmup - 1, 1)
        share = (step - self.warmup) / (self.steps - self.warmup)
        return self.final + 0.5 * (self.base - self.final) * (1 + math.cos(math.pi * share))
