"""Time of a network's forward pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch


def median_seconds(run: Callable[[], object], device: torch.device, *, repeats: int, warmup: int) -> float:
    """Measure the median time of a call; the clock is read when the device has finished its work.

    Compare only timings that were taken on one machine without other load.

    Args:
        run: The call to time.
        device: Device that does the work.
        repeats: Number of timed calls.
        warmup: Number of calls before them, which are not timed.
    """
    times = []
    for _ in range(warmup + repeats):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        times.append(time.perf_counter() - start)
    return median(times[warmup:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
