"""Views that the shipped model names on stills as they are and with left and right swapped, and its flag.

Simulated loops of patients that no model has seen, and CAMUS stills if their folder is given:
python tests/benchmarks/bench_mirror.py --camus CAMUS --first 301 --last 350 --simulated 40
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from alan.analysis import AnalysisModel
from alan.data.io.cine import read_cine
from alan.data.simulator import simulate_sequence

#: First of the simulated patients.
FIRST_PATIENT = 95_000


def camus(root, first, last, model):
    """Chamber and frames of the end-diastolic and end-systolic stills of each patient."""
    for number in range(first, last + 1):
        patient = f"patient{number:04d}"
        for chamber in ("4CH", "2CH"):
            paths = [
                root / "database_nifti" / patient / f"{patient}_{chamber}_{phase}.nii.gz" for phase in ("ED", "ES")
            ]
            if all(path.is_file() for path in paths):
                yield f"CAMUS {chamber}", np.concatenate([model.resize(read_cine(path).frames) for path in paths])


def simulated(n):
    """View and four frames of simulated loops."""
    for number in range(n):
        for view in ("A4C", "A2C"):
            clip = simulate_sequence(view, FIRST_PATIENT + number, n_frames=4, seed=[95, number])
            yield f"simulated {view}", clip.frames


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--camus", type=Path)
    parser.add_argument("--first", type=int, default=301)
    parser.add_argument("--last", type=int, default=350)
    parser.add_argument("--simulated", type=int, default=40)
    options = parser.parse_args()
    model = AnalysisModel.load("alan-sim")
    loops = list(simulated(options.simulated))
    if options.camus:
        loops += camus(options.camus, options.first, options.last, model)
    named, flagged = {}, {}
    for kind, frames in loops:
        for how, picture in (("as stored", frames), ("mirrored", np.ascontiguousarray(frames[..., ::-1]))):
            found = model.bank.classify(picture)
            named.setdefault((kind, how), Counter())[found.view] += 1
            flagged.setdefault((kind, how), []).append(model.bank.looks_mirrored(picture, found))
    for (kind, how), views in named.items():
        words = ", ".join(f"{count} {view}" for view, count in views.most_common())
        marked = flagged[kind, how]
        print(f"{kind} {how}: {words}; flagged {sum(marked)} of {len(marked)}")


if __name__ == "__main__":
    main()
