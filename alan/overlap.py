"""Dice and IoU from counts of pixels, with the one definition of their undefined case.

The overlap of two empty masks is undefined: it is NaN, and means ignore it. If one mask is empty, it is 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

#: Overlap of two empty masks.
UNDEFINED = float("nan")
_Counts = TypeVar("_Counts", NDArray[Any], "Tensor")


def dice_of_counts(both: _Counts, total: _Counts) -> _Counts:
    """Compute Dice scores, ``2 |a and b| / (|a| + |b|)``.

    Args:
        both: Number of pixels in both masks, an array or a tensor.
        total: Number of pixels of the two masks, added up, of the same shape.

    Returns:
        Floating point, from 0 to 1, or :data:`UNDEFINED`.
    """
    return _ratio(2 * both, total)


def iou_of_counts(both: _Counts, total: _Counts) -> _Counts:
    """Compute ``|a and b| / |a or b|``, with the arguments and the result of :func:`dice_of_counts`."""
    return _ratio(both, total - both)


def _ratio(top: _Counts, bottom: _Counts) -> _Counts:
    if isinstance(bottom, (np.ndarray, np.generic)):
        with np.errstate(invalid="ignore"):
            return np.where(bottom > 0, top / bottom, UNDEFINED)
    return (top / bottom).where(bottom > 0, UNDEFINED)
