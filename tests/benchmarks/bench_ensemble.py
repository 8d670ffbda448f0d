"""A trial of weights: from the kept disputed pixels, from all kept probabilities, and with the members run again.

Run: python tests/benchmarks/bench_ensemble.py [--frames 84] [--size 128]
     python tests/benchmarks/bench_ensemble.py --ensemble runs/ensemble_tiny/ensemble.json --store data/acdc_128.h5

Figures are ratios of times, on one thread. Without an ensemble the members are three U-Nets (resnet18) for the
time of running them, and made-up probabilities that agree where the frame is plain, as trained networks do.
"""

import argparse
import time

import numpy as np
import torch
from torch.nn.functional import interpolate, one_hot

from alan.data.store.reader import FrameStore
from alan.data.structures import n_classes
from alan.downstream.members import load_ensemble
from alan.seeding import seeded
from alan.supervised.member_predictions import collect
from alan.supervised.networks import PaddedNetwork
from alan.supervised.segmenter import Segmenter, to_labels
from alan.supervised.settings import NetworkSpec


class MadeUp:
    """Probabilities of the truth with smooth noise."""

    structures, classes, fingerprint = ("rv", "myo", "lv"), 4, ""

    def __init__(self, labels, seed):
        noise = torch.randn(len(labels), 4, 8, 8, generator=torch.Generator().manual_seed(seed))
        smooth = interpolate(noise, labels.shape[1:], mode="bicubic", align_corners=False)
        self.values = (4 * one_hot(labels.long(), 4).permute(0, 3, 1, 2) + 1.2 * smooth).softmax(1)
        self.place = 0

    def probabilities(self, frames):
        start, self.place = self.place, (self.place + len(frames)) % len(self.values)
        return self.values[start : start + len(frames)]


def discs(n, size):
    y, x = np.indices((size, size)) / size
    radius = np.hypot(y - 0.5, x - 0.55)
    one = np.select([radius < 0.1, radius < 0.16, np.hypot(y - 0.5, x - 0.3) < 0.1], [3, 2, 1], 0)
    return torch.from_numpy(np.repeat(one[None], n, 0).astype(np.uint8))


def score(probabilities, labels, classes):
    """Mean IoU over frames and structures from probabilities (N, C, H, W)."""
    named = to_labels(probabilities)
    means = []
    for value in range(1, classes):
        p, t = named == value, labels == value
        both, either = (p & t).sum((1, 2)).double(), (p | t).sum((1, 2)).double()
        means.append((both / either)[either > 0].mean())
    return float(torch.stack(means).mean())


def best(function, repeats=3):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def untrained(spec, structures, seed):
    """A segmenter with random weights."""
    with seeded(seed):
        return Segmenter(PaddedNetwork(spec, n_classes(structures), "unit"), spec, structures, None)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=84)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--ensemble")
    parser.add_argument("--store")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.ensemble:
        ensemble, store = load_ensemble(options.ensemble), FrameStore(options.store)
        members = networks = ensemble.members
        table = store.labelled(split="val")[: options.frames]
        frames = torch.from_numpy(store.frames(table["frame"]))
        labels = torch.from_numpy(store.label_maps(table["label"], ensemble.structures))
    else:
        labels = discs(options.frames, options.size)
        frames = (60 * labels).clone()
        members = {str(seed): MadeUp(labels, seed) for seed in range(3)}
        spec = NetworkSpec(decoder="unet", encoder="resnet18", in_channels=1)
        networks = {str(seed): untrained(spec, MadeUp.structures, seed) for seed in range(3)}
    batches = list(zip(frames.split(8), labels.split(8), strict=True))
    agreement = collect(members, batches)
    kept = torch.stack([torch.cat([m.probabilities(part) for part, _ in batches]) for m in members.values()])
    weights = np.array([0.97, 0.28, 0.64, *[0.5] * len(members)])[: len(members)]
    share = torch.from_numpy(weights / weights.sum()).float()

    def from_all():
        return score(torch.tensordot(share, kept, 1), labels, kept.shape[2])

    def again():
        parts = [
            sum(w * n.probabilities(b) for w, n in zip(share, networks.values(), strict=True)) for b, _ in batches
        ]
        return score(torch.cat(parts), labels, kept.shape[2])

    assert abs(agreement.score(weights, "iou") - from_all()) < 1e-4
    fast, plain, slow = best(lambda: agreement.score(weights, "iou"), 20), best(from_all), best(again, 1)
    pixels = agreement.label.size / labels.numel()
    print(
        f"{len(frames)} frames of {frames.shape[-1]} px, {len(members)} members, "
        f"{100 * pixels:.2f}% of pixels disputed"
    )
    print(
        f"a trial: {1000 * fast:.2f} ms; from all kept probabilities {plain / fast:.0f}x, "
        f"members run again {slow / fast:.0f}x"
    )
    print(f"memory: {agreement.probabilities.nbytes / kept.nbytes:.4f} of all probabilities")


if __name__ == "__main__":
    main()
