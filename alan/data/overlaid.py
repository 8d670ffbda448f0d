"""Detection and removal of text and marks that a machine draws over the sector.

Tissue moves and speckle changes from frame to frame; drawn text does not, and its strokes are thin and sharp. The
minimum of each pixel over a loop therefore shows text alone. In a still, strokes that are much brighter than their
surroundings are text. Coloured pixels in a grey sector are drawn marks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from alan.arrays import BoolArray, ByteArray
from alan.errors import DataError

#: Smallest grey value of a stroke in every frame, smallest difference from its surroundings, and largest range
#: over the loop as a fraction of the grey value (text flickers under a lossy codec).
_BRIGHT, _CONTRAST, _FLICKER = 90, 45, 0.35
#: Largest width of a stroke and largest gap between characters, as fractions of the height of the screen, with
#: their smallest values in pixels.
_STROKE, _GAP = (0.011, 4), (0.018, 5)
#: Smallest height of a line of text in pixels, and largest height as a fraction of the screen.
_LOWEST, _HIGHEST = 5, 0.1
#: Smallest aspect ratio, number of pixels and number of strokes of a line of text, and the smallest and the
#: largest fraction of its box that the strokes fill.
_LONG, _PIXELS, _CHARACTERS, _FILL = 2.0, 24, 4, (0.12, 0.7)
#: Smallest mean difference between the strokes of a line and their surroundings. The lower value applies if half
#: of the pixels change by at most this fraction while bright pixels beside the strokes change more.
_CLEAR, _FAINT, _STILL = 80, 50, 0.03
#: Change of half of the pixels above which a line needs as many strokes as in a still; a moving wall has few.
_STEADY = 0.15
#: Smallest mean difference and number of strokes of a line in a still; lines of speckle miss one of them.
_MOMENT, _STROKES = 75, 7
#: Smallest difference between colour channels of a drawn pixel, smallest fraction of coloured pixels of a sector
#: that is shown in a colour map, and margin in pixels around drawn pixels that is painted over as well.
_CHROMA, _TINT, _BLEEDING = 40, 0.1, 2
#: Number of standard deviations to which the average that replaces text reaches.
_REACH = 3
#: Pixels above and below a line of text that are painted over with it, because strokes are smoothed and coded; at
#: its ends, where single characters may not stand out, this fraction of its height is added.
_MARGIN, _ENDS = 3, 1.5
#: Grey value up to which a pixel is dark, and half of the distance in pixels across which lit ones are merged.
_LIT, _MERGED = 40, 6


def find_text(low: ByteArray, high: ByteArray, inside: BoolArray | None = None) -> BoolArray:
    """Find lines of text that do not change over a loop.

    Give the range of a loop in which the heart moves. In a still, whose range is zero, and in a loop that hardly
    moves, only text that is much brighter than its surroundings can be distinguished from tissue.

    Args:
        low: (H, W) uint8, the smallest value of each pixel over the loop.
        high: (H, W) uint8, the largest value.
        inside: (H, W) bool; lines without a stroke in it are left out. None takes all lines.

    Returns:
        (H, W) bool, the boxes around lines of text, without pixels that are dark in all frames.

    Raises:
        DataError: The arrays differ in shape.
    """
    if low.shape != high.shape or low.ndim != 2:
        raise DataError(f"low and high are {low.shape} and {high.shape}: give two (H, W) of one shape")
    height = low.shape[0]
    stroke, gap = (max(least, round(share * height)) for share, least in (_STROKE, _GAP))
    floor = ndimage.grey_opening(low, size=(stroke + 1, stroke + 1))
    span = high.astype(np.int16) - low
    strokes = (low >= _BRIGHT) & (low.astype(np.int16) - floor >= _CONTRAST) & (span <= _FLICKER * high)
    joined = ndimage.binary_closing(np.pad(strokes, gap), np.ones((3, 2 * gap + 1), bool))[gap:-gap, gap:-gap]
    groups, _ = ndimage.label(joined, np.ones((3, 3), int))
    tissue = (low >= _BRIGHT) & ~joined & (True if inside is None else inside)
    moment = not span.any() or (tissue.any() and float(np.median(span[tissue] / high[tissue])) <= _STILL)
    text = np.zeros(low.shape, bool)
    for number, box in enumerate(ndimage.find_objects(groups), start=1):
        drawn = strokes[box] & (groups[box] == number)
        tall, wide = drawn.shape
        if (
            not _LOWEST <= tall <= max(_HIGHEST * height, 2 * _LOWEST)
            or wide < _LONG * tall
            or not (inside is None or (drawn & inside[box]).any())
            or drawn.sum() < _PIXELS
            or not _FILL[0] <= drawn.mean() <= _FILL[1]
        ):
            continue
        contrast = float((low[box].astype(np.int16) - floor[box])[drawn].mean())
        change = float(np.median(span[box][drawn] / high[box][drawn]))
        few = _STROKES if moment or change > _STEADY else _CHARACTERS
        if ndimage.label(drawn, np.ones((3, 3), int))[1] < few:
            continue
        if contrast >= (_MOMENT if moment else _FAINT if change <= _STILL else _CLEAR):
            text[_grown(box[0], _MARGIN), _grown(box[1], _MARGIN + round(_ENDS * tall))] = True
    if not text.any():
        return text
    lit = np.pad(high > _LIT, _MERGED)  # dark pixels need no painting, except between characters
    closed = ndimage.binary_closing(lit, np.ones((3, 3), bool), iterations=_MERGED)
    return np.asarray(text & closed[_MERGED:-_MERGED, _MERGED:-_MERGED])


def find_marks(colours: ByteArray, inside: BoolArray) -> BoolArray:
    """Find coloured marks in a grey sector: callipers, arrows, and text of any length.

    Args:
        colours: (S, H, W, 3) uint8, some frames of a loop without colour Doppler.
        inside: (H, W) bool, the sector.

    Returns:
        (H, W) bool, coloured pixels with a margin; all False if the sector is shown in a colour map.
    """
    drawn, lit = np.zeros((2, *inside.shape), bool)
    for frame in colours:
        value, chroma = brightest_and_chroma(frame)
        drawn |= (chroma > _CHROMA) & inside
        lit |= (value > _LIT) & inside
    if not drawn.any() or drawn.sum() > _TINT * lit.sum():
        return np.zeros_like(inside)
    return np.asarray(ndimage.binary_dilation(drawn, np.ones((3, 3), bool), iterations=_BLEEDING) & inside)


def brightest_and_chroma(frame: ByteArray) -> tuple[ByteArray, ByteArray]:
    """Compute the largest channel of each pixel, and its difference from the smallest.

    Args:
        frame: (H, W, 3) uint8.

    Returns:
        Two (H, W) uint8.
    """
    channels = [frame[..., channel] for channel in range(3)]
    value = np.maximum(np.maximum(channels[0], channels[1]), channels[2])
    return value, value - np.minimum(np.minimum(channels[0], channels[1]), channels[2])


def _grown(part: slice, margin: int) -> slice:
    """Extend a part of the rows or columns by a margin on both sides."""
    return slice(max(0, part.start - margin), part.stop + margin)


def paint_over(frames: ByteArray, text: BoolArray, inside: BoolArray) -> ByteArray:
    """Replace text by an average of its surroundings.

    Args:
        frames: (T, H, W) uint8.
        text: (H, W) bool, pixels to replace.
        inside: (H, W) bool, the sector; pixels outside it are not averaged.

    Returns:
        (T, H, W) uint8; the frames themselves if there is no text.
    """
    if not text.any():
        return frames
    known = (inside & ~text).astype(np.float32)
    width = 2.0 * np.sqrt(text.any(1).sum())
    reach = int(_REACH * width + 0.5)
    out = frames.copy()
    for part in _boxes(text, reach):
        around = tuple(_grown(side, reach) for side in part)
        inner = tuple(
            slice(side.start - outer.start, side.stop - outer.start)
            for side, outer in zip(part, around, strict=True)
        )
        drawn, kept = text[part], inside[part]
        weight = ndimage.gaussian_filter(known[around], width, truncate=_REACH)[inner] + 1e-6
        for frame, written in zip(frames, out, strict=True):
            smooth = ndimage.gaussian_filter(frame[around] * known[around], width, truncate=_REACH)[inner] / weight
            written[part][drawn] = np.where(kept, smooth, 0)[drawn]
    return out


def _boxes(drawn: BoolArray, gap: int) -> Iterator[tuple[slice, slice]]:
    """Yield boxes that hold all true pixels; those of a box are at most ``gap`` rows and columns apart."""
    for rows in _runs(drawn, 0, gap):
        for columns in _runs(drawn[rows], 1, gap):
            yield rows, columns


def _runs(drawn: BoolArray, axis: int, gap: int) -> list[slice]:
    """Find the parts of an axis of (H, W) that hold all true pixels and are more than ``gap`` pixels apart."""
    places = np.flatnonzero(drawn.any(1 - axis))
    cuts = np.flatnonzero(np.diff(places) > gap + 1)
    starts, stops = places[np.r_[0, cuts + 1]], places[np.r_[cuts, len(places) - 1]] + 1
    return [slice(int(start), int(stop)) for start, stop in zip(starts, stops, strict=True)]
