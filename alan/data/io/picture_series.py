"""Numbered pictures of a folder: the frames of a loop, or stills that have nothing to do with one another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from alan.arrays import ByteArray, evenly_spread
from alan.data.io.pictures import read_picture
from alan.errors import DataError

#: Smallest number of pictures that count as a loop.
FEWEST = 4
#: Largest number of pairs of neighbours that are compared, and the side in pixels to which they are reduced.
_PAIRS, _SIDE = 8, 64
#: Smallest difference of the grey values of a pixel that counts: text and marks that never change say nothing.
_CHANGES, _ENOUGH = 20, 20
#: Smallest median correlation of neighbours of a loop. Loops with 10 or more frames per second have 0.88 or more,
#: pictures of different patients in one view at most 0.72.
_ALIKE = 0.75


def resemblance(paths: Sequence[Path]) -> float:
    """Compute how much neighbouring pictures resemble one another where the pictures differ at all.

    Args:
        paths: Pictures in the order of their numbers, two or more.

    Returns:
        Median correlation of up to eight pairs of neighbours, over the pixels that differ among them; a pair of
        different sizes has 0. 1 if the pictures do not differ, or no pair can be decoded.
    """
    firsts = evenly_spread(len(paths) - 1, _PAIRS)
    pairs = [pair for n in firsts if (pair := _pair(paths[n], paths[n + 1])) is not None]
    same = [pair for pair in pairs if pair[0].shape == pair[1].shape]
    if not pairs:
        return 1.0
    if not same:
        return 0.0
    small = np.array([[_reduced(one) for one in pair] for pair in same], np.float32)
    differs = np.ptp(small.reshape(-1, _SIDE, _SIDE), axis=0) >= _CHANGES
    if differs.sum() < _ENOUGH:
        return 1.0
    with np.errstate(invalid="ignore"):  # constant pictures
        found = [np.nan_to_num(np.corrcoef(first[differs], second[differs])[0, 1]) for first, second in small]
    return float(np.median([*found, *[0.0] * (len(pairs) - len(same))]))


def is_picture_loop(paths: Sequence[Path]) -> bool:
    """Decide whether numbered pictures are the frames of a loop: four or more, with neighbours that are alike.

    Args:
        paths: Pictures in the order of their numbers.
    """
    return len(paths) >= FEWEST and resemblance(paths) >= _ALIKE


def _pair(first: Path, second: Path) -> tuple[ByteArray, ByteArray] | None:
    """Decode two pictures; None if one is damaged, which is reported when the loop is read."""
    try:
        return read_picture(first), read_picture(second)
    except (DataError, OSError):
        return None


def _reduced(frame: ByteArray) -> ByteArray:
    return np.asarray(Image.fromarray(frame).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
