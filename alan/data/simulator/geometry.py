"""Implicit shapes and smooth random fields, shared by the scenes and the renderer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

#: Distance (cm) that stands for "far away".
FAR = 9.0


def profile(s: Tensor, widest: float | Tensor, taper: float | Tensor) -> Tensor:
    """Compute the half width of a ventricle along its long axis, as a fraction of the largest half width.

    The apex is elliptic up to the widest level; from there the ventricle narrows parabolically towards the base.

    Args:
        s: Position along the long axis, any shape; 0 is the apex, 1 the base; other values are allowed.
        widest: Position of the widest level, 0 < widest < 1; a tensor is broadcast against ``s``.
        taper: Relative narrowing at the base, 0 <= taper < 1; a tensor is broadcast against ``s``.

    Returns:
        Same shape as ``s``, values in [0, 1]; 0 above the apex, continued below the base.
    """
    s = s.clamp(-0.2, 1.6)
    apex = (1 - (1 - s / widest).square()).clamp(min=0).sqrt()
    base = 1 - taper * ((s - widest) / (1 - widest)).square()
    return torch.where(s < widest, apex, base) * (s > 0)


def ellipse_distance(
    u: Tensor, v: Tensor, centre: tuple[Tensor, Tensor | float], axes: tuple[Tensor, Tensor]
) -> Tensor:
    """Compute the approximate signed distance to an ellipse (negative inside), in the unit of the arguments.

    Args:
        u: (T, P) first coordinate.
        v: (T, P) second coordinate.
        centre: (u, v) of the centre, each (T, 1) or a number.
        axes: Semi-axes along ``u`` and ``v``, each (T, 1).

    Returns:
        (T, P); exact on the border, scaled by the smaller semi-axis elsewhere.
    """
    radius = torch.hypot((u - centre[0]) / axes[0], (v - centre[1]) / axes[1])
    return (radius - 1) * torch.minimum(*axes)


def segment_distance(u: Tensor, v: Tensor, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]) -> Tensor:
    """Compute the distance to a line segment.

    Args:
        u: (T, P) first coordinate.
        v: (T, P) second coordinate.
        start: (u, v) of the first end, each (T, 1).
        end: (u, v) of the other end, each (T, 1).

    Returns:
        (T, P) distances, 0 on the segment.
    """
    du, dv = end[0] - start[0], end[1] - start[1]
    x, y = u - start[0], v - start[1]
    t = ((x * du + y * dv) / (du.square() + dv.square() + 1e-6)).clamp(0, 1)
    return torch.hypot(x - t * du, y - t * dv)


def gaussian_matrix(size: int, sigma: float) -> Tensor:
    """Build the matrix of a Gaussian blur of ``size`` samples, which is faster here than a convolution.

    Args:
        size: Number of samples.
        sigma: Standard deviation in samples, above 0.

    Returns:
        (size, size) float32; rows sum to 1, so that constants are preserved up to the edges.
    """
    index = torch.arange(size, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((index[:, None] - index) / sigma).square())
    weights[weights < 1e-3] = 0
    return weights / weights.sum(1, keepdim=True)


def blur(x: Tensor, axial: float = 0.0, lateral: float = 0.0) -> Tensor:
    """Blur the last two axes (depth, beam) with a separable Gaussian.

    Args:
        x: (..., R, A) float32.
        axial: Standard deviation along the depth in samples; 0 disables the blur.
        lateral: Standard deviation across beams in samples; 0 disables the blur.

    Returns:
        Same shape as ``x``.
    """
    if axial > 0:
        x = torch.matmul(gaussian_matrix(x.shape[-2], axial), x)
    if lateral > 0:
        x = torch.matmul(x, gaussian_matrix(x.shape[-1], lateral).T)
    return x


def smooth_field(count: int, grid: tuple[int, int], shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw smooth Gaussian random fields: normal values on a coarse grid, interpolated bicubically.

    Args:
        count: Number of fields.
        grid: (rows, columns) of the coarse grid; a finer grid gives rougher fields.
        shape: (rows, columns) of the result.
        generator: Random number generator.

    Returns:
        (count, *shape) float32, mean 0, standard deviation about 0.7 to 1.
    """
    coarse = torch.randn(count, 1, *grid, generator=generator)
    return F.interpolate(coarse, shape, mode="bicubic", align_corners=True)[:, 0]
