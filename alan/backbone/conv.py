"""A small convolutional network for dense features: its specification, and the network built from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alan.backbone.normalise import Normalisation
from alan.errors import ParameterError, nearest

#: A level by its number, or the taught outputs.
Level = int | Literal["targets"]
#: Name to (widths of the levels, stem stride).
CONV_PRESETS = {
    "conv_small": ((16, 32, 64, 128), 1),
    "conv_base": ((32, 64, 128, 192), 2),
}


@dataclass(frozen=True)
class ConvSpec:
    """All that is needed to build the network, to feed it and to read features off it.

    Level 0 is the decoder's last map, at 1 / ``stem_stride`` of the image, level i one 2^i times as small; the
    last level, the bottleneck, is the deepest map of the encoder.

    Attributes:
        image_size: side of the training image in pixels, a multiple of ``stem_stride * 2 ** (len(widths) - 1)``.
        widths: channels of each level from the top, the bottleneck last; two or more.
        stem_stride: 1, or 2 for a first 5 x 5 convolution that halves the image: more channels for the same time.
        in_chans: 1 or 3 (grey repeated).
        normalisation: see :func:`alan.backbone.normalise.normalise`.
        feature_levels: levels whose maps, side by side, are the features of a token, and ``targets`` for the
            taught outputs (tissue probabilities, distances, coordinates). None: the taught outputs alone, or
            without structures all levels that are no finer than the tokens, from the bottleneck up.
        token_stride: default distance of two tokens in pixels; a divisor of ``image_size``.
        structures: names of the structures that the network was taught to find; it then has a last layer of
            ``2 C + 3`` outputs a pixel of level 0: C + 1 tissue logits (background first), C distances, and two
            coordinates.
    """

    image_size: int = 112
    widths: tuple[int, ...] = (16, 32, 64, 128)
    stem_stride: int = 1
    in_chans: int = 1
    normalisation: Normalisation = "sector"
    feature_levels: tuple[Level, ...] | None = None
    token_stride: int = 2
    structures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("widths", "structures"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.feature_levels is not None:
            object.__setattr__(self, "feature_levels", tuple(self.feature_levels))
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise ParameterError(f"widths are {self.widths}: give two or more, each 1 or more")
        if self.in_chans not in (1, 3):
            raise ParameterError(f"in_chans is {self.in_chans}: it must be 1 or 3 (grey repeated)")
        if self.normalisation not in get_args(Normalisation):
            raise ParameterError(
                f"unknown normalisation {self.normalisation!r}: "
                f"{nearest(self.normalisation, get_args(Normalisation))}"
            )
        if self.stem_stride not in (1, 2):
            raise ParameterError(f"stem_stride is {self.stem_stride}: it must be 1 or 2")
        check_token_stride(self.image_size, self.token_stride)
        self._check_levels()
        check_conv_size(self.image_size, self.multiple)

    def _check_levels(self) -> None:
        levels, last = self.levels, len(self.widths) - 1
        known = {*range(last + 1), "targets"}
        if not levels or len(set(levels)) < len(levels) or not set(levels) <= known:
            raise ParameterError(
                f"feature_levels are {levels}: name each once, out of 0 (the finest) to {last} and 'targets'"
            )

    @property
    def levels(self) -> tuple[Level, ...]:
        """What the features are made of, see ``feature_levels``."""
        if self.feature_levels is not None:
            return self.feature_levels
        if self.structures:
            return ("targets",)
        fits = (level for level in range(len(self.widths)) if self.stem_stride << level >= self.token_stride)
        return tuple(fits)[::-1]

    @property
    def multiple(self) -> int:
        """Sides of an image must be multiples of it."""
        return int(self.stem_stride * 2 ** (len(self.widths) - 1))

    @property
    def dim(self) -> int:
        """Width of a token: the channels of what its features are made of."""
        return sum(self.n_outputs if level == "targets" else self.widths[level] for level in self.levels)

    @property
    def n_outputs(self) -> int:
        """Channels of the taught outputs, 0 without structures."""
        return 2 * len(self.structures) + 3 if self.structures else 0

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, for JSON."""
        return {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(self).items()}


