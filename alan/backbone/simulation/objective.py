"""Objective of the training on simulated frames: structures, targets, losses and augmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from alan.backbone.base import BackboneSpec
from alan.backbone.simulation.heads import DenseLabels, Outputs, TargetWeights, dense_losses
from alan.data.augmentation.dense import DenseAugmentation, warp_labels
from alan.errors import ParameterError
from alan.overlap import dice_of_counts


class AugmentedFrames(NamedTuple):
    """Frames after augmentation, as input of the network.

    Attributes:
        images: (B, in_chans, S, S) float32, normalised.
        sector: (B, S, S) bool, the ultrasound sector in them.
        grid: (B, S, S, 2), where each pixel comes from.
    """

    images: Tensor
    sector: Tensor
    grid: Tensor


@dataclass(frozen=True)
class SimulationObjective:
    """Objective of the training on simulated frames.

    Attributes:
        structures: Names of the labels, those of the data; ``lv`` and ``la`` among them for coordinates.
        weights: Weights of the targets; 0 switches one off.
        augmentation: Geometric and photometric augmentation, on the device of the model.

    Raises:
        ParameterError: Coordinates are to be learned without the structures that define them.
    """

    structures: Sequence[str]
    weights: TargetWeights = field(default_factory=TargetWeights)
    augmentation: DenseAugmentation = field(default_factory=DenseAugmentation)

    def __post_init__(self) -> None:
        object.__setattr__(self, "structures", tuple(self.structures))
        lacking = [name for name in ("lv", "la") if name not in self.structures]
        if self.weights.coordinates and lacking:
            raise ParameterError(
                f"coordinates need the structure {lacking[0]!r}: name it, or set weights.coordinates to 0"
            )

    @torch.no_grad()
    def augment(self, frames: Tensor, spec: BackboneSpec, generator: torch.Generator) -> AugmentedFrames:
        """Warp frames, change their appearance and normalise them, in fp32.

        Args:
            frames: (B, S, S) uint8.
            spec: Specification of the network, for the normalisation.
            generator: Source of all random numbers, on the device of the frames.
        """
        with torch.autocast(frames.device.type, enabled=False):
            images, sector, grid = self.augmentation.augment(frames, generator)
            return AugmentedFrames(spec.normalise(images, sector), sector[:, 0], grid)

    def losses(self, outputs: Outputs, batch: Mapping[str, Tensor], frames: AugmentedFrames) -> dict[str, Tensor]:
        """Compute the losses of a batch, see :func:`alan.backbone.simulation.heads.dense_losses`.

        Args:
            outputs: Predictions for ``frames.images``.
            batch: Batch of :class:`alan.data.SimulatedDataModule`.
            frames: Frames of the batch after augmentation.
        """
        side = outputs.tissue.shape[-1]
        labels = warp_labels(batch["labels"], resize_grid(frames.grid, side))
        truth = DenseLabels(labels, shrink_mask(frames.sector, side), batch["view"], batch["phase"])
        size = batch["frames"].shape[-1]
        return dense_losses(outputs, truth, structures=tuple(self.structures), weights=self.weights, size=size)

    def weighted_sum(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Add up losses, each times the weight of its target."""
        return torch.stack([getattr(self.weights, name) * loss for name, loss in losses.items()]).sum()


def frame_dice(found: Tensor, labels: Tensor, n_structures: int) -> Tensor:
    """Compute the Dice of each frame and structure, (B, C) float32; NaN where neither map has the structure.

    Args:
        found: (B, H, W) integer, 0 background and i for structure i.
        labels: Labels of that shape.
        n_structures: Number of structures C.
    """
    values = torch.arange(1, n_structures + 1, device=labels.device)[:, None, None]
    a, b = found[:, None] == values, labels[:, None] == values
    return dice_of_counts((a & b).sum((2, 3)), a.sum((2, 3)) + b.sum((2, 3)))


def resize_grid(grid: Tensor, side: int) -> Tensor:
    """Resize a sampling grid (B, S, S, 2) to another resolution (B, side, side, 2)."""
    if grid.shape[1] == side:
        return grid
    planes = F.interpolate(grid.permute(0, 3, 1, 2), (side, side), mode="bilinear", align_corners=False)
    return planes.permute(0, 2, 3, 1)


def shrink_mask(mask: Tensor, side: int) -> Tensor:
    """Resize a mask (B, S, S) bool to the resolution of the predictions."""
    return F.adaptive_avg_pool2d(mask[:, None].float(), side)[:, 0] > 0.5
