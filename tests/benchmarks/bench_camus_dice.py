"""Dice of models on annotated A4C and A2C frames, without any label, and the views that they name.

The store holds both views (``alan prepare --config prepare/camus_views``). Three kinds of masks are measured:
those of the lists for each phase (``alan analyze``), for shipped models those of one list for both phases (``alan
segment``), and the tissue to which the network gives the largest probability. Intervals are over patients. The
last lines set the mean Dice over views, structures and phases beside the CPU time of a frame on one thread, and
divide one by the other. A view without lists of its own takes those of the first one.

python tests/benchmarks/bench_camus_dice.py --store data/camus_views.h5 --split val --model alan-sim alan-sim-small
"""

import argparse
import time

import numpy as np
import torch
from torch.nn import functional as F

from alan import ParcelSegmenter
from alan.analysis import AnalysisModel
from alan.data import FrameStore
from alan.evaluation.intervals import bootstrap_interval
from alan.overlap import dice_of_counts
from alan.shipped import shipped

VIEWS, PHASES, STRUCTURES = ("A4C", "A2C"), ("ED", "ES"), ("lv", "myo", "la")


def by_phase(model, rows, maps, structure):
    """Masks of the lists for each phase."""
    masks = np.zeros(maps.shape, bool)
    for view in VIEWS:
        boxes = model.views.get(view, next(iter(model.views.values())))
        for phase, name in zip(PHASES, ("ed", "es"), strict=True):
            chosen = ((rows["view"] == view) & (rows["phase"] == phase)).to_numpy()
            masks[chosen] = getattr(boxes[structure], name).predict(maps[chosen])
    return masks


def own_tissue(model, frames, batch=50):
    """Tissue with the largest probability, (N, H, W): 0 background, then the structures."""
    found = []
    for start in range(0, len(frames), batch):
        part = torch.from_numpy(frames[start : start + batch])
        tissue = model.parcels.backbone.predictions(part)[:, : len(STRUCTURES) + 1]
        found.append(F.interpolate(tissue, part.shape[1:], mode="bilinear", align_corners=False).argmax(1))
    return torch.cat(found).numpy()


def show(title, rows, masks, truth):
    """Print the mean Dice by view, structure and phase, with its interval; return its mean over all of them."""
    print(title)
    means = []
    for view in VIEWS:
        for name in STRUCTURES:
            ours, true = masks[name], truth[name]
            scores = 100 * dice_of_counts((ours & true).sum((1, 2)), ours.sum((1, 2)) + true.sum((1, 2)))
            cells = []
            for phase in PHASES:
                chosen = ((rows["view"] == view) & (rows["phase"] == phase)).to_numpy()
                found = bootstrap_interval(scores[chosen], rows["patient"].to_numpy()[chosen])
                means.append(found.mean)
                cells.append(f"{found.mean:.1f} ({found.low:.1f}-{found.high:.1f})")
            print(f"  {view} {name:4} {' / '.join(cells)}")
    return float(np.mean(means))


def clocked(work):
    """Return the result of a call and its CPU seconds."""
    start = time.process_time()
    return work(), time.process_time() - start


def show_views(model, rows, frames):
    """Print the share of loops, an ED and an ES frame each, whose view the bank names."""
    right = []
    for _, loop in rows.groupby("sequence"):
        named = model.bank.classify(frames[loop.index.to_numpy()]).view
        right.append(named == loop["view"].iloc[0])
    print(f"views: {100 * np.mean(right):.0f}% of {len(right)} loops are named correctly")


def measure(name, rows, frames, truth):
    """Print the Dice and the views of a model; return the title, mean Dice and CPU seconds of its alternatives."""
    model = AnalysisModel.load(name)
    model.parcels.maps(frames[:2])
    maps, parcels = clocked(lambda: np.asarray(model.parcels.maps(frames)))
    kinds = {"lists for each phase": lambda: {s: by_phase(model, rows, maps, s) for s in STRUCTURES}}
    if name in shipped():
        lists = {s: ParcelSegmenter.from_json(f"{name}-{s}") for s in STRUCTURES}
        kinds["one list for both phases"] = lambda: {s: box.predict(maps) for s, box in lists.items()}
    costs = []
    for kind, segment in kinds.items():
        title = f"{name}, {kind}"
        masks, seconds = clocked(segment)
        costs.append((title, show(title, rows, masks, truth), parcels + seconds))
    title = f"{name}, the network's own tissue"
    tissue, seconds = clocked(lambda: own_tissue(model, frames))
    costs.append((title, show(title, rows, {s: tissue == n for n, s in enumerate(STRUCTURES, 1)}, truth), seconds))
    if model.bank is not None:
        show_views(model, rows, frames)
    return costs


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--model", nargs="+", default=["alan-sim"])
    parser.add_argument("--split", default="val")
    options = parser.parse_args()
    torch.set_num_threads(1)
    store = FrameStore(options.store)
    rows = store.labelled(options.split, VIEWS, phases=PHASES)
    frames = store.frames(rows["frame"].to_numpy())
    truth = {name: store.masks(rows["label"].to_numpy(), name) for name in STRUCTURES}
    costs = [cost for name in options.model for cost in measure(name, rows, frames, truth)]
    for title, dice, seconds in costs:
        spent = seconds / len(rows)
        rate = f"{1000 * spent:.1f} CPU ms per frame, {dice / spent:.0f} per CPU second"
        print(f"{title}: mean Dice {dice:.1f} at {rate}")


if __name__ == "__main__":
    main()
