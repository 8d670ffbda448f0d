"""Error budget of the ejection fraction on simulated loops whose every frame has a known mask, and its intervals.

The steps of the budget add one source of error after the other: formulas and choice of frames (true masks), the
grid of the model, the outlines at the true times, the outlines at the times that were found. The reference is the
ejection fraction of the simulated patient in three dimensions.

python tests/benchmarks/bench_ef.py --loops 32 --model alan-sim
python tests/benchmarks/bench_ef.py --loops 32 --beats 3.2

With ``--files`` the steadiness of the outlines of real loops without a truth is printed instead:
python tests/benchmarks/bench_ef.py --files examples_ybr_color.dcm

With ``--calibrate`` the spread of the model is measured on other patients and written into its manifest:
python tests/benchmarks/bench_ef.py --calibrate checkpoints/alan-sim.model.json --loops 40
"""

import argparse
import json
from pathlib import Path

import numpy as np
from skimage.morphology import convex_hull_image
from tqdm import tqdm

from alan.analysis import AnalysisModel, TimeSettings, find_sources, open_loops
from alan.analysis.loop_analysis import measure_beats
from alan.analysis.measures import Grid, measure_beat, measure_curves, select_beats, summarise_beats
from alan.analysis.tables import MEASURES
from alan.analysis.timeline import segment_loop
from alan.analysis.uncertainty import calibrate_spread
from alan.cardiac import Beat, find_beats
from alan.data.preprocessing import resize_frames
from alan.data.simulator import simulate_sequence
from alan.data.structures import label_value
from alan.overlap import dice_of_counts

#: Patients that no shipped model has seen: archives draw theirs from seeds of three numbers.
FIRST_PATIENT, CALIBRATION = 90_000, 60_000
#: Number of frames of a beat, rounded to those of the loop.
FRAMES = 28
#: Side in pixels of the grid on which the shipped networks predict.
COARSE = 56
SETTINGS = {"default": TimeSettings(), "no smoothing, no repair": TimeSettings(smoothing_s=0, jump=None)}


def by_masks(masks, spacing, beats, times):
    """Summary of a loop with given masks; beats None finds them by the volume."""
    grid = Grid((1.0, 1.0), spacing)
    beats = select_beats(find_beats(measure_curves(masks, grid).volume, times)) if beats is None else beats
    return summarise_beats([measure_beat(beat, {"lv": masks}, grid) for beat in beats], sized=True)


def coarse(masks):
    """Masks that were reduced to the grid of the predictions and enlarged again."""
    small = resize_frames(masks.astype(np.uint8) * 255, (COARSE, COARSE))
    return resize_frames(small, masks.shape[1:]) > 127


def budget(model, clip, maps, times):
    """Step of the budget to the summary of the loop."""
    truth, true = clip.labels == label_value("lv"), [Beat(clip.ed, clip.es, None, regular=True)]
    lv = model.structures(clip.view).index("lv") + 1
    outlined = np.zeros_like(truth)
    for frame, phase in ((clip.ed, 1.0), (clip.es, 0.0)):
        found = segment_loop(model, maps[frame : frame + 1], clip.view, None, phase=phase)
        outlined[frame] = found.labels[0] == lv
    return {
        "true masks, true times": by_masks(truth, clip.spacing_mm, true, times),
        "true masks, times found on them": by_masks(truth, clip.spacing_mm, None, times),
        f"the same at {COARSE} px": by_masks(coarse(truth), clip.spacing_mm, None, times),
        "outlines, true times": by_masks(outlined, clip.spacing_mm, true, times),
    }


def measure(model, clip, maps, settings, samples):
    """Mean Dice, correlation of areas, share of jumps, and the measured beats of the loop with their intervals."""
    inside = convex_hull_image(clip.frames.max(0) > 0)
    times, grid = np.arange(len(maps)) / clip.fps, Grid((1.0, 1.0), clip.spacing_mm, inside=inside)
    timeline = segment_loop(model, maps, clip.view, times, settings)
    beats = measure_beats(model, maps, clip.view, times, timeline=timeline, grid=grid, samples=samples)
    found = beats.timeline.labels == model.structures(clip.view).index("lv") + 1
    truth = clip.labels == label_value("lv")
    area, known = found.sum((1, 2)), truth.sum((1, 2))
    dice = np.mean(dice_of_counts((found & truth).sum((1, 2)), area + known))
    jumps = np.mean(np.abs(np.diff(area)) > 0.15 * np.median(area))
    return dice, np.corrcoef(area, known)[0, 1], jumps, beats


def true_measures(clip, beats):
    """True values: volumes and ejection fraction in three dimensions, the others by the true masks."""
    masks = {name: clip.labels == label_value(name) for name in ("lv", "myo", "la")}
    beat = Beat(clip.ed, clip.es, None, regular=True)
    rate = 60 * beats * clip.fps / len(clip.labels)
    own = vars(measure_beat(beat, masks, Grid((1.0, 1.0), clip.spacing_mm), rate))
    solid = {name: getattr(clip, name) for name in ("edv_ml", "esv_ml", "ef_percent")}
    return own | solid | {"stroke_volume_ml": clip.edv_ml - clip.esv_ml}


