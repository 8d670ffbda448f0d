"""Errors of outlines and measures on simulated PLAX and PSAX loops, and how often their 90% intervals hold.

The true values are those of the true masks by the same formulas. There is no labelled archive of these views at
hand, so that nothing here says how accurate the model is in patients. Errors are printed once more for loops with
and without the doubt ``ring_open`` (PSAX), and with the blood of the right ventricle beside the septum or without
(PLAX).

python tests/benchmarks/bench_parasternal.py --loops 32

With ``--calibrate`` the spread of the model is measured on other patients and written into its manifest:
python tests/benchmarks/bench_parasternal.py --views PLAX --calibrate checkpoints/alan-sim-plax.model.json

With ``--anatomy`` the true measures of simulated patients, who include dilated and thick hearts, are compared with
the normal limits of women and men of the guideline (Lang et al., J Am Soc Echocardiogr 2015;28:1-39):
python tests/benchmarks/bench_parasternal.py --loops 100 --views PLAX --anatomy
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_dilation
from skimage.morphology import convex_hull_image
from tqdm import tqdm

from alan.analysis import AnalysisModel, TimeSettings
from alan.analysis.loop_analysis import measure_beats
from alan.analysis.measures import PARASTERNAL_MEASURES, Grid, measure_beat
from alan.analysis.quality import ring_doubt
from alan.analysis.timeline import segment_loop
from alan.analysis.uncertainty import calibrate_spread
from alan.cardiac import Beat
from alan.cardiac.linear import BAND_CM, _base, _extent, _long_axis
from alan.data.simulator import simulate_sequence
from alan.data.structures import label_value
from alan.overlap import dice_of_counts

#: Patients that no shipped model has seen: archives draw theirs from seeds of three numbers.
FIRST_PATIENT, CALIBRATION = 90_000, 60_000
#: Number of frames of a beat, rounded to those of the loop.
FRAMES = 28
#: Measures whose errors are printed for two groups of loops, see `group_of`.
GROUPED = {"PLAX": ("ivsd_cm",), "PSAX": PARASTERNAL_MEASURES["PSAX"]}
#: Width in pixels of the strip beside the septum that tells the groups apart in PLAX.
BESIDE = 3
#: Normal limits of women and men together, in cm.
NORMAL = {
    "lvidd_cm": (3.8, 5.8),
    "lvids_cm": (2.2, 4.0),
    "ivsd_cm": (0.6, 1.0),
    "lvpwd_cm": (0.6, 1.0),
    "la_diameter_cm": (2.7, 4.0),
}


def simulate(options, first):
    """Loops of both views; the patients are counted from the first one."""
    for number in tqdm(range(options.loops), unit="patient"):
        for view in options.views:
            frames, seed = round(FRAMES * options.beats), [first // 10_000, number]
            # As those of the training, masks extend outside the sector, where a part of the wall may lie.
            yield simulate_sequence(
                view, first + number, n_frames=frames, beats=options.beats, seed=seed, labels_outside=True
            )


def grid_of(clip):
    """Geometry of a simulated loop."""
    return Grid((1.0, 1.0), clip.spacing_mm, inside=convex_hull_image(clip.frames.max(0) > 0), view=clip.view)


def masks_of(clip, names):
    """True masks of a simulated loop by structure."""
    return {name: clip.labels == label_value(name) for name in names}


def measure(model, clip, options):
    """Dice of each structure at (ED, ES), summary of the loop, true values (the rate is known), and its group."""
    model = model.of(clip.view)
    times, grid = np.arange(len(clip.frames)) / clip.fps, grid_of(clip)
    maps = model.maps(clip.frames)
    timeline = segment_loop(model, maps, clip.view, times, TimeSettings())
    found = measure_beats(model, maps, clip.view, times, timeline=timeline, grid=grid, samples=options.samples)
    names = model.structures(clip.view)
    truth = masks_of(clip, names)
    dice = {}
    for value, name in enumerate(names, 1):
        ours = (timeline.labels[[clip.ed, clip.es]] == value) & grid.inside
        true = truth[name][[clip.ed, clip.es]] & grid.inside
        total = ours.sum((1, 2)) + true.sum((1, 2))
        dice[name] = dice_of_counts((ours & true).sum((1, 2)), total)
    rate = 60 * options.beats * clip.fps / len(clip.frames)
    true = vars(measure_beat(Beat(clip.ed, clip.es, None, regular=True), truth, grid, rate))
    return dice, found, true, group_of(clip, found, grid)


def group_of(clip, found, grid):
    """Group of a loop: the doubt about its ring in PSAX, and what is seen beside the septum in PLAX."""
    if clip.view == "PSAX":
        rings = [[found.timeline.labels[beat.ed] == value for value in (1, 2)] for beat in found.beats]
        return "with ring_open" if any(ring_doubt(*ring, grid.inside) for ring in rings) else "without ring_open"
    labels, spacing = np.where(grid.inside, clip.labels[clip.ed], 0), clip.spacing_mm
    cavity, wall = (labels == label_value(name) for name in ("lv", "myo"))
    axis = _long_axis(cavity, spacing)
    base = _base(cavity, axis, spacing, _extent(cavity, axis, spacing)[0])
    points = (np.moveaxis(np.indices(labels.shape), 0, -1) + 0.5) * np.asarray(spacing) / 10 - axis.point
    along, across = points @ axis.direction, points @ axis.across
    septum = wall & (across < 0) & (along > base - BAND_CM[1]) & (along < base - BAND_CM[0])
    beside = labels[binary_dilation(septum, iterations=BESIDE) & ~wall & ~cavity & (across < 0)]
    blood = len(beside) and np.mean(beside == label_value("rv")) >= 0.5
    return "with blood beside the septum" if blood else "without blood beside the septum"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loops", type=int, default=100, help="number of patients, each with a loop of each view")
    parser.add_argument("--model", default="alan-sim")
    parser.add_argument("--views", nargs="+", default=["PLAX", "PSAX"])
    parser.add_argument("--beats", type=float, default=1.6, help="length of a loop in beats")
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--calibrate", help="manifest into which the spread is written")
    parser.add_argument("--anatomy", action="store_true", help="print the true measures alone")
    options = parser.parse_args()
    if options.anatomy:
        print_anatomy(options)
        return
    if options.calibrate:
        calibrate(options)
        return
    model = AnalysisModel.load(options.model)
    rows, named = [], dict.fromkeys(options.views, 0)
    for clip in simulate(options, FIRST_PATIENT):
        rows.append((clip.view, *measure(model, clip, options)))
        named[clip.view] += model.bank is not None and model.bank.classify(clip.frames).view == clip.view
    for view in options.views:
        own = [row[1:] for row in rows if row[0] == view]
        beats = sum(bool(found.summary) for _, found, *_ in own)
        recognised = "" if model.bank is None else f", {named[view]} recognised"
        print(f"{view}: {len(own)} loops{recognised}, a beat in {beats}")
        for name in own[0][0]:
            ed, es = 100 * np.nanmean([dice[name] for dice, *_ in own], axis=0)
            print(f"  Dice of {name}: ED {ed:.1f}, ES {es:.1f}")
        for name in (*PARASTERNAL_MEASURES[view], "heart_rate_bpm"):
            pairs = with_truth(name, own)
            if pairs:
                report(name, pairs, sum(np.isfinite(true[name]) for *_, true, _ in own))
        for name in GROUPED[view]:
            for group in sorted({row[-1] for row in own}):
                pairs = with_truth(name, [row for row in own if row[-1] == group])
                error = np.array([one.value - true for one, true in pairs])
                print(
                    f"  {name} {group}: {len(pairs)}, mean absolute error {np.abs(error).mean():.2f}, "
                    f"bias {error.mean():+.2f}"
                )


def print_anatomy(options):
    """Print the distribution of the true measures beside the normal limits."""
    found = {}
    for clip in simulate(options, FIRST_PATIENT):
        beat, truth = Beat(clip.ed, clip.es, None, regular=True), masks_of(clip, ("lv", "myo", "la"))
        for name, value in vars(measure_beat(beat, truth, grid_of(clip))).items():
            if name in PARASTERNAL_MEASURES[clip.view] and np.isfinite(value):
                found.setdefault(f"{clip.view} {name}", []).append(value)
    for name, values in found.items():
        low, high = np.percentile(values, [5, 95])
        normal = NORMAL.get(name.split()[1])
        limits = "" if normal is None else f", normal {normal[0]} to {normal[1]}"
        print(f"{name}: {np.mean(values):.2f} +- {np.std(values):.2f}, 90% from {low:.2f} to {high:.2f}{limits}")


def with_truth(name, rows):
    """(measure, true value) of the loops in which both are known."""
    pairs = [(found.summary[name], true[name]) for _, found, true, _ in rows if name in found.summary]
    return [(one, true) for one, true in pairs if one.known and np.isfinite(true)]


def report(name, pairs, n):
    """Print the errors of a measure, and how often its intervals hold."""
    error, mean = np.array([one.value - true for one, true in pairs]), np.mean([true for _, true in pairs])
    inside = np.mean([one.low <= true <= one.high for one, true in pairs])
    width = np.median([one.high - one.low for one, _ in pairs])
    print(
        f"  {name}: {len(pairs)} of {n}, true mean {mean:.2f}, mean absolute error "
        f"{np.abs(error).mean():.2f}, bias {error.mean():+.2f}, 90% intervals hold in {100 * inside:.0f}%, "
        f"median width {width:.2f}"
    )


def calibrate(options):
    """Measure the spread of a model and write it into its manifest."""
    path = Path(options.calibrate)
    manifest = json.loads(path.read_text(encoding="utf-8"))
    model = AnalysisModel.load(path)
    model.spread = {}
    rows = [measure(model, clip, options) for clip in simulate(options, CALIBRATION)]
    names = dict.fromkeys(name for view in options.views for name in PARASTERNAL_MEASURES[view])
    pairs = {name: with_truth(name, rows) for name in names}
    # The spread of the heart rate widens rates alone that were fitted to the area.
    pairs["heart_rate_bpm"] = with_truth("heart_rate_bpm", [row for row in rows if row[1].rate_source == "area"])
    spread = {name: calibrate_spread(name, *zip(*known, strict=True)) for name, known in pairs.items() if known}
    manifest["spread"] = {name: [round(part, 3) for part in pair] for name, pair in spread.items()}
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    print(f"{path}: spread {manifest['spread']} by {len(rows)} loops")


if __name__ == "__main__":
    main()
