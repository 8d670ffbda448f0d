"""Resemblance of numbered pictures: neighbouring frames of loops, and stills of different CAMUS patients.

`alan analyze` takes numbered pictures for a loop from a resemblance of 0.75 on. The store holds both views:
python tests/benchmarks/bench_series.py --store data/camus_views.h5
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pydicom.data
from PIL import Image

from alan.data import FrameStore, read_cine
from alan.data.io.picture_series import resemblance
from alan.data.simulator import simulate_sequence

VIEWS, SECONDS, RATE = ("A4C", "A2C", "PLAX", "PSAX"), 2.0, 70.0


def measure(frames):
    """Resemblance of frames that are saved as numbered pictures."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number:03d}.png" for number in range(len(frames))]
        for path, frame in zip(paths, frames, strict=True):
            Image.fromarray(frame).save(path)
        return resemblance(paths)


def show(title, values):
    low, middle, high = np.quantile(values, (0, 0.5, 1))
    print(f"{title}: {len(values)} series, lowest {low:.2f}, median {middle:.2f}, highest {high:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", help="CAMUS in both views")
    parser.add_argument("--loops", type=int, default=10, help="number of loops of each view and rate")
    parser.add_argument(
        "--series", type=int, default=100, help="number of draws of patients of each view and phase"
    )
    options = parser.parse_args()
    for fps in (3, 10, 25, 60):
        found = []
        for view in VIEWS:
            for patient in range(options.loops):
                n, beats = round(fps * SECONDS), SECONDS * RATE / 60
                clip = simulate_sequence(view, 70_000 + patient, n_frames=n, beats=beats, seed=[7, patient])
                found.append(measure(clip.frames))
        show(f"simulated loops, {fps} frames/s", found)
    real = read_cine(pydicom.data.get_testdata_file("examples_ybr_color.dcm")).frames
    for step in (1, 3, 5):
        show(f"examples_ybr_color.dcm, every {step}", [measure(real[first::step]) for first in range(step)])
    if options.store is None:
        return
    store, rng = FrameStore(options.store), np.random.default_rng(0)
    rows = store.labelled(None, VIEWS, phases=("ED", "ES"))
    for n in (4, 12, 40):
        found = []
        for _, group in rows.groupby(["view", "phase"]):
            for _ in range(options.series):
                found.append(measure(store.frames(rng.choice(group["frame"].to_numpy(), n, replace=False))))
        show(f"stills of {n} patients of one view and phase", found)


if __name__ == "__main__":
    main()
