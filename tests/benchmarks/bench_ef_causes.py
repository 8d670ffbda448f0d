"""Where the error of the biplane ejection fraction comes from, on CAMUS patients at given frames.

Outlines of one phase or one view are replaced by the manual ones, and the reference is the ejection fraction of
the manual outlines. How far apex and base move from end-diastole to end-systole is compared with simulated loops.

python tests/benchmarks/bench_ef_causes.py --store data/camus_views.h5 --split val

--movement compares the movement only, without a model.
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


def print_excursions(name, view, values, shares):
    """Print mean and spread of the movement of apex and base, and its correlation with the ejected area."""
    mean, spread = np.mean(values, axis=0), np.std(values, axis=0)
    apex, base = np.corrcoef(shares, values, rowvar=False)[0, 1:] if len(values) > 2 else (np.nan, np.nan)
    print(
        f"{view} {name}: apex {mean[0]:.3f} (SD {spread[0]:.3f}), base {mean[1]:.3f} (SD {spread[1]:.3f}) of the "
        f"height, r with the ejected share of the area {apex:.2f} and {base:.2f}, {len(values)} loops"
    )


def ejected(ed, es):
    """Share of the area of a mask that is lost from end-diastole to end-systole."""
    return 1 - es.sum() / ed.sum()


def print_movements(store, rows, named, loops):
    """Print how far apex and base move in masks of the patients and in simulated loops."""
    for name, given in named.items():
        of = masks_of_patients(store, rows, given).values()
        for view in VIEWS:
            pairs = [[one[view, phase][0] for phase in PHASES] for one in of if (view, "ED") in one]
            pairs = [pair for pair in pairs if all(mask.any() for mask in pair)]
            print_excursions(name, view, *([f(*pair) for pair in pairs] for f in (excursion, ejected)))
    for view in VIEWS:
        pairs = []
        for number in range(loops):
            clip = simulate_sequence(view, FIRST_PATIENT + number, n_frames=2, seed=[6, number])
            pairs.append(clip.labels[[clip.ed, clip.es]] == label_value("lv"))
        print_excursions("simulated", view, *([f(*pair) for pair in pairs] for f in (excursion, ejected)))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--model", default="alan-sim")
    parser.add_argument("--split", default="val")
    parser.add_argument("--loops", type=int, default=40, help="number of simulated loops of each view")
    parser.add_argument("--movement", action="store_true", help="compare the movement of apex and base only")
    options = parser.parse_args()
    store = FrameStore(options.store)
    if options.movement:
        rows = store.labelled(options.split, VIEWS, phases=PHASES)
        truth = store.masks(rows["label"].to_numpy(), "lv")
        print_movements(store, rows, {"manual": truth}, options.loops)
        return
    model = AnalysisModel.load(options.model)
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
    print_movements(store, rows, {"manual": truth, "outlined": masks}, options.loops)


if __name__ == "__main__":
    main()
