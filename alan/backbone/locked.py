"""The locked backbone: grey frames in, features out, nothing to train."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from alan.backbone.conv import ConvNet, ConvSpec, check_conv_size, check_token_stride
from alan.backbone.normalise import normalise
from alan.backbone.vit import VitSpec, check_size
from alan.data.sector import sector_mask
from alan.errors import ParameterError
from alan.files import fingerprint, fingerprint_tensors

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

#: A token sees the sector when more than this share of its patch lies inside.
SECTOR_SHARE = 0.3


class Features(NamedTuple):
    """Features of a batch.

    Attributes:
        cls: (B, D) float32, of the whole frame.
        tokens: (B, h, w, D) float32, row by row.
    """

    cls: Tensor
    tokens: Tensor


class Backbone(nn.Module, ABC):
    """A frozen network: always in eval mode, no gradients, one fingerprint.

    Attributes:
        spec: the network's specification, with the training image size.
        dim: width D of a token.
        input_size: side in pixels to which frames are resized.
        stride: step between two tokens in pixels of the resized frame.
        grid: tokens along one side.
        fingerprint: SHA-256 over weights and feature settings.
    """

    spec: VitSpec | ConvSpec
    dim: int
    input_size: int
    stride: int
    grid: int
    fingerprint: str

    def train(self, mode: bool = True) -> Backbone:
        """Stay in eval mode, whatever the surrounding module does."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are, and the features will be."""
        return next(self.parameters()).device

    @torch.no_grad()
    def forward(self, frames: Tensor | NDArray[np.uint8]) -> Features:
        """Compute the features of a batch; cutting a long batch into pieces is the caller's affair.

        Args:
            frames: (B, H, W) uint8 on any device; resized bilinearly (antialiased) to ``input_size``.

        Raises:
            ParameterError: another shape or dtype.
        """
        images = self._resize(frames)
        return self._features(normalise(images, self.spec.normalisation, self.spec.in_chans), images)

    @torch.no_grad()
    def sector(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        """Say which tokens see the ultrasound sector: more than 30% of the token's window lies inside.

        Args:
            frames: (B, H, W) uint8.

        Returns:
            (B, h, w) bool.
        """
        return self._sector(self._resize(frames))

    def _sector(self, images: Tensor) -> Tensor:
        """(B, h, w) bool out of resized grey images (B, 1, S, S)."""
        inside = sector_mask(images).float()
        return F.avg_pool2d(inside, self._window, self.stride)[:, 0] > SECTOR_SHARE

    @property
    @abstractmethod
    def _window(self) -> int:
        """Side in pixels of what a token is said to see."""

    @abstractmethod
    def _features(self, normalised: Tensor, images: Tensor) -> Features:
        """Features of normalised images (B, C, S, S); ``images`` (B, 1, S, S) are the grey values in 0..1."""

    def _resize(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        """(B, H, W) uint8 to (B, 1, S, S) float32 in 0..1 on the backbone's device."""
        frames = torch.as_tensor(frames)
        if frames.ndim != 3 or frames.dtype != torch.uint8:
            raise ParameterError(
                f"frames are {frames.dtype} {tuple(frames.shape)}: the backbone takes uint8 of shape (B, H, W)"
            )
        images = frames.to(self.device)[:, None].float() / 255
        size = (self.input_size, self.input_size)
        if images.shape[-2:] == size:
            return images
        return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


class VitBackbone(Backbone):
    """A frozen vision transformer: tokens of the last block after the final norm, and its CLS token.

    Attributes:
        patch_size: side of a patch in pixels of the resized frame; ``stride`` below it lets patches overlap, and
            the grid is denser: ``(input_size - patch_size) / stride + 1`` tokens along one side.
    """

    spec: VitSpec
    positions: Tensor

    def __init__(
        self, vit: VisionTransformer, spec: VitSpec, input_size: int | None = None, stride: int | None = None
    ) -> None:
        """Lock a network.

        Args:
            vit: the network, taken over and frozen.
            spec: its specification.
            input_size: default: the training image size.
            stride: a divisor of the patch size; default: the patch size.

        Raises:
            ParameterError: a size that is not a multiple of the patch, or a stride that does not divide it.
        """
        super().__init__()
        self.spec = spec
        self.dim = spec.dim
        self.patch_size = spec.patch_size
        self.input_size = spec.image_size if input_size is None else input_size
        self.stride = spec.patch_size if stride is None else stride
        check_size(self.input_size, self.patch_size)
        divisors = [s for s in range(1, self.patch_size + 1) if self.patch_size % s == 0]
        if self.stride not in divisors:
            raise ParameterError(
                f"stride {self.stride} does not divide the patch size {self.patch_size}: use one of {divisors}"
            )
        self.grid = (self.input_size - self.patch_size) // self.stride + 1
        self.vit: Any = vit.requires_grad_(False)
        self.register_buffer("positions", self._positions(), persistent=False)
        settings = {
            **{key: spec.to_dict()[key] for key in ("patch_size", "heads", "normalisation")},
            "input_size": self.input_size,
            "stride": self.stride,
        }
        self.fingerprint = fingerprint([fingerprint_tensors(vit.state_dict()), settings])
        self.train(False)

    @property
    def _window(self) -> int:
        return self.patch_size

    def _features(self, normalised: Tensor, images: Tensor) -> Features:
        projection = self.vit.patch_embed.proj
        x = F.conv2d(normalised, projection.weight, projection.bias, stride=self.stride)
        x = x.flatten(2).transpose(1, 2)  # (B, h w, D)
        x = torch.cat([self.vit.cls_token.expand(len(x), -1, -1), x], dim=1) + self.positions
        x = self.vit.norm(self.vit.blocks(x)).float()
        return Features(x[:, 0], x[:, 1:].reshape(len(x), self.grid, self.grid, self.dim))

    @torch.no_grad()
    def _positions(self) -> Tensor:
        """Position embedding (1, 1 + h w, D) of the tokens at this input size and stride.

        At a stride below the patch, token i sits at the base grid's coordinate ``i stride / patch``: bicubic
        interpolation between the centres of the outermost patches (``align_corners``) gives just that.
        """
        from timm.layers.pos_embed import resample_abs_pos_embed

        base = self.input_size // self.patch_size
        position: Tensor = resample_abs_pos_embed(
            self.vit.pos_embed, [base, base], [self.spec.grid, self.spec.grid], num_prefix_tokens=1
        )
        if self.grid == base:
            return position.clone()
        patches = position[:, 1:].reshape(1, base, base, self.dim).permute(0, 3, 1, 2)
        patches = F.interpolate(patches, (self.grid, self.grid), mode="bicubic", align_corners=True)
        return torch.cat([position[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


class ConvBackbone(Backbone):
    """A frozen convolutional network: maps of several levels, resized bilinearly to one grid, side by side.

    The features of a token are those of ``spec.levels``, in that order; ``cls`` is the mean over the tokens inside
    the ultrasound sector (over all tokens for a frame without one).

    Args:
        network: the network, taken over and frozen.
        spec: its specification.
        input_size: default: the training image size.
        stride: distance of two tokens in pixels, a divisor of the input size; default: ``spec.token_stride``.

    Raises:
        ParameterError: an input size that the levels do not halve evenly, a stride that does not divide it, or
            taught outputs as features of a network that has none.
    """

    spec: ConvSpec

    def __init__(
        self, network: ConvNet, spec: ConvSpec, input_size: int | None = None, stride: int | None = None
    ) -> None:
        super().__init__()
        if "targets" in spec.levels and not spec.structures:
            raise ParameterError("feature_levels has 'targets', but a network without structures was taught none")
        self.spec = spec
        self.dim = spec.dim
        self.input_size = spec.image_size if input_size is None else input_size
        self.stride = spec.token_stride if stride is None else stride
        check_conv_size(self.input_size, spec.multiple)
        check_token_stride(self.input_size, self.stride)
        self.grid = self.input_size // self.stride
        self.network = network.requires_grad_(False)
        settings = {
            "kind": "conv",
            "normalisation": spec.normalisation,
            "levels": list(spec.levels),
            "input_size": self.input_size,
            "stride": self.stride,
        }
        self.fingerprint = fingerprint([fingerprint_tensors(network.state_dict()), settings])
        self.train(False)

    @property
    def _window(self) -> int:
        return self.stride

    @torch.no_grad()
    def taught(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        """What the network was taught to say of each pixel, without any real label.

        Args:
            frames: (B, H, W) uint8.

        Returns:
            (B, 2 C + 3, h, w) float32 at the size of level 0: probabilities of the background and of
            ``spec.structures``, signed distances to their outlines, long-axis and transverse position.

        Raises:
            ParameterError: the network was taught no outputs.
        """
        if not self.spec.structures:
            raise ParameterError("this network was taught no outputs: its specification names no structures")
        images = normalise(self._resize(frames), self.spec.normalisation, self.spec.in_chans)
        return self.network.taught(self.network(images))

    def _features(self, normalised: Tensor, images: Tensor) -> Features:
        maps, size = self.network(normalised), (self.grid, self.grid)
        chosen = [self.network.taught(maps) if level == "targets" else maps[level] for level in self.spec.levels]
        planes = [
            F.interpolate(x, size, mode="bilinear", antialias=x.shape[-1] > self.grid, align_corners=False)
            for x in chosen
        ]
        tokens = torch.cat(planes, 1).permute(0, 2, 3, 1).float().contiguous()  # (B, h, w, D)
        inside = self._sector(images)
        inside = (inside | ~inside.flatten(1).any(1)[:, None, None]).float()
        cls = torch.einsum("bhw,bhwd->bd", inside, tokens) / inside.sum((1, 2))[:, None]
        return Features(cls, tokens)


def lock(
    network: nn.Module, spec: VitSpec | ConvSpec, input_size: int | None = None, stride: int | None = None
) -> Backbone:
    """Lock a network of either kind; see :class:`VitBackbone` and :class:`ConvBackbone`."""
    if isinstance(spec, ConvSpec) and isinstance(network, ConvNet):
        return ConvBackbone(network, spec, input_size, stride)
    if isinstance(spec, VitSpec):
        from timm.models.vision_transformer import VisionTransformer

        if isinstance(network, VisionTransformer):
            return VitBackbone(network, spec, input_size, stride)
    raise ParameterError(f"a {type(network).__name__} does not go with a {type(spec).__name__}")
