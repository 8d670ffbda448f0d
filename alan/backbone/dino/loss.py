"""DINO's self-distillation loss on CLS tokens, and on patch tokens at the same place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alan.bounds import PositiveFloat, PositiveInt, Rate, bounded
from alan.data.augmentation.multicrop import crop_grid


class _Centre(nn.Module):
    """The running mean of a teacher's outputs, subtracted against collapse into one prototype."""

    centre: Tensor

    @bounded
    def __init__(self, outputs: PositiveInt, student_temperature: PositiveFloat, centre_momentum: Rate) -> None:
        super().__init__()
        self.student_temperature = student_temperature
        self.centre_momentum = centre_momentum
        self.register_buffer("centre", torch.zeros(outputs))

    def targets(self, teacher: Tensor, temperature: float) -> Tensor:
        """Compute the centred and sharpened probabilities of the teacher, in fp32 and without gradient."""
        return ((teacher.detach().float() - self.centre) / temperature).softmax(-1)

    @torch.no_grad()
    def update_centre(self, mean: Tensor) -> None:
        """Move the centre towards the mean teacher output (K,) of a step, averaged over all processes."""
        self.centre.lerp_(mean.float(), 1 - self.centre_momentum)


class DINOLoss(_Centre):
    """Cross-entropy between the teacher's global crops and the student's other crops.

    Source: Caron et al. 2021, equations 2 to 4 and algorithm 1 (``DINOLoss`` of the published code).

    Args:
        outputs: Number of prototypes K.
        student_temperature: Temperature of the student's softmax.
        centre_momentum: Momentum of the centre.
    """

    def __init__(self, outputs: int, student_temperature: float = 0.1, centre_momentum: float = 0.9) -> None:
        super().__init__(outputs, student_temperature, centre_momentum)

    def forward(self, student: Tensor, teacher: Tensor, batch: int, teacher_temperature: float) -> Tensor:
        """Compute the loss; the centre is not updated.

        Args:
            student: (V B, K) outputs of V crops, crop by crop; the first G crops are the global ones.
            teacher: (G B, K) outputs of the G global crops.
            batch: Number of frames B.
            teacher_temperature: Temperature of the teacher's softmax.

        Returns:
            Scalar, fp32: the mean over frames and over all pairs of different crops; ln K for an uninformed
            student.
        """
        k = len(self.centre)
        q = self.targets(teacher, teacher_temperature).reshape(-1, batch, k)  # (G, B, K)
        log_p = (student.float() / self.student_temperature).log_softmax(-1).reshape(-1, batch, k)  # (V, B, K)
        pairs = -torch.einsum("gbk,vbk->gv", q, log_p) / batch  # g teacher crop, v student crop
        same = torch.eye(len(q), len(log_p), dtype=torch.bool, device=pairs.device)
        return pairs.masked_fill(same, 0).sum() / (pairs.numel() - len(q))


class PatchLoss(_Centre):
    """Cross-entropy between the student's patches and the teacher's at the same place in the other global crop.

    An addition to the paper's recipe (off in its configurations): in short trainings DINO's loss on CLS tokens
    alone does not improve patch tokens. The teacher's probabilities over the patch prototypes are interpolated
    bilinearly at the student's patch centres; patches outside the other crop or outside the sector do not count.

    Args:
        prototypes: Number of patch prototypes K.
        student_temperature: Temperature of the student's softmax.
        teacher_temperature: Temperature of the teacher's softmax.
        centre_momentum: Momentum of the centre.
    """

    @bounded
    def __init__(
        self,
        prototypes: int = 128,
        student_temperature: float = 0.1,
        teacher_temperature: PositiveFloat = 0.05,
        centre_momentum: float = 0.9,
    ) -> None:
        super().__init__(prototypes, student_temperature, centre_momentum)
        self.teacher_temperature = teacher_temperature

    def forward(self, student: Tensor, teacher: Tensor, boxes: Tensor, inside: Tensor) -> Tensor:
        """Compute the loss; the centre is not updated.

        Args:
            student: (2 B, n, n, K) student's outputs for the patches of both global crops, crop by crop.
            teacher: (2 B, n, n, K) teacher's outputs for them.
            boxes: (2 B, 4) boxes of the crops, see :class:`alan.data.augmentation.multicrop.Crops`.
            inside: (2 B, n, n) bool, the patches that count.

        Returns:
            Scalar, fp32: the mean over the patches that count; 0 where there is none.
        """
        positions = other_positions(boxes, student.shape[1])  # (2 B, n, n, 2)
        q = self.targets(teacher, self.teacher_temperature)
        q = q.roll(len(q) // 2, 0).permute(0, 3, 1, 2)  # the other crop, (2 B, K, n, n)
        q = F.grid_sample(q, positions, padding_mode="border", align_corners=False).permute(0, 2, 3, 1)
        log_p = (student.float() / self.student_temperature).log_softmax(-1)
        counts = inside & (positions.abs() <= 1).all(-1)
        return -((q * log_p).sum(-1) * counts).sum() / counts.sum().clamp(min=1)


def other_positions(boxes: Tensor, n: int) -> Tensor:
    """Locate the patch centres of one global crop in the other one.

    Args:
        boxes: (2 B, 4) boxes of both crops, crop by crop.
        n: Number of patches along one side.

    Returns:
        (2 B, n, n, 2) x, y in -1..1 inside the other crop, beyond that range outside it.
    """
    others = boxes.roll(len(boxes) // 2, 0)[:, None, None]
    return (crop_grid(boxes, n) - others[..., 2:]) / others[..., :2]
