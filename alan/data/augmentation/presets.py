"""Augmentation of images and masks together, by Kornia on the device of the images; one preset per paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alan.data.augmentation.appearance import FIELD, Appearance, change_appearance
from alan.data.augmentation.dense import warp
from alan.data.augmentation.distortion import grid_distortion, optical_distortion, piecewise_affine
from alan.data.sector import sector_mask
from alan.errors import ParameterError, nearest
from alan.extras import third_party


@dataclass(frozen=True)
class Preset:
    """Parts of a preset.

    Attributes:
        geometry: Builds Kornia's transforms of image and mask.
        distortion: Draws sampling grids of image and mask for n images of a size, on a device; applied after the
            geometry.
        intensity: Builds Kornia's transforms of the image alone.
        appearance: Draws changes of appearance for n images of a size, on a device.
        in_sector: Whether noise is added only inside the ultrasound sector.
    """

    geometry: Callable[[Any], list[Any]] = lambda _: []
    distortion: Callable[[int, int, torch.device], Tensor] | None = None
    intensity: Callable[[Any], list[Any]] = lambda _: []
    appearance: Callable[[int, int, torch.device], Appearance] | None = None
    in_sector: bool = False


def _uniform(low: float, high: float, n: int | tuple[int, ...], device: torch.device) -> Tensor:
    return torch.empty(n, device=device).uniform_(low, high)


def _distort(n: int, size: int, device: torch.device) -> Tensor:
    """Draw one distortion for a fifth of the images: lens, grid or piecewise affine, as 3 : 1 : 3."""
    kind = torch.multinomial(torch.tensor([28.0, 3.0, 1.0, 3.0], device=device), n, replacement=True)
    lens = torch.where(kind == 1, _uniform(-0.05, 0.05, n, device), 0.0)  # a lens of 0 changes nothing
    widths = _uniform(0.7, 1.3, (n, 2, 5), device)
    shifts = 2 * _uniform(0.03, 0.05, (n, 1, 1, 1), device) * torch.randn(n, 4, 4, 2, device=device)
    grids = [optical_distortion(lens, size), grid_distortion(widths, size), piecewise_affine(shifts, size)]
    return torch.stack(grids)[(kind - 1).clamp(min=0), torch.arange(n, device=device)]


def _jitter(n: int, size: int, device: torch.device) -> Appearance:
    """Draw factors of brightness and contrast from 0.75 to 1.25."""
    return Appearance(
        brightness=_uniform(0.75, 1.25, n, device),
        contrast=_uniform(0.75, 1.25, n, device),
    )


def _echo(n: int, size: int, device: torch.device) -> Appearance:
    """Draw gamma, a smooth gain field, blur for half of the images, and noise."""
    blurred = torch.rand(n, device=device) < 0.5
    strength = _uniform(0, 0.1, n, device)[:, None, None]
    return Appearance(
        gamma=_uniform(-0.7, 0.7, n, device).exp(),
        field=0.35 * torch.randn(n, FIELD, FIELD, device=device),
        blur=torch.where(blurred, _uniform(0.2, 1.2, n, device), 0.0),
        noise=strength * torch.randn(n, size, size, device=device),
    )


def _scanner(n: int, size: int, device: torch.device) -> Appearance:
    """Draw brightness, contrast and gamma, blur for a third of the images, and noise for a third."""
    blurred, noisy = torch.rand(2, n, device=device) < 1 / 3
    strength = torch.where(noisy, _uniform(0, 0.08, n, device), 0.0)[:, None, None]
    return Appearance(
        brightness=_uniform(0.75, 1.25, n, device),
        contrast=_uniform(0.75, 1.25, n, device),
        gamma=_uniform(-0.4, 0.4, n, device).exp(),
        field=0.15 * torch.randn(n, FIELD, FIELD, device=device),
        blur=torch.where(blurred, _uniform(0.4, 1.5, n, device), 0.0),  # a low resolution, too
        noise=strength * torch.randn(n, size, size, device=device),
    )


#: Mapping from name to preset; the documentation lists how each differs from its paper.
PRESETS = {
    "none": Preset(),
    "unet_acdc": Preset(
        lambda K: [K.RandomRotation(30.0, p=1.0), K.RandomHorizontalFlip(p=0.5), K.RandomVerticalFlip(p=0.1)],
    ),
    "ensemble_acdc": Preset(
        lambda K: [
            K.RandomRotation90((1, 1), p=0.15),
            K.RandomRotation90((-1, -1), p=0.15),
            K.RandomHorizontalFlip(p=0.15),
            K.RandomVerticalFlip(p=0.15),
        ],
        intensity=lambda K: [K.RandomGaussianNoise(std=0.05, p=0.15)],
    ),
    "ednas": Preset(
        lambda K: [
            K.RandomRotation90((-1, 2), p=0.5),
            K.RandomRotation(30.0, p=0.5),
            K.RandomHorizontalFlip(p=0.5),
            K.RandomVerticalFlip(p=0.5),
        ],
        _distort,
        lambda K: [
            K.RandomGaussianNoise(std=0.05, p=0.2),
            K.RandomMotionBlur(5, 180.0, 0.5, p=0.1),
            K.RandomMedianBlur((3, 3), p=0.1),
            K.RandomBoxBlur((3, 3), p=0.1),
            K.RandomClahe((1.0, 4.0), p=0.2),
            K.RandomBrightness((0.8, 1.2), p=0.3),
            K.RandomContrast((0.8, 1.2), p=0.3),
        ],
    ),
    "cardiac_mr": Preset(
        lambda K: [
            K.RandomAffine(30.0, translate=(0.06, 0.06), scale=(0.75, 1.3, 0.75, 1.3), p=1.0),
            K.RandomThinPlateSpline(scale=0.08, p=0.4),
        ],
        appearance=_scanner,
    ),
    "segformer": Preset(appearance=_jitter),
    "echo": Preset(
        lambda K: [
            K.RandomAffine(10.0, translate=(0.05, 0.05), scale=(0.85, 1.2, 0.85, 1.2), p=1.0),
            K.RandomThinPlateSpline(scale=0.08, p=0.5),
        ],
        appearance=_echo,
        in_sector=True,
    ),
}


class Augmentation:
    """Change a batch of images and label maps together.

    Random numbers come from torch's global generators; call it in :func:`alan.seeding.seeded`, so that the changes
    of a step depend on its number alone. Each label is transformed as a membership image, and each pixel takes the
    largest membership, so that labels stay integers under any transform. Pixels from outside the image are black
    and background.

    Args:
        preset: Name of a preset in :data:`PRESETS`.
        labels: Number of label values, background included.

    Raises:
        ParameterError: The preset is unknown.
        ConfigError: Kornia is not installed.
    """

    def __init__(self, preset: str, labels: int) -> None:
        if preset not in PRESETS:
            raise ParameterError(f"unknown augmentation {preset!r}: {nearest(preset, PRESETS)}")
        self.labels = labels
        self._preset = PRESETS[preset]
        kornia = third_party("kornia.augmentation")
        geometry, intensity = self._preset.geometry(kornia), self._preset.intensity(kornia)
        self._geometry = kornia.AugmentationSequential(*geometry, data_keys=["input"]) if geometry else None
        self._intensity = kornia.AugmentationSequential(*intensity, data_keys=["input"]) if intensity else None

    @torch.no_grad()
    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Draw and apply the changes.

        Args:
            images: (B, 1, S, S) grey values in 0..1.
            labels: (B, S, S) integers below the number of labels.

        Returns:
            Images and labels of the same shapes and dtypes.
        """
        if self._geometry is not None:
            members = F.one_hot(labels.long(), self.labels).movedim(-1, 1).to(images.dtype)  # (B, L, S, S)
            planes = self._geometry(torch.cat([images, members], 1))  # as channels of one picture
            if self._preset.distortion is not None:
                planes = warp(planes, self._preset.distortion(len(planes), planes.shape[-1], planes.device))
            images, labels = planes[:, :1], planes[:, 1:].argmax(1).to(labels.dtype)
        if self._intensity is not None:
            images = self._intensity(images)
        if self._preset.appearance is not None:
            draw = self._preset.appearance(len(images), images.shape[-1], images.device)
            sector = sector_mask(images) if self._preset.in_sector else None
            images = change_appearance(images, draw, sector)
        return images.clamp(0, 1), labels
