"""Weighted segmentation losses by name, from segmentation_models_pytorch and torch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from alan.bounds import PositiveFloat, PositiveInt, bounded
from alan.errors import ParameterError, nearest
from alan.extras import third_party

#: Names of the losses.
LOSSES = ("bce", "cross_entropy", "dice", "focal")


@bounded
class WeightedLosses(nn.Module):
    """Weighted sum of losses on logits.

    ``dice`` and ``focal`` are those of segmentation_models_pytorch (Dice over all pixels of the batch, the mean
    over all classes, background included; focal with gamma 2), ``bce`` is torch's ``BCEWithLogitsLoss``,
    ``cross_entropy`` its ``CrossEntropyLoss`` (log-softmax and NLL).

    Args:
        weights: Name of each loss to its weight.
        classes: Channels of the logits; 1 is binary.

    Raises:
        ParameterError: There is no loss, a name is unknown, or a loss does not fit the number of classes.
    """

    def __init__(self, weights: Mapping[str, PositiveFloat], classes: PositiveInt) -> None:
        super().__init__()
        if not weights:
            raise ParameterError(f"losses is empty: give at least one of {', '.join(LOSSES)} with its weight")
        self.binary = classes == 1
        self.weights = dict(weights)
        self.terms = nn.ModuleDict()
        wrong, right = ("cross_entropy", "bce") if self.binary else ("bce", "cross_entropy")
        for name in weights:
            if name not in LOSSES:
                raise ParameterError(f"unknown loss {name!r}: {nearest(name, LOSSES)}")
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
            labels: (B, H, W) integers, 0 for background, below C (below 2 for binary).

        Returns:
            Name of each loss to its unweighted value, and ``total``, the weighted sum.
        """
        logits = logits.float()
        target = labels[:, None].float() if self.binary else labels.long()
        values = {name: term(logits, target) for name, term in self.terms.items()}
        total = sum((self.weights[name] * value for name, value in values.items()), logits.new_zeros(()))
        return {**values, "total": total}
