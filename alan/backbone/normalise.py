"""Pixels to network input: one of three normalisations, part of the model and saved with it."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from alan.data.sector import sector_mask
from alan.errors import ParameterError, nearest

Normalisation = Literal["imagenet", "sector", "unit"]

#: Value outside the sector after "sector" normalisation, in standard deviations of the inside.
OUTSIDE = -2.0
#: Added to the standard deviation of the sector, so that a flat image stays finite (grey values 0..1).
FLOOR = 0.02
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def normalise(images: Tensor, kind: Normalisation, channels: int, sector: Tensor | None = None) -> Tensor:
    """Normalise grey images and repeat them to the channels of the network.

    ``imagenet`` subtracts the ImageNet mean and divides by its standard deviation, channel by channel (for one
    channel: by their averages); ``sector`` standardises each image by the mean and the standard deviation of its
    own pixels inside the sector and sets the outside to -2; ``unit`` leaves 0..1.

    Args:
        images: (B, 1, H, W) grey values in 0..1.
        kind: which normalisation.
        channels: 1 or 3.
        sector: (B, 1, H, W) bool; found by :func:`alan.data.sector.sector_mask` when not given. Only ``sector``
            uses it.

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
