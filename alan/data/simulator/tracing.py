"""Tracings of the left ventricle in the format of EchoNet-Dynamic: a long axis and chords across it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from alan.arrays import BoolArray
from alan.errors import ParameterError

#: Number of chords, evenly spaced from the apex to the base.
_CHORDS = 20
#: Step along a chord in pixels.
_STEP = 0.05


def trace(mask: BoolArray, axis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Trace a mask with chords perpendicular to an axis.

    Args:
        mask: (H, W) bool, a region that each perpendicular line intersects in one piece.
        axis: (2, 2), (x, y) in pixels of the apex and of the centre of the base.

    Returns:
        (21, 4) float64, columns X1, Y1, X2, Y2: the long axis first, then the chords from apex to base.
        The outline is the polygon of the first ends of the chords followed by the reversed second ends.

    Raises:
        ParameterError: The mask is empty or the axis does not intersect it.
    """
    along = axis[1] - axis[0]
    length = float(np.hypot(*along))
    if not mask.any() or not length > 0:
        raise ParameterError(
            "the mask to trace is empty or its axis has no length: trace frames that show the ventricle"
        )
    along = along / length
    across = np.array([-along[1], along[0]])
    rows, columns = np.nonzero(mask)
    points = np.stack([columns, rows], 1) - axis[0]
    depth = points @ along
    reach = float(np.abs(points @ across).max()) + 2
    offsets = np.arange(-reach, reach + _STEP, _STEP)
    soft = mask.astype(np.float64)
    positions = np.linspace(depth.min(), depth.max(), _CHORDS)
    chords = []
    for position in positions:
        line = axis[0] + position * along + offsets[:, None] * across
        hit = np.flatnonzero(map_coordinates(soft, [line[:, 1], line[:, 0]], order=1) >= 0.5)
        if len(hit):
            chords.append(np.concatenate([line[hit[0]], line[hit[-1]]]))
    if len(chords) < 3:
        raise ParameterError(
            f"the axis meets the mask in {len(chords)} chords, 3 are needed: give the ventricle's axis"
        )
    ends = axis[0] + np.array([depth.min(), depth.max()])[:, None] * along
    return np.stack([ends.ravel(), *chords])
