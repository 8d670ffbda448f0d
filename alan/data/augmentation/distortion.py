"""Distortions of images as sampling grids: of a lens, of the widths of a grid's cells, and piecewise affine.

They are the transforms of EDNAS's list that Kornia lacks, named and defined as in Albumentations. A grid
(n, s, s, 2) has the place in the image of each pixel of the result, as x and y in -1..1 from edge to edge, for
:func:`alan.data.augmentation.dense.warp`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def optical_distortion(strength: Tensor, size: int) -> Tensor:
    """Return the grids of a lens: the distance r from the centre becomes r (1 + k r^2 + k r^4).

    Args:
        strength: (n,) k; distances are in sides of the image.
        size: Side of the images in pixels.
    """
    plain = _plain(size, strength)
    squared = (plain / 2).square().sum(-1)  # (s, s)
    factor = 1 + strength[:, None, None] * (squared + squared.square())
    return plain * factor[..., None]


def grid_distortion(widths: Tensor, size: int) -> Tensor:
    """Return the grids of an image cut into columns and rows, whose widths in the image are multiplied by factors.

    Args:
        widths: (n, 2, cells) factors of the columns, from the left, and of the rows, from the top.
        size: Side of the images in pixels.
    """
    cells = widths.shape[-1]
    borders = torch.cat([torch.zeros_like(widths[..., :1]), widths.cumsum(-1)], -1)  # (n, 2, cells + 1)
    cell, part = _cells(cells, size, widths)
    along = borders[..., cell] + part * widths[..., cell]  # (n, 2, s)
    along = 2 * along / cells - 1
    x, y = along[:, 0, None, :], along[:, 1, :, None]
    return torch.stack([x.expand(-1, size, -1), y.expand(-1, -1, size)], -1)


def piecewise_affine(shifts: Tensor, size: int) -> Tensor:
    """Return the grids of an image whose nodes are shifted; each half of a cell between nodes is mapped affinely.

    Nodes are even, the outer ones lie on the edges of the image and stay inside it.

    Args:
        shifts: (n, rows, columns, 2) shift of each node in x and y, in half images; as many rows as columns.
        size: Side of the images in pixels.
    """
    nodes = shifts.shape[1]
    line = torch.linspace(-1, 1, nodes, dtype=shifts.dtype, device=shifts.device)
    even = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    corners = (even + shifts).clamp(-1, 1)
    cell, part = _cells(nodes - 1, size, shifts)
    x, y = part[None, :, None], part[:, None, None]
    a, b, c, d = (corners[:, cell + i][:, :, cell + j] for i in (0, 1) for j in (0, 1))  # a b above c d
    return torch.where(x > y, a + x * (b - a) + y * (d - b), a + y * (c - a) + x * (d - c))


def _plain(size: int, like: Tensor) -> Tensor:
    """Return the grid (s, s, 2) that changes nothing."""
    line = (2 * torch.arange(size, dtype=like.dtype, device=like.device) + 1) / size - 1
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)


def _cells(cells: int, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cell of each pixel along one side, and its place in the cell, 0..1."""
    place = (torch.arange(size, dtype=like.dtype, device=like.device) + 0.5) * cells / size
    cell = place.long().clamp(max=cells - 1)
    return cell, place - cell
