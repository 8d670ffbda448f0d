"""Validation scores by torchmetrics: Dice, IoU and pixel accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from alan.extras import third_party
from alan.overlap import dice_of_counts, iou_of_counts


class SegmentationScores(nn.Module):
    """Mean Dice and IoU of each structure over images, and the pixel accuracy.

    An image in which a structure is neither annotated nor predicted has no Dice of it and does not count; a mean
    over no image is NaN. The accuracy includes the background, as in the ACDC U-Net study.

    Args:
        structures: Names, in the order of the labels.
    """

    def __init__(self, structures: Sequence[str]) -> None:
        super().__init__()
        self.structures = tuple(structures)
        mean = third_party("torchmetrics").MeanMetric
        names = [f"{kind}_{name}" for kind in ("dice", "iou") for name in structures]
        self.means: Any = nn.ModuleDict({name: mean(nan_strategy="ignore") for name in [*names, "accuracy"]})

    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Add a batch of label maps, both (B, H, W) integers with 0 for background."""
        for value, name in enumerate(self.structures, 1):
            found, truth = predicted == value, labels == value
            both, total = (found & truth).sum((1, 2)), found.sum((1, 2)) + truth.sum((1, 2))
            self.means[f"dice_{name}"].update(dice_of_counts(both, total))
            self.means[f"iou_{name}"].update(iou_of_counts(both, total))
        self.means["accuracy"].update((predicted == labels).float().mean((1, 2)))

    def compute(self) -> dict[str, Tensor]:
        """Return ``dice`` and ``iou`` (means over structures), both per structure, and ``accuracy``; reset."""
        values = {name: metric.compute() for name, metric in self.means.items()}
        for metric in self.means.values():
            metric.reset()
        for kind in ("dice", "iou"):
            each = [values[f"{kind}_{name}"] for name in self.structures]
            values[kind] = sum(each[1:], each[0]) / len(each)
        return values
