"""Label efficiency of a linear probe on the tokens of a frozen backbone."""

from __future__ import annotations

from dataclasses import dataclass, field

from alan.downstream.probes.linear import LinearProbe
from alan.evaluation.label_efficiency.probe import TokenMethod


@dataclass(frozen=True)
class LinearMethod(TokenMethod):
    """Linear probe on tokens.

    Attributes:
        linear: Settings of :class:`alan.downstream.LinearProbe`.
    """

    linear: LinearProbe = field(default_factory=LinearProbe)

    kind = "linear"
    label = "linear probe on tokens"

    @property
    def probe(self) -> LinearProbe:
        """The linear probe."""
        return self.linear
