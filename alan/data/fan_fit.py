"""Fit of a sector to a region of the screen: from coarse to fine, by the pixels inside and outside."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
from scipy.optimize import minimize

from alan.arrays import BoolArray, FloatArray
from alan.data.fan import Fan

#: Longest side in pixels at which the sector is searched, then refined.
_COARSE, _FINE = 96, 288
#: Width in pixels of the band around the border within which the fine search moves it.
_BAND = 12.0
#: Penalties of a moving pixel outside the sector and of a still pixel inside it. A side of the sector may be too
#: dark to move, and a lossy codec lets text outside the sector flicker.
_OUTSIDE, STILL, STILL_LOSSY = 1.0, 0.35, 0.6
#: Smallest gain in the fraction of moving pixels inside the sector for which a tilted sector is preferred to an
#: upright one. A side that is too dark to move looks like a tilt, but leaves no moving pixel outside the upright
#: one.
_TILTED = 0.01
#: Largest near radius, as a fraction of the far radius, at which a sector is extended to its apex, and smallest
#: fraction of an arc that must be lit or move there.
_POINTED, _FILLED = 0.3, 0.5
#: Smallest fraction of the last arc of a sector that must move.
_ENDED = 0.05


def fit_sector(region: BoolArray, known: BoolArray, still: float, aspect: float = 1.0) -> Fan | None:
    """Fit a sector to a region, coarse to fine; an upright one unless a tilted one holds more of the region.

    Args:
        region: (H, W) bool, where the image moves or is lit.
        known: (H, W) bool; unknown pixels (under text) count neither as inside nor as outside.
        still: Penalty of a still pixel inside the sector; one of a moving pixel outside it costs 1.
        aspect: Height of a pixel divided by its width.

    Returns:
        The sector; None for a region of fewer than four rows at the coarse size.
    """
    coarse, factor = _reduce(region & known, _COARSE)
    weight, _ = _reduce(known, _COARSE)
    begun, found = _starts(coarse, aspect), []
    for tilted in (False, True):
        starts = [_optimise(start, coarse, weight, 60, tilted=tilted, still=still) for start in begun]
        starts.sort(key=lambda item: item[0])
        if not starts:
            return None
        again = [_optimise(fan, coarse, weight, 200, tilted=tilted, still=still) for _, fan in starts[:2]]
        best = min(again, key=lambda item: item[0])[1]
        found.append(_refine(best.scaled(factor, region.shape), region, known, still))
    upright, tilt = found
    held = [float((fan.mask() & region).sum()) / float(region.sum()) for fan in found]
    return tilt if held[1] > held[0] + _TILTED else upright


def _refine(fan: Fan, region: BoolArray, known: BoolArray, still: float) -> Fan:
    """Refine a sector whose border is correct to within a band; an upright sector stays upright."""
    fine, finer = _reduce(region & known, _FINE)
    weight, _ = _reduce(known, _FINE)
    start = fan.scaled(1 / finer, fine.shape)
    tops: tuple[Literal["curved", "flat"], ...] = ("curved", "flat")
    tilted = abs(fan.left + fan.right) > 1e-9
    shapes = [replace(start, top=top) for top in tops]
    candidates = [_optimise(x, fine, weight, 220, tilted=tilted, still=still, band=_BAND) for x in shapes]
    return min(candidates, key=lambda found: found[0])[1].scaled(finer, fan.shape)


def extend_to_point(fan: Fan, lit: BoolArray) -> Fan:
    """Extend a sector towards its apex as far as pixels are lit or move; small regions near the apex are lost."""
    if fan.near > _POINTED * fan.far:
        return fan
    cone = replace(fan, near=0.0, top="curved")
    rows, columns = np.nonzero(cone.mask() & ~fan.mask())
    arcs = fan.radius(rows, columns).astype(np.int64)
    filled = np.bincount(arcs, lit[rows, columns], len(arcs) and int(arcs.max()) + 1) >= _FILLED * np.bincount(
        arcs
    )
    empty = np.flatnonzero(~filled)
    first = int(empty[-1]) + 1 if len(empty) else 0
    return fan if first > fan.near - 1 else replace(fan, near=float(first), top="curved")


def cut_at_end(fan: Fan, moving: BoolArray) -> Fan:
    """Shorten a sector to its last moving arc; a fit may extend into pixels that are unknown because of text."""
    rows, columns = np.nonzero(fan.mask())
    arcs = fan.radius(rows, columns).astype(np.int64)
    if not len(arcs):
        return fan
    share = np.bincount(arcs, moving[rows, columns]) / np.maximum(np.bincount(arcs), 1)
    last = np.flatnonzero(share >= _ENDED)
    return replace(fan, far=float(last[-1]) + 1) if len(last) and last[-1] + 1 < fan.far - 1 else fan


def _reduce(region: BoolArray, side: int) -> tuple[FloatArray, float]:
    """Average a region over blocks so that its longest side is at most ``side``; return it with the block size."""
    block = max(1, math.ceil(max(region.shape) / side))
    from skimage.transform import downscale_local_mean  # not before a command line is read

    reduced = downscale_local_mean(region.astype(np.float64), (block, block))  # type: ignore[no-untyped-call]
    return np.asarray(reduced), float(block)


def _starts(region: FloatArray, aspect: float) -> list[Fan]:
    """Guess initial sectors from the edges of the region, and from its box with several opening angles."""
    inside = region > 0.5
    rows = np.flatnonzero(inside.any(1))
    if len(rows) < 4:
        return []

    def sector(depth: float, column: float, far: float, left: float, right: float) -> Fan:
        """Build a sector whose centre is at a depth in columns."""
        return Fan(depth / aspect, column, max(0.0, top - depth), far, left, right, "curved", shape, aspect)

    left = np.array([np.flatnonzero(inside[row])[0] for row in rows], float)
    right = np.array([np.flatnonzero(inside[row])[-1] for row in rows], float)
    shape = (region.shape[0], region.shape[1])
    widest, depths = int(np.argmax(right - left)), np.asarray(rows * aspect, np.float64)
    top, bottom = float(depths[0]), float(depths[-1])
    starts = []
    part = slice(max(1, widest // 6), max(widest, 4))
    edges = [_line(depths[part], side[part]) for side in (left, right)]
    if edges[1][0] - edges[0][0] > 0.05:  # columns grow apart with depth
        row = (edges[0][1] - edges[1][1]) / (edges[1][0] - edges[0][0])
        column = edges[0][0] * row + edges[0][1]
        angles = [math.atan(slope) for slope, _ in edges]
        starts.append(sector(row, column, bottom - row, angles[0], angles[1]))
    centre = float(np.average(np.arange(shape[1]), weights=inside.sum(0)))
    width = float((right - left).max())
    for half in (0.25, 0.5, 0.75):
        far = max(width / (2 * math.sin(half)), 4.0)
        starts.append(sector(bottom - far, centre, far, -half, half))
    return starts


def _line(rows: FloatArray, columns: FloatArray) -> tuple[float, float]:
    """Fit a line robustly by the median of pairwise slopes; return slope and offset."""
    i, j = np.triu_indices(len(rows), max(1, len(rows) // 3))
    if not len(i):
        return 0.0, float(np.median(columns))
    slope = float(np.median((columns[j] - columns[i]) / (rows[j] - rows[i])))
    return slope, float(np.median(columns - slope * rows))


def _optimise(
    start: Fan,
    region: FloatArray,
    weight: FloatArray,
    evaluations: int,
    *,
    tilted: bool,
    still: float,
    band: float = math.inf,
) -> tuple[float, Fan]:
    """Minimise the disagreement of sector and region, from an initial sector correct to within a band."""
    depth = start.depth(*np.ogrid[: region.shape[0], : region.shape[1]])
    moved = np.abs(depth) < band
    rows, columns = (places.astype(np.float64) for places in np.nonzero(moved))
    lit, counted = region[moved], weight[moved]
    sure = depth >= band
    settled = (float(region[sure].sum()), float((weight - region)[sure].sum()))
    scale = float(max(region.shape))
    total = float(region.sum()) + 1e-9

    def fan(values: FloatArray) -> Fan:
        row, column, near, far, half, *tilt = values.tolist()
        half, middle = min(abs(half), 1.5), tilt[0] if tilt else 0.0
        lengths = (row * scale, column * scale, abs(near) * scale, abs(far) * scale)
        return Fan(*lengths, middle - half, middle + half, start.top, start.shape, start.aspect)

    def cost(values: FloatArray) -> float:
        inside = fan(values).membership(rows, columns)
        overlap = float(inside @ lit)
        dark = settled[1] + float(inside @ counted) - overlap
        return (_OUTSIDE * (total - settled[0] - overlap) + still * dark) / total

    middle, half = 0.5 * (start.left + start.right), 0.5 * (start.right - start.left)
    first = np.array([*(x / scale for x in (start.row, start.column, start.near, start.far)), half, middle])
    simplex = np.vstack([first, first + np.diag([0.04, 0.03, 0.03, 0.04, 0.06, 0.06])])
    if not tilted:
        first, simplex = first[:-1], simplex[:-1, :-1]
    options = {"maxfev": evaluations, "initial_simplex": simplex, "xatol": 1e-4, "fatol": 1e-5}
    found = minimize(cost, first, method="Nelder-Mead", options=options)  # type: ignore[call-overload]
    return float(found.fun), fan(np.asarray(found.x))
