"""Outlines over time and ejection fraction on simulated loops whose every frame has a known mask.

python tests/benchmarks/bench_ef.py --loops 32 --model alan-sim
"""

import argparse

import numpy as np
from tqdm import tqdm

from alan.analysis import AnalysisModel, TimeSettings
from alan.analysis.measures import Grid, beats_of, counted, measure_beat, measure_curves, summarise_beats
from alan.analysis.timeline import segment_loop
from alan.analysis.uncertainty import sample_beats, with_intervals
from alan.data.simulator import simulate_sequence
from alan.data.structures import label_value
from alan.overlap import dice_of_counts

#: Patients that no shipped model has seen: archives draw theirs from seeds of three numbers.
FIRST_PATIENT = 90_000
SETTINGS = {
    "default": TimeSettings(),
    "no smoothing, no repair": TimeSettings(smoothing_s=0, jump=None),
    "no smoothing": TimeSettings(smoothing_s=0),
    "no repair": TimeSettings(jump=None),
    "one list for all phases": TimeSettings(phases=False),
}


def measure(model, clip, maps, settings, samples):
    """Mean Dice, correlation of areas, share of jumps, EF with its interval."""
    times = np.arange(len(maps)) / clip.fps
    timeline = segment_loop(model, maps, clip.view, times, settings)
    found = timeline.labels == model.structures(clip.view).index("lv") + 1
    truth = clip.labels == label_value("lv")
    area, known = found.sum((1, 2)), truth.sum((1, 2))
    dice = np.mean(dice_of_counts((found & truth).sum((1, 2)), area + known))
    jumps = np.mean(np.abs(np.diff(area)) > 0.15 * np.median(area))
    grid = Grid((1.0, 1.0), clip.spacing_mm)
    curves = measure_curves(found, grid)
    beats = counted(beats_of(curves, times))
    numbers = [measure_beat(beat, curves) for beat in beats]
    summary = summarise_beats(numbers, sized=True)
    if summary and samples:
        pair = model.views[clip.view]["lv"]
        draws = sample_beats(pair, maps, timeline.phase, grid, beats, n=samples, seed=0)
        summary = with_intervals(summary, draws, numbers)
    return dice, np.corrcoef(area, known)[0, 1], jumps, summary


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loops", type=int, default=32)
    parser.add_argument("--model", default="alan-sim")
    parser.add_argument("--view", default="A4C")
    parser.add_argument("--samples", type=int, default=40)
    options = parser.parse_args()
    model = AnalysisModel.load(options.model)
    found = {name: [] for name in SETTINGS}
    for number in tqdm(range(options.loops), unit="loop"):
        clip = simulate_sequence(options.view, FIRST_PATIENT + number, n_frames=45, beats=1.6, seed=[9, number])
        maps = model.maps(clip.frames)
        for name, settings in SETTINGS.items():
            samples = options.samples if name == "default" else 0
            found[name].append((clip, *measure(model, clip, maps, settings, samples)))
    for name, rows in found.items():
        known = [(clip, summary) for clip, *_, summary in rows if summary]
        error = np.array([summary["ef_percent"].value - clip.ef_percent for clip, summary in known])
        values = [(summary["ef_percent"].value, clip.ef_percent) for clip, summary in known]
        dice, correlation, jumps = (np.mean([row[i] for row in rows]) for i in (1, 2, 3))
        print(
            f"{name}: LV Dice {100 * dice:.1f}, area over time r {correlation:.3f}, jumps {100 * jumps:.1f}% of "
            f"frames; EF in {len(known)} of {len(rows)} loops: mean absolute error {np.abs(error).mean():.1f}, "
            f"bias {error.mean():+.1f}, r {np.corrcoef(np.transpose(values))[0, 1]:.2f}"
        )
    for name, attribute in (("ef_percent", "ef_percent"), ("edv_ml", "edv_ml"), ("esv_ml", "esv_ml")):
        inside = [
            summary[name].low <= getattr(clip, attribute) <= summary[name].high
            for clip, *_, summary in found["default"]
            if summary
        ]
        print(f"90% intervals of {name} hold in {100 * np.mean(inside):.0f}% of {len(inside)} loops")


if __name__ == "__main__":
    main()
