"""Cost of a cell of the label-efficiency figure: seconds to learn from 40 frames and predict 100, one thread.

Run with ``OMP_NUM_THREADS=1 python tests/benchmarks/bench_efficiency.py [store.h5]``: on made-up tokens (56 x 56
of width 240, as a convolutional backbone gives them at 112 px) the linear probe against scikit-learn's
``LogisticRegression`` on the same drawn tokens, and the decoder; with a frame store, also the U-Net and the
SegFormer of ``configs/evaluate/label_efficiency_camus.yaml``, timed for a few steps and extrapolated.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml
from sklearn.linear_model import LogisticRegression

from alan.data.loaders.labelled import LabelledFrameDataModule
from alan.downstream.probes.decoder import DecoderProbe
from alan.downstream.probes.linear import LinearProbe
from alan.supervised.settings import NetworkSpec, TrainingSettings
from alan.supervised.training import train

FRAMES, TESTED, GRID, DIM, SIDE, STEPS = 40, 100, 56, 240, 112, 6
CONFIG = Path(__file__).parents[2] / "configs" / "evaluate" / "label_efficiency_camus.yaml"
STRUCTURES = ("lv", "myo", "la")


def scene(n, seed):
    """Tokens (n, 56, 56, 240) float16 with four classes in the plane, and their label maps."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    centres = rng.uniform(0.4, 0.6, (n, 2, 1, 1))
    distance = np.hypot(rows - centres[:, 0], columns - centres[:, 1])
    maps = np.digitize(-distance, [-0.4, -0.25, -0.12]).astype(np.uint8)
    towards = np.random.default_rng(9).normal(size=(4, DIM))
    tokens = towards[maps[:, ::2, ::2]] + 2 * rng.normal(size=(n, GRID, GRID, DIM)).astype(np.float32)
    return tokens.astype(np.float16), maps


def seconds(work):
    """Processor time of a call, and what it gives."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def network_seconds(store, settings):
    """Seconds of all steps of a network's training."""
    network = dict(settings["network"])
    channels = network.pop("decoder_channels", None)
    spec = NetworkSpec(**network, decoder_channels=None if channels is None else tuple(channels))
    training = TrainingSettings(**{**settings, "network": spec})

    data = LabelledFrameDataModule([store], list(STRUCTURES), label_patients=20)

    def fit(steps):
        train(replace(training, steps=steps, accelerator="cpu"), data.train_frames, 0)

    fit(1)
    return (seconds(lambda: fit(STEPS + 1))[0] - seconds(lambda: fit(1))[0]) / STEPS * training.steps


def main():
    torch.set_num_threads(1)
    tokens, maps = scene(FRAMES, 0)
    tested, truth = scene(TESTED, 1)
    costs = {}
    linear = LinearProbe()
    costs["linear"], _ = seconds(lambda: linear.fit(tokens, maps))
    predict, found = seconds(lambda: linear.predict(tested))
    print(
        f"linear: fit {costs['linear']:.1f} s, predict {predict:.1f} s, right pixels {(found == truth).mean():.3f}"
    )
    x, y = linear._draw(tokens, torch.nn.functional.one_hot(torch.from_numpy(maps[:, ::2, ::2].astype(int)), 4))
    oracle = LogisticRegression(C=1 / (linear.l2 * len(x)), tol=linear.tol, max_iter=linear.max_iter)
    theirs, _ = seconds(lambda: oracle.fit(x.numpy(), y.argmax(1).numpy()))
    print(
        f"  scikit-learn's LogisticRegression on the same tokens: {theirs:.1f} s, {theirs / costs['linear']:.1f} x"
    )
    decoder = DecoderProbe()
    costs["decoder"], _ = seconds(lambda: decoder.fit(tokens, maps))
    predict, found = seconds(lambda: decoder.predict(tested))
    weights = sum(p.numel() for p in decoder.network_.parameters())
    print(
        f"decoder ({weights:,} weights): fit {costs['decoder']:.1f} s, predict {predict:.1f} s, "
        f"right pixels {(found == truth).mean():.3f}"
    )
    if len(sys.argv) > 1:
        methods = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["label_efficiency"]["methods"]
        for method in methods:
            if method["kind"] == "network" and "init" not in method:
                costs[method["name"]] = network_seconds(sys.argv[1], method["network"])
                print(f"{method['name']}: fit {costs[method['name']]:.0f} s ({method['network']['steps']} steps)")
        for name in ("linear", "decoder"):
            print(f"{name}: {costs['U-Net'] / costs[name]:.1f} times as fast as the U-Net")


if __name__ == "__main__":
    main()
