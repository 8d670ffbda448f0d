"""Changes of appearance of batches of images: jitter, gamma, gain field, blur, solarisation, noise.

The parameters are drawn first, one per image (for example by :mod:`alan.data.augmentation.multicrop`), and applied
afterwards, so that a batch gives the same result as its images one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

#: Nodes of the gain field along one side; interpolated bilinearly.
FIELD = 3


@dataclass(frozen=True)
class Appearance:
    """Parameters of the changes of n images; None skips a change.

    Attributes:
        brightness: (n,) factor on the grey values.
        contrast: (n,) factor on the deviation from the mean of the image.
        gamma: (n,) exponent of the grey values.
        field: (n, 3, 3) logarithm of a smooth gain field.
        blur: (n,) standard deviation of a Gaussian blur in pixels; 0 disables it.
        solarise: (n,) bool, invert grey values of at least 0.5.
        noise: (n, s, s) noise added to the grey values (inside the sector, if one is given).
    """

    brightness: Tensor | None = None
    contrast: Tensor | None = None
    gamma: Tensor | None = None
    field: Tensor | None = None
    blur: Tensor | None = None
    solarise: Tensor | None = None
    noise: Tensor | None = None

    def __getitem__(self, index: slice | Tensor) -> Appearance:
        """Return the parameters of the selected images."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Appearance(**{name: None if x is None else x[index] for name, x in values.items()})


def change_appearance(images: Tensor, draw: Appearance, sector: Tensor | None = None) -> Tensor:
    """Apply the changes in this order: brightness, contrast, gamma, gain field, blur, solarisation, noise.

    Brightness and contrast follow torchvision's ``ColorJitter`` with a fixed order. Hue and saturation have no
    effect on grey images and are omitted.

    Args:
        images: (n, 1, s, s) grey values in 0..1.
        draw: The parameters.
        sector: (n, 1, s, s) bool, restricts the noise to the sector.

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
    """Blur each image with its own Gaussian, as two products with an (s, s) matrix of weights.

    At the border the weights inside the image are normalised to sum to 1.

    Args:
        images: (n, 1, s, s).
        sigma: (n,) standard deviation in pixels; 0 leaves the image unchanged.
    """
    position = torch.arange(images.shape[-1], device=images.device, dtype=images.dtype)
    distance = (position[:, None] - position).square()  # (s, s)
    weights = (-distance / (2 * sigma.clamp(min=1e-3)[:, None, None].square())).exp()
    weights = weights / weights.sum(-1, keepdim=True)  # (n, s, s)
    return torch.where(_column(sigma) > 0, (weights @ images[:, 0] @ weights.transpose(1, 2))[:, None], images)


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None]
