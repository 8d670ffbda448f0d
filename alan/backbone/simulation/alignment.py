"""Distribution alignment: a correction of a teacher's predictions on unlabelled frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alan.bounds import Share, bounded

#: Weight of the past in the running shares.
_MOMENTUM = 0.98
_LEAST = 1e-3


class ShareAlignment(nn.Module):
    """Distribution alignment (ReMixMatch: Berthelot et al., ICLR 2020, section 3.1) for dense labels.

    A teacher that follows its own student predicts background where it is in doubt, so that thin structures fade
    step by step. Here each probability is multiplied by (share of the class in the simulated label maps / share
    that the teacher gives it on unlabelled frames) ** ``strength``, then all are normalised. Both shares are
    running means over batches, saved with the module. The assumption is that, on the mean over many patients,
    structures take the same share of real and of simulated frames.

    Args:
        n_classes: Number of classes, the background among them.
        strength: 0 changes nothing, 1 corrects fully.
    """

    simulated: Tensor
    unlabelled: Tensor

    @bounded
    def __init__(self, n_classes: int, strength: Share = 1.0) -> None:
        super().__init__()
        self.strength = strength
        self.register_buffer("simulated", torch.zeros(n_classes))
        self.register_buffer("unlabelled", torch.zeros(n_classes))

    @torch.no_grad()
    def observe(self, labels: Tensor) -> None:
        """Update the shares of the simulator by a batch of label maps (B, H, W), 0 to ``n_classes`` - 1."""
        counts = torch.bincount(labels.flatten().long(), minlength=len(self.simulated)).float()
        self._move(self.simulated, counts / counts.sum())

    @torch.no_grad()
    def forward(self, probabilities: Tensor) -> Tensor:
        """Update the shares of the teacher by a batch of its predictions, and align the batch.

        Args:
            probabilities: (B, n_classes, H, W) float32, summing to 1 over the classes.

        Returns:
            Aligned probabilities of the same shape, summing to 1 over the classes.
        """
        self._move(self.unlabelled, probabilities.mean((0, 2, 3)))
        ratio = (self.simulated / self.unlabelled.clamp(min=_LEAST)) ** self.strength
        aligned = probabilities * ratio[:, None, None]
        return aligned / aligned.sum(1, keepdim=True)

    @staticmethod
    def _move(shares: Tensor, batch: Tensor) -> None:
        """Update a running mean; the first batch replaces it."""
        shares.copy_(torch.where(shares.sum() > 0, shares.lerp(batch, 1 - _MOMENTUM), batch))
