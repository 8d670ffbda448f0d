"""Pixels to network input: one of three normalisations, part of the model and saved with it."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from alan.errors import ParameterError, nearest

Normalisation = Literal["imagenet", "sector", "unit"]

#: A pixel is lit when it is brighter than 1 of 255; lit pixels span the ultrasound sector.
LIT = 1.5 / 255
#: Value outside the sector after "sector" normalisation, in standard deviations of the inside.
OUTSIDE = -2.0
#: Added to the standard deviation of the sector, so that a flat image stays finite (grey values 0..1).
FLOOR = 0.02
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def sector_mask(images: Tensor) -> Tensor:
    """Find the ultrasound sector: pixels with a lit pixel on both sides in their row and in their column.

    Black blood inside the fan thus belongs to the sector, the black corners beside it do not.

    Args:
        images: (..., H, W) grey values in 0..1.

    Returns:
        (..., H, W) bool; nowhere true for a black image.
    """
    lit = images > LIT
    return _between(lit) & _between(lit.transpose(-1, -2)).transpose(-1, -2)


def _between(lit: Tensor) -> Tensor:
    """True from the first to the last true element of the last axis."""
    width = lit.shape[-1]
    position = torch.arange(width, device=lit.device)
    first = torch.where(lit, position, width).amin(-1, keepdim=True)
    last = torch.where(lit, position, -1).amax(-1, keepdim=True)
    return (position >= first) & (position <= last)


def normalise(images: Tensor, kind: Normalisation, channels: int, sector: Tensor | None = None) -> Tensor:
    """Normalise grey images and repeat them to the channels of the network.

    ``imagenet`` subtracts the ImageNet mean and divides by its standard deviation, channel by channel (for one
    channel: by their averages); ``sector`` standardises each image by the mean and the standard deviation of its
    own pixels inside the sector and sets the outside to -2; ``unit`` leaves 0..1.

    Args:
        images: (B, 1, H, W) grey values in 0..1.
        kind: which normalisation.
        channels: 1 or 3.
        sector: (B, 1, H, W) bool; found by :func:`sector_mask` when not given. Only ``sector`` uses it.

    Returns:
        (B, channels, H, W), dtype as given.

    Raises:
        ParameterError: the kind is unknown.
    """
    if kind not in get_args(Normalisation):
        raise ParameterError(f"unknown normalisation {kind!r}: {nearest(kind, get_args(Normalisation))}")
    if kind == "imagenet":
        mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
        if channels == 1:
            mean, std = mean.mean(1, keepdim=True), std.mean(1, keepdim=True)
        return (images - mean) / std
    if kind == "sector":
        inside = sector_mask(images) if sector is None else sector
        count = inside.sum((1, 2, 3), keepdim=True).clamp(min=1)
        mean = (images * inside).sum((1, 2, 3), keepdim=True) / count
        variance = ((images - mean).square() * inside).sum((1, 2, 3), keepdim=True) / count
        images = torch.where(inside, (images - mean) / (variance.sqrt() + FLOOR), OUTSIDE)
    return images.expand(-1, channels, -1, -1)
