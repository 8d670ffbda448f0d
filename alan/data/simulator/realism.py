"""Comparison of simulated frames with real ones, in numbers and in pictures.

``python -m alan.data.simulator.realism --store data/camus.h5 --split train --simulated data/sim.h5 --out runs/a``
writes ``realism.csv``, ``realism.md`` and ``realism.png`` (tiled frames, real ones on the left). The picture shows
frames of the real archive: check their licence before you share it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from annotated_types import Ge
from PIL import Image
from tqdm.auto import tqdm

from alan.arrays import ByteArray, IntArray
from alan.bounds import bounded
from alan.data.simulator.statistics import frame_statistics, shape_statistics, table
from alan.data.store.reader import FrameStore, StoredSequence
from alan.errors import AlanError, ParameterError
from alan.files import atomic, write_text
from alan.progress import quiet


def compare(real: pd.DataFrame, simulated: pd.DataFrame) -> pd.DataFrame:
    """Compare two tables of statistics.

    Args:
        real: Statistics of real frames, one row per frame and one column per statistic.
        simulated: Statistics of simulated frames in the same form.

    Returns:
        One row per statistic of both tables: ``real mean``, ``real sd``, ``simulated mean``, ``simulated sd`` and
        ``difference``, the difference of the means in standard deviations of the real frames (NaN where these do
        not vary). A difference below 0.2 is small; above 1 the simulated frames are unlike most real ones.
    """
    names = [name for name in real.columns if name in simulated.columns]
    a, b = real[names], simulated[names]
    spread = a.std().where(a.std() > 1e-9)
    return pd.DataFrame(
        {
            "real mean": a.mean(),
            "real sd": a.std(),
            "simulated mean": b.mean(),
            "simulated sd": b.std(),
            "difference": (b.mean() - a.mean()) / spread,
        }
    )


def store_statistics(
    store: FrameStore,
    split: str,
    *,
    views: Sequence[str] = ("A4C",),
    most: int = 400,
    shapes: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Compute statistics of frames of a store.

    Args:
        store: The frame store.
        split: One of ``alan.data.sample.SPLITS``, or ``all``.
        views: Views to read.
        most: Maximum number of frames, evenly spaced.
        shapes: Whether to describe label maps too (``shape_statistics``), which reads annotated frames only.
        progress: Whether to show a progress bar.

    Raises:
        ParameterError: There is no such frame, or ``shapes`` is used on the test split.
    """
    if shapes and split in ("test", "all"):
        raise ParameterError(
            f"split is {split!r} with shapes, but test labels do not tune the simulator: give train or val"
        )
    picks = _pick(store, split, views, most, annotated=shapes)
    frames = store.frames(picks)
    owner = _owners(store, picks)
    label = {int(frame): i for i, frame in enumerate(store.label_frames)}
    rows = []
    bar = tqdm(total=len(picks), desc=f"describe {store.name}", unit="frame", disable=not progress or quiet())
    with bar:
        for index, frame, sequence in zip(picks, frames, owner, strict=True):
            spacing = stored_spacing(store, sequence)
            row = frame_statistics(frame, spacing)
            if shapes and spacing is not None:
                masks = {name: store.masks([label[int(index)]], name)[0] for name in store.structures}
                row |= shape_statistics(masks, spacing) if masks.get("lv", np.zeros(1)).any() else {}
            rows.append(row)
            bar.update()
    return table(rows)


def stored_spacing(store: FrameStore, sequence: StoredSequence) -> tuple[float, float] | None:
    """Return the (row, column) size in mm of a pixel of the stored (resized) frames; None if unknown."""
    if sequence.spacing is None:
        return None
    rows, columns = sequence.original_shape
    if store.preprocessing.keep_aspect:
        rows = columns = max(rows, columns)
    return sequence.spacing[0] * rows / store.size, sequence.spacing[1] * columns / store.size


