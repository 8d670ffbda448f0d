"""Grey values to network input: one of three normalisations, part of a network's specification."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alan.backbone.kinds import Normalisation
from alan.bounds import bounded
from alan.data.sector import sector_mask

#: Value outside the sector after "sector" normalisation, in standard deviations of the inside.
OUTSIDE = -2.0
#: Added to the standard deviation of the sector, so that a flat image stays finite (grey values 0..1).
FLOOR = 0.02
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@bounded
def normalise(
    images: Tensor,
    kind: Normalisation,
    channels: int,
    sector: Tensor | None = None,
    *,
    mean: Sequence[float] = _MEAN,
    std: Sequence[float] = _STD,
) -> Tensor:
    """Normalise grey images and repeat them to the channels of the network.

    ``imagenet`` subtracts a mean and divides by a standard deviation, channel by channel (for one channel: by
    their averages); ``sector`` standardises each image by the mean and the standard deviation of its own pixels
    inside the sector and sets the outside to -2; ``unit`` leaves 0..1.

    Args:
        images: (B, 1, H, W) grey values in 0..1.
        kind: Which normalisation.
        channels: 1 or 3.
        sector: (B, 1, H, W) bool; None finds it by :func:`alan.data.sector.sector_mask`. Only ``sector`` uses it.
        mean: Mean of red, green and blue for ``imagenet``; default: that of ImageNet.
        std: Their standard deviation.

    Returns:
        (B, channels, H, W), of the dtype of ``images``.

    Raises:
        ParameterError: The kind is unknown.
    """
    if kind == "imagenet":
        centre, spread = (images.new_tensor(values).view(1, 3, 1, 1) for values in (mean, std))
        if channels == 1:
            centre, spread = centre.mean(1, keepdim=True), spread.mean(1, keepdim=True)
        return (images - centre) / spread
    if kind == "sector":
        inside = sector_mask(images) if sector is None else sector
        count = inside.sum((1, 2, 3), keepdim=True).clamp(min=1)
        average = (images * inside).sum((1, 2, 3), keepdim=True) / count
        variance = ((images - average).square() * inside).sum((1, 2, 3), keepdim=True) / count
        images = torch.where(inside, (images - average) / (variance.sqrt() + FLOOR), OUTSIDE)
    return images.expand(-1, channels, -1, -1)
