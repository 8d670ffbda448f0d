"""Image-guided upsampling of parcel logits: borders between parcels follow the image (He et al. 2010, 2013)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alan.errors import ParameterError

#: Side in pixels of the images for which a radius is given; it scales with the image.
_BASE = 112


@dataclass(frozen=True)
class GuidedFilter:
    """Settings of the guided filter.

    Attributes:
        radius: windows reach so many pixels to each side, in a map of 112 x 112; it scales with the map.
        eps: variance of the image (grey in 0..1) above which parcels follow what the image does in a window. A
            large one leaves a plain smoothing.
        subsample: the windows' functions are fitted on a grid so many times coarser than the map and then
            enlarged (He & Sun: Fast Guided Filter, 2015); 1: the exact filter, at ``subsample ** 2`` the time.

    Raises:
        ParameterError: a value is out of range.
    """

    radius: int = 4
    eps: float = 0.01
    subsample: int = 2

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.radius < 1 or not self.eps > 0 or self.subsample < 1:
            raise ParameterError(
                f"refine: radius is {self.radius}, eps {self.eps}, subsample {self.subsample}: radius and "
                "subsample must be at least 1, eps above 0; refine: null switches the filter off"
            )

    def to_dict(self) -> dict[str, Any]:
        """Settings as JSON-able values, with ``kind``."""
        return {"kind": "guided", **asdict(self)}

    def __call__(self, frames: Tensor, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Upsample logits to the image, guided by it.

        Args:
            frames: (B, H0, W0) uint8, the frames that the logits come from.
            logits: (B, K, h, w) floating point.
            size: (H, W) of the answer.

        Returns:
            (B, K, H, W) float32.
        """
        grey = frames.to(logits.device)[:, None].float() / 255
        coarse = (max(1, size[0] // self.subsample), max(1, size[1] // self.subsample))
        guide, small = (_resize(grey, to, antialias=True) for to in (size, coarse))
        radius = max(1, round(self.radius * min(coarse) / _BASE))
        a, b = _functions(small, _resize(logits.float(), coarse), radius, self.eps)
        return _resize(a, size) * guide + _resize(b, size)


def _resize(planes: Tensor, size: tuple[int, int], *, antialias: bool = False) -> Tensor:
    if planes.shape[-2:] == size:
        return planes
    if not antialias:  # with the planes' values of a pixel side by side it is several times faster
        planes = planes.contiguous(memory_format=torch.channels_last)
    return F.interpolate(planes, size, mode="bilinear", align_corners=False, antialias=antialias)


def box_mean(planes: Tensor, radius: int) -> Tensor:
    """Mean over windows of (2 radius + 1) x (2 radius + 1) pixels, cut at the border of the image.

    Rows and columns are taken one after the other, each as a product with a band matrix: several times faster than
    average pooling, and the time does not grow with the radius.

    Args:
        planes: (B, K, H, W) floating point.
        radius: in pixels.

    Returns:
        (B, K, H, W).
    """
    down, across = (_band(planes, axis, radius) for axis in (-2, -1))
    return down @ (planes @ across.T)


def _band(planes: Tensor, axis: int, radius: int) -> Tensor:
    """(n, n) matrix that takes the mean over each window along an axis of length n."""
    place = torch.arange(planes.shape[axis], device=planes.device)
    band = ((place[:, None] - place).abs() <= radius).to(planes.dtype)
    return band / band.sum(1, keepdim=True)


def guided_filter(guide: Tensor, values: Tensor, radius: int, eps: float) -> Tensor:
    """Guided filter (He, Sun, Tang: Guided Image Filtering, TPAMI 2013, equations 4 to 8 and algorithm 1).

    In every window the answer is a linear function of the guide, ``a I + b``, fitted to the values by least
    squares with a penalty ``eps a^2``; a pixel takes the mean of the functions of all windows it lies in.

    Args:
        guide: (B, H, W) floating point, e.g. grey in 0..1.
        values: (B, K, H, W) what to filter; each of the K planes alone.
        radius: of the windows, in pixels, at least 1.
        eps: the penalty, in squared units of the guide.

    Returns:
        (B, K, H, W).

    Raises:
        ParameterError: shapes that do not belong together, or a radius or penalty out of range.
    """
    if guide.ndim != 3 or values.ndim != 4 or guide.shape[1:] != values.shape[2:] or len(guide) != len(values):
        raise ParameterError(
            f"the guide is {tuple(guide.shape)}, the values {tuple(values.shape)}: (B, H, W) and (B, K, H, W)"
        )
    if radius < 1 or eps <= 0:
        raise ParameterError(f"radius is {radius}, eps {eps}: the radius must be at least 1, eps above 0")
    a, b = _functions(guide[:, None], values, radius, eps)
    return a * guide[:, None] + b


def _functions(image: Tensor, values: Tensor, radius: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean slope and intercept (B, K, H, W) of the windows that a pixel lies in; image (B, 1, H, W)."""
    mean = box_mean(image, radius)
    variance = (box_mean(image * image, radius) - mean * mean).clamp(min=0)
    value = box_mean(values, radius)
    a = (box_mean(image * values, radius) - mean * value) / (variance + eps)
    return box_mean(a, radius), box_mean(value - a * mean, radius)
