"""Views that the shipped model names on CAMUS stills and on the same stills with left and right swapped.

python tests/benchmarks/bench_mirror.py CAMUS --first 301 --last 350
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from alan.analysis import AnalysisModel
from alan.data.io.cine import read_cine


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--first", type=int, default=301)
    parser.add_argument("--last", type=int, default=350)
    options = parser.parse_args()
    model = AnalysisModel.load("alan-sim")
    for chamber in ("4CH", "2CH"):
        named = {"as stored": Counter(), "mirrored": Counter()}
        for number in range(options.first, options.last + 1):
            patient = f"patient{number:04d}"
            path = options.root / "database_nifti" / patient / f"{patient}_{chamber}_ED.nii.gz"
            if path.is_file():
                frames = model.resize(read_cine(path).frames)
                for how, picture in zip(named, (frames, np.ascontiguousarray(frames[..., ::-1])), strict=True):
                    named[how][model.bank.classify(picture).view] += 1
        for how, views in named.items():
            print(f"{chamber} {how}: " + ", ".join(f"{count} {view}" for view, count in views.most_common()))


if __name__ == "__main__":
    main()
