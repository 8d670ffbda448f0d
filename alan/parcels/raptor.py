"""RAPTOR as a Lightning module: a token head learns parcels from a locked backbone's correspondences."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from alan.errors import ParameterError
from alan.parcels.heads import RaptorHead
from alan.parcels.losses import LossWeights, raptor_loss
from alan.parcels.training import HeadModule, TokenBatch


class RaptorModule(HeadModule):
    """Train a RAPTOR head over a locked backbone; the defaults are the paper's (section 4.2).

    A batch holds ``frames`` (B, F, S, S) uint8 and ``index`` (B, F) int64, the number of each frame, or instead
    ``tokens`` (B, F, h, w, D) and, with ``sector_only``, ``sector`` (B, F, h, w) bool. Correspondences are those
    of the standardised tokens, as in the published code. All random numbers (initial weights, pairs, dropout)
    follow from the seed, the number of the batch and the rank, and the global generators are left alone.

    The checkpoint holds the head and the fingerprint of the backbone, not the backbone.

    Args:
        backbone: path or name, as :func:`alan.backbone.load_backbone` takes it.
        n_parcels: K, 2 to 254.
        dropout: of the head.
        lr: learning rate of Adam.
        shift_self: b of the pairs of a frame with itself.
        shift_similar: b of the pairs within a sequence.
        shift_contrast: b of the pairs between sequences.
        weight_self: weight of the pairs of a frame with itself.
        weight_similar: weight of the pairs within a sequence.
        weight_contrast: weight of the pairs between sequences.
        sector_only: leave the tokens outside the ultrasound sector out of the loss and the statistics; in parcel
            maps the outside becomes background.
        standardise: standardise tokens per channel, by mean and standard deviation over the first
            ``statistics_batches`` batches of the training data, taken once before the first step.
        statistics_batches: batches for that.
        input_size: side in pixels to which the backbone resizes frames; None: its training size.
        stride: step of the backbone's patches; None: the patch size.
        cache_features: keep tokens in memory as float16, so that a frame seen before costs the head alone. A
            resumed run then equals the uninterrupted one up to rounding, not bit by bit.
        cache_gb: room for that, in GB.
        seed: of all random numbers.

    Raises:
        CheckpointError: the backbone cannot be loaded.
        ParameterError: a value is out of range.
    """

    method = "RAPTOR"

    def __init__(
        self,
        backbone: str,
        *,
        n_parcels: int = 64,
        dropout: float = 0.2,
        lr: float = 5e-3,
        shift_self: float = 0.3,
        shift_similar: float = 0.3,
        shift_contrast: float = 0.3,
        weight_self: float = 1.0,
        weight_similar: float = 0.5,
        weight_contrast: float = 1.0,
        sector_only: bool = False,
        standardise: bool = True,
        statistics_batches: int = 20,
        input_size: int | None = None,
        stride: int | None = None,
        cache_features: bool = False,
        cache_gb: float = 2.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            backbone,
            sector_only=sector_only,
            standardise=standardise,
            statistics_batches=statistics_batches,
            input_size=input_size,
            stride=stride,
            cache_features=cache_features,
            cache_gb=cache_gb,
            seed=seed,
        )
        self.shifts = LossWeights(shift_self, shift_similar, shift_contrast)
        self.weights = LossWeights(weight_self, weight_similar, weight_contrast)
        if lr <= 0 or min(self.weights) < 0 or not any(self.weights):
            raise ParameterError(
                f"lr is {lr}, the weights {tuple(self.weights)}: lr and one weight must be above 0"
            )
        self.lr = lr
        self.head = RaptorHead(self.backbone.dim, n_parcels, dropout, self.initial())

    def configure_optimizers(self) -> Optimizer:
        """Adam over the head, at a constant rate."""
        return torch.optim.Adam(self.head.parameters(), lr=self.lr)

    def terms(self, batch: TokenBatch) -> dict[str, Tensor]:
        """Compute :func:`alan.parcels.raptor_loss` of a batch."""
        with self.own_dropout():
            logits = self.head(batch.tokens)
        with torch.autocast(self.device.type, enabled=False):
            return raptor_loss(
                self.head.standardised(batch.tokens),
                logits.float().softmax(-1),
                shifts=self.shifts,
                weights=self.weights,
                generator=self.generator(),
                token_weights=batch.weights,
            )
