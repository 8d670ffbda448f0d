"""A small convolutional network for dense features: its specification, the network, and its locked form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from alan.backbone.base import Backbone, BackboneSpec, Features, Tokens, check_multiple
from alan.backbone.kinds import Normalisation
from alan.backbone.region_means import HEART, region_means
from alan.bounds import PositiveInt, bounded
from alan.errors import ParameterError

#: Number of a level, or ``targets`` for the network's own predictions.
FeatureLevel = int | Literal["targets"]
#: Mapping from name to (widths of the levels, stride of the stem).
CONV_PRESETS = {
    "conv_small": ((16, 32, 64, 128), 1),
    "conv_base": ((32, 64, 128, 192), 2),
}


@bounded
@dataclass(frozen=True)
class ConvSpec(BackboneSpec):
    """A small U-Net, and the choice of its maps that are the features.

    Level 0 is the decoder's last map, at 1 / ``stem_stride`` of the image size; level i is 2^i times as small. The
    last level, the bottleneck, is the deepest map of the encoder.

    Attributes:
        image_size: Side of the training images in pixels, a multiple of ``stem_stride * 2 ** (len(widths) - 1)``.
        widths: Channels of each level from the top, the bottleneck last; two or more.
        stem_stride: 1, or 2 for a first 5 x 5 convolution that halves the image: twice the channels for the same
            time.
        in_chans: Channels of the input, 1 or 3 (grey values repeated).
        normalisation: Normalisation of grey values, see :func:`alan.backbone.normalise.normalise`.
        feature_levels: Levels whose maps, side by side, are the features of a token; ``targets`` stands for the
            network's predictions (tissue probabilities, distances, coordinates). None uses the predictions alone,
            or without structures all levels that are no finer than the tokens, from the bottleneck up.
        token_stride: Default distance between two tokens in pixels, a divisor of ``image_size``.
        structures: Structures that the network was trained to find; it then has a last layer with ``2 C + 3``
            outputs per pixel of level 0: C + 1 tissue logits (background first), C distances and two coordinates.

    Raises:
        ParameterError: A value is out of range, or two do not go together.
    """

    kind: ClassVar[str] = "conv"
    apart: ClassVar[frozenset[str]] = frozenset({"feature_levels", "token_stride"})
    own_outputs: ClassVar[bool] = True

    image_size: PositiveInt = 112
    widths: tuple[PositiveInt, ...] = (16, 32, 64, 128)
    stem_stride: Literal[1, 2] = 1
    in_chans: Literal[1, 3] = 1
    normalisation: Normalisation = "sector"
    feature_levels: tuple[FeatureLevel, ...] | None = None
    token_stride: PositiveInt = 2
    structures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("widths", "structures"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.feature_levels is not None:
            object.__setattr__(self, "feature_levels", tuple(self.feature_levels))
        if len(self.widths) < 2:
            raise ParameterError(f"widths is {self.widths}: give two or more")
        _check_stride(self.image_size, self.token_stride)
        levels, last = self.levels, len(self.widths) - 1
        if not levels or len(set(levels)) < len(levels) or not {*levels} <= {*range(last + 1), "targets"}:
            raise ParameterError(
                f"feature_levels is {levels}: name each once, out of 0 (the finest) to {last} and 'targets'"
            )
        check_multiple(self.image_size, self.multiple, of="the coarsest scale")

    @property
    def levels(self) -> tuple[FeatureLevel, ...]:
        """Levels whose maps are the features, see ``feature_levels``."""
        if self.feature_levels is not None:
            return self.feature_levels
        if self.structures:
            return ("targets",)
        fits = (level for level in range(len(self.widths)) if self.stem_stride << level >= self.token_stride)
        return tuple(fits)[::-1]

    @property
    def multiple(self) -> int:
        """Number of pixels of which image sides must be multiples: the scale of the coarsest level."""
        return int(self.stem_stride * 2 ** (len(self.widths) - 1))

    @property
    def dim(self) -> int:
        """Width of a token: the sum of the channels of its levels."""
        return sum(self.n_outputs if level == "targets" else self.widths[level] for level in self.levels)

    @property
    def token_size(self) -> int:
        """Distance in pixels between two places of level 0."""
        return self.stem_stride

    @property
    def widths_of_tokens(self) -> tuple[int, int]:
        """Widths of the bottleneck and of level 0."""
        return self.widths[-1], self.widths[0]

    @property
    def n_outputs(self) -> int:
        """Channels of the network's predictions, 0 without structures."""
        return 2 * len(self.structures) + 3 if self.structures else 0

    def with_structures(self, structures: tuple[str, ...]) -> ConvSpec:
        """Return the specification with a last layer for the structures."""
        return replace(self, structures=structures)

    def build(self, drop_path: float = 0.0) -> ConvNet:
        """Build the network; it has no stochastic depth."""
        return ConvNet(self)

    def tokens(self, network: Any, images: Tensor) -> Tokens:
        """Compute the mean of the bottleneck and the map of level 0, with gradients."""
        maps = network(images)
        return Tokens(maps[-1].mean((2, 3)), maps[0].permute(0, 2, 3, 1))

    def lock(self, network: nn.Module, input_size: int | None = None, stride: int | None = None) -> ConvBackbone:
        """Freeze a network, see :class:`ConvBackbone`."""
        if not isinstance(network, ConvNet):
            raise ParameterError(f"a {type(network).__name__} does not fit a ConvSpec")
        return ConvBackbone(network, self, input_size, stride)

    @classmethod
    def from_weights(cls, tensors: Mapping[str, Tensor], origin: str, known: Mapping[str, Any]) -> ConvSpec | None:
        """Return None: files of this type always contain their specification."""
        return None

    @classmethod
    def parse_name(cls, name: str) -> dict[str, Any] | None:
        """Return the fields of a preset such as ``conv_small``."""
        if name not in CONV_PRESETS:
            return None
        widths, stem_stride = CONV_PRESETS[name]
        return {"widths": widths, "stem_stride": stem_stride}

    @classmethod
    def names(cls) -> list[str]:
        """List the presets."""
        return list(CONV_PRESETS)


