"""How long a network takes for one frame."""

from __future__ import annotations

import time
from statistics import median

import torch
from torch import nn


@torch.inference_mode()
def measure_latency(network: nn.Module, size: int, *, repeats: int = 20, warmup: int = 3) -> float:
    """Median time of a forward pass of one frame (batch size 1), in seconds.

    The network is put in eval mode for it and back afterwards. Timings belong to one machine: compare only those
    taken on the same, with nothing beside.

    Args:
        network: takes images (1, 1, S, S) float32 in 0..1.
        size: S, in pixels.
        repeats: passes that are timed.
        warmup: passes before them, which are not.

    Returns:
        Seconds; the device has finished its work when the clock is read.
    """
    device = next(network.parameters()).device
    image = torch.zeros(1, 1, size, size, device=device)
    training = network.training
    network.eval()
    times = []
    for number in range(warmup + repeats):
        _wait(device)
        start = time.perf_counter()
        network(image)
        _wait(device)
        if number >= warmup:
            times.append(time.perf_counter() - start)
    network.train(training)
    return median(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
