"""Multi-crop augmentation of DINO, batched on tensors on the device of the frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from alan.data.augmentation.appearance import FIELD, Appearance, change_appearance
from alan.errors import ParameterError


class Crops(NamedTuple):
    """Crops of one size.

    Attributes:
        images: (n, 1, s, s) float32 grey values in 0..1.
        boxes: (n, 4) scale x, scale y, centre x, centre y: the crop's point p in -1..1 lies at scale p + centre of
            the frame, both measured from edge to edge; a negative scale is a mirrored crop.
        sector: (n, 1, s, s) bool, or None where no sector was given.
    """

    images: Tensor
    boxes: Tensor
    sector: Tensor | None


class Views(NamedTuple):
    """All crops of a batch of B frames, crop by crop: crop c of frame b is row ``c B + b``."""

    globals: Crops
    locals: Crops | None


class CropDraw(NamedTuple):
    """Random numbers of n crops: their boxes (n, 4) and their appearance."""

    boxes: Tensor
    appearance: Appearance

    def rows(self, index: slice | Tensor) -> CropDraw:
        """Random numbers of some of the crops."""
        return CropDraw(self.boxes[index], self.appearance[index])


@dataclass(frozen=True)
class MultiCrop:
    """Two global crops and some local ones of every frame; the default is the published set.

    A probability or strength of 0 switches a change off. ``blur`` and ``solarise`` have a probability for each of
    first global, second global, local crop.

    Attributes:
        global_size: side of a global crop in pixels.
        local_size: side of a local crop in pixels (the published 96 of 224 at 112).
        n_local: local crops of a frame.
        global_scale: range of the area of a global crop, as a share of the frame.
        local_scale: the same of a local crop.
        ratio: range of width over height.
        flip: probability of a horizontal flip (in echo left and right carry meaning).
        jitter: probability of brightness and contrast jitter.
        brightness: factor drawn from 1 - b to 1 + b.
        contrast: factor drawn from 1 - c to 1 + c.
        blur: probabilities of a Gaussian blur.
        blur_sigma: range of its standard deviation in pixels of the crop.
        solarise: probabilities of solarisation.
        gamma: grey values to the power exp(u), u from -gamma to gamma; echo set, 0 in the published one.
        field: standard deviation of the logarithm of a smooth gain field; echo set.
        noise: largest standard deviation of added noise (grey values 0..1); echo set.
    """

    global_size: int = 112
    local_size: int = 48
    n_local: int = 8
    global_scale: tuple[float, float] = (0.4, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.4)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarise: tuple[float, float, float] = (0.0, 0.2, 0.0)
    gamma: float = 0.0
    field: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        probabilities = (self.flip, self.jitter, *self.blur, *self.solarise)
        if any(not 0 <= p <= 1 for p in probabilities):
            raise ParameterError(
                f"a probability in {probabilities} is outside 0..1 (flip, jitter, blur, solarise)"
            )
        for name in ("global_scale", "local_scale", "ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high or (name.endswith("scale") and high > 1):
                bound = "0 < low <= high <= 1" if name.endswith("scale") else "0 < low <= high"
                raise ParameterError(f"{name} is ({low}, {high}): it must keep {bound}")
        for name in ("brightness", "contrast", "gamma", "field", "noise", "n_local"):
            if getattr(self, name) < 0:
                raise ParameterError(f"{name} is {getattr(self, name)}: it must not be negative")

    def __call__(self, frames: Tensor, generator: torch.Generator, sector: Tensor | None = None) -> Views:
        """Draw and cut all crops of a batch.

        Args:
            frames: (B, H, W) uint8.
            generator: source of all random numbers, on the device of the frames.
            sector: (B, H, W) bool, cut along with the frames; without it noise goes everywhere.
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
        """Draw the random numbers of n crops.

        The box's width and height are cut to the frame's where a ratio does not fit, instead of drawing again.

        Args:
            n: number of crops.
            kind: 0 first global, 1 second global, 2 local.
            generator: source of the random numbers.
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

        Bilinear; where the largest crop has to shrink by a factor, that many samples a side are averaged for each
        pixel, so that crops look like frames resized with antialiasing.

        Args:
            frames: (n, H, W) uint8.
            draw: the random numbers of the n crops.
            size: side of a crop in pixels.
            scale: range of the area, which says how much a crop may shrink.
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
    """Coordinates in the frame of a crop's pixel centres (or of its patches, with ``size`` patches a side).

    Args:
        boxes: (n, 4) as in :class:`Crops`.
        size: points along one side.

    Returns:
        (n, size, size, 2) x, y in -1..1 from edge to edge of the frame.
    """
    centres = (torch.arange(size, device=boxes.device, dtype=boxes.dtype) * 2 + 1) / size - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x, y], -1) * boxes[:, None, None, :2] + boxes[:, None, None, 2:]