def _check_stride(size: int, stride: int) -> None:
    """Refuse a distance between tokens that does not divide the image."""
    works = [s for s in range(1, min(size, 16) + 1) if size % s == 0]
    if stride < 1 or size % stride:
        raise ParameterError(f"stride {stride} does not divide the image size {size}: use one of {works}")


class ConvBlock(nn.Sequential):
    """Two 3 x 3 convolutions without bias, each with batch norm and ReLU."""

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

    Weights are stored channels last, the layout in which CPUs convolve faster.

    Source: Ronneberger et al. 2015, figure 1, with batch norm, padded convolutions and bilinear upsampling.
    """

    def __init__(self, spec: ConvSpec) -> None:
        super().__init__()
        w = spec.widths
        channels: int = spec.in_chans
        self.n_structures = len(spec.structures)
        self.stem: nn.Module = nn.Identity()
        if spec.stem_stride == 2:
            first = nn.Conv2d(channels, w[0], 5, stride=2, padding=2, bias=False)
            self.stem = nn.Sequential(first, nn.BatchNorm2d(w[0]), nn.ReLU(inplace=True))
            channels = w[0]
        self.encoder = nn.ModuleList(ConvBlock(a, b) for a, b in zip((channels, *w[:-1]), w, strict=True))
        self.decoder = nn.ModuleList(ConvBlock(w[i] + w[i - 1], w[i - 1]) for i in range(len(w) - 1, 0, -1))
        self.outputs = nn.Conv2d(w[0], spec.n_outputs, 1) if spec.structures else nn.Identity()
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the maps of all levels of normalised images (B, in_chans, H, W).

        Returns:
            One map per level: level i is (B, widths[i], h / 2^i, w / 2^i), where h x w is the image size over the
            stride of the stem; the last one is the bottleneck.
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

    def predictions(self, maps: list[Tensor]) -> Tensor:
        """Compute tissue probabilities, distances and coordinates (B, 2 C + 3, h, w) from the maps."""
        raw = self.outputs(maps[0]).float()
        tissue = self.n_structures + 1
        return torch.cat([raw[:, :tissue].softmax(1), raw[:, tissue:]], 1)


class ConvBackbone(Backbone):
    """A frozen convolutional network: maps of several levels, resized bilinearly to one grid, side by side.

    The features of a token are those of ``spec.levels``, in that order; ``cls`` is the mean over the tokens inside
    the ultrasound sector (over all tokens for a frame without one).

    Args:
        network: The network; it is frozen in place.
        spec: Its specification.
        input_size: Side in pixels to which frames are resized; None uses the size of the training images.
        stride: Distance between two tokens in pixels, a divisor of the input size; None uses
            ``spec.token_stride``.

    Raises:
        ParameterError: An input size that the levels do not halve evenly, a stride that does not divide it, or
            predictions as features of a network that makes none.
    """

    spec: ConvSpec

    def __init__(
        self, network: ConvNet, spec: ConvSpec, input_size: int | None = None, stride: int | None = None
    ) -> None:
        if "targets" in spec.levels and not spec.structures:
            raise ParameterError(
                "feature_levels has 'targets', but a network without structures makes no predictions: leave it out"
            )
        settings = {"kind": "conv", "normalisation": spec.normalisation, "levels": list(spec.levels)}
        super().__init__(network, spec, input_size, spec.token_stride if stride is None else stride, settings)
        check_multiple(self.input_size, spec.multiple, of="the coarsest scale")
        _check_stride(self.input_size, self.stride)
        self.grid = self.input_size // self.stride

    @property
    def _window(self) -> int:
        return self.stride

    @torch.no_grad()
    def predictions(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        """Predict the dense targets at each pixel; no real label has been used to train the network.

        Args:
            frames: (B, H, W) uint8.

        Returns:
            (B, 2 C + 3, h, w) float32 at the size of level 0: probabilities of the background and of
            ``spec.structures``, signed distances to their outlines, long-axis and transverse position.

        Raises:
            ParameterError: The network makes no predictions.
        """
        if not self.spec.structures:
            raise ParameterError("this network makes no predictions: its specification names no structures")
        images = self.spec.normalise(self._resize(frames))
        predictions: Tensor = self.network.predictions(self.network(images))
        return predictions

    def _pooled(self, normalised: Tensor) -> Tensor:
        if not {*HEART} <= {*self.spec.structures}:
            return super()._pooled(normalised)
        maps = self.network(normalised)
        tissues = self.network.predictions(maps)[:, : len(self.spec.structures) + 1]
        lv, la = (tissues[:, 1 + self.spec.structures.index(name)][:, None] for name in HEART)
        return region_means(maps[-1].float(), lv, la)

    def certainty(self, frames: NDArray[np.uint8]) -> float:
        """Compute the mean probability of the structures, see :class:`alan.backbone.Backbone`."""
        tissues = self.predictions(frames)[:, : len(self.spec.structures) + 1]
        largest, which = tissues.max(1)
        inside = which > 0
        return float(((largest * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)).mean())

    def _features(self, normalised: Tensor, images: Tensor) -> Features:
        maps, size = self.network(normalised), (self.grid, self.grid)
        levels = self.spec.levels
        chosen = [self.network.predictions(maps) if level == "targets" else maps[level] for level in levels]
        planes = [
            F.interpolate(x, size, mode="bilinear", antialias=x.shape[-1] > self.grid, align_corners=False)
            for x in chosen
        ]
        tokens = torch.cat(planes, 1).permute(0, 2, 3, 1).float().contiguous()  # (B, h, w, D)
        inside = self._sector(images)
        inside = (inside | ~inside.flatten(1).any(1)[:, None, None]).float()
        cls = torch.einsum("bhw,bhwd->bd", inside, tokens) / inside.sum((1, 2))[:, None]
        return Features(cls, tokens)
