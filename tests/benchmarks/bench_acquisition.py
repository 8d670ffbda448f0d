"""Acquisition by running statistics against all passes at once: time and peak memory.

Run: python tests/benchmarks/bench_acquisition.py
"""

import multiprocessing
import time
from pathlib import Path

import numpy as np
import torch

from alan.active.acquisition import UNCERTAINTIES, PassStatistics

IMAGES, SIZE, CLASSES = 8, 112, 4


def draws(passes):
    """Passes one after the other, as a network gives them."""
    rng = np.random.default_rng(0)
    for _ in range(passes):
        yield torch.from_numpy(rng.random((IMAGES, CLASSES, SIZE, SIZE), dtype=np.float32)).softmax(1)


def naive(passes):
    """Keep every pass, and compute all functions at once."""
    kept = torch.stack(list(draws(passes)))
    mean = torch.special.entr(kept.mean(0)).sum(1)
    first = torch.special.entr(kept).sum(2).mean(0)
    maps = {"cfe": first, "mfe": mean, "mi": (mean - first).abs(), "std": kept.std(0, correction=0).mean(1)}
    return {name: x.double().sum((-2, -1)) for name, x in maps.items()}


def streaming(passes):
    """Add one pass after the other."""
    running = PassStatistics()
    for probabilities in draws(passes):
        running.add(probabilities)
    return {name: running.scores(name) for name in UNCERTAINTIES}


def seconds(function, passes, repeats=3):
    """Best of a few runs, without the drawing itself."""
    best = []
    for work in (function, lambda n: [None for _ in draws(n)]):
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            work(passes)
            times.append(time.perf_counter() - start)
        best.append(min(times))
    return best[0] - best[1]


def megabytes(function, passes):
    """Growth of peak memory in MiB, in a process of its own (Linux)."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_grown, (function.__name__, passes))


def _peak():
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _grown(name, passes):
    torch.set_num_threads(1)
    torch.zeros(2).softmax(0).std()  # libraries are there
    before = _peak()
    globals()[name](passes)
    return _peak() - before


def main():
    torch.set_num_threads(1)
    print(f"{IMAGES} images of {SIZE} px, {CLASSES} classes, all four functions, one thread")
    for passes in (10, 30, 100):
        times = [seconds(function, passes) for function in (streaming, naive)]
        memory = [megabytes(function, passes) for function in (streaming, naive)]
        print(
            f"  T = {passes:3}  running sums {1e3 * times[0]:6.0f} ms, {memory[0]:6.1f} MiB more   "
            f"all at once {1e3 * times[1]:6.0f} ms, {memory[1]:6.1f} MiB more   "
            f"ratio of time {times[1] / times[0]:.2f}, of memory {memory[1] / max(memory[0], 1):.0f}"
        )


if __name__ == "__main__":
    main()
