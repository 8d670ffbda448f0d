"""Which outlines of the left ventricle are wrong, and does their contrast tell? CAMUS A4C and A2C, ED and ES.

The contrast of an outline is the mean share of its parcels less that of a ring around it; `alan analyze` doubts
outlines with less than alan.analysis.quality.UNCLEAR. The store is that of prepare/camus_views:
python tests/benchmarks/bench_doubt.py --store data/camus_views.h5 --split val

Then it prints how well biplane ejection fractions agree with the manual masks if those of the two planes of a
patient differ by more than a bound; `alan analyze` doubts them from alan.analysis.quality.PLANES_DIFFER on.

Last, it prints the errors of the biplane ejection fraction of patients with and without each doubt or note, and
for pairs of bounds the same and the share of patients with a doubt; on test patients, for the chosen bounds alone.

With ``--intervals`` the 90% intervals of planes with and without a doubtful outline are measured on every second
patient, from the first (0) or from the second (1) on:
python tests/benchmarks/bench_doubt.py --store data/camus_views.h5 --split train --intervals 1
"""

import argparse
from itertools import product

import numpy as np
from bench_camus_ef import PHASES, VIEWS, biplane_measures, ejection_fractions, segment, views_of_phases
from sklearn.metrics import roc_auc_score

from alan.analysis import AnalysisModel
from alan.analysis.planes import MEASURED, measure_planes
from alan.analysis.quality import DIASTOLE_UNCLEAR, PLANES_DIFFER, UNCLEAR, outline_contrast
from alan.cardiac import area_cm2, long_axis_cm
from alan.data import FrameStore
from alan.overlap import dice_of_counts
from alan.progress import batches

#: Bounds on the contrast at end-diastole that are compared.
CONTRASTS = (0.0, 0.72, 0.73, DIASTOLE_UNCLEAR, 0.74)
#: Differences of the ejection fractions of two planes that are compared, and a large error, in points.
BOUNDS, LARGE = (10, 12, 15, 18, PLANES_DIFFER, 25), 15


def contrasts(model, rows, maps, masks):
    """Contrast of each outline."""
    out = []
    for n, (view, phase) in enumerate(zip(rows["view"], rows["phase"], strict=True)):
        out.append(outline_contrast(model.views[view]["lv"].shares(maps[n], float(phase == "ED")), masks[n]))
    return np.array(out)


def show_patients(store, rows, masks, truth, doubtful):
    """Print errors of the biplane ejection fraction of patients with and without a doubtful outline."""
    measured, known = biplane_measures(store, rows, masks), biplane_measures(store, rows, truth)
    for title, wanted in (("a doubtful outline", True), ("no doubtful outline", False)):
        chosen = [patient for patient in measured if (patient in doubtful) == wanted]
        ef, true = (np.array([of[patient]["ef_percent"] for patient in chosen]) for of in (measured, known))
        fine = np.isfinite(ef)
        error, r = np.abs(ef - true)[fine].mean(), np.corrcoef(ef[fine], true[fine])[0, 1]
        print(f"  {len(chosen)} patients with {title}: biplane EF against masks, error {error:.1f}, r {r:.2f}")


def show_planes(store, rows, masks, truth, doubtful, *, bounds):
    """Print errors of the biplane ejection fraction of patients whose planes differ, and of the others."""
    found, true = (ejection_fractions(store, rows, given) for given in (masks, truth))
    names = (*VIEWS, "biplane")
    patients = [p for p in found if all(np.isfinite(found[p].get(name, np.nan)) for name in names)]
    four, two, both = (np.array([found[p][name] for p in patients]) for name in names)
    by_masks = np.array([true[p]["biplane"] for p in patients])
    clear, apart = np.array([p not in doubtful for p in patients]), np.abs(four - two)
    for title, some in (
        ("all patients", np.ones(len(patients), bool)),
        ("patients with no doubtful outline", clear),
    ):
        for bound in bounds:
            parts = []
            for words, chosen in ((f"above {bound}", some & (apart > bound)), ("others", some & (apart <= bound))):
                error = np.abs(both - by_masks)[chosen]
                r = np.corrcoef(both[chosen], by_masks[chosen])[0, 1] if len(error) > 2 else np.nan
                large = (error > LARGE).mean() if len(error) else np.nan
                mean = error.mean() if len(error) else np.nan
                parts.append(f"{words}: {len(error)}, error {mean:.1f}, r {r:.2f}, {large:.0%} above {LARGE}")
            print(f"  planes of {title} differ {'; '.join(parts)}")


