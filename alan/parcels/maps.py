"""From logits of tokens to parcel maps at the resolution of the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from alan.data.sector import sector_mask
from alan.errors import ParameterError
from alan.parcels.guided import GuidedFilter
from alan.parcels.heads.base import MAX_PARCELS

Size = int | tuple[int, int]


def _pair(size: Size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ParameterError(f"size is {size}: a map has at least one pixel a side")
    return height, width


def logits_to_maps(
    logits: Tensor, size: Size, frames: Tensor | None = None, refine: GuidedFilter | None = None
) -> Tensor:
    """Upsample logits to the image, then take the most likely parcel (paper, section 3: bilinearly).

    Frames are taken one by one, so that the upsampled logits of a single frame are held.

    Args:
        logits: (B, K, h, w) floating point.
        size: (H, W), or one number for both.
        frames: (B, H0, W0) uint8, needed with ``refine``.
        refine: upsample with the guided filter instead of bilinearly alone.

    Returns:
        (B, H, W) uint8 ids 0 to K - 1 on the device of the logits; of equal logits the smallest id.

    Raises:
        ParameterError: not (B, K, h, w), K above 254, an empty size, or ``refine`` without as many frames.
    """
    if logits.ndim != 4 or logits.shape[1] > MAX_PARCELS:
        raise ParameterError(f"logits are {tuple(logits.shape)}: expected (B, K, h, w) with K up to {MAX_PARCELS}")
    if refine is not None and (frames is None or len(frames) != len(logits)):
        given = "none" if frames is None else len(frames)
        raise ParameterError(f"refine needs the frames of the {len(logits)} logits, given {given}")
    height, width = _pair(size)
    maps = torch.empty(len(logits), height, width, dtype=torch.uint8, device=logits.device)
    for i, (one, out) in enumerate(zip(logits, maps, strict=True)):
        if refine is not None and frames is not None:
            last = refine(frames[i : i + 1], one[None], (height, width))[0].permute(1, 2, 0)
        else:
            # with the K logits of a pixel side by side, both steps are several times faster than with K planes
            last = one[None].float().contiguous(memory_format=torch.channels_last)
            last = F.interpolate(last, (height, width), mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
        if last.device.type == "cpu":
            out.copy_(torch.from_numpy(last.detach().numpy().argmax(-1)))  # torch's CPU argmax is slower
        else:
            out.copy_(last.argmax(-1))
    return maps


def pixel_sector(frames: Tensor, size: Size) -> Tensor:
    """Find the ultrasound sector pixel by pixel, so that its border is as sharp as the frame.

    The rule is the backbone's (:func:`alan.data.sector.sector_mask`): a pixel is inside when a lit pixel
    lies on both sides of it in its row and in its column. It is applied at the resolution of the frames; at
    another size a pixel is inside when at least half of it is.

    Args:
        frames: (B, H0, W0) uint8.
        size: (H, W) of the answer.

    Returns:
        (B, H, W) bool.
    """
    inside = sector_mask(frames[:, None].float() / 255)
    if inside.shape[-2:] == _pair(size):
        return inside[:, 0]
    return F.interpolate(inside.float(), _pair(size), mode="bilinear", align_corners=False)[:, 0] >= 0.5