def check_conv_size(size: int, multiple: int, name: str = "image size") -> None:
    """Refuse an image size that the levels do not halve evenly.

    Raises:
        ParameterError: with the nearest sizes that would work.
    """
    if size % multiple or size < multiple:
        below = size // multiple * multiple
        works = f"{below} or {below + multiple}" if below else str(multiple)
        raise ParameterError(f"{name} {size} is not a multiple of {multiple}, as the levels ask: use {works}")


def check_token_stride(size: int, stride: int) -> None:
    """Refuse a distance of tokens that does not divide the image.

    Raises:
        ParameterError: with the strides that would work.
    """
    works = [s for s in range(1, min(size, 16) + 1) if size % s == 0]
    if stride < 1 or size % stride:
        raise ParameterError(f"stride {stride} does not divide the image size {size}: use one of {works}")


def named_conv_spec(name: str, **changes: Any) -> ConvSpec:
    """Specification by name, see :data:`CONV_PRESETS`.

    Args:
        name: ``conv_small`` and the like.
        **changes: fields of :class:`ConvSpec` to set.

    Raises:
        ParameterError: the name is unknown.
    """
    if name not in CONV_PRESETS:
        raise ParameterError(f"unknown network {name!r}: {nearest(name, CONV_PRESETS)}")
    widths, stem_stride = CONV_PRESETS[name]
    return replace(ConvSpec(widths=widths, stem_stride=stem_stride), **changes)


class ConvBlock(nn.Sequential):
    """Twice: 3 x 3 convolution without bias, batch norm, ReLU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )


class ConvNet(nn.Module):
    """Encoder with max pooling, decoder with bilinear upsampling, and skips: a U-Net.

    Its weights lie channels last, in which CPUs convolve faster.

    Source: Ronneberger et al. 2015, figure 1, with batch norm, padded convolutions and bilinear upsampling.
    """

    def __init__(self, spec: ConvSpec) -> None:
        super().__init__()
        w, channels = spec.widths, spec.in_chans
        self.n_structures = len(spec.structures)
        self.stem: nn.Module = nn.Identity()
        if spec.stem_stride == 2:
            first = nn.Conv2d(channels, w[0], 5, stride=2, padding=2, bias=False)
            self.stem, channels = nn.Sequential(first, nn.BatchNorm2d(w[0]), nn.ReLU(inplace=True)), w[0]
        self.encoder = nn.ModuleList(ConvBlock(a, b) for a, b in zip((channels, *w[:-1]), w, strict=True))
        self.decoder = nn.ModuleList(ConvBlock(w[i] + w[i - 1], w[i - 1]) for i in range(len(w) - 1, 0, -1))
        self.outputs = nn.Conv2d(w[0], spec.n_outputs, 1) if spec.structures else nn.Identity()
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised images (B, in_chans, H, W) to the maps of all levels.

        Returns:
            Level i at place i: (B, widths[i], h / 2^i, w / 2^i), h x w the image over the stem's stride; the last
            is the bottleneck.
        """
        skips: list[Tensor] = []
        x = self.stem(images)
        for block in self.encoder:
            x = block(F.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        maps = [skips.pop()]
        for block in self.decoder:
            skip = skips.pop()
            up = F.interpolate(maps[0], skip.shape[-2:], mode="bilinear", align_corners=False)
            maps.insert(0, block(torch.cat([up, skip], 1)))
        return maps

    def taught(self, maps: list[Tensor]) -> Tensor:
        """Taught outputs (B, 2 C + 3, h, w) out of the maps: tissue probabilities, distances, coordinates."""
        raw = self.outputs(maps[0]).float()
        tissue = self.n_structures + 1
        return torch.cat([raw[:, :tissue].softmax(1), raw[:, tissue:]], 1)


def seeded_conv(spec: ConvSpec, seed: int) -> ConvNet:
    """Build the network from a seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConvNet(spec)
