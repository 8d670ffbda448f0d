"""Latency of a network: the time of a forward pass of one frame."""

from __future__ import annotations

import torch
from torch import nn

from alan.bounds import NonNegativeInt, PositiveInt, bounded
from alan.supervised.timing import median_seconds


@bounded
@torch.inference_mode()
def measure_latency(
    network: nn.Module, size: PositiveInt, *, repeats: PositiveInt = 20, warmup: NonNegativeInt = 3
) -> float:
    """Measure the median time of a forward pass of one frame (batch size 1).

    The network is in eval mode meanwhile, and returns to its mode afterwards. Compare only timings that were taken
    on one machine without other load.

    Args:
        network: Network of images (1, 1, S, S) float32 in 0..1.
        size: Height and width of the image in pixels, S.
        repeats: Number of timed passes.
        warmup: Number of passes before them, which are not timed.

    Returns:
        Seconds; the clock is read when the device has finished its work.
    """
    device = next(network.parameters()).device
    image = torch.zeros(1, 1, size, size, device=device)
    training = network.training
    network.eval()
    seconds = median_seconds(lambda: network(image), device, repeats=repeats, warmup=warmup)
    network.train(training)
    return seconds
