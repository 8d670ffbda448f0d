"""Share of real A4C and A2C loops whose view is named, with 0, 1, 5 and 20 labelled patients.

A loop is an ED and an ES frame. The store holds both views (``alan prepare --config prepare/camus_views``). Banks:
that of the model; without and with the shift that unlabelled frames of ``--labels_from`` give; with that shift and
their directions; and each of these with all frames of labelled patients, who are drawn from there; means over the
draws. Archives of other sizes and proportions of views follow.

python tests/benchmarks/bench_camus_views.py --store data/camus_views.h5 --split val
"""

import argparse
from collections import Counter
from typing import ClassVar

import numpy as np
import torch

from alan.analysis.bank import draw_archive
from alan.analysis.views import ViewBank
from alan.data import FrameStore
from alan.data.splits import draw_patients

VIEWS, PHASES = ("A4C", "A2C"), ("ED", "ES")
#: Loops of A4C and of A2C in an archive.
ARCHIVES = ((5, 5), (20, 20), (30, 10), (10, 30), (40, 0), (0, 40))


class Bank(ViewBank):
    """A bank that computes the features of each frame once."""

    known: ClassVar[dict[bytes, tuple]] = {}

    @staticmethod
    def pool(backbone, frames):
        keys = [frame.tobytes() for frame in frames]
        new = [n for n, key in enumerate(keys) if key not in Bank.known]
        if new:
            found = ViewBank.pool(backbone, frames[new])
            Bank.known |= {keys[n]: pair for n, pair in zip(new, zip(*found, strict=True), strict=True)}
        pooled, thumbnails = zip(*(Bank.known[key] for key in keys), strict=True)
        return np.stack(pooled), np.stack(thumbnails)


def show(title, banks, rows, frames):
    """Print the share of loops whose view is named correctly, the mean over banks, and the errors of the first."""
    shares, wrong = [], Counter()
    for bank in banks:
        named = {
            sequence: (loop["view"].iloc[0], bank.classify(frames[loop.index.to_numpy()]))
            for sequence, loop in rows.groupby("sequence")
        }
        shares.append(100 * np.mean([found.view == view for view, found in named.values()]))
        if bank is banks[0]:
            wrong.update(f"{view} as {found.view}" for view, found in named.values() if found.view != view)
            unsure = [found.view == view for view, found in named.values() if found.unsure]
    spread = f" ({min(shares):.0f}-{max(shares):.0f})" if len(banks) > 1 else f", {dict(wrong)}"
    marked = f"; {sum(unsure)} of {len(unsure)} unsure ones correct" if len(banks) == 1 else ""
    print(f"{title}: {np.mean(shares):.1f}% of {len(named)} loops{spread}{marked}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--bank", default="alan-sim-views")
    parser.add_argument("--split", default="val")
    parser.add_argument("--labels_from", default="train")
    parser.add_argument("--patients", type=int, nargs="*", default=[1, 5, 20])
    parser.add_argument("--draws", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    store, shipped = FrameStore(options.store), Bank.load(options.bank)
    plain = shipped if shipped.shift is None else shipped._copy(shift=None, directions=None)
    rows, others = (store.labelled(split, VIEWS, phases=PHASES) for split in (options.split, options.labels_from))
    frames = store.frames(rows["frame"].to_numpy())
    archive = plain.with_archive(draw_archive([store], options.labels_from, store.size, 0))
    show("bank as it is", [shipped], rows, frames)
    show("without a shift", [plain], rows, frames)
    shifted = archive._copy(directions=None)
    show("shift of unlabelled frames", [shifted], rows, frames)
    show("shift and directions of unlabelled frames", [archive], rows, frames)
    for n in options.patients:
        drawn = [
            others[others["patient"].isin(draw_patients(others["patient"], n, seed))]
            for seed in range(options.draws)
        ]
        titles = ("without a shift", "with the shift", "with shift and directions")
        for title, bank in zip(titles, (plain, shifted, archive), strict=True):
            banks = [bank.with_frames(store.frames(d["frame"].to_numpy()), d["view"].tolist()) for d in drawn]
            show(f"{n} labelled patients, {title} before", banks, rows, frames)
    loops = {view: others[others["view"] == view]["sequence"].unique() for view in VIEWS}
    for counts in ARCHIVES:
        banks = []
        for seed in range(options.draws):
            rng = np.random.default_rng(seed)
            chosen = [rng.choice(loops[view], n, replace=False) for view, n in zip(VIEWS, counts, strict=True)]
            of = others[others["sequence"].isin(np.concatenate(chosen))]
            banks.append(plain.with_archive(store.frames(of["frame"].to_numpy())))
        text = " and ".join(f"{n} {view}" for view, n in zip(VIEWS, counts, strict=True))
        show(f"shift of {text} loops", [bank._copy(directions=None) for bank in banks], rows, frames)
        show(f"shift and directions of {text} loops", banks, rows, frames)


if __name__ == "__main__":
    main()
