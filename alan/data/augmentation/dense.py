"""Augmentation of frames and their dense targets together, batched on the device of the frames."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from alan.data.augmentation.appearance import FIELD, Appearance, change_appearance
from alan.errors import ParameterError

#: Nodes of the elastic field along one side; bicubic between them.
NODES = 5
#: Nodes of the field of dark blotches; where it is above 1 standard deviation, signal is lost.
_BLOTCHES = 7


@dataclass(frozen=True)
class DenseAugmentation:
    """Strengths of the changes of place and of appearance; 0 leaves one out.

    Everything is drawn from a generator, for each frame anew: the strengths are standard deviations of normal
    numbers for changes of place, and largest values of uniform ones for changes of appearance (the field: normal).

    Attributes:
        rotation: in radians.
        scale: of the factor 1 + N.
        stretch: of the logarithm of width over height.
        shift: in half pictures, along each axis.
        elastic: displacement of the nodes of a 5 x 5 field, in half pictures.
        gamma: grey values to the power of exp(-gamma..gamma).
        field: logarithm of a gain that varies smoothly over the picture.
        blur: probability of a Gaussian blur.
        blur_sigma: range of its standard deviation in pixels.
        noise: white noise, of a standard deviation in 0..noise, inside the sector.
        speckle: logarithm of a gain that varies from one pair of pixels to the next, of a standard deviation in
            0..speckle.
        dropout: largest loss of signal in dark blotches, a share of the grey value.
    """

    rotation: float = 0.15
    scale: float = 0.12
    stretch: float = 0.1
    shift: float = 0.1
    elastic: float = 0.04
    gamma: float = 0.9
    field: float = 0.5
    blur: float = 0.5
    blur_sigma: tuple[float, float] = (0.2, 1.2)
    noise: float = 0.12
    speckle: float = 0.35
    dropout: float = 0.85

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name != "blur_sigma" and value < 0:
                raise ParameterError(f"{entry.name} is {value}: it must not be negative")
        for name in ("blur", "dropout"):
            if getattr(self, name) > 1:
                raise ParameterError(f"{name} is {getattr(self, name)}: it must be in 0..1")
        low, high = self.blur_sigma
        if not 0 < low <= high:
            raise ParameterError(f"blur_sigma is ({low}, {high}): it must keep 0 < low <= high")

    def draw_grid(self, n: int, size: int, generator: torch.Generator) -> Tensor:
        """Draw where each pixel of n augmented frames comes from.

        Args:
            n: frames.
            size: side of a frame in pixels.
            generator: source of the random numbers, on the device wanted.

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
        """Draw the changes of appearance of n frames of a side in pixels."""

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
        """Change the appearance of grey images (n, 1, s, s) in 0..1; black outside ``sector`` (the same, bool)."""
        n, size = len(images), images.shape[-1]
        changed = change_appearance(images, self.draw_appearance(n, size, generator), sector)
        return (changed * self._gain(n, size, generator)).clamp(max=1) * sector

    def _gain(self, n: int, size: int, generator: torch.Generator) -> Tensor:
        """Speckle and dark blotches as a factor (n, 1, size, size)."""

        def strength(most: float) -> Tensor:
            """Of each frame, uniform; nothing in a third of them."""
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
    """Sample planes (n, C, H, W) bilinearly at a grid (n, h, w, 2); 0 outside the picture."""
    return F.grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def warp_labels(labels: Tensor, grid: Tensor) -> Tensor:
    """Sample label maps (n, H, W) at the nearest pixels of a grid (n, h, w, 2); 0 outside the picture.

    Returns:
        (n, h, w), dtype as given.
    """
    planes = labels[:, None].float()
    nearest = F.grid_sample(planes, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return nearest[:, 0].to(labels.dtype)
