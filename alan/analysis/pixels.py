"""Size and shape of the pixels of a panel, from an option or from the header of its file."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from alan.data.io.base import SQUARE, Header, Spacing, pixel_aspect

#: Origin of a pixel size.
PixelOrigin = Literal["file", "region", "option"]
#: Smallest overlap of a fan with the region of the header that describes it, also if the frames were scaled.
_SAME = 0.8
#: Largest factor by which frames were scaled down after their header was written; some state 65535 as a corner.
_MOST_SCALED = 8


def panel_pixel(
    header: Header, place: tuple[slice, slice], given: Spacing | None
) -> tuple[Spacing | None, PixelOrigin | None, tuple[str, ...]]:
    """Find the pixel size of a panel.

    Args:
        header: Metadata of the file.
        place: Rows and columns of the panel on the screen.
        given: (row, column) size of a pixel that takes precedence, or None.

    Returns:
        size: (row, column) in mm, or None if it is unknown.
        origin: Its origin.
        notes: Doubts about it.
    """
    if given is not None:
        own = pixel_aspect(header, None)
        unlike = abs(math.log(own * given[1] / given[0])) > 5 * SQUARE
        note = f"the file states pixels {1 / own:.3g} times as wide as high, the size that was given counts"
        return given, "option", (note,) if unlike and own != 1 else ()
    regions = [region for region in header.regions if region.spacing is not None]
    if not regions:
        size = header.spacing
        return size, None if size is None else "file", ()
    rows, columns = place
    box = np.array([rows.start, columns.start, rows.stop, columns.stop], float)
    best = max(regions, key=lambda region: _common(box, region.box) / _area(box))
    if not best.beyond:
        if _common(box, best.box) >= _SAME * _area(box):
            return best.spacing, "region", ()
        return None, None, ("the regions of its header do not hold the fan: its pixel size is not used",)
    stated = np.array(best.stated, float)
    scale = round(float(np.sqrt(_area(stated) / _area(box))) * 4) / 4
    union = _area(stated) + _area(box * scale) - _common(box * scale, stated)
    if not 1 < scale <= _MOST_SCALED or _common(box * scale, stated) < _SAME * union or best.spacing is None:
        return None, None, ("the regions of its header reach beyond the frame: its pixel size is not used",)
    note = (
        f"the regions of its header are {scale:g} times as large as the fan: its pixel size is enlarged likewise"
    )
    return (best.spacing[0] * scale, best.spacing[1] * scale), "region", (note,)


def _area(box: ArrayLike) -> float:
    """Compute the area of a box (top, left, bottom, right)."""
    top, left, bottom, right = np.asarray(box, float)
    return float((bottom - top) * (right - left))


def _common(box: ArrayLike, other: ArrayLike) -> float:
    """Compute the area of the intersection of two boxes (top, left, bottom, right)."""
    first, second = np.asarray(box, float), np.asarray(other, float)
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    return float(np.prod(np.maximum(high - low, 0)))
