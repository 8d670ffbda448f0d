"""Detection of the ultrasound sector on the screen of a machine.

The sector moves from frame to frame; text, rulers, bars and logos do not, and an ECG trace is thin. A sector of an
annulus, described by seven numbers, is fitted to the moving region.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import minimize
from skimage.transform import downscale_local_mean

from alan.arrays import BoolArray, ByteArray, FloatArray
from alan.errors import DataError

#: Longest side in pixels at which the sector is searched, then refined.
_COARSE, _FINE = 96, 288
#: Smallest temporal range of a moving pixel, in grey values.
_RANGE = 5.0
#: Largest height of a line of text as a fraction of the screen.
_LINE = 0.05
#: Width in pixels of the band around the border within which the fine search moves it.
_BAND = 12.0
#: Penalty of moving pixels outside the sector and of still pixels inside it.
_OUTSIDE, _STILL = 1.0, 0.35
#: Penalty of still pixels inside a sector that is drawn tightly; largest range of text that a lossy codec lets
#: flicker and of what surrounds it, as a fraction of their brightness; smallest fraction of the region to act on.
_TIGHT, _FLICKER, _SLIVER = 0.8, 0.8, 0.005
#: Smallest part of the screen that a sector covers.
_LEAST = 0.02
#: A second panel has at least this fraction of the area of the first.
_SECOND = 0.3
#: Intersection over union with the moving region from which on a fitted sector is accepted. The lower one counts
#: where nearly all that moves lies inside: a part of the sector may be too dark to move.
_AGREEMENT, _DARK, _INSIDE = 0.8, 0.7, 0.95
#: A region that fills more than this fraction of its box is a rectangle.
_RECTANGLE = 0.97
#: Largest opening angle in radians, and largest near radius as a fraction of the far one.
_WIDEST, _NEAREST = 2.1, 0.75
_MAX_FRAMES = 24


@dataclass(frozen=True)
class Fan:
    """A sector of an annulus, in pixels; angles are measured from the downward direction, positive to the right.

    Attributes:
        row: Row of the centre of the circles, which may lie above the image.
        column: Column of the centre of the circles.
        near: Radius at which the sector begins.
        far: Radius at which the sector ends.
        left: Angle of the left edge in radians.
        right: Angle of the right edge in radians.
        top: Whether the near border is an arc (``curved``) or a straight line (``flat``).
        shape: (H, W) of the screen.
    """

    row: float
    column: float
    near: float
    far: float
    left: float
    right: float
    top: Literal["curved", "flat"]
    shape: tuple[int, int]

    def mask(self, margin: float = 0.0) -> BoolArray:
        """Return (H, W) bool, True inside the sector and at most ``margin`` pixels outside of it."""
        rows, columns = np.ogrid[: self.shape[0], : self.shape[1]]
        return np.asarray(self._depth(rows, columns) > -margin)

    def box(self, margin: float = 0.0) -> tuple[slice, slice]:
        """Return the rows and columns that enclose the sector on the screen, with a margin in pixels."""
        return enclosing(self.mask(margin))

    def crop(self, box: tuple[slice, slice]) -> Fan:
        """Return the sector in the pixels of a part of the screen."""
        rows, columns = box
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        return replace(self, row=self.row - rows.start, column=self.column - columns.start, shape=shape)

    def _membership(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> FloatArray:
        """Membership in [0, 1] that rises over one pixel across the border."""
        return np.asarray(np.clip(self._depth(rows, columns) + 0.5, 0, 1))

    def _depth(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> FloatArray:
        """Distance to the border in pixels, positive inside."""
        z, x = rows - self.row, columns - self.column
        radius = np.hypot(z, x)
        middle, half = 0.5 * (self.left + self.right), 0.5 * (self.right - self.left)
        off = np.abs(np.arctan2(x, z) - middle)
        side = np.where(off - half < np.pi / 2, np.sin(half - off), -1.0) * radius
        if self.top == "flat":
            across = z * math.cos(middle) + x * math.sin(middle) - self.near * math.cos(half)
        else:
            across = radius - self.near
        return np.asarray(np.minimum(np.minimum(self.far - radius, across), side))

    def _scaled(self, factor: float, shape: tuple[int, int]) -> Fan:
        """The sector on a screen that is larger by a factor."""
        return replace(
            self,
            row=(self.row + 0.5) * factor - 0.5,
            column=(self.column + 0.5) * factor - 0.5,
            near=self.near * factor,
            far=self.far * factor,
            shape=shape,
        )


@dataclass(frozen=True)
class Panels:
    """Panels of a screen.

    Attributes:
        fans: The sectors, from top to bottom and from left to right.
        regions: (H, W) bool for each sector, the region that moves (or is lit, in a still).
        others: (H, W) bool for each region that is not a sector, the largest first.
    """

    fans: tuple[Fan, ...]
    regions: tuple[BoolArray, ...]
    others: tuple[BoolArray, ...]


def find_fans(frames: ByteArray) -> list[Fan]:
    """Find the sectors of a loop or a still.

    Args:
        frames: (T, H, W) uint8. With several frames moving pixels are used, with a single one lit pixels.

    Returns:
        One sector per panel, from top to bottom and from left to right. Empty if nothing on the screen looks like
        a sector.

    Raises:
        DataError: ``frames`` is not a (T, H, W) uint8 array of at least 16 x 16 pixels.
    """
    return list(find_panels(frames).fans)


def find_panels(frames: ByteArray, span: ByteArray | None = None) -> Panels:
    """Find the sectors of a loop or a still, and the regions that are none, such as M-mode strips.

    Args:
        frames: As for :func:`find_fans`.
        span: (H, W) uint8, the range of each pixel over all frames of the loop; None takes it over ``frames``.

    Raises:
        DataError: ``frames`` is not a (T, H, W) uint8 array of at least 16 x 16 pixels.
    """
    if frames.ndim != 3 or frames.dtype != np.uint8 or min(frames.shape[1:]) < 16 or not len(frames):
        raise DataError(
            f"frames are {frames.dtype} {frames.shape}: give uint8 (T, H, W) of at least 16 x 16 pixels"
        )
    found, others = list[tuple[Fan, BoolArray]](), []
    for part in _panels(_region(frames, span)):
        fan = None if part[enclosing(part)].mean() > _RECTANGLE else _fit(part)
        if fan is not None and len(frames) > 1:
            fan = _without_flicker(fan, part, frames, span)
        if fan is not None and _is_plausible(fan) and _agrees(fan, part, moving=len(frames) > 1):
            found.append((fan, part))
        else:
            others.append(part)
    height = max((fan.far - fan.near for fan, _ in found), default=1.0)
    found.sort(key=lambda item: (round(item[0].row / height), item[0].column))
    return Panels(tuple(fan for fan, _ in found), tuple(part for _, part in found), tuple(others))


def enclosing(inside: BoolArray) -> tuple[slice, slice]:
    """Return the rows and columns that enclose the true pixels of (H, W)."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _is_plausible(fan: Fan) -> bool:
    """Whether a fitted sector has the geometry of a probe: it opens downwards from a point near the screen."""
    height, width = fan.shape
    opening, middle = fan.right - fan.left, 0.5 * (fan.left + fan.right)
    return (
        0.15 <= opening <= _WIDEST
        and abs(middle) <= 0.5
        and fan.near <= _NEAREST * fan.far
        and fan.far <= 2 * max(height, width)
    )


