"""Blanking of screens: everything outside the sector becomes black, and text inside it is painted over.

``alan analyze`` always blanks screens; ``alan frames`` and ``alan prepare`` do so with the option ``sector``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alan.arrays import BoolArray, ByteArray
from alan.data.fan import Fan, enclosing, enlarge
from alan.data.fan_search import find_panels
from alan.data.io.frames import Samples
from alan.data.overlaid import find_marks, find_text, paint_over
from alan.errors import DataError

#: Margin around the fan as a fraction of its far radius; the fitted border is not exact.
_MARGIN = 0.008
#: A fan whose box covers at least this fraction of height and width fills the picture, which is then not cropped.
FILLS = 0.94
#: Number of frames of a loop in memory in which the sector is searched.
_SAMPLES = 24


@dataclass(frozen=True)
class Blanking:
    """Pixels of a screen that are kept.

    Attributes:
        kept: (H, W) bool, the sectors with a margin.
        text: (H, W) bool, text and coloured marks inside them.
        notes: What is painted over.
    """

    kept: BoolArray
    text: BoolArray
    notes: tuple[str, ...] = ()

    def apply(self, frames: ByteArray) -> ByteArray:
        """Return frames (T, H, W) uint8 that are black outside the sectors and without text inside them."""
        return paint_over(np.where(self.kept, frames, 0).astype(np.uint8), self.text, self.kept)


def find_blanking(samples: Samples, shape: tuple[int, int], aspect: float = 1.0) -> Blanking:
    """Find the pixels of a loop that are kept.

    Args:
        samples: Some frames of the loop.
        shape: (H, W) of its frames.
        aspect: Height of a pixel divided by its width.

    Raises:
        DataError: No sector is found, or frames are smaller than 16 x 16 pixels.
    """
    found = find_panels(samples.grey, samples.span, aspect).scaled(samples.step, shape)
    if not found.fans:
        raise DataError(
            "no ultrasound sector is found: leave the option sector out if the picture has no screen around it"
        )
    kept = np.any(list(map(keep_sector, found.fans, found.regions)), axis=0)
    return Blanking(kept, *find_drawn(samples, kept))


def blank_frames(frames: ByteArray, aspect: float = 1.0) -> ByteArray:
    """Blank a loop (T, H, W) uint8 or a still that is in memory, see :func:`find_blanking`."""
    every = -(-len(frames) // _SAMPLES)
    span = frames.max(0) - frames.min(0)
    samples = Samples(np.arange(0, len(frames), every), frames[::every], None, span)
    return find_blanking(samples, (frames.shape[1], frames.shape[2]), aspect).apply(frames)


def keep_sector(fan: Fan, region: BoolArray) -> BoolArray:
    """Choose the pixels of a screen that are kept for a sector.

    Args:
        fan: The sector.
        region: (H, W) bool, what moves or is lit; it is kept too if the sector fills the picture.

    Returns:
        (H, W) bool.
    """
    kept = fan.mask(max(1.0, _MARGIN * fan.far))
    rows, columns = enclosing(kept)
    height, width = fan.shape
    if rows.stop - rows.start >= FILLS * height and columns.stop - columns.start >= FILLS * width:
        return kept | region  # the picture has no screen around the fan, so the moving region is the fan
    return kept


def find_drawn(samples: Samples, inside: BoolArray) -> tuple[BoolArray, tuple[str, ...]]:
    """Find text and coloured marks inside a part of the screen.

    Args:
        samples: Some frames of the loop.
        inside: (H, W) bool, the part.

    Returns:
        drawn: (H, W) bool.
        notes: What is painted over.
    """
    step, grey, colours = samples.step, samples.grey, samples.colours
    thin = inside[::step, ::step]
    text = find_text(grey.min(0), grey.max(0), thin) & thin
    marks = np.zeros_like(thin) if colours is None else find_marks(colours, thin)
    notes = [
        f"{what} inside the sector {verb} painted over, {found.sum() / thin.sum():.1%} of it"
        for what, verb, found in (("text", "is", text), ("coloured marks", "are", marks & ~text))
        if found.any()
    ]
    if not samples.span.any():
        notes.append(
            "in a single frame, only bright text inside the sector can be distinguished from tissue: check the "
            "pictures"
        )
    return enlarge(text | marks, step, inside.shape) & inside, tuple(notes)