def with_truth(name, rows, beats):
    """(measure, true value) of the loops of (clip, summary) in which it is measured and its truth is known."""
    pairs = [(summary[name], true_measures(clip, beats)[name]) for clip, summary in rows if name in summary]
    return [(one, true) for one, true in pairs if one.known and np.isfinite(true)]


def report(name, rows):
    """Print the errors of the ejection fraction of (clip, summary)."""
    known = [(summary["ef_percent"].value, clip.ef_percent) for clip, summary in rows if summary]
    error = np.diff(known, axis=1)[:, 0] * -1
    print(
        f"{name}: EF in {len(known)} of {len(rows)} loops, mean absolute error {np.abs(error).mean():.1f}, median "
        f"{np.median(np.abs(error)):.1f}, bias {error.mean():+.1f}, r {np.corrcoef(np.transpose(known))[0, 1]:.2f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loops", type=int, default=32, help="number of loops of each view")
    parser.add_argument("--model", default="alan-sim")
    parser.add_argument("--views", nargs="+", default=["A4C"])
    parser.add_argument("--beats", type=float, default=1.6, help="length of a loop in beats")
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--calibrate", help="manifest into which the spread is written")
    parser.add_argument("--files", nargs="+", help="loops without a truth, of the first view")
    options = parser.parse_args()
    if options.files:
        steadiness(AnalysisModel.load(options.model), options.files, options.views[0])
        return
    if options.calibrate:
        calibrate(options)
        return
    model = AnalysisModel.load(options.model)
    steps, found = {}, {name: [] for name in SETTINGS}
    for clip, maps in simulate(model, options, FIRST_PATIENT):
        for name, summary in budget(model, clip, maps, np.arange(len(maps)) / clip.fps).items():
            steps.setdefault(name, []).append((clip, summary))
        for name, settings in SETTINGS.items():
            samples = options.samples if name == "default" else 0
            found[name].append((clip, *measure(model, clip, maps, settings, samples)))
    for name, rows in steps.items():
        report(name, rows)
    for name, rows in found.items():
        dice, correlation, jumps = (np.mean([row[i] for row in rows]) for i in (1, 2, 3))
        print(f"{name}: LV Dice {100 * dice:.1f}, area r {correlation:.3f}, jumps {100 * jumps:.1f}% of frames")
        report(f"everything, {name}", [(clip, beats.summary) for clip, *_, beats in rows])
    for name in MEASURES:
        pairs = with_truth(name, [(clip, beats.summary) for clip, *_, beats in found["default"]], options.beats)
        inside = np.mean([one.low <= true <= one.high for one, true in pairs])
        width = np.median([one.high - one.low for one, _ in pairs])
        error = np.mean([abs(one.value - true) for one, true in pairs])
        print(
            f"90% intervals of {name} hold in {100 * inside:.0f}% of {len(pairs)} loops, "
            f"median width {width:.0f}, mean absolute error {error:.1f}"
        )


def steadiness(model, files, view):
    """Print the share of jumps of each loop, and the correlations of areas over time and between settings."""
    for loop in (loop for source in find_sources(files)[0] for loop in open_loops(source)):
        maps = model.maps(np.concatenate([model.resize(part) for part in loop.chunks(32)]))
        areas = {}
        for name, settings in SETTINGS.items():
            labels = segment_loop(model, maps, view, loop.times_s, settings).labels
            area = areas[name] = (labels == model.structures(view).index("lv") + 1).sum((1, 2))
            jumps = np.mean(np.abs(np.diff(area)) > 0.15 * np.median(area))
            steady = np.corrcoef(area[1:], area[:-1])[0, 1]
            print(f"{loop.name}, {name}: jumps {100 * jumps:.1f}%, r of neighbouring frames {steady:.3f}")
        print(f"{loop.name}: r of the areas of both {np.corrcoef(list(areas.values()))[0, 1]:.3f}")


def simulate(model, options, first):
    """Loops and their parcel maps; the patients are counted from the first one."""
    for number in tqdm(range(options.loops), unit="loop"):
        for view in options.views:
            frames, seed = round(FRAMES * options.beats), [first // 10_000, number]
            clip = simulate_sequence(view, first + number, n_frames=frames, beats=options.beats, seed=seed)
            yield clip, model.maps(clip.frames)


def calibrate(options):
    """Measure the spread of a model and write it into its manifest."""
    path = Path(options.calibrate)
    manifest = json.loads(path.read_text(encoding="utf-8"))
    model = AnalysisModel.load(path)
    model.spread = {}
    rows = []
    for clip, maps in simulate(model, options, CALIBRATION):
        beats = measure(model, clip, maps, TimeSettings(), options.samples)[-1]
        # The spread of the heart rate widens rates alone that were fitted to the area.
        left_out = set() if beats.rate_source == "area" else {"heart_rate_bpm"}
        rows.append((clip, {name: one for name, one in beats.summary.items() if name not in left_out}))
    spread = {}
    for name in MEASURES:
        pairs = with_truth(name, rows, options.beats)
        spread[name] = calibrate_spread(name, *zip(*pairs, strict=True))
    manifest["spread"] = {name: [round(part, 3) for part in pair] for name, pair in spread.items()}
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    print(f"{path}: spread {manifest['spread']} by {len(rows)} loops")


if __name__ == "__main__":
    main()
