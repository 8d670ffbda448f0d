"""Weighted segmentation losses by name, from segmentation_models_pytorch and torch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from alan.bounds import PositiveFloat, PositiveInt, bounded
from alan.errors import ParameterError, nearest
from alan.extras import third_party

#: Names of the losses.
LOSSES = ("bce", "cross_entropy", "dice", "focal", "softmax_focal")


@bounded
class WeightedLosses(nn.Module):
    """Weighted sum of losses on logits.

    ``dice`` and ``focal`` are those of segmentation_models_pytorch: Dice over all pixels of the batch, the mean
    over all classes, background included, with 0 for a class that the batch does not show; focal with gamma 2,
    for several classes the mean over the classes, each against all others by the sigmoid of its logit.
    ``softmax_focal``, for several classes, is ``-(1 - p)^2 log p`` of the softmax p of the annotated class, the
    mean over pixels. ``bce`` is torch's ``BCEWithLogitsLoss``, ``cross_entropy`` its ``CrossEntropyLoss``
    (log-softmax and NLL).

    Args:
        weights: Mapping from the name of each loss to its weight.
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
        fitting = {"cross_entropy": "bce", "softmax_focal": "focal"} if self.binary else {"bce": "cross_entropy"}
        for name in weights:
            if name not in LOSSES:
                raise ParameterError(f"unknown loss {name!r}: {nearest(name, LOSSES)}")
            if name in fitting:
                raise ParameterError(f"loss {name!r} does not fit {classes} class(es): take {fitting[name]!r}")
            self.terms[name] = self._term(name)

    def _term(self, name: str) -> nn.Module:
        if name == "bce":
            return nn.BCEWithLogitsLoss()
        if name == "cross_entropy":
            return nn.CrossEntropyLoss()
        if name == "softmax_focal":
            return _SoftmaxFocal()
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
            Mapping from the name of each loss to its unweighted value, and ``total``, the weighted sum.
        """
        logits = logits.float()
        target = labels[:, None].float() if self.binary else labels.long()
        values = {name: term(logits, target) for name, term in self.terms.items()}
        total = sum((self.weights[name] * value for name, value in values.items()), logits.new_zeros(()))
        return {**values, "total": total}


class _SoftmaxFocal(nn.Module):
    """Focal loss of the softmax with gamma 2 (Lin et al., *Focal Loss for Dense Object Detection*, 2017)."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        surprise = cross_entropy(logits, target, reduction="none")
        return ((1 - (-surprise).exp()) ** 2 * surprise).mean()
