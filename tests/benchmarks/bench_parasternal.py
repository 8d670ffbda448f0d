"""Errors of outlines and measures on simulated PLAX and PSAX loops, and how often their 90% intervals hold.

The true values are those of the true masks by the same formulas. There is no labelled archive of these views at
hand, so that nothing here says how accurate the model is in patients.

python tests/benchmarks/bench_parasternal.py --loops 32 --model alan-sim

With ``--calibrate`` the spread of the model is measured on other patients and written into its manifest:
python tests/benchmarks/bench_parasternal.py --loops 40 --calibrate my-parasternal.model.json
"""

import argparse
import json
from pathlib import Path

import numpy as np
from skimage.morphology import convex_hull_image
from tqdm import tqdm

from alan.analysis import AnalysisModel, TimeSettings
from alan.analysis.loop_analysis import measure_beats
from alan.analysis.measures import PARASTERNAL_MEASURES, Grid, measure_beat
from alan.analysis.timeline import segment_loop
from alan.analysis.uncertainty import calibrate_spread
from alan.cardiac import Beat
from alan.data.simulator import simulate_sequence
from alan.data.structures import label_value
from alan.overlap import dice_of_counts

#: Patients that no shipped model has seen: archives draw theirs from seeds of three numbers.
FIRST_PATIENT, CALIBRATION = 90_000, 60_000
#: Number of frames of a beat, rounded to those of the loop.
FRAMES = 28


def simulate(options, first):
    """Loops of both views; the patients are counted from the first one."""
    for number in tqdm(range(options.loops), unit="patient"):
        for view in options.views:
            frames, seed = round(FRAMES * options.beats), [first // 10_000, number]
            yield simulate_sequence(view, first + number, n_frames=frames, beats=options.beats, seed=seed)


def measure(model, clip, options):
    """Dice of each structure at (ED, ES), the summary of the loop and its true values; the heart rate is known."""
    model = model.of(clip.view)
    times = np.arange(len(clip.frames)) / clip.fps
    inside = convex_hull_image(clip.frames.max(0) > 0)
    grid = Grid((1.0, 1.0), clip.spacing_mm, inside=inside, view=clip.view)
    maps = model.maps(clip.frames)
    timeline = segment_loop(model, maps, clip.view, times, TimeSettings())
    found = measure_beats(model, maps, clip.view, times, timeline=timeline, grid=grid, samples=options.samples)
    names = model.structures(clip.view)
    truth = {name: clip.labels == label_value(name) for name in names}
    dice = {}
    for value, name in enumerate(names, 1):
        ours, true = timeline.labels[[clip.ed, clip.es]] == value, truth[name][[clip.ed, clip.es]]
        total = ours.sum((1, 2)) + true.sum((1, 2))
        dice[name] = dice_of_counts((ours & true).sum((1, 2)), total)
    rate = 60 * options.beats * clip.fps / len(clip.frames)
    true = vars(measure_beat(Beat(clip.ed, clip.es, None, regular=True), truth, grid, rate))
    return dice, found, true


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loops", type=int, default=32, help="number of patients, each with a loop of each view")
    parser.add_argument("--model", default="alan-sim")
    parser.add_argument("--views", nargs="+", default=["PLAX", "PSAX"])
    parser.add_argument("--beats", type=float, default=1.6, help="length of a loop in beats")
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--calibrate", help="manifest into which the spread is written")
    options = parser.parse_args()
    if options.calibrate:
        calibrate(options)
        return
    model = AnalysisModel.load(options.model)
    rows = [(clip.view, *measure(model, clip, options)) for clip in simulate(options, FIRST_PATIENT)]
    for view in options.views:
        own = [row[1:] for row in rows if row[0] == view]
        beats = sum(bool(found.summary) for _, found, _ in own)
        print(f"{view}: {len(own)} loops, a beat in {beats}")
        for name in own[0][0]:
            ed, es = 100 * np.nanmean([dice[name] for dice, *_ in own], axis=0)
            print(f"  Dice of {name}: ED {ed:.1f}, ES {es:.1f}")
        for name in (*PARASTERNAL_MEASURES[view], "heart_rate_bpm"):
            pairs = with_truth(name, own)
            if pairs:
                report(name, pairs, sum(np.isfinite(true[name]) for *_, true in own))


def with_truth(name, rows):
    """(measure, true value) of the loops in which both are known."""
    pairs = [(found.summary[name], true[name]) for _, found, true in rows if name in found.summary]
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
