"""Keep a teacher's answers on unlabelled frames from drifting towards its easiest class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Weight of the past in the running shares.
_MOMENTUM = 0.98
_LEAST = 1e-3


class ShareAlignment(nn.Module):
    """Distribution alignment (ReMixMatch: Berthelot et al., ICLR 2020, section 3.1) for dense labels.

    A teacher that follows its own student says background where it is in doubt, so thin structures fade step by
    step. Here each probability is multiplied by (share of the class in the simulated label maps / share that the
    teacher gives it on unlabelled frames) ** ``strength``, then all are normalised. Both shares are running means
    over batches, saved with the module. What is assumed is that structures take as much of a real picture as of
    a simulated one, on the mean over many patients.

    Args:
        n_classes: classes, the background among them.
        strength: 0 changes nothing, 1 corrects in full.
    """

    simulated: Tensor
    unlabelled: Tensor

    def __init__(self, n_classes: int, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = strength
        self.register_buffer("simulated", torch.zeros(n_classes))
        self.register_buffer("unlabelled", torch.zeros(n_classes))

    @torch.no_grad()
    def see(self, labels: Tensor) -> None:
        """Take a batch of simulated label maps into the shares: (B, H, W) integer, 0 to ``n_classes`` - 1."""
        counts = torch.bincount(labels.flatten().long(), minlength=len(self.simulated)).float()
        self._move(self.simulated, counts / counts.sum())

    @torch.no_grad()
    def forward(self, probabilities: Tensor) -> Tensor:
        """Align a batch of the teacher's answers, and take it into the shares.

        Args:
            probabilities: (B, n_classes, H, W) float32, summing to 1 over the classes.

        Returns:
            Of the same shape, summing to 1 over the classes.
        """
        self._move(self.unlabelled, probabilities.mean((0, 2, 3)))
        ratio = (self.simulated / self.unlabelled.clamp(min=_LEAST)) ** self.strength
        aligned = probabilities * ratio[:, None, None]
        return aligned / aligned.sum(1, keepdim=True)

    @staticmethod
    def _move(shares: Tensor, batch: Tensor) -> None:
        """Running mean; the first batch stands for itself."""
        shares.copy_(torch.where(shares.sum() > 0, shares.lerp(batch, 1 - _MOMENTUM), batch))
