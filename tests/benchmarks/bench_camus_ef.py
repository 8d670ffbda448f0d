"""Ejection fraction of CAMUS patients at given ED and ES frames: no label, a few labels, manual masks.

The store holds both views (``alan prepare --config prepare/camus_views``). Labels are drawn from one split, and
patients are measured on another; references are the ejection fraction of the release and that of the manual masks.
Labelled patients serve in two ways: their masks update the white boxes, or their ejection fractions (of the
release) calibrate the measured ones by a line.

python tests/benchmarks/bench_camus_ef.py --store data/camus_views.h5 --labels_from train --split val

With ``--calibrate`` the spread in a manifest is raised to what the manual masks of the split need; run it after
``bench_ef.py --calibrate``, which measures the spread on simulated loops:
python tests/benchmarks/bench_camus_ef.py --store data/camus_views.h5 --calibrate checkpoints/alan-sim.model.json

With ``--recalibrate`` measures whose intervals do not hold in 85 to 95% of these planes and of those of every
second training patient get the spread that they need, if it holds on the other half of the training patients:
python tests/benchmarks/bench_camus_ef.py --store data/camus_views.h5 --recalibrate checkpoints/alan-sim.model.json
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.base import clone

from alan.analysis import AnalysisModel
from alan.analysis.patients import _around
from alan.analysis.phase_boxes import PhaseBoxes
from alan.analysis.planes import MEASURED, held, measure_planes, needed_spread
from alan.analysis.results import Spread
from alan.analysis.timeline import segment_loop
from alan.cardiac import biplane_volume, ejection_fraction, shared_length_ejection_fraction, simpson_volume
from alan.data import FrameStore
from alan.data.splits import draw_patients
from alan.downstream import ParcelSegmenter
from alan.errors import SelectionError
from alan.overlap import dice_of_counts
from alan.progress import batches

VIEWS, PHASES = ("A4C", "A2C"), ("ED", "ES")
KNOWN = ("ef_percent", "edv_ml", "esv_ml")
#: Probability with which the intervals of new patients hold at least 90%. Lists and rules were chosen on the left
#: ventricle of these patients, so that its errors are larger elsewhere; those of the others hold 90% on average.
CONFIDENCE = dict.fromkeys(MEASURED, 0.95) | dict.fromkeys(("la_volume_ml", "lv_mass_g"))
#: Weight of a line without correction, in patients.
PRIOR_PATIENTS = 5
#: Smallest and largest share of 90% intervals that shall hold.
GOAL = (0.85, 0.95)


def labelled_maps(store, model, split, draws=()):
    """Rows, parcel maps and masks of the left ventricle of the labelled frames of a split, or of draws from it."""
    rows = store.labelled(split, VIEWS, phases=PHASES)
    if draws:
        drawn = {patient for n, seed in draws for patient in draw_patients(rows["patient"], n, seed)}
        rows = rows[rows["patient"].isin(drawn)].reset_index(drop=True)
    frames = rows["frame"].to_numpy()
    maps = np.concatenate([model.maps(store.frames(frames[part])) for part in batches(len(frames), 100)])
    return rows, maps, store.masks(rows["label"].to_numpy(), "lv")


def with_labels(model, rows, maps, masks, rule):
    """The model with white boxes of the left ventricle that labelled frames have updated."""

    def fit(box, view, phase):
        chosen = ((rows["view"] == view) & (rows["phase"] == phase)).to_numpy()
        new = ParcelSegmenter(clone(box.selector_).set_params(rule=rule), box.steps)
        try:
            return new.fit(maps[chosen], masks[chosen], groups=rows["patient"].to_numpy()[chosen])
        except SelectionError:
            return box

    views = {}
    for view, boxes in model.views.items():
        pair = boxes["lv"]
        views[view] = {**boxes, "lv": PhaseBoxes(fit(pair.ed, view, "ED"), fit(pair.es, view, "ES"))}
    return replace(model, views=views)


def segment(model, rows, maps):
    """Masks of the left ventricle at the given phases."""
    masks = np.zeros(maps.shape, bool)
    for n, (view, phase) in enumerate(zip(rows["view"], rows["phase"], strict=True)):
        labels = segment_at(model, maps[n : n + 1], view, float(phase == "ED"))
        masks[n] = labels[0] == model.structures(view).index("lv") + 1
    return masks


def segment_at(model, maps, view, phase):
    """Label maps of frames of a known phase."""
    return segment_loop(model, maps, view, None, phase=phase).labels


def masks_of_patients(store, rows, masks):
    """Patient to (view, phase) to its mask and the size of its pixels."""
    of = {}
    for mask, patient, view, phase, sequence in zip(
        masks, rows["patient"], rows["view"], rows["phase"], rows["sequence"], strict=True
    ):
        shape, mm = store.sequences[sequence].original_shape, store.sequences[sequence].spacing
        spacing = (mm[0] * shape[0] / store.size, mm[1] * shape[1] / store.size)
        of.setdefault(patient, {})[view, phase] = (mask, spacing)
    return of


def views_of_phases(store, rows, masks):
    """Yield each patient with both views in both phases, and (A4C, A2C, pixel sizes) of each phase."""
    for patient, found in masks_of_patients(store, rows, masks).items():
        if len(found) == len(VIEWS) * len(PHASES):
            pairs = ([found[view, phase] for view in VIEWS] for phase in PHASES)
            yield patient, [(four, two, (s4, s2)) for (four, s4), (two, s2) in pairs]


def biplane_measures(store, rows, masks):
    """Patient to biplane volumes and ejection fraction, where both views have both phases."""
    out = {}
    for patient, phases in views_of_phases(store, rows, masks):
        volumes = [biplane_volume(*phase) for phase in phases]
        out[patient] = dict(zip(KNOWN, (ejection_fraction(*volumes), *volumes), strict=True))
    return out


def fractions_of_one_length(store, rows, masks):
    """Patient to the biplane ejection fraction if the long axis kept its length, as that of the release does."""
    out = {}
    for patient, (diastole, systole) in views_of_phases(store, rows, masks):
        out[patient] = shared_length_ejection_fraction(diastole[:2], systole[:2], diastole[2])
    return out


def ejection_fractions(store, rows, masks):
    """Patient to the ejection fraction by A4C, A2C and biplane."""
    both = biplane_measures(store, rows, masks)
    out = {}
    for patient, found in masks_of_patients(store, rows, masks).items():
        out[patient] = {
            view: ejection_fraction(*(simpson_volume(*found[view, phase]) for phase in PHASES))
            for view in VIEWS
            if all((view, phase) in found for phase in PHASES)
        }
        if patient in both:
            out[patient]["biplane"] = both[patient]["ef_percent"]
    return out


def print_coverage(planes, spread, found, truth):
    """Print how often 90% intervals hold the values of the manual masks, and how wide they are.

    Args:
        planes: Output of ``measure_planes``.
        spread: That of the model.
        found: Output of ``biplane_measures`` by the model.
        truth: The same by the manual masks.
    """
    measured = [plane.summary(spread) for plane in planes]
    for name in MEASURED:
        report("planes", name, with_truth(name, measured, planes))
    for name in KNOWN:
        pairs = []
        for patient in found:
            own = [one[name] for one, plane in zip(measured, planes, strict=True) if plane.patient == patient]
            pairs.append((_around(found[patient][name], own), truth[patient][name]))
        report("biplane measures", name, pairs)


def with_truth(name, measured, planes):
    """(measure, value of the manual masks) of each plane."""
    return [(one[name], getattr(plane.true, name)) for one, plane in zip(measured, planes, strict=True)]


def report(kind, name, pairs):
    """Print the coverage of (measure, true value), where both are known."""
    inside, count, width = coverage(pairs)
    pairs = [(one, value) for one, value in pairs if one.known and np.isfinite(value)]
    error = np.median([(one.value - value) / value for one, value in pairs])
    print(
        f"90% intervals of {name} hold in {100 * inside:.0f}% of {count} {kind} (manual masks), "
        f"median width {width:.0f}, median error {100 * error:+.0f}%"
    )


def coverage(pairs):
    """Share of the intervals of (measure, true value) that hold, where both are known; number; median width."""
    pairs = [(one, value) for one, value in pairs if one.known and np.isfinite(value)]
    inside = np.mean([one.low <= value <= one.high for one, value in pairs])
    return inside, len(pairs), np.median([one.high - one.low for one, _ in pairs])


def recalibrate(path, model, planes):
    """Measure the spread of measures anew on more patients, and write it if it holds on others.

    Measures whose intervals do not hold in 85 to 95% of the planes of the validation patients and of every second
    patient of the training split get the spread that these planes need on average. It is written into the manifest
    if the intervals then hold in 85 to 95% of the planes of the other patients.

    Args:
        path: The manifest.
        model: Its model.
        planes: Planes of the validation split and of both halves of the training split.
    """
    manifest = json.loads(path.read_text(encoding="utf-8"))
    chosen, other = planes["val"] + planes["first half"], planes["second half"]
    for name in MEASURED:
        shares = {}
        spreads = {"present": model.spread}
        if not GOAL[0] <= held(name, chosen, model.spread).share <= GOAL[1]:
            spreads["new"] = model.spread | {
                name: Spread(*np.round(needed_spread(name, chosen, None), 3).tolist())
            }
        for title, spread in spreads.items():
            for part, some in (("calibration", chosen), ("other half", other)):
                found = held(name, some, spread)
                shares[title, part] = found[0]
                text = f"{found[0]:.1%} of {found[1]}, median width {found[2]:.0f}"
                print(f"{name}, {title} spread {list(spread.get(name, Spread()))}, {part}: {text}")
        if GOAL[0] <= shares.get(("new", "other half"), 0.0) <= GOAL[1]:
            manifest["spread"][name] = list(spreads["new"][name])
            print(f"{name}: the new spread is written")
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def calibrate(path, planes):
    """Raise the spread in a manifest to what the planes need."""
    manifest = json.loads(path.read_text(encoding="utf-8"))
    spread = manifest.get("spread", {})
    for name in MEASURED:
        needed = needed_spread(name, planes, CONFIDENCE[name])
        before = Spread(*spread.get(name, (0.0, 0.0, 0.0)))
        spread[name] = [round(max(pair), 3) for pair in zip(before, needed, strict=True)]
        print(f"{name}: spread {before} of the manifest, {np.round(needed, 3)} by {len(planes)} planes")
    path.write_text(json.dumps(manifest | {"spread": spread}, indent=1) + "\n", encoding="utf-8")


def agreement(found, reference):
    """Number, mean absolute error, bias, limits of agreement and correlation, in words."""
    values = np.array([(found[p], reference[p]) for p in found if np.isfinite([found[p], reference[p]]).all()])
    error = values[:, 0] - values[:, 1]
    spread = 1.96 * error.std(ddof=1)
    low, high = error.mean() - spread, error.mean() + spread
    return (
        f"{len(values)} patients, mean absolute error {np.abs(error).mean():.1f}, bias {error.mean():+.1f}, "
        f"limits {low:+.1f} to {high:+.1f}, r {np.corrcoef(values.T)[0, 1]:.2f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--model", default="alan-sim")
    parser.add_argument("--split", default="val")
    parser.add_argument("--labels_from", default="train")
    parser.add_argument("--patients", type=int, nargs="*", default=[0, 2, 20])
    parser.add_argument("--rule", default="greedy", help="how parcels are chosen with labels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--calibrate", type=Path, help="manifest whose spread is raised")
    parser.add_argument("--recalibrate", type=Path, help="manifest whose spread is measured anew on more patients")
    options = parser.parse_args()
    store, model = (
        FrameStore(options.store),
        AnalysisModel.load(options.calibrate or options.recalibrate or options.model),
    )
    if options.recalibrate:
        planes = {}
        for split in ("val", options.labels_from):
            planes[split] = list(measure_planes(store, model, split))
        every = sorted({plane.patient for plane in planes[options.labels_from]})
        for part, title in enumerate(("first half", "second half")):
            own = set(every[part::2])
            planes[title] = [plane for plane in planes[options.labels_from] if plane.patient in own]
        recalibrate(options.recalibrate, model, planes)
        return
    if options.calibrate:
        calibrate(options.calibrate, list(measure_planes(store, model, options.split)))
        return
    rows, maps, truth = labelled_maps(store, model, options.split)
    release = {s.patient: s.attributes["EF"] for s in store.sequences if "EF" in s.attributes}
    by_masks = ejection_fractions(store, rows, truth)
    print(f"manual masks against the release: biplane: {agreement(pick(by_masks, 'biplane'), release)}")
    one_length = fractions_of_one_length(store, rows, truth)
    print(f"the same with one length of the axis in both phases: {agreement(one_length, release)}")
    draws = [(n, seed) for n in options.patients if n for seed in range(options.seeds)]
    everyone = store.labelled(options.labels_from, VIEWS, phases=PHASES)["patient"]
    few = labelled_maps(store, model, options.labels_from, draws) if draws else None
    masks = segment(model, rows, maps)
    without = ejection_fractions(store, rows, masks)
    if 0 in options.patients:
        show(f"no label: {dice_text(rows, masks, truth)}", without, release, by_masks)
        values = fractions_of_one_length(store, rows, masks)
        print(f"  biplane with one length, against the release: {agreement(values, release)}")
        print(f"  biplane with one length, against the manual masks: {agreement(values, one_length)}")
        planes = list(measure_planes(store, model, options.split))
        print_coverage(planes, model.spread, *(biplane_measures(store, rows, given) for given in (masks, truth)))
    if few is not None:
        own = pick(ejection_fractions(store, few[0], segment(model, *few[:2])), "biplane")
    for n, seed in draws:
        drawn = draw_patients(everyone, n, seed)
        chosen = few[0]["patient"].isin(drawn).to_numpy()
        used = with_labels(
            model, few[0][chosen].reset_index(drop=True), few[1][chosen], few[2][chosen], options.rule
        )
        masks = segment(used, rows, maps)
        title = f"{n} labelled patients, draw {seed}"
        text = f"{title}, white boxes updated: {dice_text(rows, masks, truth)}"
        show(text, ejection_fractions(store, rows, masks), release, by_masks)
        line = fit_line([(own[p], release[p]) for p in drawn if p in own and np.isfinite(own[p])])
        values = {patient: line(value) for patient, value in pick(without, "biplane").items()}
        print(f"{title}, ejection fraction calibrated: biplane against the release: {agreement(values, release)}")
        error = np.mean([release[p] for p in drawn]) - np.array([release[p] for p in values])
        print(f"{title}, their mean for everyone: error {np.abs(error).mean():.1f}, bias {error.mean():+.1f}")


def show(title, found, release, by_masks):
    """Print the agreement of each method with both references."""
    print(title)
    for method in (*VIEWS, "biplane"):
        values = pick(found, method)
        print(f"  {method} against the release: {agreement(values, release)}")
        print(f"  {method} against the manual masks: {agreement(values, pick(by_masks, method))}")


def fit_line(pairs):
    """Line from measured to true values by least squares, drawn towards no correction."""
    measured, true = np.transpose(pairs)
    middle, change = measured.mean(), true - measured
    centred = measured - middle
    slope = (centred @ change) / (centred @ centred + PRIOR_PATIENTS * 15.0**2)
    offset = change.sum() / (len(pairs) + PRIOR_PATIENTS)
    return lambda value: value + offset + slope * (value - middle)


def pick(found, method):
    return {patient: values[method] for patient, values in found.items() if method in values}


def dice_text(rows, masks, truth):
    scores = 100 * dice_of_counts((masks & truth).sum((1, 2)), masks.sum((1, 2)) + truth.sum((1, 2)))
    parts = []
    for view in VIEWS:
        chosen = [((rows["view"] == view) & (rows["phase"] == phase)).to_numpy() for phase in PHASES]
        means = [scores[rows_of].mean() for rows_of in chosen]
        parts.append(f"LV {view} {means[0]:.1f} / {means[1]:.1f}")
    return ", ".join(parts)


if __name__ == "__main__":
    main()
