"""Monte-Carlo dropout: stochastic forward passes of a frozen network."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alan.active.acquisition import PassStatistics
from alan.active.settings import Passes
from alan.bounds import Seed, bounded
from alan.errors import ParameterError
from alan.seeding import step_generator
from alan.supervised.segmenter import Segmenter

#: Layers that drop single values, and those that drop whole channels.
_VALUES, _CHANNELS = (nn.Dropout,), (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@bounded
class MonteCarloDropout:
    """Stochastic passes: dropout is on, and everything else, batch norm included, stays in eval mode.

    A pass is one draw of the network's weights (Gal and Ghahramani 2016): its dropout mask depends only on the
    seed and the number of the pass, and is the same for every image. The probabilities of an image therefore
    depend neither on its batch nor on its place in the pool. Layers before the first dropout layer are computed
    once for all passes.

    Args:
        segmenter: Trained network; it is not changed.
        passes: Number of passes, T.
        seed: Seed of the dropout.

    Raises:
        ParameterError: There are fewer than two passes, or the network has no dropout.
    """

    def __init__(self, segmenter: Segmenter, passes: Passes = 30, seed: Seed = 0) -> None:
        self.segmenter, self.passes, self.seed = segmenter, passes, seed
        self._layers = dropout_layers(segmenter.model)
        if not self._layers:
            raise ParameterError(
                "the network has no dropout to draw from: train it with network.dropout above 0, for example 0.3, "
                "at dropout_at: last or decoder"
            )

    def draw(self, frames: Tensor | NDArray[np.uint8]) -> Iterator[Tensor]:
        """Yield the probabilities of a batch, one pass after the other.

        Args:
            frames: (B, H, W) uint8 on any device.

        Yields:
            (B, C, H, W) float32 on the network's device, ``passes`` times; see
            :meth:`alan.supervised.Segmenter.probabilities`.
        """
        parts = [(part, list[Any]()) for part in _fixed_parts(self.segmenter.model.network)]
        for number in range(self.passes):
            with contextlib.ExitStack() as stack:
                for part, known in parts:
                    stack.enter_context(_computed_once(part, known))
                stack.enter_context(self._dropping(step_generator(torch.device("cpu"), self.seed, number)))
                probabilities = self.segmenter.probabilities(frames)
            yield probabilities

    def statistics(self, frames: Tensor | NDArray[np.uint8]) -> PassStatistics:
        """Compute the statistics of all passes of a batch (B, H, W) uint8, for every acquisition function."""
        statistics = PassStatistics()
        for probabilities in self.draw(frames):
            statistics.add(probabilities)
        return statistics

    @contextlib.contextmanager
    def _dropping(self, generator: torch.Generator) -> Iterator[None]:
        """Let the dropout layers drop values drawn from the generator."""

        def drop(layer: Any, _: Any, output: Tensor) -> Tensor:
            shape = [1, *output.shape[1:]]
            if isinstance(layer, _CHANNELS):
                shape[2:] = [1] * (len(shape) - 2)
            kept = torch.rand(shape, generator=generator) >= layer.p
            dropped: Tensor = output * (kept.to(output) / (1 - layer.p))
            return dropped

        handles = [layer.register_forward_hook(drop) for layer in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def dropout_layers(module: nn.Module) -> list[nn.Module]:
    """Return the dropout layers below a module whose probability is above 0, a decoder's own included."""
    kinds = (*_VALUES, *_CHANNELS)
    return [layer for layer in module.modules() if isinstance(layer, kinds) and 0 < layer.p < 1]


def _fixed_parts(network: Any) -> list[nn.Module]:
    """Return the parts before the first that holds dropout, in the order of use."""
    parts: list[nn.Module] = []
    for stage in (network.encoder, network.decoder):
        blocks = list(stage) if isinstance(stage, nn.ModuleList) else [stage]
        for block in blocks:
            if dropout_layers(block):
                return parts
            parts.append(block)
    return parts


@contextlib.contextmanager
def _computed_once(part: Any, known: list[Any]) -> Iterator[None]:
    """Let a module return its known outputs, or record those of the first pass: one, or one for each flip."""
    forward, calls = part.forward, itertools.count()

    def remembered(*args: Any, **kwargs: Any) -> Any:
        if (call := next(calls)) == len(known):
            known.append(forward(*args, **kwargs))
        return known[call]

    part.forward = remembered
    try:
        yield
    finally:
        del part.forward
