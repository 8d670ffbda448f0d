"""Milliseconds per frame of the parcel-to-segment post-processing, at 112 px and K = 64, on one core.

Run with ``OPENBLAS_NUM_THREADS=1 python tests/benchmarks/bench_segmenter.py``: time per frame in full, step by
step, and against the slow plain implementation of the published steps; the median over rounds of processor time.
"""

import runpy
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from alan.downstream.whitebox import contour, steps
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.selection import ParcelSelector
from alan.errors import AlanWarning

SLOW = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).parents[1] / "downstream" / "whitebox" / "slow_reference.py"))
)
FRAMES, SLOW_FRAMES, ROUNDS = 60, 6, 5
STEPS = (
    (steps, "main_component"),
    (steps, "add_enclaves"),
    (steps, "close"),
    (steps, "smooth_outline"),
    (contour, "outlines"),
    (contour, "edge_strength"),
    (contour, "active_contour"),
    (contour, "fill_polygon"),
)


def milliseconds(work):
    """Median processor time of a call a frame."""
    spent = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return float(np.median(spent)) * 1e3 / FRAMES


def step_times(work):
    """Processor time of each step a frame; inner steps are counted in outer ones too."""
    total = dict.fromkeys((name for _, name in STEPS), 0.0)
    originals = [(module, name, getattr(module, name)) for module, name in STEPS]

    def timed(name, function):
        def call(*args, **kwargs):
            start = time.process_time()
            out = function(*args, **kwargs)
            total[name] += time.process_time() - start
            return out

        return call

    try:
        for module, name, function in originals:
            setattr(module, name, timed(name, function))
        work()
    finally:
        for module, name, function in originals:
            setattr(module, name, function)
    return {name: spent * 1e3 / FRAMES for name, spent in total.items()}


def main():
    warnings.simplefilter("ignore", AlanWarning)
    for title, noise in (("smooth parcels", 0.2), ("ragged parcels", 0.35), ("fragments", 1.0)):
        maps, masks = SLOW.parcel_maps_and_masks(0, FRAMES, noise=noise)
        model = ParcelSegmenter(ParcelSelector("greedy", min_gain=0)).fit(maps, masks)
        fast = milliseconds(lambda m=model, p=maps: m.predict(p))
        interior = model.selector_.interior_
        start = time.process_time()
        reference = [SLOW.segment(parcel_map, interior) for parcel_map in maps[:SLOW_FRAMES]]
        slow = (time.process_time() - start) * 1e3 / SLOW_FRAMES
        ours = model.predict(maps)
        worst = min(SLOW.dice(a, b) for a, b in zip(ours, reference, strict=False))
        coverage = ours.mean()
        print(f"{title}: {len(interior)} interior parcels, segments cover {coverage:.0%} of the image")
        print(
            f"  {fast:.2f} ms a frame (target 5); slow plain steps {slow:.0f} ms, {slow / fast:.0f} times as long;"
        )
        print(f"  Dice of the two at least {worst:.4f} on {SLOW_FRAMES} frames")
        for name, spent in step_times(lambda m=model, p=maps: m.predict(p)).items():
            print(f"    {name:16s} {spent:6.2f} ms")


if __name__ == "__main__":
    main()
