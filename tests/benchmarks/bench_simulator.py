"""Difficulty and speed of the simulator: ``python tests/benchmarks/bench_simulator.py [--patients 60]``.

Hardness, on A4C frames at 112 px (Dice in %, ED/ES), a third of the patients to learn from, the others to test:

- *atlas*: the average mask, cut at the level that is best on the first third; no image is looked at;
- *threshold*: the best global cut on intensity inside the sector, chosen on the test frames themselves;
- *k-means*: clusters of raw 7 x 7 patches, the union of clusters that is best on the first third (greedy).

Speed: CPU milliseconds per frame on one thread, and how much longer it takes with convolutions for blurs.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor
from torch.nn import functional as F

from alan.data.sample import VIEWS
from alan.data.simulator import echo, simulate_sequence
from alan.data.structures import label_value


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of two boolean masks in %; NaN if both are empty."""
    total = int(a.sum() + b.sum())
    return 200 * int((a & b).sum()) / total if total else math.nan


def phases(predicted: np.ndarray, truth: np.ndarray) -> str:
    """Mean Dice of ED and ES, from arrays (patients, 2, H, W)."""
    values = [[dice(p, t) for p, t in zip(predicted[:, k], truth[:, k], strict=True)] for k in (0, 1)]
    return "/".join(f"{np.nanmean(v):.0f}" for v in values)


def atlas(train: np.ndarray, test: np.ndarray) -> str:
    """Dice of the average training mask, cut at the best training level."""
    mean = train.mean((0, 1))
    flat = train.reshape(-1, *mean.shape)
    best = max(np.arange(0.1, 0.9, 0.05), key=lambda level: np.mean([dice(mean > level, m) for m in flat]))
    return phases(np.broadcast_to(mean > best, test.shape), test)


def threshold(frames: np.ndarray, inside: np.ndarray, test: np.ndarray) -> str:
    """Dice of the best global intensity cut, from either side."""
    cuts = [
        inside & ((frames < level) if dark else (frames > level)) for level in range(8, 250, 8) for dark in (0, 1)
    ]
    return phases(max(cuts, key=lambda m: np.mean([dice(a, b) for a, b in zip(m, test, strict=True)])), test)


def patches(frames: np.ndarray, side: int = 7) -> np.ndarray:
    """Raw patches around every second pixel: (N, H/2, W/2, side * side) float32."""
    x = torch.from_numpy(frames.astype(np.float32))[:, None] / 255
    found = F.unfold(x, side, stride=2, padding=side // 2)
    return found.view(len(frames), side * side, frames.shape[1] // 2, -1).permute(0, 2, 3, 1).numpy()


def kmeans(train: np.ndarray, masks: np.ndarray, test: np.ndarray, truth: np.ndarray, clusters: int = 64) -> str:
    """Dice of the greedy union of clusters of raw patches."""
    shape = train.shape[-2:]
    features = patches(train.reshape(-1, *shape))
    model = MiniBatchKMeans(clusters, batch_size=4096, n_init=1, random_state=0)
    maps = model.fit_predict(features.reshape(-1, features.shape[-1])).reshape(features.shape[:3])
    target = masks.reshape(-1, *shape)[:, ::2, ::2]
    chosen: list[int] = []
    best = 0.0
    while True:
        scores = {
            k: np.mean([dice(np.isin(m, [*chosen, k]), t) for m, t in zip(maps, target, strict=True)])
            for k in range(clusters)
            if k not in chosen
        }
        top = max(scores, key=lambda k: scores[k])
        if scores[top] <= best:
            break
        best = scores[top]
        chosen.append(top)
    found = model.predict(patches(test.reshape(-1, *shape)).reshape(-1, features.shape[-1]))
    union = np.isin(found, chosen).reshape(-1, *features.shape[1:3]).repeat(2, 1).repeat(2, 2)
    return phases(union.reshape(truth.shape), truth)


def convolution_blur(x: Tensor, axial: float = 0.0, lateral: float = 0.0) -> Tensor:
    """The naive reference: a Gaussian blur by convolution with replicated edges."""
    for sigma, axis in ((axial, 0), (lateral, 1)):
        if sigma > 0:
            n = int(4 * sigma + 0.5)
            kernel = torch.exp(-0.5 * (torch.arange(-n, n + 1) / sigma).square())
            size = (2 * n + 1, 1) if axis == 0 else (1, 2 * n + 1)
            flat = x.reshape(-1, 1, *x.shape[-2:])
            flat = F.pad(flat, (0, 0, n, n) if axis == 0 else (n, n, 0, 0), mode="replicate")
            x = F.conv2d(flat, (kernel / kernel.sum()).view(1, 1, *size)).view(x.shape)
    return x


def milliseconds(clips: int, n_frames: int = 16) -> float:
    """CPU milliseconds per frame over the four views."""
    start = time.process_time()
    for i in range(clips):
        simulate_sequence(VIEWS[i % 4], i, n_frames=n_frames, seed=i)
    return 1000 * (time.process_time() - start) / (clips * n_frames)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    clips = [simulate_sequence("A4C", 10_000 + i, n_frames=8, seed=[args.seed, i]) for i in range(args.patients)]
    frames = np.stack([c.frames[[c.ed, c.es]] for c in clips])
    labels = np.stack([c.labels[[c.ed, c.es]] for c in clips])
    inside = np.broadcast_to(np.stack([c.frames.max(0) > 0 for c in clips])[:, None], frames.shape)
    third = args.patients // 3
    for name in ("lv", "myo", "la"):
        mask = labels == label_value(name)
        row = [
            f"atlas {atlas(mask[:third], mask[third:])}",
            f"threshold {threshold(frames[third:], inside[third:], mask[third:])}",
            f"k-means {kmeans(frames[:third], mask[:third], frames[third:], mask[third:])}",
        ]
        print(f"{name:4}", "  ".join(row), flush=True)
    milliseconds(4)
    ours = milliseconds(16)
    matrix, echo.blur = echo.blur, convolution_blur
    try:
        naive = milliseconds(8)
    finally:
        echo.blur = matrix
    print(f"speed {ours:.2f} ms a frame on one thread; with convolutions {naive:.2f} ms, {naive / ours:.1f} times")


if __name__ == "__main__":
    main()
