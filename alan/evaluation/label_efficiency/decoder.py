"""Label efficiency of a light decoder on the tokens of a frozen backbone."""

from __future__ import annotations

from dataclasses import dataclass, field

from alan.downstream.probes.decoder import DecoderProbe
from alan.evaluation.label_efficiency.probe import TokenMethod


@dataclass(frozen=True)
class DecoderMethod(TokenMethod):
    """Light convolutional decoder on tokens; the seed of a cell also starts its training.

    Attributes:
        decoder: Settings of :class:`alan.downstream.DecoderProbe`.
    """

    decoder: DecoderProbe = field(default_factory=DecoderProbe)

    kind = "decoder"
    label = "light decoder on tokens"
    stochastic = True

    @property
    def probe(self) -> DecoderProbe:
        """The decoder."""
        return self.decoder
