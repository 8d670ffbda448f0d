"""Speed of onnxruntime against torch, and agreement of their parcels, on simulated loops and one core.

python tests/benchmarks/bench_onnx.py --model alan-sim --frames 96
"""

import argparse
import time

import numpy as np
import torch

from alan.analysis import AnalysisModel
from alan.data.simulator import simulate_sequence

VIEWS = ("A4C", "A2C")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="alan-sim")
    parser.add_argument("--frames", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = {runtime: AnalysisModel.load(options.model, runtime) for runtime in ("torch", "onnx")}
    n = options.frames // len(VIEWS)
    clips = [simulate_sequence(view, 1, n_frames=n, beats=2.0, size=(112, 112), seed=1) for view in VIEWS]
    frames = np.concatenate([clip.frames for clip in clips])
    seconds, maps = dict.fromkeys(models, np.inf), {}
    for _ in range(options.repeats):  # in turn, so that a change of the load affects both
        for runtime, model in models.items():
            start = time.perf_counter()
            maps[runtime] = model.maps(frames)
            seconds[runtime] = min(seconds[runtime], time.perf_counter() - start)
    speed = {runtime: len(frames) / best for runtime, best in seconds.items()}
    same = float((maps["torch"] == maps["onnx"]).mean())
    print(
        f"{options.model}, {len(frames)} frames of 112 x 112, 1 thread: {models['onnx'].runtime} "
        f"{speed['onnx']:.1f} frames/s, {models['torch'].runtime} {speed['torch']:.1f} frames/s, ratio "
        f"{speed['onnx'] / speed['torch']:.2f}; parcels equal on {same:.4%} of the pixels"
    )


if __name__ == "__main__":
    main()
