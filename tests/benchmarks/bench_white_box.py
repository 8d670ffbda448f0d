"""Dice of the white box's rules and steps on patients that gave no label, by number of labelled patients.

Run with ``python tests/benchmarks/bench_white_box.py --store data/camus_a4c.h5 --parcels
checkpoints/alan-sim-small-parcels.safetensors --simulated data/sim_a4c.h5``. Everything is measured on the side
``val``: in each draw some of 20 patients give labels and the others are scored. The prior is counted on the
simulated store. Reference: the greedy union without a guard over patients.
"""

import argparse
import warnings

import numpy as np
import torch
from sklearn.base import clone

from alan.data.store.reader import FrameStore
from alan.downstream.whitebox.prior import ParcelPrior
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.selection import ParcelSelector
from alan.downstream.whitebox.steps import PostProcessing
from alan.errors import AlanWarning, SelectionError
from alan.evaluation.metrics import dice
from alan.parcels.model import load_parcels

STRUCTURES, POOL = ("lv", "myo", "la"), 20
#: Step to the parameter that controls it, with the values that switch it off and on.
STEPS = {
    "main component": ("steps__component", False, True),
    "enclaves": ("steps__enclaves", False, True),
    "closing": ("steps__closing_radius", 0, 10),
    "fill": ("steps__fill", False, True),
    "active contour": ("steps__contour", False, True),
    "median": ("steps__median_radius", 0, 3),
    "soft": ("soft", None, "share"),
}
OFF = PostProcessing(component=False, enclaves=False, closing_radius=0, fill=False, contour=False)


def read(model, store, rows, temperature):
    """Parcel maps and soft scores of annotated frames."""
    frames = store.frames(rows["frame"].to_numpy())
    logits = torch.cat([model.logits(part) for part in torch.as_tensor(frames).split(16)])
    pictures = torch.as_tensor(frames)
    maps = model.maps_from_logits(logits, pictures, frames.shape[1:]).numpy()
    return maps, (logits / temperature).softmax(1).numpy()


def draws(patients, labelled, count):
    """Labelled and scored patients of each draw."""
    names = np.unique(patients)
    for seed in range(count):
        order = np.random.default_rng(seed).permutation(names)
        yield np.isin(patients, order[:labelled]), np.isin(patients, order[POOL:])


class Bench:
    """Arrays of both stores, and the scores of a white box over draws."""

    def __init__(self, arguments):
        self.model = load_parcels(arguments.parcels)
        store, simulated = FrameStore(arguments.store), FrameStore(arguments.simulated)
        rows, counted = store.labelled("val"), simulated.labelled().iloc[: arguments.simulated_frames]
        self.patients, self.draws = rows["patient"].to_numpy(), arguments.draws
        self.maps, self.scores = read(self.model, store, rows, arguments.temperature)
        maps, _ = read(self.model, simulated, counted, arguments.temperature)
        ids = {"n_parcels": self.model.n_ids, "background_id": self.model.background_id}
        self.ids = ids
        self.masks = {name: store.masks(rows["label"].to_numpy(), name) for name in STRUCTURES}
        self.priors = {
            name: ParcelPrior.count(
                maps,
                simulated.masks(counted["label"].to_numpy(), name),
                groups=counted["patient"].to_numpy(),
                structure=name,
                **ids,
            )
            for name in STRUCTURES
        }

    def segmenter(self, name, labels, *, rule, steps, prior=False, guard="size", **options):
        """A white box fitted on the labelled frames; none at all asks the prior."""
        selector = ParcelSelector(rule, guard=guard, prior=self.priors[name] if prior else None, **self.ids)
        box = ParcelSegmenter(selector, steps, **options)
        if not labels.any():
            return box.fit_prior()
        return box.fit(self.maps[labels], self.masks[name][labels], groups=self.patients[labels])

    def predict(self, box, test):
        return box.predict(self.maps[test], self.scores[test])

    def score(self, name, labelled, **options):
        """Mean Dice over the draws, in %; a rule that chooses nothing scores 0."""
        values = []
        for labels, test in draws(self.patients, labelled, self.draws if labelled else 1):
            try:
                box = self.segmenter(name, labels, **options)
            except SelectionError:
                values.append(0.0)
                continue
            values.append(np.nanmean(dice(self.predict(box, test), self.masks[name][test])))
        return 100 * float(np.mean(values))


def rules(bench):
    """Rules by number of labelled patients, raw and soft."""
    trials = {
        "paper": {"rule": "paper"},
        "relaxed": {"rule": "relaxed"},
        "greedy, guard size (reference)": {"rule": "greedy"},
        "greedy, guard patients": {"rule": "greedy", "guard": "patients"},
        "beta": {"rule": "beta"},
        "beta, prior": {"rule": "beta", "prior": True},
        "beta, prior, soft union": {"rule": "beta", "prior": True, "soft": "union"},
        "beta, prior, soft share": {"rule": "beta", "prior": True, "soft": "share"},
    }
    for name in STRUCTURES:
        print(f"{name}: Dice without post-processing, labelled patients 0, 1, 2, 5, 10, 20", flush=True)
        for title, options in trials.items():
            counts = (0, 1, 2, 5, 10, 20) if options.get("prior") else (1, 2, 5, 10, 20)
            values = [f"{bench.score(name, n, **options, steps=OFF):5.1f}" for n in counts]
            print(f"  {title:32s}" + " ".join([" " * 5] * (6 - len(counts)) + values), flush=True)


def steps(bench, labelled=5):
    """Steps one by one, on soft segments by share."""
    for name in STRUCTURES:
        print(f"{name}: change of one step, {labelled} labelled patients, beta, prior, soft share", flush=True)
        chosen = PostProcessing.for_structure(name)
        tables = []
        for labels, test in draws(bench.patients, labelled, max(bench.draws // 3, 1)):
            box = bench.segmenter(name, labels, rule="beta", steps=chosen, prior=True, soft="share")
            tables.append(ablate(bench, box, name, test))
        as_it_is = np.mean([table["as it is"] for table in tables])
        for step in tables[0]:
            dice = np.mean([table[step] for table in tables])
            print(f"  {step:20s} {100 * dice:6.2f} {100 * (dice - as_it_is):+6.2f}", flush=True)


def ablate(bench, box, name, test):
    """Mean Dice of a fitted white box as it is, and with each step switched on or off."""
    trials, known = {"as it is": box}, box.get_params()
    for step, (parameter, off, on) in STEPS.items():
        trial = clone(box).set_params(**{parameter: off if known[parameter] else on})
        trial.selector_ = box.selector_
        trials[f"{step} {'off' if known[parameter] else 'on'}"] = trial
    masks = bench.masks[name][test]
    return {title: np.nanmean(dice(bench.predict(one, test), masks)) for title, one in trials.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("store", "parcels", "simulated"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--simulated_frames", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--draws", type=int, default=6)
    warnings.simplefilter("ignore", AlanWarning)
    torch.set_num_threads(1)
    bench = Bench(parser.parse_args())
    rules(bench)
    steps(bench)


if __name__ == "__main__":
    main()
