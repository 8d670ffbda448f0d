"""Overlap of found and simulated sectors, and the time of a search against decoding the loop from MJPEG.

python tests/benchmarks/bench_fan.py --screens 500
"""

import argparse
import io
import time

import av
import numpy as np
from tqdm import tqdm

from alan.data.fan_search import find_fans
from alan.data.simulator.screen import simulate_screen


def decode_seconds(frames):
    """Seconds that FFmpeg takes to decode the loop."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=30)
        stream.height, stream.width, stream.pix_fmt = (*frames.shape[1:], "yuvj420p")
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode(None))
    buffer.seek(0)
    start = time.perf_counter()
    with av.open(buffer) as container:
        for frame in container.decode(video=0):
            frame.to_ndarray(format="gray")
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--screens", type=int, default=60)
    parser.add_argument("--frames", type=int, default=8)
    options = parser.parse_args()
    overlaps, found, search, decode = [], 0, 0.0, 0.0
    for seed in tqdm(range(options.screens), unit="screen"):
        panels = 2 if seed % 8 == 5 else 1
        screen = simulate_screen(seed, n_frames=options.frames, panels=panels)
        decode += decode_seconds(screen.frames)
        start = time.perf_counter()
        masks = [fan.mask() for fan in find_fans(screen.frames)]
        search += time.perf_counter() - start
        found += len(masks) == panels
        here = [max([(m & s).sum() / (m | s).sum() for m in masks] or [0.0]) for s in screen.sectors]
        if min(here) < 0.9 or len(masks) != panels:
            tqdm.write(f"screen {seed}: {len(masks)} of {panels} panels, IoU {min(here):.3f}")
        overlaps += here
    print(f"{len(overlaps)} sectors on {options.screens} screens, right number of panels on {found}")
    low, worst = np.quantile(overlaps, (0.05, 0.0))
    print(f"IoU: mean {np.mean(overlaps):.3f}, 5% quantile {low:.3f}, worst {worst:.3f}")
    print(f"search {search / options.screens:.2f} s a loop, {search / decode:.1f} times its decoding from MJPEG")


if __name__ == "__main__":
    main()
