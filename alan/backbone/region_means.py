"""Means of a map beside and within the left ventricle and the left atrium."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Structures whose columns divide a frame into its left and its right side.
HEART = ("lv", "la")
#: Distance of the sides from the column of the heart, and the width over which their weights rise, in shares of
#: the width of the frame.
_MARGIN, _SLOPE = 1 / 7, 1 / 14
#: Weight of the middle column against that of the structures, and of nothing against a structure: number of places
#: of the map.
_NOTHING = 0.1


def region_means(deep: Tensor, lv: Tensor, la: Tensor) -> Tensor:
    """Compute four means of a map: left and right of the heart, within the left ventricle and the left atrium.

    The column of the heart is the mean column of both structures, or the middle of the frame if neither is found.
    The weights of the sides rise smoothly with the distance from it. The mean within a structure that is not found
    is close to 0.

    Args:
        deep: (B, C, h, w), such as the deepest map of a network.
        lv: (B, 1, H, W) probability of the left ventricle, with H >= h and W >= w.
        la: (B, 1, H, W) probability of the left atrium.

    Returns:
        (B, 4 C), in this order.
    """
    size = (deep.shape[-2], deep.shape[-1])
    lv, la = (F.adaptive_avg_pool2d(plane, size) for plane in (lv, la))
    x = (torch.arange(size[1], device=deep.device, dtype=deep.dtype) + 0.5) / size[1]  # (w,)
    columns = (lv + la).sum(2)  # (B, 1, w)
    heart = ((columns * x).sum(2) + _NOTHING / 2) / (columns.sum(2) + _NOTHING)  # (B, 1)
    apart = (x - heart)[:, None, None]  # (B, 1, 1, w), positive to the right of the heart
    sides = [torch.sigmoid((side * apart - _MARGIN) / _SLOPE).expand_as(lv) for side in (-1, 1)]
    weights = torch.cat([*sides, lv, la], 1)  # (B, 4, h, w)
    least = weights.new_tensor([0, 0, _NOTHING, _NOTHING])
    sums = torch.einsum("bchw,brhw->brc", deep, weights)
    return (sums / (weights.sum((2, 3)) + least)[..., None]).flatten(1)
