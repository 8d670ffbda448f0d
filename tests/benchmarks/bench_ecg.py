"""R waves that are read from electrocardiograms on simulated screens, against the true ones.

Electrocardiograms of random hearts, sweeps and still traces with a mark, are drawn over screens with text, ticks
and bars, and stored with the noise of a lossy codec:
python tests/benchmarks/bench_ecg.py --screens 12 --draws 25
"""

import argparse

import numpy as np

from alan.data.drawn_ecg import find_ecg_band, read_r_waves
from alan.data.io.frames import Samples
from alan.data.simulator.screen import draw_ecg, simulate_screen

#: Largest error of an R wave in frames, and time in s beyond the first and the last one that is read.
CLOSE, AROUND = 1.0, 0.1


def bare_screens(n, n_frames):
    """Screens on which the simulator has drawn no ECG."""
    seed = 700
    while n:
        if simulate_screen(seed, n_frames=2).r_waves_s is None:
            yield simulate_screen(seed, n_frames=n_frames)
            n -= 1
        seed += 1


def read(frames, sector, times):
    places = np.unique(np.linspace(0, len(frames) - 1, 24).round().astype(int))
    band = find_ecg_band(Samples(places, frames[places], None, frames.max(0) - frames.min(0)), sector)
    return np.empty(0) if band is None else read_r_waves(iter(frames), band, times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--screens", type=int, default=12)
    parser.add_argument("--draws", type=int, default=25)
    parser.add_argument("--frames", type=int, default=64)
    options = parser.parse_args()
    errors, several, found, wrong, invented = [], 0, 0, 0, 0
    for number, screen in enumerate(bare_screens(options.screens, options.frames)):
        sector = np.any(screen.sectors, 0)
        invented += len(read(screen.frames, sector, np.arange(options.frames) / 30)) > 0
        for draw in range(options.draws):
            rng = np.random.default_rng([97, number, draw])
            fps, period = rng.uniform(20, 60), 60 / rng.uniform(45, 120)
            times = np.arange(options.frames) / fps
            frames = screen.frames.copy()
            true = draw_ecg(frames, (times / period + rng.uniform()) % 1.0, fps, rng)
            noise = rng.integers(-3, 4, frames.shape, dtype=np.int16)
            frames = np.clip(frames + noise * (frames > 0), 0, 255).astype(np.uint8)
            waves = read(frames, sector, times)
            several += len(true) > 1
            if not len(waves):
                continue
            found += 1
            error = np.array([np.abs(true - wave).min() if len(true) else np.inf for wave in waves]) * fps
            inner = (true >= waves[0] - AROUND) & (true <= waves[-1] + AROUND)
            wrong += error.max() > CLOSE or inner.sum() != len(waves)
            errors += error.tolist()
    print(
        f"{options.screens * options.draws} electrocardiograms, {several} with two R waves or more: {found} read, "
        f"{wrong} of them wrong; {invented} of {options.screens} screens without one read; error of an R wave "
        f"{np.median(errors):.2f} frames (median), {np.quantile(errors, 0.95):.2f} (95%)"
    )


if __name__ == "__main__":
    main()
