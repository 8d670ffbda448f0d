"""Multi-crop augmentation of DINO, batched on tensors on the device of the frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor

from alan.bounds import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Share,
    bounded,
    check_ascending,
)
from alan.data.augmentation.appearance import FIELD, Appearance, change_appearance


class Crops(NamedTuple):
    """Crops of one size.

    Attributes:
        images: (n, 1, s, s) float32, grey values in 0..1.
        boxes: (n, 4) scale x, scale y, centre x, centre y: the point p of the crop (-1..1 from edge to edge) lies
            at scale * p + centre of the frame; a negative scale mirrors the crop.
        sector: (n, 1, s, s) bool, or None without a sector.
    """

    images: Tensor
    boxes: Tensor
    sector: Tensor | None


class Views(NamedTuple):
    """All crops of a batch of B frames: crop c of frame b is row ``c * B + b``."""

    globals: Crops
    locals: Crops | None


class CropDraw(NamedTuple):
    """Random parameters of n crops: boxes (n, 4) and appearance."""

    boxes: Tensor
    appearance: Appearance

    def rows(self, index: slice | Tensor) -> CropDraw:
        """Return the parameters of the selected crops."""
        return CropDraw(self.boxes[index], self.appearance[index])


#: Area of a crop as a fraction of the frame.
_Area = Annotated[float, Interval(gt=0, le=1)]


@bounded
@dataclass(frozen=True)
class MultiCrop:
    """Two global crops and several local crops of every frame; the defaults are those of DINO.

    A probability or strength of 0 disables a change. ``blur`` and ``solarise`` have one probability each for the
    first global, the second global and the local crops.

    Attributes:
        global_size: Side of a global crop in pixels.
        local_size: Side of a local crop in pixels; 48 of 112 corresponds to the published 96 of 224.
        n_local: Local crops per frame.
        global_scale: Range of the area of a global crop, as a fraction of the frame.
        local_scale: Range of the area of a local crop, as a fraction of the frame.
        ratio: Range of the aspect ratio, width over height.
        flip: Probability of a horizontal flip; left and right carry meaning in echocardiography.
        jitter: Probability of brightness and contrast jitter.
        brightness: Strength b of the brightness jitter; the factor is drawn from 1 - b to 1 + b.
        contrast: Strength c of the contrast jitter; the factor is drawn from 1 - c to 1 + c.
        blur: Probabilities of a Gaussian blur.
        blur_sigma: Range of the standard deviation of the blur in pixels of the crop.
        solarise: Probabilities of solarisation.
        gamma: Maximum of the absolute logarithm of the exponent applied to the grey values; not part of DINO.
        field: Standard deviation of the logarithm of a smooth gain field; not part of DINO.
        noise: Maximum standard deviation of added noise, for grey values in 0..1; not part of DINO.
    """

    global_size: PositiveInt = 112
    local_size: PositiveInt = 48
    n_local: NonNegativeInt = 8
    global_scale: tuple[_Area, _Area] = (0.4, 1.0)
    local_scale: tuple[_Area, _Area] = (0.05, 0.4)
    ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    flip: Share = 0.5
    jitter: Share = 0.8
    brightness: NonNegativeFloat = 0.4
    contrast: NonNegativeFloat = 0.4
    blur: tuple[Share, Share, Share] = (1.0, 0.1, 0.5)
    blur_sigma: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)
    solarise: tuple[Share, Share, Share] = (0.0, 0.2, 0.0)
    gamma: NonNegativeFloat = 0.0
    field: NonNegativeFloat = 0.0
    noise: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        for name in ("global_scale", "local_scale", "ratio", "blur_sigma"):
            check_ascending(name, getattr(self, name))

    def __call__(self, frames: Tensor, generator: torch.Generator, sector: Tensor | None = None) -> Views:
        """Draw and cut all crops of a batch.

        Args:
            frames: (B, H, W) uint8.
            generator: Random number generator on the device of the frames.
            sector: (B, H, W) bool, cropped like the frames; restricts the noise to the sector.
        """
        n = len(frames)
        draws = [self.draw(n, kind, generator) for kind in (0, 1)]
        pairs = [self.cut(frames, draw, self.global_size, self.global_scale, sector) for draw in draws]
        both = Crops(
            torch.cat([pair.images for pair in pairs]),
            torch.cat([pair.boxes for pair in pairs]),
            None if sector is None else torch.cat([pair.sector for pair in pairs if pair.sector is not None]),
        )
        if not self.n_local:
            return Views(both, None)
        draw = self.draw(n * self.n_local, 2, generator)
        frames = frames.repeat(self.n_local, 1, 1)
        sector = None if sector is None else sector.repeat(self.n_local, 1, 1)
        return Views(both, self.cut(frames, draw, self.local_size, self.local_scale, sector))

    def draw(self, n: int, kind: int, generator: torch.Generator) -> CropDraw:
        """Draw the parameters of n crops.

        Where an aspect ratio does not fit, width and height are clamped to the frame instead of being drawn again.

        Args:
            n: Number of crops.
            kind: 0 for the first global crop, 1 for the second, 2 for local crops.
            generator: Random number generator.
        """

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(n, *shape, generator=generator, device=generator.device)

        def happens(probability: float) -> Tensor:
            return uniform(0, 1) < probability

        def normal(*shape: int) -> Tensor:
            return torch.randn(n, *shape, generator=generator, device=generator.device)

        area = uniform(*(self.local_scale if kind == 2 else self.global_scale))
        ratio = uniform(math.log(self.ratio[0]), math.log(self.ratio[1])).exp()
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        x, y = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
        if self.flip:
            width = torch.where(happens(self.flip), -width, width)
        size = self.local_size if kind == 2 else self.global_size
        jitter = happens(self.jitter) if self.jitter else None
        factors = [
            torch.where(jitter, uniform(max(0.0, 1 - strength), 1 + strength), 1.0)
            if jitter is not None and strength
            else None
            for strength in (self.brightness, self.contrast)
        ]
        blur = torch.where(happens(self.blur[kind]), uniform(*self.blur_sigma), 0.0) if self.blur[kind] else None
        appearance = Appearance(
            brightness=factors[0],
            contrast=factors[1],
            gamma=uniform(-self.gamma, self.gamma).exp() if self.gamma else None,
            field=normal(FIELD, FIELD) * self.field if self.field else None,
            blur=blur,
            solarise=happens(self.solarise[kind]) if self.solarise[kind] else None,
            noise=normal(size, size) * uniform(0, self.noise, 1, 1) if self.noise else None,
        )
        return CropDraw(torch.stack([width, height, x, y], 1), appearance)

    def cut(
        self, frames: Tensor, draw: CropDraw, size: int, scale: tuple[float, float], sector: Tensor | None = None
    ) -> Crops:
        """Cut crops out of frames and change their appearance.

        Sampling is bilinear. If the largest crop shrinks by a factor, that many samples per side are averaged for
        each pixel, so that crops look like frames resized with antialiasing.

        Args:
            frames: (n, H, W) uint8.
            draw: Parameters of the n crops.
            size: Side of a crop in pixels.
            scale: Range of the area, which determines how much a crop may shrink.
            sector: (n, H, W) bool or None.
        """
        planes = frames[:, None].float() / 255
        if sector is not None:
            planes = torch.cat([planes, sector[:, None].to(planes.dtype)], 1)
        factor = max(1, round(math.sqrt(scale[1]) * frames.shape[-1] / size))
        planes = F.grid_sample(
            planes, crop_grid(draw.boxes, size * factor), padding_mode="border", align_corners=False
        )
        if factor > 1:
            planes = F.avg_pool2d(planes, factor)
        inside = None if sector is None else planes[:, 1:] > 0.5
        return Crops(change_appearance(planes[:, :1], draw.appearance, inside), draw.boxes, inside)


def crop_grid(boxes: Tensor, size: int) -> Tensor:
    """Locate in the frame the pixel centres of a crop (or of its patches, with ``size`` patches per side).

    Args:
        boxes: (n, 4) as in :class:`Crops`.
        size: Points along one side.

    Returns:
        (n, size, size, 2) x, y in -1..1 from edge to edge of the frame.
    """
    centres = (torch.arange(size, device=boxes.device, dtype=boxes.dtype) * 2 + 1) / size - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x, y], -1) * boxes[:, None, None, :2] + boxes[:, None, None, 2:]
