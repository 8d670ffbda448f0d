"""Detection of the ultrasound sector on the screen of a machine.

The sector moves from frame to frame; text, rulers, bars and logos do not, and an ECG trace is thin. A sector is
fitted to the moving region.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from alan.arrays import BoolArray, ByteArray
from alan.data.fan import Fan, enclosing, enlarge
from alan.data.fan_fit import STILL, STILL_LOSSY, cut_at_end, extend_to_point, fit_sector
from alan.data.io.frames import thinning
from alan.data.overlaid import find_text
from alan.errors import DataError

#: Pixels around text within which a lossy codec lets the image flicker.
_HALO = 5
#: Smallest temporal range of a moving pixel, in grey values, tried in this order; the best fit wins. If the
#: surroundings of a sector are perfectly still, a lower threshold also detects its dark sides.
_RANGE, _SLIGHT = 5.0, (1, 2)
#: Intersection over union with the moving region below which slight motion and brightness are tried as well
#: (saturated pixels do not move).
_SURE = 0.9
#: Largest height of a line of text as a fraction of the screen.
_LINE = 0.05
#: Largest height of several lines of text as a fraction of the screen.
_LINES = 0.15
#: Fraction of moving pixels farther from all sectors than this margin in pixels above which text is assumed to
#: flicker.
_FLICKER, _MARGIN = 0.04, 8
#: Largest fraction of text beside all sectors that moves where text does not flicker; motion below text at the
#: border of a sector, as a fraction of the sector, from which on it is searched again with what moves there; and
#: factor of the depth of a sector within which text may hide a part of it.
_STEADY, _HIDDEN, _DEEPER = 0.02, 0.01, 1.2
#: Smallest part of the screen that a sector covers.
_LEAST = 0.02
#: Smallest area of a second panel, and of the smaller part of a sector that a shadow divides, as fractions of the
#: area of the first.
_SECOND, _PIECE = 0.3, 0.02
#: Twice the largest inclination in radians of an upright sector.
_UPRIGHT = 0.1
#: Smallest intersection over union with the moving region of an accepted sector. The lower value applies if nearly
#: all moving pixels lie inside, because a part of the sector may be too dark to move.
_AGREEMENT, _DARK, _INSIDE = 0.8, 0.7, 0.95
#: A region that fills more than this fraction of its box is a rectangle.
_RECTANGLE = 0.97
#: Largest opening angle in radians, and largest near radius as a fraction of the far one.
_WIDEST, _NEAREST = 2.1, 0.75
_MAX_FRAMES = 24


@dataclass(frozen=True)
class Panels:
    """Panels of a screen.

    Attributes:
        fans: The sectors, from top to bottom and from left to right.
        regions: (H, W) bool for each sector, the region that moves (or is lit, in a still).
        others: (H, W) bool for each region that is not a sector, the largest first.
        agreement: Smallest intersection over union of a sector with its region; 0 without a sector.
    """

    fans: tuple[Fan, ...]
    regions: tuple[BoolArray, ...]
    others: tuple[BoolArray, ...]
    agreement: float = 0.0

    def scaled(self, factor: int, shape: tuple[int, int]) -> Panels:
        """Return the panels of the screen (H, W) of which every ``factor``-th row and column was searched."""
        return Panels(
            tuple(fan.widened(factor, shape) for fan in self.fans),
            tuple(enlarge(region, factor, shape) for region in self.regions),
            tuple(enlarge(region, factor, shape) for region in self.others),
            self.agreement,
        )


def find_fans(frames: ByteArray, aspect: float = 1.0) -> list[Fan]:
    """Find the sectors of a loop or a still.

    Args:
        frames: (T, H, W) uint8. Moving pixels are used with several frames, lit pixels with a single frame.
        aspect: Height of a pixel divided by its width.

    Returns:
        One sector per panel, from top to bottom and from left to right. Empty if nothing on the screen looks like
        a sector.

    Raises:
        DataError: ``frames`` is not a (T, H, W) uint8 array of at least 16 x 16 pixels.
    """
    return list(find_panels(frames, aspect=aspect).fans)


def find_panels(frames: ByteArray, span: ByteArray | None = None, aspect: float = 1.0) -> Panels:
    """Find the sectors of a loop or a still, and the regions that are not sectors, such as M-mode strips.

    Args:
        frames: As for :func:`find_fans`.
        span: (H, W) uint8, the range of each pixel over all frames of the loop; None takes it over ``frames``. A
            loop without any motion is a still.
        aspect: Height of a pixel divided by its width.

    Raises:
        DataError: ``frames`` is not a (T, H, W) uint8 array of at least 16 x 16 pixels.
    """
    if frames.ndim != 3 or frames.dtype != np.uint8 or min(frames.shape[1:]) < 16 or not len(frames):
        raise DataError(
            f"frames are {frames.dtype} {frames.shape}: give uint8 (T, H, W) of at least 16 x 16 pixels"
        )
    shape, block = (frames.shape[1], frames.shape[2]), thinning(frames.shape[1:])
    if block > 1:
        thin = slice(None, None, block)
        part = None if span is None else span[thin, thin]
        return find_panels(frames[:, thin, thin], part, aspect).scaled(block, shape)
    if len(frames) == 1 or (span is not None and not span.any()):
        lit = _lit(frames[0])
        return _Screen(lit, np.ones(shape, bool), lit, aspect, moving=False).panels(STILL)
    text = find_text(frames.min(0), frames.max(0))
    known = ~ndimage.binary_dilation(text, iterations=_HALO)
    span = _span(frames) if span is None else span
    lit = _lit(frames.min(0))
    evidence = np.asarray(span >= _RANGE)
    screen = _Screen(evidence, known, evidence | lit, aspect, moving=True)
    found = screen.panels(STILL)
    if _reaches_below(found, _without_lines(evidence), text, known):
        screen = replace(screen, known=known | evidence)
        found = screen.panels(STILL)
    elif _flickers(found, evidence):
        found = screen.panels(STILL_LOSSY)
    if found.agreement < _SURE:
        for other in (*(np.asarray(span >= least) for least in _SLIGHT), evidence | lit):
            again = replace(screen, evidence=other).panels(STILL)
            if len(again.fans) >= len(found.fans) and again.agreement > found.agreement:
                found = again
            if found.agreement >= _SURE:
                break
    return found


@dataclass(frozen=True)
class _Screen:
    """Evidence of a screen: (H, W) bool maps, the aspect of a pixel, and whether it is a loop."""

    evidence: BoolArray
    known: BoolArray
    lit: BoolArray
    aspect: float
    moving: bool

    def panels(self, still: float) -> Panels:
        """Fit a sector to each region; ``still`` is the penalty of a still pixel inside."""
        found, others, agreement = list[tuple[Fan, BoolArray]](), [], 1.0
        region = _region(_bridged(self.evidence, self.known))
        for part in _panels(region, _SECOND, _LEAST):
            fan, common = self._fit(part, still)
            if fan is not None and common:
                found.append((fan, part))
                agreement = min(agreement, common)
            else:
                others.append(part)
        pieces = _panels(region, _PIECE, 0.0)
        split = len(pieces) > 1 and sum(_is_upright(fan) for fan, _ in found) < 2
        if self.moving and split and not any(map(_is_rectangle, others)):
            part = np.any(pieces, axis=0)
            fan, common = self._fit(part, still)
            if fan is not None and common and _is_upright(fan) and _held(fan, part) >= _INSIDE:
                found, others, agreement = [(fan, part)], [], common
        height = max((fan.far - fan.near for fan, _ in found), default=1.0)
        found.sort(key=lambda item: (round(item[0].row * self.aspect / height), item[0].column))
        fans, regions = tuple(fan for fan, _ in found), tuple(part for _, part in found)
        return Panels(fans, regions, tuple(others), agreement if found else 0.0)

    def _fit(self, part: BoolArray, still: float) -> tuple[Fan | None, float]:
        """Fit a sector to a region; return it with its agreement, which is 0 if it is not accepted."""
        fan = None if _is_rectangle(part) else fit_sector(part, self.known, still, self.aspect)
        if fan is None:
            return None, 0.0
        fan = extend_to_point(cut_at_end(fan, self.evidence & self.known), self.lit)
        return fan, _agreement(fan, part, self.known, moving=self.moving) if _is_plausible(fan) else 0.0


def _flickers(found: Panels, evidence: BoolArray) -> bool:
    """Return whether many pixels outside all sectors and regions move, as text stored by a lossy codec does."""
    inside = np.zeros(evidence.shape, bool)
    for mask in (*(fan.mask() for fan in found.fans), *found.others):
        inside |= mask
    outside = evidence & ~ndimage.binary_dilation(inside, iterations=_MARGIN)
    return bool(found.fans) and float(outside.sum()) > _FLICKER * float(evidence.sum())


def _reaches_below(found: Panels, evidence: BoolArray, text: BoolArray, known: BoolArray) -> bool:
    """Return whether the image moves below text at the border of a sector, while no text elsewhere moves."""
    if not found.fans:
        return False
    inside = np.any([fan.mask() for fan in found.fans], axis=0)
    deeper = [replace(fan, far=_DEEPER * fan.far).mask(_MARGIN) for fan in found.fans]
    apart = text & ~np.any(deeper, axis=0)
    hidden = evidence & ~known & ~inside
    steady = apart.any() and float(evidence[apart].mean()) <= _STEADY
    return steady and float(hidden.sum()) > _HIDDEN * float(inside.sum())


def _is_plausible(fan: Fan) -> bool:
    """Return whether a fitted sector opens downwards from an apex near the screen, as that of a probe does."""
    height, width = fan.shape[0] * fan.aspect, fan.shape[1]
    opening, middle = fan.right - fan.left, 0.5 * (fan.left + fan.right)
    return (
        0.15 <= opening <= _WIDEST
        and abs(middle) <= 0.5
        and fan.near <= _NEAREST * fan.far
        and fan.far <= 2 * max(height, width)
    )


def _is_rectangle(region: BoolArray) -> bool:
    """Return whether a region fills its box, as the strip of an M-mode does."""
    return bool(region[enclosing(region)].mean() > _RECTANGLE)


def _is_upright(fan: Fan) -> bool:
    """Return whether a sector opens straight downwards."""
    return abs(fan.left + fan.right) <= _UPRIGHT


def _span(frames: ByteArray) -> ByteArray:
    """Compute the temporal range (H, W) over a subset of the frames."""
    some = frames[:: max(1, len(frames) // _MAX_FRAMES)][:_MAX_FRAMES]
    return np.asarray(some.max(0) - some.min(0))


def _lit(frame: ByteArray) -> BoolArray:
    """Find the pixels (H, W) bool that are brighter than the border of the frame."""
    border = np.concatenate([frame[[0, -1]].ravel(), frame[:, [0, -1]].ravel()])
    return np.asarray(frame > max(_RANGE, float(np.median(border)) + _RANGE))


def _bridged(evidence: BoolArray, known: BoolArray) -> BoolArray:
    """Mark pixels under text as moving if those above and below move, so that text does not divide a sector."""
    if known.all():
        return evidence
    lit, size = _without_lines(evidence & known).astype(np.uint8), round(_LINES * len(evidence))
    across = ndimage.minimum_filter1d(ndimage.maximum_filter1d(lit, size, axis=0), size, axis=0)
    return np.asarray(np.where(known, evidence, across > 0))


def _width(evidence: BoolArray) -> int:
    """Compute the side in pixels of the window that removes thin lines and small spots."""
    return int(max(3, round(max(evidence.shape) / 160) | 1))


def _without_lines(evidence: BoolArray) -> BoolArray:
    """Remove lines that are thinner than half of a window, such as an ECG trace."""
    return np.asarray(ndimage.median_filter(evidence.astype(np.uint8), size=_width(evidence)) > 0)


def _region(evidence: BoolArray) -> BoolArray:
    """Clean up moving or lit pixels (H, W) bool: remove thin lines and small spots, fill holes."""
    size, thick = _width(evidence), _without_lines(evidence)
    structure = np.ones((size, size), bool)
    closed = ndimage.binary_closing(np.pad(thick, 2 * size), structure, iterations=2)[
        2 * size : -2 * size, 2 * size : -2 * size
    ]
    opened = ndimage.binary_opening(closed, structure, iterations=2)
    return _without_text(np.asarray(ndimage.binary_fill_holes(opened)))


def _without_text(region: BoolArray) -> BoolArray:
    """Remove lines of text, which flicker under lossy codecs, from the border of a region."""
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


def _panels(region: BoolArray, share: float, least: float) -> list[BoolArray]:
    """Return the largest connected region, and those of at least these fractions of its area and of the screen."""
    labels, n = ndimage.label(region)
    if not n:
        return []
    areas = np.bincount(labels.ravel())[1:]
    smallest = max(least * region.size, share * areas.max())
    return [labels == number + 1 for number in np.argsort(areas)[::-1] if areas[number] >= smallest]


def _held(fan: Fan, region: BoolArray) -> float:
    """Compute the fraction of a region that lies inside a sector."""
    return float((fan.mask() & region).sum()) / max(1.0, float(region.sum()))


def _agreement(fan: Fan, region: BoolArray, known: BoolArray, *, moving: bool) -> float:
    """Compute the agreement of a sector with the region that moves or is lit; 0 if it is too low beside text."""
    inside = fan.mask()
    both, either = inside & region, inside | region
    clear = float((both & known).sum()) / max(1.0, float((either & known).sum()))
    accepted = clear >= _AGREEMENT or (moving and clear >= _DARK and _held(fan, region) >= _INSIDE)
    return float(both.sum()) / max(1.0, float(either.sum())) if accepted else 0.0
