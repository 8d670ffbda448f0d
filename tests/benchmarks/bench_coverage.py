"""Coverage of 90% intervals of areas, by the correlation of the parcels and the weight of the evidence.

Run with ``python tests/benchmarks/bench_coverage.py --store data/camus_a4c.h5``; without a store only new
simulated patients are measured. An interval is taken over white boxes drawn from the posterior of the parcels
(``alan.downstream.whitebox.sampling``). Reference: the area by the given mask should lie inside in 90% of the
frames. The intervals are printed as they are, and widened by the error of the model on half of the simulated
patients (``alan.analysis.uncertainty.calibrate_spread``). ``--grid`` measures other correlations and weights, on
the unions before post-processing.
"""

import argparse
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from alan.analysis import Measure
from alan.analysis.uncertainty import calibrate_spread, with_intervals
from alan.cli.prepare import prepare
from alan.data.simulator.archive import simulate_archive
from alan.data.store.reader import FrameStore
from alan.downstream import ParcelSegmenter
from alan.downstream.whitebox.sampling import (
    CORRELATION,
    EVIDENCE_WEIGHT,
    credible_interval,
    sample_areas,
    sample_masks,
    sample_shares,
)
from alan.downstream.whitebox.steps import PostProcessing
from alan.parcels.model import load_parcels

NONE = (0.0, 0.0)
STRUCTURES, PHASES = ("lv", "myo", "la"), ("ED", "ES")
UNION = PostProcessing(component=False, enclaves=False, closing_radius=0, fill=False, contour=False)


def simulated_store(folder, patients):
    """Frame store of simulated patients that no shipped model has seen."""
    simulate_archive(folder / "sim", n_patients=patients, views=["A4C"], size=112, seed=2024, progress=False)
    prepare(kind="camus", root=str(folder / "sim"), out=str(folder / "sim.h5"))
    return FrameStore(folder / "sim.h5")


def cases(boxes, model, store, split):
    """Yield structure, phase, white box, maps and true areas of the frames that show the structure."""
    rows = store.labelled(split)
    maps = model.store_maps(store, rows["frame"].to_numpy(), 64)
    labels = np.asarray(store.label_maps(rows["label"], STRUCTURES))
    for value, name in enumerate(STRUCTURES, 1):
        area = (labels == value).sum((1, 2))
        for phase, box in zip(PHASES, boxes[name], strict=True):
            taken = np.flatnonzero((rows["phase"].to_numpy() == phase) & (area > 0))
            yield name, phase, box, maps[taken], area[taken]


def sample(box, maps, **options):
    """Estimate of the area of each frame, and its areas by white boxes drawn from the posterior."""
    for one in maps:
        areas = sample_areas(box, one[None], rng=np.random.default_rng(0), **options)[:, 0]
        value = float(next(sample_masks(box, one[None], box.selector_.share_[None])).sum())
        yield value, [{"area": Measure(float(area))} for area in areas]


def intervals(sampled, spread):
    """Areas with intervals."""
    return [
        with_intervals({"area": Measure(value)}, draws, [SimpleNamespace(area=value)], {"area": spread})["area"]
        for value, draws in sampled
    ]


def describe(found, area):
    """Coverage, mean width relative to the true area, and mean ratio of the estimate to it."""
    low, value, high = np.array([(one.low, one.value, one.high) for one in found]).T
    return ((low <= area) & (area <= high)).mean(), ((high - low) / area).mean(), (value / area).mean()


def grid(held, draws):
    """Print the coverage of each structure by correlation and weight, over both phases."""
    print("correlation  weight  " + "  ".join(STRUCTURES) + "   mean  width")
    for correlation in (0.1, 0.3, 0.5, 0.7):
        for weight in (0.05, 0.1, 0.2, 0.5):
            found = {name: [] for name in STRUCTURES}
            for name, _, box, maps, area in held:
                options = {"correlation": correlation, "evidence_weight": weight}
                shares = sample_shares(box.selector_, draws, np.random.default_rng(0), **options)
                chosen = shares > box.selector_.share_above
                pixels = np.stack([np.bincount(one.ravel(), minlength=chosen.shape[1]) for one in maps])
                low, high = credible_interval(chosen @ pixels[:, : chosen.shape[1]].T)
                found[name].append((((low <= area) & (area <= high)).mean(), ((high - low) / area).mean()))
            means = [np.mean(found[name], axis=0) for name in STRUCTURES]
            row = "  ".join(f"{mean[0]:.2f}" for mean in means)
            total = np.mean(means, axis=0)
            print(f"{correlation:11.1f}  {weight:6.2f}  {row}  {total[0]:.3f}  {total[1]:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--store", help="frame store of real frames with masks")
    parser.add_argument("--split", default="val")
    parser.add_argument("--simulated", type=int, default=40, help="number of simulated patients")
    parser.add_argument("--parcels", default="alan-sim-small-parcels")
    parser.add_argument(
        "--boxes",
        nargs="+",
        default=[f"alan-sim-small-{name}" for name in STRUCTURES],
        help="white boxes of lv, myo and la, or six: lists for ED and ES of each",
    )
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--correlation", type=float, default=CORRELATION)
    parser.add_argument("--weight", type=float, default=EVIDENCE_WEIGHT)
    parser.add_argument("--grid", action="store_true")
    given = parser.parse_args()
    each = len(given.boxes) // len(STRUCTURES)
    boxes = {
        name: [ParcelSegmenter.from_json(given.boxes[each * n + phase % each]) for phase in range(2)]
        for n, name in enumerate(STRUCTURES)
    }
    model = load_parcels(given.parcels)
    with tempfile.TemporaryDirectory() as folder:
        spread = {}
        stores = {"simulated": (simulated_store(Path(folder), given.simulated), None)}
        if given.store:
            stores["real"] = (FrameStore(given.store), given.split)
        for title, (store, split) in stores.items():
            held = list(cases(boxes, model, store, split))
            if given.grid:
                print(title)
                grid(held, given.draws)
                continue
            options = {"n": given.draws, "correlation": given.correlation, "evidence_weight": given.weight}
            found = []
            for name, phase, box, maps, area in held:
                sampled, true = list(sample(box, maps, **options)), area
                if title == "simulated":  # the first half of the patients calibrates, the other half is reported
                    half = len(area) // 2
                    spread[name, phase] = calibrate_spread("area", intervals(sampled[:half], NONE), area[:half])
                    sampled, true = sampled[half:], area[half:]
                plain, widened = (describe(intervals(sampled, one), true) for one in (NONE, spread[name, phase]))
                found.append((*plain[:2], *widened[:2]))
                print(
                    f"{title} {name} {phase}: coverage {plain[0]:.2f}, width {plain[1]:.2f}, with the spread "
                    f"{widened[0]:.2f}, {widened[1]:.2f}; area / truth {plain[2]:.2f}"
                )
            mean = np.mean(found, axis=0)
            print(f"{title}, mean: {mean[0]:.3f} (reference 0.90), {mean[1]:.2f}, {mean[2]:.3f}, {mean[3]:.2f}")


if __name__ == "__main__":
    main()
