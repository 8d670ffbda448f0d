"""The locked backbone: grey frames in, features out, nothing to train."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from alan.backbone.spec import BackboneSpec
from alan.data.sector import sector_mask
from alan.errors import ParameterError
from alan.files import fingerprint, fingerprint_tensors

#: A token sees the sector when more than this share of its window lies inside.
SECTOR_SHARE = 0.3


class Features(NamedTuple):
    """Features of a batch.

    Attributes:
        cls: (B, D) float32, one vector per frame.
        tokens: (B, h, w, D) float32, one vector per place, row by row.
    """

    cls: Tensor
    tokens: Tensor


class Backbone(nn.Module, ABC):
    """A frozen network: always in eval mode, without gradients, with one fingerprint.

    Args:
        network: The network, taken over and frozen.
        spec: Its specification.
        input_size: Side in pixels to which frames are resized; None: the training image size.
        stride: Distance of two tokens in pixels of the resized frame.
        settings: What the fingerprint covers beside the weights, the input size and the stride.

    Attributes:
        network: The network.
        spec: The network's specification.
        dim: Width D of a token.
        input_size: Side in pixels to which frames are resized.
        stride: Distance of two tokens in pixels of the resized frame.
        grid: Tokens along one side.
        fingerprint: SHA-256 over weights and feature settings.
    """

    spec: BackboneSpec
    grid: int

    def __init__(
        self,
        network: nn.Module,
        spec: BackboneSpec,
        input_size: int | None,
        stride: int,
        settings: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.network: Any = network.requires_grad_(False)
        self.spec = spec
        self.dim = spec.dim
        self.input_size = spec.image_size if input_size is None else input_size
        self.stride = stride
        identity = {**settings, "input_size": self.input_size, "stride": stride}
        self.fingerprint = fingerprint([fingerprint_tensors(network.state_dict()), identity])
        self.train(False)

    def train(self, mode: bool = True) -> Backbone:
        """Stay in eval mode, whatever the surrounding module does."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Device of the weights, and of the features."""
        return next(self.parameters()).device

    @torch.no_grad()
    def forward(self, frames: Tensor | NDArray[np.uint8]) -> Features:
        """Compute the features of a batch; the caller cuts long batches into pieces.

        Args:
            frames: (B, H, W) uint8 on any device; resized bilinearly (antialiased) to ``input_size``.

        Raises:
            ParameterError: Another shape or dtype.
        """
        images = self._resize(frames)
        return self._features(self.spec.normalise(images), images)

    @torch.no_grad()
    def sector(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        """Find the tokens that see the ultrasound sector: more than 30% of the token's window lies inside.

        Args:
            frames: (B, H, W) uint8.

        Returns:
            (B, h, w) bool.
        """
        return self._sector(self._resize(frames))

    def _sector(self, images: Tensor) -> Tensor:
        """Find the tokens (B, h, w) bool inside the sector of resized grey images (B, 1, S, S)."""
        inside = sector_mask(images).float()
        return F.avg_pool2d(inside, self._window, self.stride)[:, 0] > SECTOR_SHARE

    @property
    @abstractmethod
    def _window(self) -> int:
        """Side in pixels of the window that a token is said to see."""

    @abstractmethod
    def _features(self, normalised: Tensor, images: Tensor) -> Features:
        """Features of normalised images (B, C, S, S); ``images`` (B, 1, S, S) are the grey values in 0..1."""

    def _resize(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        """Resize (B, H, W) uint8 to (B, 1, S, S) float32 in 0..1 on the backbone's device."""
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