def _region(frames: ByteArray, span: ByteArray | None = None) -> BoolArray:
    """(H, W) bool, where the image moves, or is lit in a still; without thin lines and small spots."""
    step = max(1, len(frames) // _MAX_FRAMES)
    some = frames[::step][:_MAX_FRAMES]
    if len(some) > 1:
        evidence = (some.max(0) - some.min(0) if span is None else span) >= _RANGE
    else:
        border = np.concatenate([some[0, [0, -1]].ravel(), some[0][:, [0, -1]].ravel()])
        evidence = some[0] > max(_RANGE, float(np.median(border)) + _RANGE)
    size = max(3, round(max(frames.shape[1:]) / 160) | 1)
    evidence = ndimage.median_filter(evidence.astype(np.uint8), size=size) > 0  # thin lines vanish
    structure = np.ones((size, size), bool)
    closed = ndimage.binary_closing(np.pad(evidence, 2 * size), structure, iterations=2)[
        2 * size : -2 * size, 2 * size : -2 * size
    ]
    opened = ndimage.binary_opening(closed, structure, iterations=2)
    return _without_text(np.asarray(ndimage.binary_fill_holes(opened)))


def _without_text(region: BoolArray) -> BoolArray:
    """Remove lines of text, which lossy codecs let flicker, from the border of a region."""
    side = max(5, round(_LINE * max(region.shape)))
    core = ndimage.binary_opening(region, np.ones((side, 1), bool))  # columns shorter than a line vanish
    rest, n = ndimage.label(region & ~core)
    if not n:
        return region
    lines = [
        number
        for number, (rows, columns) in enumerate(ndimage.find_objects(rest), start=1)
        if columns.stop - columns.start > 1.5 * (rows.stop - rows.start)
    ]
    return np.asarray(region & ~np.isin(rest, lines))


def _panels(region: BoolArray) -> list[BoolArray]:
    """The largest connected region, and those of similar area."""
    labels, n = ndimage.label(region)
    if not n:
        return []
    areas = np.bincount(labels.ravel())[1:]
    least = max(_LEAST * region.size, _SECOND * areas.max())
    return [labels == number + 1 for number in np.argsort(areas)[::-1] if areas[number] >= least]


def _fit(region: BoolArray) -> Fan | None:
    """Fit a sector to a region, coarse to fine."""
    coarse, factor = _reduce(region, _COARSE)
    starts = sorted((_optimise(start, coarse, 60) for start in _starts(coarse)), key=lambda found: found[0])
    if not starts:
        return None
    best = min((_optimise(fan, coarse, 200) for _, fan in starts[:2]), key=lambda found: found[0])
    return _refine(best[1]._scaled(factor, region.shape), region, _STILL)


def _refine(fan: Fan, region: BoolArray, still: float) -> Fan:
    """Fit a sector whose border is right within a band to a region."""
    fine, finer = _reduce(region, _FINE)
    start = fan._scaled(1 / finer, fine.shape)
    tops: tuple[Literal["curved", "flat"], ...] = ("curved", "flat")
    candidates = [_optimise(replace(start, top=top), fine, 220, band=_BAND, still=still) for top in tops]
    return min(candidates, key=lambda found: found[0])[1]._scaled(finer, fan.shape)


def _without_flicker(fan: Fan, region: BoolArray, frames: ByteArray, span: ByteArray | None) -> Fan:
    """Draw a sector tighter if what is then left out of it flickers little for its brightness, as text does."""
    tight = _refine(fan, region, _TIGHT)
    left_out = fan.mask() & ~tight.mask() & region
    high = frames.max(0)
    moved = high - frames.min(0) if span is None else span
    flickers = moved[left_out].sum(dtype=float) < _FLICKER * high[left_out].sum(dtype=float)
    return tight if left_out.sum() > _SLIVER * region.sum() and flickers else fan


def _reduce(region: BoolArray, side: int) -> tuple[FloatArray, float]:
    """Average a region over blocks so that its longest side is at most ``side``; the block's side comes second."""
    block = max(1, math.ceil(max(region.shape) / side))
    reduced = downscale_local_mean(region.astype(np.float64), (block, block))  # type: ignore[no-untyped-call]
    return np.asarray(reduced), float(block)


def _starts(region: FloatArray) -> list[Fan]:
    """Initial sectors: from the edges of the region, and from its box with several opening angles."""
    inside = region > 0.5
    rows = np.flatnonzero(inside.any(1))
    if len(rows) < 4:
        return []
    left = np.array([np.flatnonzero(inside[row])[0] for row in rows], float)
    right = np.array([np.flatnonzero(inside[row])[-1] for row in rows], float)
    shape = (region.shape[0], region.shape[1])
    bottom, widest = float(rows[-1]), int(np.argmax(right - left))
    starts = []
    part = slice(max(1, widest // 6), max(widest, 4))
    edges = [_line(rows[part], side[part]) for side in (left, right)]
    if edges[1][0] - edges[0][0] > 0.05:  # columns grow apart per row
        row = (edges[0][1] - edges[1][1]) / (edges[1][0] - edges[0][0])
        column = edges[0][0] * row + edges[0][1]
        angles = [math.atan(slope) for slope, _ in edges]
        starts.append(
            Fan(row, column, max(0.0, rows[0] - row), bottom - row, angles[0], angles[1], "curved", shape)
        )
    centre = float(np.average(np.arange(shape[1]), weights=inside.sum(0)))
    width = float((right - left).max())
    for half in (0.25, 0.5, 0.75):
        far = max(width / (2 * math.sin(half)), 4.0)
        starts.append(
            Fan(bottom - far, centre, max(0.0, rows[0] - bottom + far), far, -half, half, "curved", shape)
        )
    return starts


def _line(rows: NDArray[np.int64], columns: FloatArray) -> tuple[float, float]:
    """Slope and offset of a line through most of the points, by the median of pairwise slopes."""
    i, j = np.triu_indices(len(rows), max(1, len(rows) // 3))
    if not len(i):
        return 0.0, float(np.median(columns))
    slope = float(np.median((columns[j] - columns[i]) / (rows[j] - rows[i])))
    return slope, float(np.median(columns - slope * rows))


def _optimise(
    start: Fan, region: FloatArray, evaluations: int, *, band: float = math.inf, still: float = _STILL
) -> tuple[float, Fan]:
    """Minimise the disagreement of a sector with a region, from a start on whose border is right within a band."""
    depth = start._depth(*np.ogrid[: region.shape[0], : region.shape[1]])
    rows, columns = np.nonzero(np.abs(depth) < band)
    lit = region[rows, columns]
    sure = region[depth >= band]
    settled = (float(sure.sum()), float((1 - sure).sum()))
    scale = float(max(region.shape))
    total = float(region.sum()) + 1e-9

    def fan(values: FloatArray) -> Fan:
        row, column, near, far, middle, half = values.tolist()
        half = min(abs(half), 1.5)
        return replace(
            start,
            row=row * scale,
            column=column * scale,
            near=abs(near) * scale,
            far=abs(far) * scale,
            left=middle - half,
            right=middle + half,
        )

    def cost(values: FloatArray) -> float:
        inside = fan(values)._membership(rows, columns)
        overlap = float(inside @ lit)
        dark = settled[1] + float(inside.sum()) - overlap
        return (_OUTSIDE * (total - settled[0] - overlap) + still * dark) / total

    middle, half = 0.5 * (start.left + start.right), 0.5 * (start.right - start.left)
    first = np.array([*(x / scale for x in (start.row, start.column, start.near, start.far)), middle, half])
    simplex = np.vstack([first, first + np.diag([0.04, 0.03, 0.03, 0.04, 0.06, 0.06])])
    options = {"maxfev": evaluations, "initial_simplex": simplex, "xatol": 1e-4, "fatol": 1e-5}
    found = minimize(cost, first, method="Nelder-Mead", options=options)  # type: ignore[call-overload]
    return float(found.fun), fan(np.asarray(found.x))


def _agrees(fan: Fan, region: BoolArray, *, moving: bool) -> bool:
    """Whether a sector agrees with the region that moves, or that is lit in a still."""
    inside = fan.mask()
    common = float((inside & region).sum())
    agreement = common / max(1.0, float((inside | region).sum()))
    held = common / max(1.0, float(region.sum()))
    return agreement >= _AGREEMENT or (moving and agreement >= _DARK and held >= _INSIDE)
