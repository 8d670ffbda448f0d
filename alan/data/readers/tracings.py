"""EchoNet-Dynamic tracings: chords of the left ventricle to a mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon

from alan.data.sample import BoolArray
from alan.errors import DataError


def tracing_mask(lines: NDArray[np.float64], shape: tuple[int, int]) -> BoolArray:
    """Fill the outline that the chords span.

    The first line is the long axis and is left out. The outline runs down the first ends of the chords and back
    up their second ends; corners are rounded to whole pixels, as in the archive's own code (Ouyang et al.,
    Nature 2020).

    Args:
        lines: (n, 4) rows of X1, Y1, X2, Y2 in pixels of the frame, in the order of the file.
        shape: (H, W) of the frame; what lies outside is cut off.

    Returns:
        (H, W) bool; borders belong to the mask.

    Raises:
        DataError: fewer than two chords, or coordinates that are not finite.
    """
    if lines.ndim != 2 or lines.shape[1] != 4 or len(lines) < 3:
        raise DataError(f"a tracing needs the long axis and at least two chords (n, 4), got {lines.shape}")
    if not np.isfinite(lines).all():
        raise DataError("a tracing holds coordinates that are not finite")
    chords = np.rint(lines[1:])
    outline = np.concatenate([chords[:, :2], chords[::-1, 2:]])  # (2 (n - 1), 2): x, y
    mask = np.zeros(shape, np.bool_)
    rows, columns = polygon(outline[:, 1], outline[:, 0], shape)  # type: ignore[no-untyped-call]
    mask[rows, columns] = True
    return mask