def show_rules(store, rows, masks, truth, contrast, *, choose):
    """Print errors of the biplane ejection fraction of patients with and without a doubt or note."""
    found, true = (ejection_fractions(store, rows, given) for given in (masks, truth))
    patients = [p for p in found if all(np.isfinite(found[p].get(name, np.nan)) for name in (*VIEWS, "biplane"))]
    both, by_masks = (np.array([of[p]["biplane"] for p in patients]) for of in (found, true))
    apart = np.array([abs(found[p]["A4C"] - found[p]["A2C"]) for p in patients])
    lowest = rows.assign(contrast=contrast).groupby(["patient", "phase"])["contrast"].min()
    diastole, systole = (np.array([lowest[p, phase] for p in patients]) for phase in PHASES)
    shapes = []
    for patient, (hearts, _) in views_of_phases(store, rows, masks):
        lengths = [long_axis_cm(mask, size) for mask, size in zip(hearts[:2], hearts[2], strict=True)]
        areas = [area_cm2(mask, size) for mask, size in zip(hearts[:2], hearts[2], strict=True)]
        ratio = min(length**2 / area * np.pi / 4 for length, area in zip(lengths, areas, strict=True))
        if patient in patients:
            shapes.append((ratio, max(lengths) / min(lengths) - 1))
    ratio, unequal = np.array(shapes).T

    def show(title, chosen):
        parts = []
        for some in (chosen, ~chosen):
            error = np.abs(both - by_masks)[some]
            if len(error) < 3:
                parts.append(f"{len(error)}")
                continue
            r = np.corrcoef(both[some], by_masks[some])[0, 1]
            parts.append(
                f"{len(error)}, error {error.mean():.1f}, r {r:.2f}, {(error > LARGE).mean():.0%} above {LARGE}"
            )
        print(f"  {title}: {chosen.mean():.0%} of the patients ({parts[0]}; others {parts[1]})")

    show(f"contrast at end-systole below {UNCLEAR}", systole < UNCLEAR)
    show("less than 1.35 times as long as wide", ratio < 1.35)
    show("axes differ by more than 20%", unequal > 0.2)
    pairs = [(DIASTOLE_UNCLEAR, PLANES_DIFFER)]
    for bound, points in product(CONTRASTS, (15, 18, PLANES_DIFFER, 25, 100)) if choose else pairs:
        title = f"contrast at end-diastole below {bound:g}, or planes that differ by more than {points} points"
        show(title, (diastole < bound) | (apart > points))
    for view in VIEWS:
        of_view = rows.assign(contrast=contrast)[(rows["view"] == view) & (rows["phase"] == "ED")]
        unclear = set(of_view.loc[of_view["contrast"] < DIASTOLE_UNCLEAR, "patient"])
        errors = {p: abs(found[p][view] - true[p][view]) for p in patients}
        for title, some in (("unclear", unclear), ("others", errors.keys() - unclear)):
            known = [errors[p] for p in some if p in errors]
            mean = np.mean(known or [np.nan])
            print(f"  {view} alone, end-diastole {title}: {len(known)} planes, error {mean:.1f}")


def show_intervals(store, model, split, rows, contrast):
    """Print how often intervals hold the values of the manual masks."""
    lowest = rows.assign(contrast=contrast).groupby("sequence")["contrast"].min()
    both = rows.groupby("sequence")["phase"].nunique() == len(PHASES)
    planes = [plane for plane in measure_planes(store, model, split) if plane.patient in set(rows["patient"])]
    unclear = (lowest[both] < UNCLEAR).to_numpy()
    given, widened = ([plane.summary(model.spread, widen=widen) for plane in planes] for widen in (False, True))
    for name in MEASURED:
        for title, chosen, summaries in (
            ("no doubt", ~unclear, given),
            ("a doubt, not widened", unclear, given),
            ("a doubt, widened", unclear, widened),
        ):
            held, widths = [], []
            for n in np.flatnonzero(chosen):
                one, true = summaries[n][name], getattr(planes[n].true, name)
                if one.known and np.isfinite(true):
                    held.append(one.low <= true <= one.high)
                    widths.append(one.high - one.low)
            print(f"  {name}, {title}: {np.mean(held):.0%} of {len(held)}, median width {np.median(widths):.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--model", default="alan-sim")
    parser.add_argument("--intervals", type=int, choices=(0, 1))
    options = parser.parse_args()
    model, store = AnalysisModel.load(options.model), FrameStore(options.store)
    rows = store.labelled(options.split, VIEWS, phases=PHASES)
    if options.intervals is not None:
        rows = rows[rows["patient"].isin(sorted(set(rows["patient"]))[options.intervals :: 2])].reset_index(
            drop=True
        )
    frames, truth = rows["frame"].to_numpy(), store.masks(rows["label"].to_numpy(), "lv")
    maps = np.concatenate([model.maps(store.frames(frames[part])) for part in batches(len(frames), 100)])
    masks = segment(model, rows, maps)
    dice = dice_of_counts((masks & truth).sum((1, 2)), masks.sum((1, 2)) + truth.sum((1, 2)))
    contrast = np.nan_to_num(contrasts(model, rows, maps, masks))
    wrong, doubt = dice < 0.8, contrast < UNCLEAR
    quantiles = ", ".join(f"{np.quantile(contrast, q):.2f}" for q in (0.025, 0.05, 0.1, 0.5))
    print(f"{options.split}: {len(rows)} outlines, {wrong.mean():.1%} with a Dice below 80")
    print(f"  contrast, quantiles of 2.5, 5, 10 and 50%: {quantiles}")
    print(f"  area under the curve for a Dice below 80: {roc_auc_score(wrong, -contrast):.2f}")
    print(
        f"  below {UNCLEAR}: {doubt.mean():.1%} of the outlines, {wrong[doubt].mean():.0%} of them wrong "
        f"({wrong[~doubt].mean():.1%} of the others); {doubt[wrong].mean():.0%} of the wrong ones are below"
    )
    doubtful = set(rows["patient"].to_numpy()[doubt])
    show_patients(store, rows, masks, truth, doubtful)
    bounds = (PLANES_DIFFER,) if options.split == "test" else BOUNDS  # chosen on the other patients
    show_planes(store, rows, masks, truth, doubtful, bounds=bounds)
    show_rules(store, rows, masks, truth, contrast, choose=options.split != "test")
    if options.intervals is not None:
        show_intervals(store, model, options.split, rows, contrast)


if __name__ == "__main__":
    main()
