"""Parcel maps at the resolution of the image, from the logits of tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from alan.data.sector import sector_mask
from alan.errors import ParameterError
from alan.parcels.count import MAX_PARCELS
from alan.parcels.guided import GuidedFilter

ImageSize = int | tuple[int, int]


def _pair(size: ImageSize) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ParameterError(f"size is {size}: give at least 1 pixel per side")
    return height, width


def logits_to_maps(
    logits: Tensor, size: ImageSize, frames: Tensor | None = None, refine: GuidedFilter | None = None
) -> Tensor:
    """Upsample logits to the image, then take the most likely parcel (paper, section 3: bilinearly).

    Frames are processed one by one, so that memory holds the upsampled logits of a single frame.

    Args:
        logits: (B, K, h, w) floating point.
        size: (H, W), or one number for both.
        frames: (B, H0, W0) uint8, required by ``refine``.
        refine: Guided filter that upsamples the logits; None upsamples bilinearly.

    Returns:
        (B, H, W) uint8 ids 0 to K - 1 on the device of the logits; ties go to the smallest id.

    Raises:
        ParameterError: The logits are not (B, K, h, w), K exceeds 254, the size is empty, or ``refine`` lacks
            frames.
    """
    if logits.ndim != 4 or logits.shape[1] > MAX_PARCELS:
        raise ParameterError(f"logits are {tuple(logits.shape)}: give (B, K, h, w) with K up to {MAX_PARCELS}")
    if refine is not None and (frames is None or len(frames) != len(logits)):
        given = "none" if frames is None else len(frames)
        raise ParameterError(f"frames are {given}: refine needs those of the {len(logits)} logits")
    height, width = _pair(size)
    maps = torch.empty(len(logits), height, width, dtype=torch.uint8, device=logits.device)
    for i, (one, out) in enumerate(zip(logits, maps, strict=True)):
        if refine is not None and frames is not None:
            last = refine(frames[i : i + 1], one[None], (height, width))[0].permute(1, 2, 0)
        else:
            # several times faster with the K logits of a pixel side by side than with K planes
            last = one[None].float().contiguous(memory_format=torch.channels_last)
            last = F.interpolate(last, (height, width), mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
        if last.device.type == "cpu":
            out.copy_(torch.from_numpy(last.detach().numpy().argmax(-1)))  # faster than argmax of torch on the CPU
        else:
            out.copy_(last.argmax(-1))
    return maps


def pixel_sector(frames: Tensor, size: ImageSize) -> Tensor:
    """Find the ultrasound sector pixel by pixel, so that its border is as sharp as the frame.

    The rule is that of the backbone (:func:`alan.data.sector.sector_mask`), applied at the resolution of the
    frames. At another size a pixel is inside if at least half of it is.

    Args:
        frames: (B, H0, W0) uint8.
        size: (H, W) of the result.

    Returns:
        (B, H, W) bool.
    """
    inside = sector_mask(frames[:, None].float() / 255)
    if inside.shape[-2:] == _pair(size):
        return inside[:, 0]
    return F.interpolate(inside.float(), _pair(size), mode="bilinear", align_corners=False)[:, 0] >= 0.5
