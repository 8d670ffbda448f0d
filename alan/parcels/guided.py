"""Image-guided upsampling of parcel logits: borders between parcels follow the image (He et al. 2010, 2013)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

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

    Raises:
        ParameterError: a value is out of range.
    """

    radius: int = 4
    eps: float = 0.01

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.radius < 1 or not self.eps > 0:
            raise ParameterError(
                f"refine: radius is {self.radius}, eps {self.eps}: the radius must be at least 1, eps above 0; "
                "refine: null switches the filter off"
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
        guide = frames.to(logits.device)[:, None].float() / 255
        if guide.shape[-2:] != size:
            guide = F.interpolate(guide, size, mode="bilinear", antialias=True, align_corners=False)
        values = F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)
        radius = max(1, round(self.radius * min(size) / _BASE))
        return guided_filter(guide[:, 0], values, radius, self.eps)


def box_mean(planes: Tensor, radius: int) -> Tensor:
    """Mean over windows of (2 radius + 1) x (2 radius + 1) pixels, cut at the border of the image.

    Args:
        planes: (B, K, H, W) floating point.
        radius: in pixels.

    Returns:
        (B, K, H, W).
    """
    side = 2 * radius + 1
    rows = F.avg_pool2d(planes, (1, side), 1, (0, radius), count_include_pad=False)
    return F.avg_pool2d(rows, (side, 1), 1, (radius, 0), count_include_pad=False)


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
    image = guide[:, None]
    mean = box_mean(image, radius)
    variance = (box_mean(image * image, radius) - mean * mean).clamp(min=0)
    value = box_mean(values, radius)
    a = (box_mean(image * values, radius) - mean * value) / (variance + eps)
    b = value - a * mean
    return box_mean(a, radius) * image + box_mean(b, radius)
