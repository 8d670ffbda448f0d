"""Label efficiency of a light decoder on the tokens of a frozen backbone."""

from __future__ import annotations

from dataclasses import dataclass, field

from alan.downstream.readouts.decoder import DecoderReadout
from alan.evaluation.label_efficiency.probe import TokenMethod


@dataclass(frozen=True)
class DecoderMethod(TokenMethod):
    """Light convolutional decoder on tokens; the seed of a cell also starts its training.

    Attributes:
        decoder: Settings of :class:`alan.downstream.DecoderReadout`.
    """

    decoder: DecoderReadout = field(default_factory=DecoderReadout)

    kind = "decoder"
    label = "light decoder on tokens"
    stochastic = True

    @property
    def probe(self) -> DecoderReadout:
        """The decoder."""
        return self.decoder
