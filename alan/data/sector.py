"""The ultrasound sector of a frame: the pixels inside the fan."""

from __future__ import annotations

import torch
from torch import Tensor

#: A pixel is lit when it is brighter than 1 of 255; lit pixels span the ultrasound sector.
LIT = 1.5 / 255


def sector_mask(images: Tensor) -> Tensor:
    """Find the ultrasound sector: pixels with a lit pixel on both sides in their row and in their column.

    Black blood inside the sector is thus part of it; the black corners outside are not.

    Args:
        images: (..., H, W) grey values in 0..1.

    Returns:
        (..., H, W) bool; False everywhere for a black image.
    """
    lit = images > LIT
    return _between(lit) & _between(lit.transpose(-1, -2)).transpose(-1, -2)


def _between(lit: Tensor) -> Tensor:
    """Mark all elements from the first to the last true one of the last axis."""
    width = lit.shape[-1]
    position = torch.arange(width, device=lit.device)
    first = torch.where(lit, position, width).amin(-1, keepdim=True)
    last = torch.where(lit, position, -1).amax(-1, keepdim=True)
    return (position >= first) & (position <= last)
