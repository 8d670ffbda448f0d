"""Random changes of appearance, batched on tensors: jitter, gamma, gain field, blur, solarisation, noise.

Every change has its own parameter for each image, drawn first (by :mod:`alan.data.augmentation.multicrop`) and
applied afterwards, so that a batch gives what its images give one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

#: Points of the gain field along one side; bilinear between them.
FIELD = 3


@dataclass(frozen=True)
class Appearance:
    """Parameters of n images; None leaves a change out.

    Attributes:
        brightness: (n,) factor of the grey values.
        contrast: (n,) factor of the distance to the image's mean.
        gamma: (n,) exponent of the grey values.
        field: (n, 3, 3) logarithm of a gain that varies smoothly over the image.
        blur: (n,) standard deviation of a Gaussian in pixels; 0 does nothing.
        solarise: (n,) bool: invert grey values of at least 0.5.
        noise: (n, s, s) added to the grey values (inside the sector, where one is given).
    """

    brightness: Tensor | None = None
    contrast: Tensor | None = None
    gamma: Tensor | None = None
    field: Tensor | None = None
    blur: Tensor | None = None
    solarise: Tensor | None = None
    noise: Tensor | None = None

    def __getitem__(self, index: slice | Tensor) -> Appearance:
        """Parameters of some of the images."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Appearance(**{name: None if x is None else x[index] for name, x in values.items()})


def change_appearance(images: Tensor, draw: Appearance, sector: Tensor | None = None) -> Tensor:
    """Apply the changes in this order: brightness, contrast, gamma, gain field, blur, solarisation, noise.

    Brightness and contrast are those of torchvision's ``ColorJitter`` (they commute but for the clamping, so their
    order is not drawn). Hue and saturation do nothing on grey images and are left out.

    Args:
        images: (n, 1, s, s) grey values in 0..1.
        draw: the parameters.
        sector: (n, 1, s, s) bool; noise stays inside it.

    Returns:
        (n, 1, s, s) in 0..1.
    """
    x = images
    if draw.brightness is not None:
        x = (x * _column(draw.brightness)).clamp(0, 1)
    if draw.contrast is not None:
        factor = _column(draw.contrast)
        x = (x * factor + (1 - factor) * x.mean((1, 2, 3), keepdim=True)).clamp(0, 1)
    if draw.gamma is not None:
        x = x.clamp(min=1e-4) ** _column(draw.gamma) * (x > 0)
    if draw.field is not None:
        size = (x.shape[-2], x.shape[-1])
        x = x * F.interpolate(draw.field[:, None], size, mode="bilinear", align_corners=True).exp()
    if draw.blur is not None:
        x = gaussian_blur(x, draw.blur)
    if draw.solarise is not None:
        x = torch.where(_column(draw.solarise) & (x >= 0.5), 1 - x, x)
    if draw.noise is not None:
        noise = draw.noise[:, None]
        x = x + (noise if sector is None else noise * sector)
    return x.clamp(0, 1)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image by its own Gaussian, as two matrix products with the (s, s) matrix of its weights.

    At the border the weights are those inside the image, made to sum to 1.

    Args:
        images: (n, 1, s, s).
        sigma: (n,) standard deviation in pixels; 0 leaves the image as it is.
    """
    position = torch.arange(images.shape[-1], device=images.device, dtype=images.dtype)
    distance = (position[:, None] - position).square()  # (s, s)
    weights = (-distance / (2 * sigma.clamp(min=1e-3)[:, None, None].square())).exp()
    weights = weights / weights.sum(-1, keepdim=True)  # (n, s, s)
    return torch.where(_column(sigma) > 0, (weights @ images[:, 0] @ weights.transpose(1, 2))[:, None], images)


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None]
