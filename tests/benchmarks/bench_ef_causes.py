"""Where the error of the biplane ejection fraction comes from, on CAMUS patients at given frames.

Outlines of one phase or one view are replaced by the manual ones, and the reference is the ejection fraction of
the manual outlines. How far apex and base move from end-diastole to end-systole is compared with simulated loops.

python tests/benchmarks/bench_ef_causes.py --store data/camus.h5 --split val
"""

import argparse

import numpy as np
from bench_camus_ef import PHASES, VIEWS, agreement, biplane_measures, labelled_maps, masks_of_patients, segment

from alan.analysis import AnalysisModel
from alan.data import FrameStore
from alan.data.simulator import simulate_sequence
from alan.data.structures import label_value

#: First of the simulated patients that no shipped model has seen.
FIRST_PATIENT = 60_000


def fractions(store, rows, masks):
    """Patient to the biplane ejection fraction."""
    return {patient: found["ef_percent"] for patient, found in biplane_measures(store, rows, masks).items()}


def excursion(ed, es):
    """Downward movement of the top and upward movement of the bottom of a mask, in its heights at end-diastole."""
    (top, bottom), (later_top, later_bottom) = (np.flatnonzero(mask.any(1))[[0, -1]] for mask in (ed, es))
    return np.array([later_top - top, bottom - later_bottom]) / (bottom - top)


def print_excursions(name, view, values):
    """Print mean and standard deviation of the movement of apex and base."""
    mean, spread = np.mean(values, axis=0), np.std(values, axis=0)
    print(
        f"{view} {name}: apex {mean[0]:.3f} (SD {spread[0]:.3f}), base {mean[1]:.3f} (SD {spread[1]:.3f}) "
        f"of the height, {len(values)} loops"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--model", default="alan-sim")
    parser.add_argument("--split", default="val")
    parser.add_argument("--loops", type=int, default=40, help="number of simulated loops of each view")
    options = parser.parse_args()
    store, model = FrameStore(options.store), AnalysisModel.load(options.model)
    rows, maps, truth = labelled_maps(store, model, options.split)
    masks = segment(model, rows, maps)
    reference = fractions(store, rows, truth)
    for column, values in (("phase", ("", *PHASES)), ("view", VIEWS)):
        for value in values:
            manual = (rows[column] == value).to_numpy()
            found = fractions(store, rows, np.where(manual[:, None, None], truth, masks))
            print(f"manual outlines of {value or 'nothing'}: {agreement(found, reference)}")
    found = fractions(store, rows, masks)
    slope, offset = np.polyfit([reference[p] for p in found], list(found.values()), 1)
    print(f"measured = {slope:.2f} x manual + {offset:.1f}")
    for name, given in (("manual", truth), ("outlined", masks)):
        of = masks_of_patients(store, rows, given).values()
        for view in VIEWS:
            pairs = [[one[view, phase][0] for phase in PHASES] for one in of if (view, "ED") in one]
            print_excursions(name, view, [excursion(*pair) for pair in pairs if all(mask.any() for mask in pair)])
    for view in VIEWS:
        values = []
        for number in range(options.loops):
            clip = simulate_sequence(view, FIRST_PATIENT + number, n_frames=12, seed=[6, number])
            values.append(excursion(*(clip.labels[[clip.ed, clip.es]] == label_value("lv"))))
        print_excursions("simulated", view, values)


if __name__ == "__main__":
    main()
