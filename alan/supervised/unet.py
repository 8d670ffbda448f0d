"""The U-Net of the ACDC study, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alan.backbone.conv import ConvBlock
from alan.bounds import PositiveInt, bounded
from alan.errors import ParameterError

#: Channels of each level of the published network, the bottleneck last.
WIDTHS = (64, 128, 256, 512, 1024)


@bounded
class UNet(nn.Module):
    """U-Net with max pooling and 2 x 2 transposed convolutions (U-Net on ACDC, section 2.5, figure 4).

    The published network has four levels of 64 to 512 channels above a bottleneck of 1024; at 256 px the
    bottleneck is 16 x 16.

    Args:
        in_channels: Channels of the image.
        classes: Channels of the logits.
        widths: Channels of each level from the top, the bottleneck last; at least two.

    Attributes:
        stride: Height and width of an image must be multiples of it, ``2 ** (len(widths) - 1)``.

    Raises:
        ParameterError: There are fewer than two widths.
    """

    def __init__(
        self, in_channels: PositiveInt = 1, classes: PositiveInt = 1, widths: Sequence[PositiveInt] = WIDTHS
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ParameterError(f"widths is {tuple(widths)}: give at least two")
        levels = len(widths) - 1
        self.stride = int(2**levels)
        self.encoder = nn.ModuleList(
            ConvBlock(a, b) for a, b in zip((in_channels, *widths[:-1]), widths, strict=True)
        )
        self.decoder = nn.ModuleList()
        for wide, width in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.decoder.append(nn.ConvTranspose2d(wide, width, 2, 2))
            self.decoder.append(ConvBlock(2 * width, width))
        self.segmentation_head = nn.Sequential(nn.Conv2d(widths[0], classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, in_channels, H, W) to logits (B, classes, H, W); H and W are multiples of the stride."""
        skips: list[Tensor] = []
        x = images
        for block in self.encoder:
            x = block(F.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        skips.pop()
        for index in range(0, len(self.decoder), 2):
            x = self.decoder[index](x)
            x = self.decoder[index + 1](torch.cat([skips.pop(), x], 1))
        logits: Tensor = self.segmentation_head(x)
        return logits
