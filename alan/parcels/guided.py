"""Image-guided upsampling of parcel logits: borders between parcels follow the image (He et al. 2010, 2013)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from alan.bounds import PositiveFloat, PositiveInt, bounded

if not TYPE_CHECKING:  # jsonargparse executes blocks of `if TYPE_CHECKING`, which would slow --help
    pass
else:
    from torch import Tensor

#: Side in pixels of the images for which a radius is given; the radius scales with the image.
_BASE = 112


@bounded
@dataclass(frozen=True)
class GuidedFilter:
    """Settings of the guided filter.

    Attributes:
        radius: Radius of the windows, in pixels of a map of 112 x 112; it scales with the map.
        eps: Variance of the image (grey values in 0..1) above which parcels follow the image within a window. A
            large value gives plain smoothing.
        subsample: Factor by which the grid on which the windows are fitted is coarser than the map (He & Sun: Fast
            Guided Filter, 2015). 1 gives the exact filter, at ``subsample ** 2`` times the cost.

    Raises:
        ParameterError: A value is out of its bounds.
    """

    radius: PositiveInt = 4
    eps: PositiveFloat = 0.01
    subsample: PositiveInt = 2

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-able values, with ``kind``."""
        return {"kind": "guided", **asdict(self)}

    def __call__(self, frames: Tensor, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Upsample logits to the image, guided by it.

        Args:
            frames: (B, H0, W0) uint8, the frames that the logits come from.
            logits: (B, K, h, w) floating point.
            size: (H, W) of the result.

        Returns:
            (B, K, H, W) float32.
        """
        grey = frames.to(logits.device)[:, None].float() / 255
        coarse = (max(1, size[0] // self.subsample), max(1, size[1] // self.subsample))
        guide, small = (_resize(grey, to, antialias=True) for to in (size, coarse))
        radius = max(1, round(self.radius * min(coarse) / _BASE))
        a, b = filter_coefficients(small, _resize(logits.float(), coarse), radius, self.eps)
        return _resize(a, size) * guide + _resize(b, size)


def _resize(planes: Tensor, size: tuple[int, int], *, antialias: bool = False) -> Tensor:
    import torch
    import torch.nn.functional as F

    if planes.shape[-2:] == size:
        return planes
    if not antialias:  # several times faster with the planes' values of a pixel side by side
        planes = planes.contiguous(memory_format=torch.channels_last)
    return F.interpolate(planes, size, mode="bilinear", align_corners=False, antialias=antialias)


def box_mean(planes: Tensor, radius: int) -> Tensor:
    """Compute the mean over windows of (2 radius + 1) x (2 radius + 1) pixels, clipped at the border of the image.

    Rows and columns are averaged one after the other, each as a product with a band matrix. This is several times
    faster than average pooling, and its cost does not depend on the radius.

    Args:
        planes: (B, K, H, W) floating point.
        radius: Radius in pixels.

    Returns:
        (B, K, H, W).
    """
    down, across = (_band(planes, axis, radius) for axis in (-2, -1))
    return down @ (planes @ across.T)


def _band(planes: Tensor, axis: int, radius: int) -> Tensor:
    """Build the (n, n) matrix that averages over each window along an axis of length n."""
    import torch

    place = torch.arange(planes.shape[axis], device=planes.device)
    band = ((place[:, None] - place).abs() <= radius).to(planes.dtype)
    return band / band.sum(1, keepdim=True)


def filter_coefficients(image: Tensor, values: Tensor, radius: int, eps: float) -> tuple[Tensor, Tensor]:
    """Compute the coefficients of the guided filter (He, Sun and Tang, TPAMI 2013, equations 5 to 8).

    In every window the result is a linear function of the image, ``a I + b``, fitted to the values by least
    squares with a penalty ``eps a^2``. A pixel takes the mean function of all windows that contain it.

    Args:
        image: (B, 1, H, W) floating point, the guide, e.g. grey values in 0..1.
        values: (B, K, H, W) planes to filter, each separately.
        radius: Radius of the windows in pixels, at least 1.
        eps: Penalty in squared units of the image, above 0.

    Returns:
        Mean slope a and mean intercept b, both (B, K, H, W): the filtered values are ``a * image + b``.
    """
    mean = box_mean(image, radius)
    variance = (box_mean(image * image, radius) - mean * mean).clamp(min=0)
    value = box_mean(values, radius)
    a = (box_mean(image * values, radius) - mean * value) / (variance + eps)
    return box_mean(a, radius), box_mean(value - a * mean, radius)