def tile_frames(real: ByteArray, simulated: ByteArray, columns: int = 6) -> ByteArray:
    """Tile real frames in the left half and simulated frames in the right half, with a white bar between.

    Args:
        real: (N, H, W) uint8.
        simulated: (N, H, W) uint8 of the same size.
        columns: Frames per row of each half.

    Returns:
        (H', W') uint8.

    Raises:
        ParameterError: The frames differ in size.
    """
    if real.shape[1:] != simulated.shape[1:]:
        raise ParameterError(
            f"real frames are {real.shape[1:]}, simulated {simulated.shape[1:]}: prepare both with the same size"
        )
    halves = []
    for frames in (real, simulated):
        padded = np.pad(frames, ((0, -len(frames) % columns), (1, 1), (1, 1)), constant_values=64)
        n, h, w = padded.shape
        halves.append(padded.reshape(n // columns, columns, h, w).transpose(0, 2, 1, 3).reshape(-1, columns * w))
    height = max(len(half) for half in halves)
    left, right = (np.pad(half, ((0, height - len(half)), (0, 0))) for half in halves)
    return np.concatenate([left, np.full((height, 6), 255, np.uint8), right], 1)


@bounded
def realism(
    store: str | Path,
    simulated: str | Path,
    out: str | Path,
    *,
    split: Literal["train", "val", "test", "all"] = "train",
    views: Sequence[str] = ("A4C",),
    most: Annotated[int, Ge(2)] = 400,
    shapes: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Compare a store of simulated frames with one of real frames.

    Args:
        store: Frame store of real frames, written by ``alan prepare``.
        simulated: Frame store of simulated frames, written by ``alan prepare``; all splits are used, with
            ``shapes`` the training split.
        out: Folder for ``realism.csv``, ``realism.md`` and ``realism.png``.
        split: Split of the real store.
        views: Views to read in both stores.
        most: Maximum number of frames per store; a spread needs two.
        shapes: Whether to compare label maps too; not on the test split.
        progress: Whether to show progress bars.

    Returns:
        The table, see :func:`compare`.

    Raises:
        ParameterError: The split is unknown, there are no frames of these views, or ``shapes`` is used on the test
            split.
        DataError: A store cannot be read.
    """
    ours, theirs = FrameStore(simulated), FrameStore(store)
    options: dict[str, Any] = {"views": views, "most": most, "shapes": shapes, "progress": progress}
    found = compare(
        store_statistics(theirs, split, **options), store_statistics(ours, "train" if shapes else "all", **options)
    )
    folder = Path(out)
    write_text(folder / "realism.csv", found.to_csv(float_format="%.4g"))
    write_text(folder / "realism.md", _markdown(found))
    few = [s.frames(_pick(s, name, views, 24, annotated=False)) for s, name in ((theirs, split), (ours, "all"))]
    with atomic(folder / "realism.png") as path:
        Image.fromarray(tile_frames(few[0], few[1])).save(path, format="PNG")
    return found


def _pick(store: FrameStore, split: str, views: Sequence[str], most: int, *, annotated: bool) -> IntArray:
    sequences = store.select(split=None if split == "all" else split, views=tuple(views))
    indices = np.concatenate([np.arange(s.start, s.start + s.length) for s in sequences] or [np.zeros(0, int)])
    if annotated:
        indices = indices[np.isin(indices, store.label_frames)]
    if not len(indices):
        raise ParameterError(
            f"{store.path}: no {'annotated ' if annotated else ''}frames of split {split!r} and views "
            f"{', '.join(views)}"
        )
    return indices[np.linspace(0, len(indices) - 1, min(most, len(indices))).round().astype(np.int64)]


def _owners(store: FrameStore, indices: IntArray) -> list[StoredSequence]:
    starts = np.array([sequence.start for sequence in store.sequences])
    return [store.sequences[int(np.searchsorted(starts, index, "right")) - 1] for index in indices]


def _markdown(found: pd.DataFrame) -> str:
    head = ["statistic", *found.columns]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {name} | {' | '.join(f'{value:.3g}' for value in row)} |" for name, row in found.iterrows()]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the comparison and print its table; return 2 after an error of the user."""
    parser = argparse.ArgumentParser(prog="python -m alan.data.simulator.realism", description=realism.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--store", required=True, help="frame store of real frames")
    parser.add_argument("--simulated", required=True, help="frame store of simulated frames")
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument("--split", default="train", help="split of the real store")
    parser.add_argument("--views", nargs="+", default=["A4C"])
    parser.add_argument("--most", type=int, default=400, help="maximum number of frames per store")
    parser.add_argument("--shapes", action="store_true", help="compare label maps too (not on the test split)")
    try:
        found = realism(**vars(parser.parse_args(arguments)))
    except (AlanError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(_markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
