"""RAPTOR's loss, SmooSeg's, parcel maps and guided maps, each against its plain form, on one thread.

Run: python tests/benchmarks/bench_parcels.py [--frames 8]

Figures are ratios of times (best of three, the forms taken in turn) and of peak memory above that of the inputs
(Linux, one process each). The loss is forward and backward at the paper's tokens: 784 of 384 channels, K 64, two
sequences.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from alan.parcels import losses as module
from alan.parcels.guided import GuidedFilter
from alan.parcels.maps import logits_to_maps
from alan.parcels.smooseg import smoothness_loss

FORMS = ("naive", "general", "moments")


def naive(features, codes, generator):
    """Three terms, each with the (tokens x tokens) matrices of all its pairs at once."""
    b, n = features.shape[:2]
    chosen = torch.randint(n, (b, 1), generator=generator)
    other = (torch.arange(b) + torch.randint(1, b, (b,), generator=generator)) % b
    rows = torch.arange(b)[:, None]
    f, s = F.normalize(features, dim=-1), F.normalize(codes, dim=-1)
    total = 0
    for weight, f_a, s_a, f_b, s_b in (
        (1.0, f, s, f, s),
        (0.5, f[rows, chosen], s[rows, chosen], f, s),
        (1.0, f, s, f[other], s[other]),
    ):
        cosine = f_a @ f_b.mT
        cosine = cosine - cosine.mean(-1, keepdim=True)
        total = total - weight * ((cosine - 0.3) * (s_a @ s_b.mT).clamp(min=0)).mean()
    return total


def step(form, features, logits):
    """Forward and backward; the value of the loss."""
    logits.grad = None
    codes, generator = logits.softmax(-1), torch.Generator().manual_seed(0)
    if form == "naive":
        loss = naive(features, codes, generator)
    elif form == "moments":
        loss = module.raptor_loss(features, codes, generator=generator)["total"]
    else:  # as for codes of any sign
        known = module._Frames.non_negative
        module._Frames.non_negative = property(lambda _: False)
        loss = module.raptor_loss(features, codes, generator=generator)["total"]
        module._Frames.non_negative = known
    loss.backward()
    return loss.item()


def inputs(n_frames):
    g = torch.Generator().manual_seed(0)
    features = torch.randn(2, n_frames, 784, 384, generator=g)
    return features, torch.randn(2, n_frames, 784, 64, generator=g).requires_grad_()


def peak(form, n_frames):
    """Peak memory of one step above that before it, MiB, in a process of its own."""
    command = [sys.executable, __file__, "--frames", str(n_frames), "--memory", form]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def high_water():
    """Peak resident memory of this process so far, MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def best_of_three(**calls):
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(3):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def bench_loss(n_frames):
    x = inputs(n_frames)
    values = [step(form, *x) for form in FORMS]
    times = best_of_three(**{form: lambda form=form: step(form, *x) for form in FORMS})
    memory = {form: peak(form, n_frames) for form in FORMS}
    print(f"loss, 2 x {n_frames} frames of 784 tokens: largest difference {max(values) - min(values):.1e}")
    for form in FORMS[1:]:
        print(
            f"  {form:8s} {times['naive'] / times[form]:6.1f} x as fast as naive ({times[form] * 1e3:.0f} ms), "
            f"peak memory {memory[form] / memory['naive']:.3f} of naive ({memory[form]:.0f} MiB)"
        )


def bench_maps():
    for n_parcels, grid in ((64, 15), (64, 28), (112, 28)):
        logits = torch.randn(32, n_parcels, grid, grid, generator=torch.Generator().manual_seed(0))
        plain = lambda: F.interpolate(logits, (112, 112), mode="bilinear", align_corners=False).argmax(1)  # noqa: B023, E731
        times = best_of_three(plain=plain, ours=lambda: logits_to_maps(logits, 112))  # noqa: B023
        same = (plain() == logits_to_maps(logits, 112)).float().mean()
        print(
            f"maps at 112, K {n_parcels}, {grid} x {grid}: {times['plain'] / times['ours']:.1f} x as fast as "
            f"interpolate + argmax ({times['ours'] / 32 * 1e3:.2f} ms a frame), {same:.6f} of pixels equal"
        )


