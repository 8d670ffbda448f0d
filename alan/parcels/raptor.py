"""RAPTOR as a Lightning module: a token head learns parcels from a locked backbone's correspondences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from alan.bounds import NonNegativeFloat, PositiveFloat, bounded
from alan.parcels.heads import RaptorHead
from alan.parcels.losses import LossWeights, check_loss_weights, raptor_loss
from alan.parcels.training import HeadModule, TokenBatch


class RaptorModule(HeadModule):
    """Train a RAPTOR head over a locked backbone; the defaults are the paper's (section 4.2).

    Correspondences are those of the standardised tokens, as in the published code. For batches and checkpoints see
    :class:`alan.parcels.training.HeadModule`.

    Args:
        backbone: Path or name of the backbone, as :func:`alan.backbone.load_backbone` takes it.
        n_parcels: Number of parcels K, 2 to 254.
        dropout: Dropout of the head.
        lr: Learning rate of Adam.
        shift_self: Shift b of the pairs of a frame with itself.
        shift_similar: Shift b of the pairs within a sequence.
        shift_contrast: Shift b of the pairs between sequences.
        weight_self: Weight of the pairs of a frame with itself.
        weight_similar: Weight of the pairs within a sequence.
        weight_contrast: Weight of the pairs between sequences.
        **settings: Further arguments of :class:`alan.parcels.training.HeadModule`.

    Raises:
        CheckpointError: The backbone cannot be loaded.
        ParameterError: A value is out of range.
    """

    method = "RAPTOR"

    @bounded
    def __init__(
        self,
        backbone: str,
        *,
        n_parcels: int = 64,
        dropout: float = 0.2,
        lr: PositiveFloat = 5e-3,
        shift_self: float = 0.3,
        shift_similar: float = 0.3,
        shift_contrast: float = 0.3,
        weight_self: NonNegativeFloat = 1.0,
        weight_similar: NonNegativeFloat = 0.5,
        weight_contrast: NonNegativeFloat = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, **settings)
        self.shifts = LossWeights(shift_self, shift_similar, shift_contrast)
        self.weights = check_loss_weights(LossWeights(weight_self, weight_similar, weight_contrast))
        self.lr = lr
        self.head = RaptorHead(self.backbone.dim, n_parcels, dropout, self.initial())

    def configure_optimizers(self) -> Optimizer:
        """Build Adam over the head, at a constant rate."""
        return torch.optim.Adam(self.head.parameters(), lr=self.lr)

    def terms(self, batch: TokenBatch) -> dict[str, Tensor]:
        """Compute :func:`alan.parcels.raptor_loss` of a batch."""
        with self.seeded(1):  # dropout
            logits = self.head(batch.tokens)
        with torch.autocast(self.device.type, enabled=False):
            return raptor_loss(
                self.head.standardise(batch.tokens),
                logits.float().softmax(-1),
                shifts=self.shifts,
                weights=self.weights,
                generator=self.generator(),
                token_weights=batch.weights,
            )
