"""Time of the forward pass of a network."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from alan.bounds import NonNegativeInt, PositiveInt, bounded


class Timing(NamedTuple):
    """Time of a call in seconds.

    Attributes:
        median: Median over the repeats.
        low: Lower quartile.
        high: Upper quartile; far above the median where other work disturbed the measurement.
    """

    median: float
    low: float
    high: float


def time_call(
    run: Callable[[], object],
    device: torch.device,
    *,
    repeats: int,
    warmup: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Measure the time of a call; the clock is read when the device has finished its work.

    Compare only timings that were taken on one machine without other load.

    Args:
        run: The call to time.
        device: Device that does the work.
        repeats: Number of timed calls.
        warmup: Number of calls before them, which are not timed.
        clock: Clock in seconds. ``time.thread_time`` counts the work of one thread on a CPU that others use too.
    """
    times = []
    for _ in range(warmup + repeats):
        _wait(device)
        start = clock()
        run()
        _wait(device)
        times.append(clock() - start)
    low, median, high = np.percentile(times[warmup:], (25, 50, 75)).tolist()
    return Timing(median, low, high)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@bounded
@torch.inference_mode()
def measure_latency(
    network: nn.Module,
    size: PositiveInt,
    *,
    repeats: PositiveInt = 20,
    warmup: NonNegativeInt = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Measure the time of a forward pass of one frame; see :func:`time_call`.

    The network is in eval mode meanwhile, and returns to its mode afterwards.

    Args:
        network: Network of images (1, 1, S, S) float32 in 0..1.
        size: Height and width of the image in pixels, S.
        repeats: Number of timed passes.
        warmup: Number of passes before them, which are not timed.
        clock: Clock in seconds, see :func:`time_call`.
    """
    device = next(network.parameters()).device
    image = torch.zeros(1, 1, size, size, device=device)
    training = network.training
    network.eval()
    timing = time_call(lambda: network(image), device, repeats=repeats, warmup=warmup, clock=clock)
    network.train(training)
    return timing
