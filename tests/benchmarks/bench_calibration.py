"""How often intervals hold for patients by whom they were not calibrated, by the number of labelled patients.

Patients of a store are drawn, their loops calibrate the measures of a model (``alan calibrate``), and 100 others
are measured with these intervals. Take patients from whose labels the model did not learn.

python tests/benchmarks/bench_calibration.py --store data/camus_views.h5 --split train
"""

import argparse

import numpy as np

from alan.analysis import AnalysisModel
from alan.analysis.planes import held, measure_planes, needed_spread
from alan.data import FrameStore

MEASURES = ("ef_percent", "edv_ml", "esv_ml", "la_volume_ml")
OTHERS = 100


def calibrate_draws(planes, name, n, *, confidence, draws):
    """Yield the share of the intervals of other patients that hold, and their median width, for each draw."""
    patients = sorted({plane.patient for plane in planes})
    for seed in range(draws):
        order = np.random.default_rng(seed).permutation(patients)
        chosen, others = set(order[:n]), set(order[n : n + OTHERS])
        spread = needed_spread(name, [plane for plane in planes if plane.patient in chosen], confidence)
        found = held(name, [plane for plane in planes if plane.patient in others], {name: spread})
        yield found.share, found.width


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--model", default="alan-sim")
    parser.add_argument("--split", default="train")
    parser.add_argument("--patients", type=int, nargs="*", default=[10, 20, 50, 100])
    parser.add_argument("--draws", type=int, default=12)
    options = parser.parse_args()
    planes = list(measure_planes(FrameStore(options.store), AnalysisModel.load(options.model), options.split))
    for n in options.patients:
        for confidence in (None, 0.95):
            for name in MEASURES:
                draws = calibrate_draws(planes, name, n, confidence=confidence, draws=options.draws)
                shares, widths = np.transpose(list(draws))
                title = f"{n} patients, confidence {confidence}, {name}"
                ends = f"{shares.min():.0%} to {shares.max():.0%}"
                print(f"{title}: {shares.mean():.0%} hold ({ends}), width {widths.mean():.0f}", flush=True)


if __name__ == "__main__":
    main()
