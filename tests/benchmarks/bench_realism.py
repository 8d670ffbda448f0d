"""Compare simulated frames with real ones: statistics of grey values, speckle, sector and shapes, and a picture.

    python tests/benchmarks/bench_realism.py --store data/camus_a4c.h5 --simulated data/sim_a4c.h5

The folder ``--out`` receives ``realism.csv``, and ``realism.png`` with tiled frames, real ones on the left: check
their licence before you share it. The column ``difference`` is that of the means, in standard deviations of
the real frames.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from alan.arrays import BoolArray, ByteArray, IntArray
from alan.data.store.layout import StoredSequence
from alan.data.store.reader import FrameStore

#: Grey levels above this belong to the sector.
_BLACK = 3
#: Standard deviations (pixels) of the blur that separates speckle from larger structures, and of the local window.
_SPECKLE, _WINDOW = 1.5, 3.0
#: Lower edges of the octaves of the power spectrum, in cycles per pixel.
_OCTAVES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4)
_QUANTILES = (5, 25, 50, 75, 95, 99)
#: Levels of the left ventricle between apex (0) and base (1), and mm beyond its border, between which greys are
#: averaged.
_LEVELS = {"apex": (-0.4, 0.25), "mid": (0.25, 0.6), "base": (0.6, 0.93)}
_BORDER = (-6.0, -3.0, 0.0, 3.0, 6.0, 9.0)
#: Bounds in mm from the border of the left ventricle between which greys left of its wall are averaged.
_LEFT = (12.0, 18.0, 24.0, 30.0, 36.0)


def sector(frame: ByteArray) -> BoolArray:
    """Find the sector of a frame.

    Args:
        frame: (H, W) uint8, black outside the sector.

    Returns:
        (H, W) bool, lit pixels with holes filled and specks removed; all False for a black frame.
    """
    lit = ndimage.binary_fill_holes(frame > _BLACK)
    return ndimage.binary_opening(lit, iterations=2)


def frame_statistics(frame: ByteArray, spacing: tuple[float, float] | None = None) -> dict[str, float]:
    """Describe one frame without regard to anatomy.

    Args:
        frame: (H, W) uint8.
        spacing: (row, column) size of a pixel in mm, or None if unknown.

    Returns:
        Statistics by name. ``grey q5`` to ``grey q99``, ``grey mean``, ``grey sd``: grey values inside the sector.
        ``speckle sd``: mean local standard deviation of the residual of a blur of 1.5 pixels; ``speckle cv``: the
        same divided by the local mean. ``axial length``, ``lateral length``: lag in pixels at which the
        autocorrelation of the residual falls to one half, along columns and along rows. ``power 1/64`` to
        ``power 1/4``: fraction of the power spectrum in the octave that begins at that many cycles per pixel.
        ``lit``: fraction of the image in the sector. With ``spacing`` also ``depth cm``, ``half angle`` (degrees,
        from the two straight edges) and ``width over depth``. Empty for a frame without a sector.

    """
    inside = sector(frame)
    core = ndimage.binary_erosion(inside, iterations=5)
    if core.sum() < 50:
        return {}
    grey = frame[inside].astype(np.float64)
    found = {f"grey q{q}": float(np.percentile(grey, q)) for q in _QUANTILES}
    found["grey mean"], found["grey sd"] = float(grey.mean()), float(grey.std())

    picture = frame.astype(np.float64)
    smooth = ndimage.gaussian_filter(picture, _SPECKLE)
    fine = picture - smooth
    local = np.sqrt(ndimage.gaussian_filter(fine**2, _WINDOW))
    found["speckle sd"] = float(local[core].mean())
    found["speckle cv"] = float((local / (smooth + 5))[core].mean())
    found["axial length"] = correlation_length(fine, core, 0)
    found["lateral length"] = correlation_length(fine, core, 1)
    shares = octave_shares(np.where(inside, picture - grey.mean(), 0.0))
    found |= {f"power 1/{round(1 / low)}": share for low, share in zip(_OCTAVES, shares, strict=True)}
    found["lit"] = float(inside.mean())
    if spacing is not None:
        found |= _fan(inside, spacing)
    return found


def correlation_length(field: NDArray[np.float64], inside: BoolArray, axis: int, most: int = 8) -> float:
    """Compute the lag at which the autocorrelation falls to one half, interpolated linearly between integer lags.

    Args:
        field: (H, W) float64 with mean close to 0.
        inside: (H, W) bool, pixels that are used.
        axis: 0 along columns, 1 along rows.
        most: Largest lag.

    Returns:
        The lag in pixels; ``most`` if the autocorrelation stays above one half.
    """
    both = [(np.roll(inside, lag, axis) & inside, np.roll(field, lag, axis) * field) for lag in range(1, most + 1)]
    power = float((field[inside] ** 2).mean()) + 1e-12
    before = 1.0
    for lag, (mask, product) in enumerate(both, start=1):
        now = float(product[mask].mean()) / power if mask.any() else 0.0
        if now <= 0.5:
            return lag - 1 + (before - 0.5) / (before - now)
        before = now
    return float(most)


def octave_shares(field: NDArray[np.float64]) -> list[float]:
    """Compute the radial power spectrum by octaves.

    Args:
        field: (H, W) float64.

    Returns:
        Fraction of the power (without the mean) in the octaves [1/64, 1/32), ..., [1/8, 1/4), and [1/4, above).
    """
    power = np.abs(np.fft.fft2(field)) ** 2
    rows, columns = (np.fft.fftfreq(n) for n in field.shape)
    radius = np.hypot(rows[:, None], columns[None])
    total = float(power[radius > 0].sum()) + 1e-12
    edges = (*_OCTAVES, math.inf)
    return [
        float(power[(radius >= low) & (radius < high)].sum()) / total for low, high in itertools.pairwise(edges)
    ]


def _fan(inside: BoolArray, spacing: tuple[float, float]) -> dict[str, float]:
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    depth = (rows[-1] - rows[0] + 1) * spacing[0]
    width = (columns[-1] - columns[0] + 1) * spacing[1]
    # In the upper half the edges are straight: the width grows by 2 tan(half angle) per unit of depth.
    upper = rows[int(0.2 * len(rows)) : max(int(0.5 * len(rows)), int(0.2 * len(rows)) + 2)]
    widths = [(np.flatnonzero(inside[row])[[0, -1]] * [-1, 1]).sum() + 1 for row in upper if inside[row].any()]
    slope = np.polyfit(upper[: len(widths)] * spacing[0], np.array(widths) * spacing[1], 1)[0]
    return {
        "depth cm": depth / 10,
        "width over depth": width / depth,
        "half angle": math.degrees(math.atan(slope / 2)),
    }


def shape_statistics(masks: Mapping[str, BoolArray], spacing: tuple[float, float]) -> dict[str, float]:
    """Describe size and position of structures in an apical view.

    Args:
        masks: (H, W) bool by name; ``lv`` is required, ``myo`` and ``la`` are optional.
        spacing: (row, column) size of a pixel in mm.

    Returns:
        Statistics by name in cm, cm2 and degrees: areas; length of the LV along its principal axis, width at a
        quarter, half and three quarters of it, tilt of the axis (positive if the base is to the right of the
        apex), bend (how far the middle at a tenth of the length lies to the right of that at half of it), depth of
        the apex and lateral position of the centre; thickness of the myocardium left and right of the LV at mid
        level and beyond the apex; whether the LA reaches the lowest row. Empty without an LV.
    """
    size = np.asarray(spacing, np.float64) / 10
    found = {f"{name} area": float(mask.sum() * size.prod()) for name, mask in masks.items()}
    lv = np.argwhere(masks["lv"]) * size
    if len(lv) < 20:
        return {}
    centre = lv.mean(0)
    axis = np.linalg.svd(lv - centre, full_matrices=False)[2][0]
    axis = axis * np.sign(axis[0])
    across = np.array([-axis[1], axis[0]])
    along, aside = (lv - centre) @ axis, (lv - centre) @ across
    apex, length = along.min(), float(np.ptp(along))
    found |= {"lv length": length, "lv lean": math.degrees(math.atan2(axis[1], axis[0]))}
    for share in (25, 50, 75):
        level = np.abs(along - apex - share / 100 * length) < 0.15
        found[f"lv width {share}"] = float(np.ptp(aside[level])) if level.any() else math.nan
    top, middle = (aside[np.abs(along - apex - share * length) < 0.25] for share in (0.1, 0.5))
    found["lv bend"] = (
        float(np.ptp(top) / 2 + top.min() - np.ptp(middle) / 2 - middle.min()) if top.size else math.nan
    )
    found["lv apex depth"] = float(lv[:, 0].min())
    found["lv centre aside"] = float(centre[1] - masks["lv"].shape[1] / 2 * size[1])
    if "myo" in masks and masks["myo"].any():
        wall = np.argwhere(masks["myo"]) * size - centre
        level = np.abs(wall @ axis - apex - 0.5 * length) < 0.25
        middle = aside[np.abs(along - apex - 0.5 * length) < 0.25].mean()
        for name, half in (("left", wall @ across < middle), ("right", wall @ across > middle)):
            found[f"wall {name}"] = float((level & half).sum() * size.prod() / 0.5)
        found["wall apex"] = float(apex - (wall @ axis).min())
    if "la" in masks:
        found["la in lowest row"] = float(masks["la"][-1].any())
    return found


def border_statistics(
    frame: ByteArray, masks: Mapping[str, BoolArray], spacing: tuple[float, float]
) -> dict[str, float]:
    """Describe how the picture brightens from the cavity of the left ventricle through its wall.

    Args:
        frame: (H, W) uint8, black outside the sector.
        masks: (H, W) bool by name; empty without ``lv`` and ``myo``.
        spacing: (row, column) size of a pixel in mm.

    Returns:
        ``border mid 3`` is the mean grey of the wall from 3 to 6 mm beyond the cavity at mid level, and
        ``border mid -3`` that of the cavity up to 3 mm from its border, in standard deviations of the sector
        around its mean; NaN where no pixel lies. Levels are thirds between the highest and the lowest row of the
        cavity. ``left mid 12`` is the mean grey left of the wall, 12 to 18 mm from the cavity.
    """
    lv, wall = (masks.get(name, np.zeros(frame.shape, bool)) for name in ("lv", "myo"))
    if not (lv.any() and wall.any()):
        return {}
    inside = frame > 0
    grey = (frame - frame[inside].mean()) / frame[inside].std()
    beyond = ndimage.distance_transform_edt(~lv, spacing) - ndimage.distance_transform_edt(lv, spacing)
    rows = np.flatnonzero(lv.any(1))
    level = (np.arange(len(frame)) - rows[0])[:, None] / max(np.ptp(rows), 1)
    found = {}
    for name, (low, high) in _LEVELS.items():
        part = (lv | wall) & inside & (level >= low) & (level < high)
        for near, far in itertools.pairwise(_BORDER):
            chosen = part & (beyond >= near) & (beyond < far)
            found[f"border {name} {near:g}"] = float(grey[chosen].mean()) if chosen.any() else math.nan
        left = ~(lv | wall) & inside & (level >= low) & (level < high) & (lv[:, ::-1].cumsum(1)[:, ::-1] > 0)
        for near, far in itertools.pairwise(_LEFT):
            chosen = left & (beyond >= near) & (beyond < far)
            found[f"left {name} {near:g}"] = float(grey[chosen].mean()) if chosen.any() else math.nan
    return found


def store_statistics(store: FrameStore, frames: IntArray, *, shapes: bool) -> pd.DataFrame:
    """Compute the statistics of frames of a store, one row per frame that shows a sector."""
    starts = np.array([sequence.start for sequence in store.sequences])
    label = {int(frame): i for i, frame in enumerate(store.label_frames)}
    rows = []
    for index, frame in zip(frames, store.frames(frames), strict=True):
        spacing = stored_spacing(store, store.sequences[int(np.searchsorted(starts, index, "right")) - 1])
        row = frame_statistics(frame, spacing)
        if shapes and spacing is not None:
            masks = {name: store.masks([label[int(index)]], name)[0] for name in store.structures}
            row |= shape_statistics(masks, spacing) | border_statistics(frame, masks, spacing)
        rows.append(row)
    return pd.DataFrame([row for row in rows if row])


def stored_spacing(store: FrameStore, sequence: StoredSequence) -> tuple[float, float] | None:
    """Return the size in mm of a pixel of the stored frames; None if unknown."""
    if sequence.spacing is None:
        return None
    return store.preprocessing.resized_spacing(sequence.original_shape, sequence.spacing)


def pick(store: FrameStore, split: str | None, views: tuple[str, ...], most: int, *, annotated: bool) -> IntArray:
    """Choose frames of a split, evenly spread."""
    frames = np.concatenate([np.arange(s.start, s.start + s.length) for s in store.select(split, views)])
    frames = frames[np.isin(frames, store.label_frames)] if annotated else frames
    return frames[np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(np.int64)]


def compare(real: pd.DataFrame, simulated: pd.DataFrame) -> pd.DataFrame:
    """Compare two tables of statistics, one row per statistic of both."""
    names = [name for name in real.columns if name in simulated.columns]
    a, b = real[names], simulated[names]
    columns = {"real mean": a.mean(), "real sd": a.std(), "simulated mean": b.mean(), "simulated sd": b.std()}
    return pd.DataFrame({**columns, "difference": (b.mean() - a.mean()) / a.std().where(a.std() > 1e-9)})


def tile_frames(frames: ByteArray, columns: int = 6) -> ByteArray:
    """Tile frames (N, H, W), N a multiple of the columns, with a grey line around each."""
    n, h, w = (padded := np.pad(frames, ((0, 0), (1, 1), (1, 1)), constant_values=64)).shape
    return padded.reshape(n // columns, columns, h, w).transpose(0, 2, 1, 3).reshape(-1, columns * w)


def main() -> None:
    """Write the comparison and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("data/camus_a4c.h5"), help="frame store of real frames")
    parser.add_argument(
        "--simulated", type=Path, default=Path("data/sim_a4c.h5"), help="store of simulated frames"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/realism"))
    parser.add_argument("--split", choices=("train", "val"), default="train", help="split of the real store")
    parser.add_argument("--views", nargs="+", default=["A4C"])
    parser.add_argument("--most", type=int, default=400, help="maximum number of frames per store")
    parser.add_argument("--shapes", action="store_true", help="compare label maps too, those of the split train")
    options = parser.parse_args()
    stores = {
        FrameStore(options.store): options.split,
        FrameStore(options.simulated): "train" if options.shapes else None,
    }
    views, tables, halves = tuple(options.views), [], []
    for store, split in stores.items():
        frames = pick(store, split, views, options.most, annotated=options.shapes)
        tables.append(store_statistics(store, frames, shapes=options.shapes))
        halves.append(tile_frames(store.frames(pick(store, split, views, 24, annotated=False))))
    found = compare(*tables)
    options.out.mkdir(parents=True, exist_ok=True)
    found.to_csv(options.out / "realism.csv", float_format="%.4g")
    bar = np.full((len(halves[0]), 6), 255, np.uint8)
    Image.fromarray(np.concatenate([halves[0], bar, halves[1]], 1)).save(options.out / "realism.png")
    print("| statistic |", " | ".join(found.columns), "|\n|" + "---|" * (1 + len(found.columns)))
    for name, row in found.iterrows():
        print(f"| {name} |", " | ".join(f"{value:.3g}" for value in row), "|")


if __name__ == "__main__":
    main()
