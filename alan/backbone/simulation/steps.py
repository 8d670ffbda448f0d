"""Steps that every training by simulation shares: what the network sees, and what it should say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from alan.backbone.conv import ConvSpec
from alan.backbone.normalise import normalise
from alan.backbone.simulation.heads import Outputs, TargetWeights, Truth, dense_losses
from alan.backbone.vit import VitSpec
from alan.data.augmentation.dense import DenseAugmentation, warp, warp_labels
from alan.data.sector import sector_mask


class Seen(NamedTuple):
    """Augmented frames as the network sees them.

    Attributes:
        images: (B, in_chans, S, S) float32, normalised.
        sector: (B, S, S) bool, the ultrasound sector in them.
        grid: (B, S, S, 2), where each pixel comes from.
    """

    images: Tensor
    sector: Tensor
    grid: Tensor


@torch.no_grad()
def augmented(
    frames: Tensor, augmentation: DenseAugmentation, spec: VitSpec | ConvSpec, generator: torch.Generator
) -> Seen:
    """Warp frames, change their appearance and normalise them, in fp32.

    Args:
        frames: (B, S, S) uint8.
        augmentation: how.
        spec: of the network, for the normalisation.
        generator: source of all random numbers, on the device of the frames.
    """
    with torch.autocast(frames.device.type, enabled=False):
        grey = frames[:, None].float() / 255
        grid = augmentation.draw_grid(len(frames), frames.shape[-1], generator)
        planes = warp(torch.cat([grey, sector_mask(grey).float()], 1), grid)
        sector = planes[:, 1:] > 0.5
        images = augmentation.change(planes[:, :1], sector, generator)
        return Seen(normalise(images, spec.normalisation, spec.in_chans, sector), sector[:, 0], grid)


def taught_losses(
    outputs: Outputs,
    batch: Mapping[str, Tensor],
    seen: Seen,
    structures: tuple[str, ...],
    weights: TargetWeights,
) -> dict[str, Tensor]:
    """Losses of a batch of simulated frames, see :func:`alan.backbone.simulation.heads.dense_losses`.

    Args:
        outputs: of the heads for ``seen.images``.
        batch: of :class:`alan.data.SimulatedDataModule`.
        seen: the batch's frames as the network saw them.
        structures: names of the labels.
        weights: of the targets.
    """
    side = outputs.tissue.shape[-1]
    labels = warp_labels(batch["labels"], resize_grid(seen.grid, side))
    truth = Truth(labels, shrink_mask(seen.sector, side), batch["view"], batch["phase"])
    size = batch["frames"].shape[-1]
    return dense_losses(outputs, truth, structures=structures, weights=weights, size=size)


def frame_dice(found: Tensor, labels: Tensor, n_structures: int) -> Tensor:
    """Dice of each frame and structure, (B, C) float32; NaN where neither map has the structure.

    Args:
        found: (B, H, W) integer, 0 background and i for structure i.
        labels: of that shape.
        n_structures: C.
    """
    values = torch.arange(1, n_structures + 1, device=labels.device)[:, None, None]
    a, b = found[:, None] == values, labels[:, None] == values
    return 2 * (a & b).sum((2, 3)) / (a.sum((2, 3)) + b.sum((2, 3)))


def resize_grid(grid: Tensor, side: int) -> Tensor:
    """A sampling grid (B, S, S, 2) at another resolution (B, side, side, 2)."""
    if grid.shape[1] == side:
        return grid
    planes = F.interpolate(grid.permute(0, 3, 1, 2), (side, side), mode="bilinear", align_corners=False)
    return planes.permute(0, 2, 3, 1)


def shrink_mask(mask: Tensor, side: int) -> Tensor:
    """A mask (B, S, S) bool at the resolution of the outputs."""
    return F.adaptive_avg_pool2d(mask[:, None].float(), side)[:, 0] > 0.5
