"""Joint augmentation of frames and dense targets, batched on the device of the frames."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from alan.bounds import NonNegativeFloat, PositiveFloat, Share, bounded, check_ascending
from alan.data.augmentation.appearance import FIELD, Appearance, change_appearance
from alan.data.sector import sector_mask

#: Nodes of the elastic field along one side; interpolated bicubically.
NODES = 5
#: Nodes of the dropout field along one side; signal is lost where the field exceeds 1 standard deviation.
_BLOTCHES = 7


@bounded
@dataclass(frozen=True)
class DenseAugmentation:
    """Strengths of geometric and appearance changes; 0 disables a change.

    Parameters are drawn per frame: from normal distributions with these standard deviations for geometry and for
    the gain field, from uniform distributions up to these maxima for the other changes of appearance.

    Attributes:
        rotation: Standard deviation of the rotation in radians.
        scale: Standard deviation of the relative scale.
        stretch: Standard deviation of the logarithm of width over height.
        shift: Standard deviation of the shift along each axis, in half images.
        elastic: Standard deviation of the displacement of the nodes of a 5 x 5 elastic field, in half images.
        gamma: Maximum of the absolute logarithm of the exponent applied to the grey values.
        field: Standard deviation of the logarithm of a smooth gain field.
        blur: Probability of a Gaussian blur.
        blur_sigma: Range of the standard deviation of the blur in pixels.
        noise: Maximum standard deviation of white noise inside the sector.
        speckle: Maximum standard deviation of the logarithm of a gain that varies every two pixels.
        dropout: Maximum loss of signal in dark patches, as a fraction of the grey value.
    """

    rotation: NonNegativeFloat = 0.15
    scale: NonNegativeFloat = 0.12
    stretch: NonNegativeFloat = 0.1
    shift: NonNegativeFloat = 0.1
    elastic: NonNegativeFloat = 0.04
    gamma: NonNegativeFloat = 0.9
    field: NonNegativeFloat = 0.5
    blur: Share = 0.5
    blur_sigma: tuple[PositiveFloat, PositiveFloat] = (0.2, 1.2)
    noise: NonNegativeFloat = 0.12
    speckle: NonNegativeFloat = 0.35
    dropout: Share = 0.85

    def __post_init__(self) -> None:
        check_ascending("blur_sigma", self.blur_sigma)

    def scaled(self, strength: float) -> DenseAugmentation:
        """Multiply all changes by a strength from 0 to 1; the range of the blur stays."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "blur_sigma"}
        return replace(self, **{name: strength * value for name, value in values.items()})

    def draw_grid(self, n: int, size: int, generator: torch.Generator) -> Tensor:
        """Draw the sampling grid of n augmented frames.

        Args:
            n: Number of frames.
            size: Side of a frame in pixels.
            generator: Random number generator on the target device.

        Returns:
            (n, size, size, 2) float32 x, y in -1..1 from edge to edge, for ``F.grid_sample``.
        """

        def normal(*shape: int) -> Tensor:
            return torch.randn(n, *shape, generator=generator, device=generator.device)

        angle, scale, stretch = (
            normal() * self.rotation,
            1 + normal() * self.scale,
            (normal() * self.stretch).exp(),
        )
        shift = normal(2) * self.shift
        scale = scale.clamp(min=0.2)
        cos, sin = angle.cos(), angle.sin()
        matrix = torch.stack(
            [
                torch.stack([scale * stretch * cos, -scale * sin, shift[:, 0]], 1),
                torch.stack([scale * sin, scale / stretch * cos, shift[:, 1]], 1),
            ],
            1,
        )
        grid = F.affine_grid(matrix, [n, 1, size, size], align_corners=False)
        if self.elastic:
            nodes = normal(2, NODES, NODES) * self.elastic
            grid = grid + F.interpolate(nodes, (size, size), mode="bicubic", align_corners=False).permute(
                0, 2, 3, 1
            )
        return grid

    def draw_appearance(self, n: int, size: int, generator: torch.Generator) -> Appearance:
        """Draw the appearance parameters of n frames; ``size`` is their side in pixels."""

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(n, *shape, generator=generator, device=generator.device)

        def normal(*shape: int) -> Tensor:
            return torch.randn(n, *shape, generator=generator, device=generator.device)

        blurred = torch.where(uniform(0, 1) < self.blur, uniform(*self.blur_sigma), 0.0) if self.blur else None
        return Appearance(
            gamma=uniform(-self.gamma, self.gamma).exp() if self.gamma else None,
            field=normal(FIELD, FIELD) * self.field if self.field else None,
            blur=blurred,
            noise=normal(size, size) * uniform(0, self.noise, 1, 1) if self.noise else None,
        )

    def change(self, images: Tensor, sector: Tensor, generator: torch.Generator) -> Tensor:
        """Change the appearance of images (n, 1, s, s) in 0..1; blank the outside of ``sector`` (same shape)."""
        n, size = len(images), images.shape[-1]
        changed = change_appearance(images, self.draw_appearance(n, size, generator), sector)
        return (changed * self._gain(n, size, generator)).clamp(max=1) * sector

    def augment(self, frames: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Warp frames and change their appearance.

        Args:
            frames: (n, s, s) uint8.
            generator: Source of all random numbers, on the device of the frames.

        Returns:
            Frames (n, 1, s, s) float32 in 0..1, the ultrasound sector in them (n, 1, s, s) bool, and where each
            pixel comes from (n, s, s, 2).
        """
        grey = frames[:, None].float() / 255
        grid = self.draw_grid(len(frames), frames.shape[-1], generator)
        planes = warp(torch.cat([grey, sector_mask(grey).float()], 1), grid)
        sector = planes[:, 1:] > 0.5
        return self.change(planes[:, :1], sector, generator), sector, grid

    def _gain(self, n: int, size: int, generator: torch.Generator) -> Tensor:
        """Draw the factor (n, 1, size, size) of speckle and signal dropout."""

        def strength(most: float) -> Tensor:
            """Draw the strength of each frame: 0 for a third of the frames, uniform for the others."""
            draw = torch.rand(n, 1, 1, 1, generator=generator, device=generator.device)
            return most * (1.5 * draw - 0.5).clamp(min=0)

        def smooth(nodes: int, mode: str) -> Tensor:
            field = torch.randn(n, 1, nodes, nodes, generator=generator, device=generator.device)
            return F.interpolate(field, (size, size), mode=mode, align_corners=False)

        gain = torch.ones(n, 1, 1, 1, device=generator.device)
        if self.speckle:
            gain = gain * (smooth(max(1, size // 2), "bilinear") * strength(self.speckle)).exp()
        if self.dropout:
            gain = gain * (1 - strength(self.dropout) * torch.sigmoid(6 * (smooth(_BLOTCHES, "bicubic") - 1)))
        return gain


def warp(planes: Tensor, grid: Tensor) -> Tensor:
    """Sample planes (n, C, H, W) bilinearly at a grid (n, h, w, 2); 0 outside the image."""
    return F.grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def warp_labels(labels: Tensor, grid: Tensor) -> Tensor:
    """Sample label maps (n, H, W) at the nearest pixels of a grid (n, h, w, 2); 0 outside the image.

    Returns:
        (n, h, w), dtype as given.
    """
    planes = labels[:, None].float()
    nearest = F.grid_sample(planes, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return nearest[:, 0].to(labels.dtype)
