"""Dense targets computed from a simulator's label maps, batched on the device of the training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from alan.bounds import PositiveFloat, PositiveInt, bounded

#: Fewest pixels of the border between ventricle and atrium, and shortest long axis in pixels, of a usable frame.
_MIN_BORDER, _MIN_AXIS = 2, 4.0


class Coordinates(NamedTuple):
    """Positions of pixels in the left ventricle.

    Attributes:
        values: (B, 2, h, w) float32. First the position along the long axis, 0 at the apex and 1 at the middle of
            the base, clamped to -0.5..2; then the signed distance from the axis over half the length of the axis,
            positive to the right when the apex points up, clamped to -1.5..1.5. Zero where it is not known.
        known: (B, h, w) bool, the pixels with a position.
    """

    values: Tensor
    known: Tensor


def wall_masks(labels: Tensor, structures: Sequence[str]) -> Tensor:
    """Make the masks whose outlines are the walls: each structure, with the LV added to the myocardium.

    Args:
        labels: (B, H, W) integer, 0 background and i + 1 for ``structures[i]``.
        structures: Names of the labels.

    Returns:
        (B, C, H, W) bool.
    """
    values = torch.arange(1, len(structures) + 1, device=labels.device)
    masks = labels[:, None] == values[:, None, None]
    if "lv" in structures and "myo" in structures:
        masks[:, structures.index("myo")] |= masks[:, structures.index("lv")]
    return masks


@bounded
def signed_distances(masks: Tensor, clip: PositiveFloat = 10.0, stride: PositiveInt = 1) -> Tensor:
    """Compute the signed Euclidean distance to the outline of each structure, exact up to ``clip``.

    The outline runs between pixels: the first pixel inside is at +0.5 grid steps, the first outside at -0.5. The
    border of the picture is not an outline. Distances are separable: a minimum along rows, then one along columns
    of the result plus the squared offset (Felzenszwalb and Huttenlocher 2012, section 3), here over the offsets up
    to ``clip`` only.

    Args:
        masks: (B, C, H, W) bool.
        clip: Distance in pixels that gets the value 1, as do all beyond it.
        stride: Distance in pixels of two places at which the result is computed; above 1 the masks are read at
            those pixels only.

    Returns:
        (B, C, ceil(H / stride), ceil(W / stride)) float32 in -1..1, positive inside; -1 where a structure is
        absent.

    Raises:
        ParameterError: ``clip`` or ``stride`` is out of range.
    """
    inside = masks[..., ::stride, ::stride]
    radius = math.ceil(clip / stride + 0.5)
    other = _squared_distance(torch.stack([inside, ~inside]), radius).sqrt()
    away = torch.where(inside, other[1], other[0]) - 0.5  # each pixel to the nearest one on the other side
    away = (away * stride / clip).clamp(max=1)
    return torch.where(inside, away, -away)


def _squared_distance(points: Tensor, radius: int) -> Tensor:
    """Compute the squared distance (..., h, w) to the nearest true pixel, exact within ``radius``, else larger."""
    far = 2.0 * (radius + 1) ** 2
    distance = torch.where(points, 0.0, far)
    for axis in (-1, -2):
        padded = F.pad(distance, (radius, radius, 0, 0) if axis == -1 else (0, 0, radius, radius), value=far)
        size, found = distance.shape[axis], distance
        for offset in range(1, radius + 1):
            for start in (radius - offset, radius + offset):
                found = torch.minimum(found, padded.narrow(axis, start, size) + float(offset**2))
        distance = found
    return distance


def ventricle_coordinates(lv: Tensor, la: Tensor, where: Tensor) -> Coordinates:
    """Compute normalised anatomical coordinates of the left ventricle from label maps.

    The long axis runs from the middle of the base, the mean of the LV pixels that have an LA pixel among their
    eight neighbours, to the apex, the LV pixel farthest from there. A frame whose LV and LA touch in fewer than
    two pixels has no coordinates.

    Args:
        lv: (B, h, w) bool, the cavity.
        la: (B, h, w) bool, the left atrium.
        where: (B, h, w) bool, the pixels whose coordinates are computed: the cavity, or all of the sector, in
            which the axes are extended.
    """
    touching = F.max_pool2d(la[:, None].float(), 3, 1, 1)[:, 0] > 0
    border = (lv & touching).float()
    height, width = lv.shape[1:]
    y, x = torch.meshgrid(
        torch.arange(height, device=lv.device), torch.arange(width, device=lv.device), indexing="ij"
    )
    points = torch.stack([x, y]).float()  # (2, h, w)
    count = border.sum((1, 2))
    base = torch.einsum("bhw,chw->bc", border, points) / count.clamp(min=1)[:, None]
    offset = points - base[:, :, None, None]  # (B, 2, h, w)
    squared = torch.where(lv, offset.square().sum(1), -1.0).flatten(1)
    farthest = squared.argmax(1)
    axis = offset.flatten(2).gather(2, farthest[:, None, None].expand(-1, 2, 1))[..., 0]  # (B, 2) base to apex
    length = axis.norm(dim=1)
    usable = (count >= _MIN_BORDER) & (length >= _MIN_AXIS)
    unit = axis / length.clamp(min=1e-6)[:, None]
    normal = torch.stack([-unit[:, 1], unit[:, 0]], 1)
    half = length.clamp(min=1e-6)[:, None, None] / 2
    along = 1 - torch.einsum("bchw,bc->bhw", offset, unit) / (2 * half)
    across = torch.einsum("bchw,bc->bhw", offset, normal) / half
    known = where & usable[:, None, None]
    values = torch.stack([along.clamp(-0.5, 2), across.clamp(-1.5, 1.5)], 1)
    return Coordinates(torch.where(known[:, None], values, 0.0), known)
