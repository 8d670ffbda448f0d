"""Monte-Carlo dropout: passes through a locked network, each with weights of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alan.active.acquisition import RunningAcquisition, check_passes
from alan.errors import ParameterError
from alan.seeding import step_generator
from alan.supervised.segmenter import Segmenter

#: Layers that drop single values, and those that drop whole channels.
_VALUES, _CHANNELS = (nn.Dropout,), (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class MonteCarloDropout:
    """Stochastic passes: dropout is on, batch norm and all else stay in eval mode.

    A pass is one draw of the network's weights (Gal and Ghahramani 2016): what it drops follows from the seed and
    the number of the pass, and is the same for every image. So the probabilities of an image do not depend on the
    batch it comes in, nor on its place in the pool. What stands before the first dropout layer is computed once
    for all passes.

    Args:
        segmenter: the trained network; it is left as it is.
        passes: T, number of passes.
        seed: of what is dropped.

    Raises:
        ParameterError: fewer than two passes, or a network without dropout.
    """

    def __init__(self, segmenter: Segmenter, passes: int = 30, seed: int = 0) -> None:
        check_passes(passes)
        self.segmenter, self.passes, self.seed = segmenter, passes, seed
        self._layers = dropout_layers(segmenter.model)
        if not self._layers:
            raise ParameterError(
                "the network has no dropout to draw from: train it with network.dropout above 0, for example 0.3, "
                "at dropout_at: last or decoder"
            )

    def draw(self, frames: Tensor | NDArray[np.uint8]) -> Iterator[Tensor]:
        """Probabilities of a batch, pass by pass.

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

    def acquisition(self, frames: Tensor | NDArray[np.uint8]) -> RunningAcquisition:
        """All passes of a batch, summed up for every acquisition function."""
        running = RunningAcquisition()
        for probabilities in self.draw(frames):
            running.add(probabilities)
        return running

    @contextlib.contextmanager
    def _dropping(self, generator: torch.Generator) -> Iterator[None]:
        """Let the dropout layers drop what the generator says."""

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
    """The dropout layers below a module that drop anything, a decoder's own included."""
    kinds = (*_VALUES, *_CHANNELS)
    return [layer for layer in module.modules() if isinstance(layer, kinds) and 0 < layer.p < 1]


def _fixed_parts(network: Any) -> list[nn.Module]:
    """Parts in the order of their use, up to the first that holds dropout: each is called once a pass."""
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
    """Let a module repeat the output that is known, or note its first."""
    forward = part.forward

    def remembered(*args: Any, **kwargs: Any) -> Any:
        if not known:
            known.append(forward(*args, **kwargs))
        return known[0]

    part.forward = remembered
    try:
        yield
    finally:
        del part.forward
