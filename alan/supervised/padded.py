"""Padding and normalisation around a network, so that it takes grey images of any size."""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alan.backbone.kinds import Normalisation
from alan.backbone.normalise import normalise
from alan.supervised.networks import build_network, network_minimum, network_stride
from alan.supervised.settings import NetworkSpec

_log = logging.getLogger(__name__)


class PaddedNetwork(nn.Module):
    """Segmentation network with padding, normalisation and cropping.

    Images whose height or width is not a multiple of the stride are padded with black below and on the right, and
    the logits are cropped back; a warning states this once.

    Args:
        spec: Configuration of the network.
        classes: Channels of the logits.
        normalisation: Normalisation of grey values, see :func:`alan.backbone.normalise.normalise`.

    Attributes:
        stride: Number of pixels of which height and width of the network's input are multiples.
        minimum: Smallest height and width of the network's input in pixels, a multiple of the stride.
    """

    def __init__(self, spec: NetworkSpec, classes: int, normalisation: Normalisation) -> None:
        super().__init__()
        network = build_network(spec, classes)
        self.network = network.to(memory_format=torch.channels_last)  # faster on a CPU
        self.stride, self.minimum = network_stride(self.network), network_minimum(self.network)
        self.channels, self.normalisation = spec.in_channels, normalisation
        self._warned = False

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 1, H, W) in 0..1 to logits (B, classes, H, W)."""
        height, width = images.shape[-2:]
        padded = pad_to_stride(images, self.stride, self.minimum)
        if padded.shape != images.shape and not self._warned:
            _log.warning(
                "images of %d x %d px are padded to %d x %d px: the network takes multiples of %d px",
                height,
                width,
                *padded.shape[-2:],
                self.stride,
            )
            self._warned = True
        logits: Tensor = self.network(normalise(padded, self.normalisation, self.channels))
        return logits[..., :height, :width]


def pad_to_stride(images: Tensor, stride: int, minimum: int = 0) -> Tensor:
    """Pad images (B, C, H, W) with zeros below and on the right.

    Height and width become multiples of the stride and at least the minimum, which is a multiple itself.
    """
    bottom, right = (max(side + -side % stride, minimum) - side for side in images.shape[-2:])
    return F.pad(images, (0, right, 0, bottom)) if bottom or right else images
