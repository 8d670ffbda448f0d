"""From grey images of any size to logits of the same size."""

from __future__ import annotations

import logging

import torch.nn.functional as F
from torch import Tensor, nn

from alan.backbone.normalise import Normalisation, normalise
from alan.supervised.networks import NetworkSpec, network_minimum, network_stride

_log = logging.getLogger(__name__)


class PaddedNetwork(nn.Module):
    """A segmentation network with what stands around it: padding, normalisation, cropping.

    Images whose sides are no multiples of the stride are padded with black below and on the right, and the logits
    are cropped back; the log says so once.

    Args:
        spec: the network.
        classes: channels of the logits.
        normalisation: of grey values, see :func:`alan.backbone.normalise.normalise`.

    Attributes:
        stride: pixels of which the sides of the network's input are multiples.
        minimum: its smallest side in pixels, a multiple of the stride.
    """

    def __init__(self, spec: NetworkSpec, classes: int, normalisation: Normalisation) -> None:
        super().__init__()
        self.network = spec.build(classes)
        self.stride, self.minimum = network_stride(self.network), network_minimum(self.network)
        self.channels, self.normalisation = spec.in_channels, normalisation
        self._said = False

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 1, H, W) in 0..1 to logits (B, classes, H, W)."""
        height, width = images.shape[-2:]
        padded = pad_to_stride(images, self.stride, self.minimum)
        if padded.shape != images.shape and not self._said:
            _log.warning(
                "images of %d x %d px are padded to %d x %d px: the network takes multiples of %d px",
                height,
                width,
                *padded.shape[-2:],
                self.stride,
            )
            self._said = True
        logits: Tensor = self.network(normalise(padded, self.normalisation, self.channels))
        return logits[..., :height, :width]


def pad_to_stride(images: Tensor, stride: int, minimum: int = 0) -> Tensor:
    """Pad images (B, C, H, W) with zeros below and on the right.

    Both sides become multiples of the stride and at least the minimum, which is a multiple itself.
    """
    bottom, right = (max(side + -side % stride, minimum) - side for side in images.shape[-2:])
    return F.pad(images, (0, right, 0, bottom)) if bottom or right else images
