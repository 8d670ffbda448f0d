"""Dice of the outputs of networks trained on simulation, and of the mean of their probabilities; no label is used.

Every pixel gets the tissue of the largest probability; the largest component of each structure is kept and filled.
Networks are names of shipped backbones, their files, or checkpoints of a training (``RUN/checkpoints/last.ckpt``).

python tests/benchmarks/bench_camus_networks.py --store data/camus_views.h5 --networks alan-sim alan-sim-small
"""

import argparse

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from alan.backbone.simulation.network import TeacherEnsemble
from alan.data import FrameStore
from alan.overlap import dice_of_counts

VIEWS, PHASES, STRUCTURES = ("A4C", "A2C"), ("ED", "ES"), ("lv", "myo", "la")


def probabilities(network, frames, side=56):
    """Probabilities of the tissues (N, C + 1, H, W); ``side`` is that of the maps before they are enlarged."""
    ensemble = TeacherEnsemble([network], len(STRUCTURES))
    tissue = torch.cat([ensemble(part, side)[0] for part in torch.from_numpy(frames).split(50)])
    return F.interpolate(tissue, frames.shape[1:], mode="bilinear", align_corners=False)


def largest(masks):
    """Keep the largest component of each mask (N, H, W) and fill its holes."""
    kept = np.zeros_like(masks)
    for n, mask in enumerate(masks):
        parts = ndimage.label(mask)[0]
        sizes = np.bincount(parts.ravel())[1:]
        kept[n] = ndimage.binary_fill_holes(parts == 1 + sizes.argmax()) if len(sizes) else mask
    return kept


def show(title, tissue, rows, truth):
    """Print the mean Dice by view, structure and phase in one line."""
    labels, cells = tissue.argmax(1).numpy(), []
    for view in VIEWS:
        for n, name in enumerate(STRUCTURES, 1):
            ours, true = largest(labels == n), truth[name]
            scores = 100 * dice_of_counts((ours & true).sum((1, 2)), ours.sum((1, 2)) + true.sum((1, 2)))
            of = (rows["view"] == view).to_numpy()
            means = [scores[of & (rows["phase"] == phase).to_numpy()].mean() for phase in PHASES]
            cells.append(f"{view} {name} {means[0]:.1f} / {means[1]:.1f}")
    print(f"{title}: {', '.join(cells)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--networks", nargs="+", required=True)
    parser.add_argument("--split", default="val")
    options = parser.parse_args()
    store = FrameStore(options.store)
    rows = store.labelled(options.split, VIEWS, phases=PHASES)
    frames = np.asarray(store.frames(rows["frame"].to_numpy()))
    truth = {name: store.masks(rows["label"].to_numpy(), name) for name in STRUCTURES}
    found = [probabilities(network, frames) for network in options.networks]
    for network, tissue in zip(options.networks, found, strict=True):
        show(network, tissue, rows, truth)
    if len(found) > 1:
        show("mean of all", torch.stack(found).mean(0), rows, truth)


if __name__ == "__main__":
    main()
