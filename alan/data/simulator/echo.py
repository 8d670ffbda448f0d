"""Formation of the echo on the polar grid: echogenicity, speckle, point spread, specular echoes, clutter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from alan.data.simulator.acquisition import N_BEAMS, N_SAMPLES, Acquisition, Physics
from alan.data.simulator.anatomy import PatientAnatomy
from alan.data.simulator.geometry import blur, smooth_field
from alan.data.simulator.scene import FIBROUS, MUSCLE, MYO, PAPILLARY, Scene, TissuePoints

_GRID = (N_SAMPLES, N_BEAMS)
#: Half thickness (cm) of a leaflet and of the pericardium, as Gaussian standard deviations.
_LEAFLET_SIGMA, _PERICARDIUM_SIGMA = 0.07, 0.12
#: Fraction of the energy of tissue scatterers that follows the wall between frames; blood decorrelates at once.
_COHERENCE = 0.85


@dataclass
class Echo:
    """Envelope of the received signal.

    Attributes:
        envelope: (T, N_SAMPLES, N_BEAMS) float32, linear amplitude.
        radii: (N_SAMPLES,) distance from the probe in cm.
    """

    envelope: Tensor
    radii: Tensor


def form_echo(scene: Scene, acq: Acquisition, physics: Physics, generator: torch.Generator) -> Echo:
    """Compute the echo of a scene.

    Args:
        scene: Moving anatomy.
        acq: Acquisition settings of the clip.
        physics: Strength of each effect.
        generator: Random number generator; the draws do not depend on ``physics``.

    Returns:
        The envelope before gain, noise and compression.
    """
    radii = torch.linspace(acq.start, acq.depth, N_SAMPLES)
    angles = torch.linspace(-acq.half_angle, acq.half_angle, N_BEAMS)
    jitter = smooth_field(2, (26, 20), _GRID, generator) * (acq.ragged * physics.ragged)
    x = (radii[:, None] * torch.sin(angles) + jitter[0]).reshape(1, -1)
    z = (radii[:, None] * torch.cos(angles) + jitter[1]).reshape(1, -1)
    painted = scene.paint(x, z)
    n_frames = painted.labels.shape[0]
    shape = (n_frames, *_GRID)

    blood = painted.blood.view(shape)
    echogenicity = _echogenicity(scene.patient, painted, acq, physics, generator)
    anchored = torch.randn(2, *_GRID, generator=generator)
    fresh = torch.randn(n_frames, 2, *_GRID, generator=generator)
    scatterers = _scatterers(anchored, fresh, blood, scene.contraction) * physics.speckle
    scatterers[:, 0] += max(0.0, 1 - physics.speckle) + acq.coherent * min(1.0, physics.speckle)
    field = _point_spread(scatterers * echogenicity[:, None], acq)

    step = F.pad((echogenicity[:, 2:] - echogenicity[:, :-2]).abs(), (0, 0, 1, 1))
    step = blur(step, 1.0, 1.0) * physics.specular
    field[:, 0] += acq.specular * step
    envelope = (field.square().sum(1) + 1e-9).sqrt() * (1 + 0.5 * step / (step + 0.05))

    clutter = torch.exp(0.4 * smooth_field(1, (7, 7), _GRID, generator))
    side = blur(envelope, 2, 9.0) * clutter * (acq.side_lobes * physics.side_lobes)
    echoed = torch.roll(envelope, acq.reverberation_shift, 1) * (acq.reverberation * physics.reverberation)
    echoed[:, : acq.reverberation_shift] = 0
    envelope = envelope + side + echoed + _haze(anchored, acq, physics, generator)
    _add_near_field(envelope, fresh, radii, acq, physics)
    return Echo(envelope, radii)


def _echogenicity(
    patient: PatientAnatomy,
    painted: TissuePoints,
    acq: Acquisition,
    physics: Physics,
    generator: torch.Generator,
) -> Tensor:
    """Compute the scattering amplitude (T, N_SAMPLES, N_BEAMS) of each point."""
    shape = (painted.labels.shape[0], *_GRID)
    blood = painted.blood.view(shape)
    labels = painted.labels.view(shape)
    coarse, fine = smooth_field(3, (7, 7), _GRID, generator), smooth_field(2, (24, 18), _GRID, generator)
    depth = torch.linspace(0, 1, N_SAMPLES)[:, None]
    sharpness = 12 if acq.apical else 14
    lung = 1 - acq.lung * torch.sigmoid((depth - acq.lung_onset) * sharpness)
    behind = acq.deep_onset + acq.deep_slope * torch.linspace(-1, 1, N_BEAMS)
    deep = 1 + acq.deep_tissue * torch.sigmoid((depth - behind + 0.06 * coarse[2]) * 25)
    outside = patient.outer_echo * torch.exp(0.75 * coarse[0] + 0.35 * fine[0]) * lung * deep
    texture = torch.exp(0.35 * coarse[1] + 0.25 * fine[1])
    if painted.halo is not None:
        outside = outside + patient.wall_echo * painted.halo.view(shape) * texture * torch.exp(0.5 * coarse[0])

    # Walls parallel to the beam return less echo: compare the axial and lateral gradients of the cavity border.
    soft = blur(blood.float(), 5, 3)
    axial = F.pad((soft[:, 2:] - soft[:, :-2]).abs(), (0, 0, 1, 1))
    lateral = F.pad((soft[:, :, 2:] - soft[:, :, :-2]).abs(), (1, 1)) * (1.6 * N_BEAMS / N_SAMPLES)
    facing = axial / (axial + lateral + 1e-3)
    fading = 1 + physics.anisotropy * (acq.anisotropy - 1 + (1.15 - acq.anisotropy) * facing)

    muscle = patient.wall_echo * texture * fading.clamp(min=0)
    if painted.boost is not None:
        muscle = muscle * (1 + physics.fading * (painted.boost.view(shape) - 1)).clamp(min=0)
    amplitude = torch.where(labels == MYO, muscle, outside)
    amplitude = torch.where((labels == MUSCLE) | (labels == PAPILLARY), 1.2 * muscle, amplitude)
    amplitude = torch.where(labels == FIBROUS, 0.7 * texture * (0.5 + 0.5 * fading), amplitude)
    fluid: float | Tensor = acq.blood
    if painted.veil is not None:  # the veil continues the pattern of the tissue beside the image plane
        fluid = fluid + painted.veil.view(shape) * torch.exp(1.1 * coarse[0] + 0.5 * fine[0]) * deep.sqrt()
    amplitude = blur(torch.where(blood, fluid, amplitude), 1.2, 0.6)
    if painted.leaflet is not None:
        amplitude += acq.leaflet * torch.exp(-0.5 * (painted.leaflet.view(shape) / _LEAFLET_SIGMA).square())
    if painted.pericardium is not None:
        near = torch.exp(-0.5 * (painted.pericardium.view(shape) / _PERICARDIUM_SIGMA).square())
        amplitude += (acq.pericardium * physics.specular) * texture * near
    return amplitude


def _scatterers(anchored: Tensor, fresh: Tensor, blood: Tensor, contraction: Tensor) -> Tensor:
    """Draw scatterers (T, 2, N_SAMPLES, N_BEAMS); those of tissue follow the wall, those of blood do not."""
    scale = 1 + 0.10 * contraction  # (T, 1)
    rows = torch.linspace(-1.1, 0.9, N_SAMPLES) * scale + 0.1
    columns = torch.linspace(-1, 1, N_BEAMS) * scale
    r = ((rows + 1) * 0.5 * (N_SAMPLES - 1)).round().long()
    c = ((columns + 1) * 0.5 * (N_BEAMS - 1)).round().long()
    r = _reflect(r, N_SAMPLES)[:, :, None]
    c = _reflect(c, N_BEAMS)[:, None, :]
    moved = anchored.view(2, -1)[:, (r * N_BEAMS + c).flatten()].view(2, *fresh.shape[:1], *_GRID).transpose(0, 1)
    follow = torch.where(blood, 0.0, math.sqrt(_COHERENCE))[:, None]
    renew = torch.where(blood, 1.0, math.sqrt(1 - _COHERENCE))[:, None]
    return follow * moved + renew * fresh


def _reflect(index: Tensor, size: int) -> Tensor:
    """Reflect indices just outside [0, size) at the border."""
    return (size - 1) - ((size - 1) - index.abs()).abs()


def _point_spread(field: Tensor, acq: Acquisition) -> Tensor:
    """Blur scatterers (T, 2, R, A) by the point spread: constant axially, wider laterally away from the focus."""
    norm = 2 * math.sqrt(math.pi)  # keeps the energy of white noise
    field = blur(field, acq.axial_sigma) * math.sqrt(norm * acq.axial_sigma)
    sharp, wide = acq.lateral_sigma, 2 * acq.lateral_sigma
    weight = ((torch.linspace(0, 1, N_SAMPLES) - acq.focus).abs() / 0.55).pow(1.5).clamp(0, 1)[:, None]
    return (
        blur(field, 0, sharp) * (math.sqrt(norm * sharp) * (1 - weight))
        + blur(field, 0, wide) * (math.sqrt(norm * wide) * weight)
    )  # fmt: skip


def _haze(anchored: Tensor, acq: Acquisition, physics: Physics, generator: torch.Generator) -> Tensor:
    """Draw the stationary haze (N_SAMPLES, N_BEAMS)."""
    cloud = torch.exp(smooth_field(1, (5, 5), _GRID, generator)[0])
    texture = blur(anchored, acq.axial_sigma, 1.5 * acq.lateral_sigma).square().sum(0).sqrt()
    return (2.4 * acq.haze * physics.haze) * cloud * texture


def _add_near_field(envelope: Tensor, fresh: Tensor, radii: Tensor, acq: Acquisition, physics: Physics) -> None:
    """Add near-field clutter in place; it is negligible beyond five decay lengths."""
    rows = int((radii - acq.start < 5 * acq.near_reach).sum())
    decay = torch.exp(-(radii[:rows] - acq.start) / acq.near_reach)[:, None]
    noise = blur(fresh[:, :, :rows], 1.2, 2.5).square().sum(1).sqrt()
    envelope[:, :rows] += (3 * acq.near_field * physics.haze) * decay * noise