def naive_smoothness(features, assignments, generator):
    """SmooSeg's term as its paper writes it, with the matrices of all pairs: a frame with itself, and another."""
    b = len(features)
    torch.randint(features.shape[1], (b, 1), generator=generator)
    other = (torch.arange(b) + torch.randint(1, b, (b,), generator=generator)) % b
    f, s = F.normalize(features, dim=-1), F.normalize(assignments, dim=-1)
    total = 0
    for shift, index in ((-0.02, torch.arange(b)), (0.5, other)):
        cosine = f @ f[index].mT
        cosine = cosine - cosine.mean(-1, keepdim=True)
        total = total + ((cosine - shift) * (1 - s @ s[index].mT)).mean()
    return total


def smooseg_step(form, features, logits):
    """Forward and backward; the value of the loss."""
    logits.grad = None
    assignments, generator = logits.softmax(-1), torch.Generator().manual_seed(0)
    if form == "naive":
        loss = naive_smoothness(features, assignments, generator)
    else:
        options = {"shifts": module.LossWeights(-0.02, 0.0, 0.5), "weights": module.LossWeights(1.0, 0.0, 1.0)}
        loss = smoothness_loss(features, assignments, generator=generator, **options)["total"]
    loss.backward()
    return loss.item()


def bench_smooseg(n_frames):
    x = inputs(n_frames)
    values = {form: smooseg_step(form, *x) for form in ("naive", "ours")}
    times = best_of_three(**{form: lambda form=form: smooseg_step(form, *x) for form in values})
    print(
        f"SmooSeg's smoothness: {times['naive'] / times['ours']:.1f} x as fast as naive "
        f"({times['ours'] * 1e3:.0f} ms), difference {abs(values['naive'] - values['ours']):.1e}"
    )


def plain_guided(frames, logits, radius, eps):
    """Parcel by parcel in NumPy, box means by SciPy (zeros beyond the border, divided by the window's pixels)."""
    size = frames.shape[-1]

    def box(plane):
        return ndimage.uniform_filter(plane, 2 * radius + 1, mode="constant") / norm

    norm = ndimage.uniform_filter(np.ones((size, size)), 2 * radius + 1, mode="constant")
    up = F.interpolate(logits, (size, size), mode="bilinear", align_corners=False).double().numpy()
    maps = np.empty(frames.shape, np.uint8)
    for guide, planes, out in zip(frames.double().numpy() / 255, up, maps, strict=True):
        mean = box(guide)
        variance = box(guide * guide) - mean * mean
        found = []
        for plane in planes:
            value = box(plane)
            a = (box(guide * plane) - mean * value) / (variance + eps)
            found.append(box(a) * guide + box(value - a * mean))
        out[:] = np.argmax(found, 0)
    return maps


def bench_guided():
    for n_parcels, grid in ((64, 15), (112, 56)):
        g = torch.Generator().manual_seed(0)
        logits = torch.randn(8, n_parcels, grid, grid, generator=g)
        texture = F.interpolate(torch.rand(8, 1, 28, 28, generator=g), (112, 112), mode="bilinear")
        frames = (255 * texture[:, 0]).to(torch.uint8)
        exact = lambda: logits_to_maps(logits, 112, frames, GuidedFilter(subsample=1))  # noqa: B023, E731
        ours = lambda: logits_to_maps(logits, 112, frames, GuidedFilter())  # noqa: B023, E731
        plain = lambda: plain_guided(frames, logits, 4, 0.01)  # noqa: B023, E731
        bilinear = lambda: logits_to_maps(logits, 112)  # noqa: B023, E731
        times = best_of_three(plain=plain, ours=ours, exact=exact, bilinear=bilinear)
        same = [(form().numpy() == plain()).mean() for form in (exact, ours)]
        print(
            f"guided maps at 112, K {n_parcels}, {grid} x {grid}: {times['plain'] / times['ours']:.1f} x as fast "
            f"as parcel by parcel in SciPy ({same[1]:.4f} of pixels equal), the exact form "
            f"{times['plain'] / times['exact']:.1f} x ({same[0]:.4f}); "
            f"{times['ours'] / times['bilinear']:.1f} x the time of bilinear maps "
            f"({times['ours'] / 8 * 1e3:.1f} ms a frame)"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--memory", choices=FORMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory:
        x = inputs(arguments.frames)
        before = high_water()
        step(arguments.memory, *x)
        print(high_water() - before)
        return
    bench_loss(arguments.frames)
    bench_smooseg(arguments.frames)
    bench_maps()
    bench_guided()


if __name__ == "__main__":
    main()
