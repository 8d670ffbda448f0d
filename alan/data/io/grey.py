"""Conversion of grey values of any source to 0..255, with a note on the conversion."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alan.arrays import ByteArray
from alan.errors import DataError

#: If the brightest value is below this after scaling, the declared range is assumed to be wrong.
_DARK = 16


class Window(NamedTuple):
    """A window of grey values (DICOM PS3.3, C.11.2.1.2).

    Attributes:
        center: Grey value that is shown as 50 %.
        width: Width of the range that is not clipped.
        function: ``LINEAR``, ``LINEAR_EXACT`` or ``SIGMOID``.
    """

    center: float
    width: float
    function: str = "LINEAR"

    def apply(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Map grey values to 0..1."""
        shifted = np.asarray(values, np.float64) - self.center
        if self.function == "SIGMOID":
            with np.errstate(over="ignore"):
                share: NDArray[np.float64] = 1 / (1 + np.exp(-4 * shifted / self.width))
            return share
        exact = self.function == "LINEAR_EXACT"
        share = shifted / self.width if exact else (shifted + 0.5) / max(self.width - 1, 1e-9)
        return np.clip(share + 0.5, 0, 1)


class GreyRange:
    """The range of grey values of a loop, measured frame by frame."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        self.fractions = False

    def add(self, frame: NDArray[Any]) -> None:
        """Take a frame into account; values that are not finite show in ``low`` and ``high``."""
        self.dtype = frame.dtype
        if frame.dtype.kind not in "biuf":
            return
        low, high = float(frame.min()), float(frame.max())
        self.low, self.high = float(np.minimum(self.low, low)), float(np.maximum(self.high, high))
        if frame.dtype.kind == "f" and not self.fractions:
            self.fractions = bool((frame != np.rint(frame)).any())


def grey_mapping(
    found: GreyRange,
    path: str | os.PathLike[str],
    *,
    window: Window | None = None,
    declared: tuple[float, float] | None = None,
) -> tuple[Callable[[NDArray[Any]], ByteArray] | None, tuple[str, ...]]:
    """Choose the conversion of grey values to 0..255.

    The first rule that applies is used:

    1. A window (VOI window of DICOM) is applied, unless no value lies in it.
    2. Values from 0 to 255 are rounded, except values of fewer than 8 declared bits, and fractional values of at
       most 16, which would be black.
    3. Fractions from 0 to 1 are multiplied by 255.
    4. The declared range (of the bits stored, of ``cal_min`` and ``cal_max`` of NIfTI) is stretched, unless the
       values fill less than a sixteenth of it.
    5. The range of the values is stretched.

    Args:
        found: The range of the values.
        path: The file, for messages.
        window: The window stated by the file.
        declared: Lowest and highest value that the file can hold.

    Returns:
        mapping: Function of a frame, or None if the frames are uint8 and stay as they are.
        notes: What the mapping does; empty if the values are unchanged.

    Raises:
        DataError: The values are not real numbers, or not finite.
    """
    if found.dtype.kind not in "biuf":
        raise DataError(f"{path}: holds {found.dtype} values; save it as grey values of one channel")
    low, high = found.low, found.high
    if not np.isfinite([low, high]).all():
        raise DataError(
            f"{path}: holds grey values from {low:g} to {high:g}; replace values that are not finite by 0"
        )
    notes: list[str] = []
    if window is not None:
        ends = _bytes(np.array([low, high]), window.apply)
        if ends[0] < ends[1] or low == high:
            mapping = functools.partial(_bytes, share=window.apply)
            plain = found.dtype.kind != "f" and low >= 0 and high <= 255
            if plain:
                every = np.arange(low, high + 1)
                plain = np.array_equal(mapping(every), every)
            return mapping, () if plain else (f"grey values in the window {window.center:g} / {window.width:g}",)
        notes.append(f"the window {window.center:g} / {window.width:g} shows no pixel and is not applied")
    shallow = declared is not None and declared[1] < 255
    if low > -0.5 and high < 255.5 and not shallow and not (found.fractions and high <= _DARK):
        if found.dtype == np.uint8:
            return None, tuple(notes)
        return functools.partial(_bytes, share=lambda part: part / 255.0), tuple(notes)
    if found.fractions and low >= 0 and high <= 1:
        return functools.partial(_bytes, share=lambda part: part), (*notes, "grey values multiplied by 255")
    if declared is not None and low >= declared[0] and high <= declared[1]:
        bottom, top = declared
        if high - low >= (top - bottom) * _DARK / 256:
            low, high = bottom, top
    scale = max(high - low, np.finfo(np.float64).tiny)
    notes.append(f"grey values stretched from {low:g}..{high:g}")
    return functools.partial(_bytes, share=lambda part: (part - low) / scale), tuple(notes)


def luma(colours: NDArray[Any]) -> NDArray[Any]:
    """Reduce colours to luma (ITU-R 601): (H, W, 3) to (H, W) of the same integer type."""
    if colours.dtype == np.uint8:
        return np.asarray(Image.fromarray(colours).convert("L"))
    red, green, blue = (colours[..., channel].astype(np.float64) for channel in range(3))
    return np.rint(0.299 * red + 0.587 * green + 0.114 * blue).astype(colours.dtype)


def _bytes(values: NDArray[Any], share: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> ByteArray:
    """Convert one frame: 255 times a share in 0..1, rounded."""
    return np.rint(np.clip(share(values.astype(np.float64)), 0, 1) * 255).astype(np.uint8)
