"""Losses by name, with weights: those of segmentation_models_pytorch and of torch."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from alan.errors import ParameterError, nearest
from alan.extras import third_party

#: Names that a configuration may use.
LOSSES = ("bce", "cross_entropy", "dice", "focal")


class WeightedLosses(nn.Module):
    """A weighted sum of losses on logits.

    ``dice`` and ``focal`` are those of segmentation_models_pytorch (Dice over all pixels of the batch, the mean
    over all classes, background included; focal with gamma 2), ``bce`` is torch's ``BCEWithLogitsLoss``,
    ``cross_entropy`` its ``CrossEntropyLoss`` (log-softmax and NLL).

    Args:
        weights: name of a loss to its weight.
        classes: channels of the logits; 1 is binary.

    Raises:
        ParameterError: no loss, an unknown name, a weight that is not above 0, or a loss that does not fit the
            number of classes.
    """

    def __init__(self, weights: Mapping[str, float], classes: int) -> None:
        super().__init__()
        if not weights:
            raise ParameterError(f"no loss is given: choose from {', '.join(LOSSES)}, each with a weight")
        self.binary = classes == 1
        self.weights = dict(weights)
        self.terms = nn.ModuleDict()
        wrong, right = ("cross_entropy", "bce") if self.binary else ("bce", "cross_entropy")
        for name, weight in weights.items():
            if name not in LOSSES:
                raise ParameterError(f"unknown loss {name!r}: {nearest(name, LOSSES)}")
            if not (math.isfinite(weight) and weight > 0):
                raise ParameterError(f"loss {name!r} has the weight {weight}: it must be above 0")
            if name == wrong:
                raise ParameterError(f"loss {name!r} does not fit {classes} class(es): take {right!r}")
            self.terms[name] = self._term(name)

    def _term(self, name: str) -> nn.Module:
        if name == "bce":
            return nn.BCEWithLogitsLoss()
        if name == "cross_entropy":
            return nn.CrossEntropyLoss()
        losses = third_party("segmentation_models_pytorch.losses")
        kind = losses.DiceLoss if name == "dice" else losses.FocalLoss
        term: nn.Module = kind(mode="binary" if self.binary else "multiclass")
        return term

    def forward(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute each loss and their weighted sum.

        Args:
            logits: (B, C, H, W), C is 1 for binary.
            labels: (B, H, W) integers, 0 for background, below C (or below 2).

        Returns:
            Name of a loss to its unweighted value, and ``total``, the weighted sum.
        """
        logits = logits.float()
        target = labels[:, None].float() if self.binary else labels.long()
        values = {name: term(logits, target) for name, term in self.terms.items()}
        total = sum((self.weights[name] * value for name, value in values.items()), logits.new_zeros(()))
        return {**values, "total": total}
