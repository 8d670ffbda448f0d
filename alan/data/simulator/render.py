"""Rendering: gain, noise, compression and scan conversion of the envelope, and the label maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from alan.data.simulator.acquisition import N_BEAMS, N_SAMPLES, Acquisition, Physics
from alan.data.simulator.echo import form_echo
from alan.data.simulator.geometry import blur, smooth_field
from alan.data.simulator.scene import Scene

_DB = 20 / math.log(10)
#: Decay length of the loss of gain near the probe in cm.
_NEAR = 2.5


def pixel_spacing(acq: Acquisition, shape: tuple[int, int]) -> tuple[float, float]:
    """Compute the (row, column) size of a pixel in mm; the image is a box around the sector with small margins."""
    width = 2 * acq.depth * math.sin(acq.half_angle) * acq.margin_width
    return 10 * acq.depth * acq.margin_depth / shape[0], 10 * width / shape[1]


def pixel_positions(acq: Acquisition, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Compute the centres of the pixels in cm.

    Returns:
        x (H, W) to the right and z (H, W) away from the probe, which is at the centre of the upper edge.
    """
    row, column = pixel_spacing(acq, shape)
    z = (torch.arange(shape[0]) + 0.5) * (row / 10)
    x = (torch.arange(shape[1]) + 0.5 - shape[1] / 2) * (column / 10)
    grid = torch.meshgrid(z, x, indexing="ij")
    return grid[1], grid[0]


def render(
    scene: Scene,
    acq: Acquisition,
    physics: Physics,
    shape: tuple[int, int],
    generator: torch.Generator,
    *,
    labels_outside: bool = False,
) -> tuple[Tensor, Tensor]:
    """Render the frames and the label maps of a clip.

    Args:
        scene: Moving anatomy.
        acq: Acquisition settings of the clip.
        physics: Strength of each effect.
        shape: (H, W) of the frames.
        generator: Random number generator.
        labels_outside: Whether label maps extend outside the sector.

    Returns:
        frames (T, H, W) uint8, 0 outside the sector, and labels (T, H, W) uint8, values as ``STRUCTURES``, 0
        outside the sector unless ``labels_outside``.
    """
    echo = form_echo(scene, acq, physics, generator)
    power = echo.envelope.square().mul_(torch.exp((2 / _DB) * _gain(acq, physics, generator)))
    power += _noise(power.shape, acq, generator) * physics.noise
    decibel = (0.5 * _DB) * torch.log(power + 1e-10)
    middle = decibel[0, ::4, ::2].median()
    level = acq.exposure ** (1 / acq.gamma)
    value = ((decibel - middle) / acq.dynamic_range + level).clamp(0, 1).pow(acq.gamma)

    smoothing = 0.4 + acq.smoothing * physics.smoothing  # frames are stored smaller than the echo grid
    value = blur(value, smoothing, smoothing)

    x, z = pixel_positions(acq, shape)
    radius, angle = torch.hypot(x, z), torch.atan2(x, z)
    inside = (radius >= acq.start) & (radius <= acq.depth) & (angle.abs() <= acq.half_angle)
    along = (radius - acq.start) / (acq.depth - acq.start) * 2 - 1
    grid = torch.stack([angle / acq.half_angle, along], -1)
    picture = F.grid_sample(value[None], grid[None], mode="bilinear", align_corners=True)[0] * inside
    frames = (picture * 255).round().clamp(0, 255).to(torch.uint8)

    labels = torch.zeros_like(frames)
    shown = torch.ones_like(inside) if labels_outside else inside
    labels[:, shown] = scene.paint(x[shown][None], z[shown][None], lines=False).label_map()
    return frames, labels


def _gain(acq: Acquisition, physics: Physics, generator: torch.Generator) -> Tensor:
    """Compute the gain in dB (N_SAMPLES, N_BEAMS): attenuation, its compensation, edges, shadows and dropout."""
    depth, across = torch.linspace(0, 1, N_SAMPLES)[:, None], torch.linspace(-1, 1, N_BEAMS)[None]
    axial = acq.slope * depth + acq.bulge * torch.sin(math.pi * depth)
    axial = axial - acq.deep_loss * depth.square() - acq.window_loss * depth
    axial = axial - acq.near_loss * torch.exp(depth * (acq.start - acq.depth) / _NEAR)
    ripple = 1.5 * smooth_field(1, (1, 8), (1, N_BEAMS), generator)[0]
    ripple = ripple + acq.beam_ripple * torch.randn(1, N_BEAMS, generator=generator)
    gain = physics.attenuation * (axial - acq.edge_loss * across.abs() ** acq.edge_power + ripple)
    for shadow in acq.shadows:
        band = torch.exp(-0.5 * ((across - shadow.position) / shadow.width).square())
        gain = gain - physics.shadows * shadow.loss * band * torch.sigmoid((depth - shadow.onset) * 25)
    patch = smooth_field(1, (6, 6), (N_SAMPLES, N_BEAMS), generator)[0]
    return gain - physics.dropout * acq.dropout * torch.relu(patch - 0.2)


def _noise(shape: torch.Size, acq: Acquisition, generator: torch.Generator) -> Tensor:
    """Compute the power of electronic noise, which the time gain compensation raises with depth."""
    level = acq.noise_floor + acq.noise_rise * torch.linspace(0, 1, N_SAMPLES)[:, None]
    return torch.empty(shape).exponential_(generator=generator) * torch.exp((2 / _DB) * level)
