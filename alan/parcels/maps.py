"""Parcel maps at the resolution of the image, from the logits of tokens."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from alan.arrays import BoolArray, ByteArray, Float32Array
from alan.data.sector import sector_mask
from alan.errors import ParameterError
from alan.parcels.count import MAX_PARCELS
from alan.parcels.guided import GuidedFilter

ImageSize = int | tuple[int, int]

#: The two samples of each place along an axis, and the weight of the second.
_Taps = tuple[Tensor, Tensor, Tensor]
#: Rows of a map that are computed at a time on the CPU.
_ROWS = 8


def _pair(size: ImageSize) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ParameterError(f"size is {size}: give at least 1 pixel per side")
    return height, width


def logits_to_maps(
    logits: Tensor,
    size: ImageSize,
    frames: Tensor | None = None,
    refine: GuidedFilter | None = None,
    inside: Tensor | None = None,
) -> Tensor:
    """Upsample logits to the image, then take the most likely parcel (paper, section 3: bilinearly).

    Frames are processed one by one, so that memory holds the upsampled logits of a single frame.

    Args:
        logits: (B, K, h, w) floating point.
        size: (H, W), or one number for both.
        frames: (B, H0, W0) uint8, required by ``refine``.
        refine: Guided filter that upsamples the logits; None upsamples bilinearly.
        inside: (B, H, W) bool, the pixels whose ids are needed; None for all.

    Returns:
        (B, H, W) uint8 ids 0 to K - 1 on the device of the logits; ties go to the smallest id. Ids of pixels that
        are not needed may be 0.

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
    maps = torch.zeros(len(logits), height, width, dtype=torch.uint8, device=logits.device)
    rows, columns = (
        _taps(length, size, logits.device) for length, size in zip(logits.shape[2:], (height, width), strict=True)
    )
    needed = torch.ones_like(maps, dtype=torch.bool) if inside is None else inside
    for i, (one, out) in enumerate(zip(logits, maps, strict=True)):
        if refine is not None and frames is not None:
            out.copy_(_argmax(refine(frames[i : i + 1], one[None], (height, width))[0].permute(1, 2, 0)))
        else:
            _upsampled_argmax(one.permute(1, 2, 0), rows, columns, out, needed[i])
    return maps


def _argmax(logits: Tensor) -> Tensor:
    if logits.device.type == "cpu":
        return torch.from_numpy(logits.detach().numpy().argmax(-1))  # faster than argmax of torch on the CPU
    return logits.argmax(-1)


def _upsampled_argmax(logits: Tensor, rows: _Taps, columns: _Taps, out: Tensor, needed: Tensor) -> None:
    """Write the ids of logits (h, w, K), upsampled as by ``F.interpolate`` bilinearly, to out (H, W).

    The K logits of a pixel lie side by side, and on the CPU a few rows are upsampled at a time, so that they stay
    in its cache: together more than twice as fast. There, NumPy takes two thirds of the time of PyTorch.
    """
    logits = logits.float().contiguous()
    if logits.device.type == "cpu":
        _upsampled_argmax_numpy(logits.detach().numpy(), rows, columns, out.numpy(), needed.numpy())
        return
    (above, below, down), (left, right, across) = rows, columns
    some = torch.lerp(logits[above], logits[below], down[:, None, None])
    out.copy_(torch.lerp(some[:, left], some[:, right], across[:, None]).argmax(-1))


def _upsampled_argmax_numpy(
    logits: Float32Array, rows: _Taps, columns: _Taps, out: ByteArray, needed: BoolArray
) -> None:
    (above, below, down), (left, right, across) = ([tap.numpy() for tap in taps] for taps in (rows, columns))
    for start in range(0, len(out), _ROWS):
        part = slice(start, start + _ROWS)
        places = np.flatnonzero(needed[part].any(0))
        if not len(places):
            continue
        near = slice(places[0], places[-1] + 1)
        some = _lerp(logits[above[part]], logits[below[part]], down[part, None, None])
        first, second = (np.take(some, taps[near], axis=1) for taps in (left, right))
        out[part, near] = _lerp(first, second, across[near, None]).argmax(-1)


def _lerp(first: Float32Array, second: Float32Array, weight: Float32Array) -> Float32Array:
    """Interpolate in place of ``second``, which must be a copy."""
    second -= first
    second *= weight
    second += first
    return second


def _taps(length: int, size: int, device: torch.device) -> _Taps:
    """Compute the taps of ``size`` places along an axis of ``length`` samples."""
    place = ((torch.arange(size, device=device) + 0.5) * (length / size) - 0.5).clamp(0, length - 1)
    first = place.long()
    return first, (first + 1).clamp(max=length - 1), place - first


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
