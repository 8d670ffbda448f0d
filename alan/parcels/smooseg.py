"""SmooSeg as a Lightning module (Lan et al., NeurIPS 2023: smoothness prior for unsupervised segmentation).

Segmentation minimises an energy of two terms: a smoothness term, by which tokens with similar features get similar
assignments, and a data term, by which the assignments are those of prototypes that a slowly moving teacher holds.
With ``F`` the cosines of frozen features, centred as in :mod:`alan.parcels.losses`, ``A`` the teacher's soft
assignments, and ``b`` a shift,

    L_smooth = mean_ij (F_ij - b) (1 - cos(A_i, A_j))          within a frame, and between frames of two sequences
    L_data   = - mean_i log softmax(student_i / t)[argmax_k A_ik]

As the centred ``F`` has mean 0 over j, ``L_smooth`` is RAPTOR's correspondence loss less ``b``: the same closed
form without token-by-token matrices serves both (assignments are non-negative).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from alan.bounds import NonNegativeFloat, PositiveFloat, Rate, bounded
from alan.parcels.heads import SmooSegHead
from alan.parcels.losses import LossWeights, check_loss_weights, raptor_loss
from alan.parcels.training import HeadModule, TokenBatch


def smoothness_loss(
    features: Tensor,
    assignments: Tensor,
    *,
    shifts: LossWeights,
    weights: LossWeights,
    generator: torch.Generator,
    token_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute the smoothness term over a batch of sequences (paper, section 3.2).

    Pairs of frames are those of :func:`alan.parcels.raptor_loss`: the paper pairs a frame with itself and with a
    frame of another image (here: of another sequence); frames within a sequence may be paired too.

    Args:
        features: (B, F, T, D) frozen features.
        assignments: (B, F, T, K) soft assignments, non-negative.
        shifts: Shift b of each kind of pairs.
        weights: Weight of each kind of pairs.
        generator: Draws the pairs; on the CPU.
        token_weights: (B, F, T) weights >= 0 of the tokens; None weights all tokens equally.

    Returns:
        Scalars ``self``, ``similar`` and ``contrast`` (each before its weight) and ``total``, their weighted sum.

    Raises:
        ParameterError: As :func:`alan.parcels.raptor_loss`.
    """
    terms = raptor_loss(
        features, assignments, shifts=shifts, weights=weights, generator=generator, token_weights=token_weights
    )
    names = ("self", "similar", "contrast")
    found = {name: terms[name] - shift for name, shift in zip(names, shifts, strict=True)}
    offset = sum(weight * shift for weight, shift in zip(weights, shifts, strict=True))
    return {**found, "total": terms["total"] - offset}


def data_loss(cosines: Tensor, target: Tensor, temperature: float, token_weights: Tensor | None = None) -> Tensor:
    """Compute the data term: cross-entropy of the student against the teacher's choice (paper, section 3.3).

    Args:
        cosines: (..., K) cosines of the student.
        target: (...) parcel that the teacher chooses.
        temperature: Temperature of the student's softmax.
        token_weights: (...) weights >= 0 of the tokens; None weights all tokens equally.

    Returns:
        Scalar, the weighted mean over tokens; 0 where no token has a weight.
    """
    each = F.cross_entropy((cosines / temperature).flatten(0, -2), target.flatten(), reduction="none")
    if token_weights is None:
        return each.mean()
    w = token_weights.flatten()
    return (each * w).sum() / w.sum().clamp(min=1e-12)


class SmooSegModule(HeadModule):
    """Train a SmooSeg head over a locked backbone.

    The projector learns from the smoothness term through the teacher's assignments (the teacher's prototypes are
    fixed there), the student's prototypes learn from the data term (codes are fixed there), and before each step
    the teacher follows the student. Defaults are the published ones for Cityscapes with DINO ViT-S, except for the
    learning rates, the momentum and the dropout: those suit hundreds of steps instead of thousands. Dropout acts
    on single values of the projector's input, and the affinities are those of whole features. For batches and
    checkpoints see :class:`alan.parcels.training.HeadModule`.

    Args:
        backbone: Path or name of the backbone, as :func:`alan.backbone.load_backbone` takes it.
        n_parcels: Number of parcels K, 2 to 254.
        n_codes: Width of the projector's codes.
        dropout: Dropout before the projector, 0 to below 1.
        temperature: Temperature of the teacher's soft assignments; a low one makes them hard.
        student_temperature: Temperature of the student's softmax in the data term.
        momentum: Share of itself that the teacher keeps in a step, 0 to below 1.
        lr: Learning rate (Adam) of the projector.
        lr_prototypes: Learning rate of the student's prototypes.
        shift_self: Shift b of the pairs of a frame with itself.
        shift_similar: Shift b of the pairs within a sequence.
        shift_contrast: Shift b of the pairs between sequences.
        weight_self: Weight of the pairs of a frame with itself.
        weight_similar: Weight of the pairs within a sequence; 0 in the paper.
        weight_contrast: Weight of the pairs between sequences.
        weight_data: Weight of the data term.
        **settings: Further arguments of :class:`alan.parcels.training.HeadModule`.

    Raises:
        CheckpointError: The backbone cannot be loaded.
        ParameterError: A value is out of range.
    """

    method = "SmooSeg"
    head: SmooSegHead

    @bounded
    def __init__(
        self,
        backbone: str,
        *,
        n_parcels: int = 64,
        n_codes: int = 64,
        dropout: float = 0.1,
        temperature: float = 0.1,
        student_temperature: PositiveFloat = 1.0,
        momentum: Rate = 0.99,
        lr: PositiveFloat = 1e-3,
        lr_prototypes: PositiveFloat = 5e-3,
        shift_self: float = -0.02,
        shift_similar: float = 0.0,
        shift_contrast: float = 0.5,
        weight_self: NonNegativeFloat = 1.0,
        weight_similar: NonNegativeFloat = 0.0,
        weight_contrast: NonNegativeFloat = 1.0,
        weight_data: PositiveFloat = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, **settings)
        self.shifts = LossWeights(shift_self, shift_similar, shift_contrast)
        self.weights = check_loss_weights(LossWeights(weight_self, weight_similar, weight_contrast))
        self.lr, self.lr_prototypes, self.weight_data = lr, lr_prototypes, weight_data
        self.student_temperature, self.momentum = student_temperature, momentum
        self.head = SmooSegHead(
            self.backbone.dim,
            n_parcels,
            n_codes=n_codes,
            dropout=dropout,
            temperature=temperature,
            generator=self.initial(),
        )
        self._stepped = True  # since the teacher last followed the student

    def configure_optimizers(self) -> Optimizer:
        """Build Adam at constant rates: one for the projector, one for the student's prototypes."""
        projector = [p for p in self.head.parameters() if p is not self.head.student]
        groups = [{"params": projector, "lr": self.lr}, {"params": [self.head.student], "lr": self.lr_prototypes}]
        return torch.optim.Adam(groups)

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Let the teacher follow the student in the first batch of each step, then compute the loss."""
        if self._stepped:  # here and not after the step: the exported head is that of the last loss
            self.head.update_teacher(self.momentum)
        self._stepped = False
        return super().compute_loss(batch)

    def after_step(self, values: Mapping[str, float]) -> None:
        """Note that the student has moved."""
        super().after_step(values)
        self._stepped = True

    def terms(self, batch: TokenBatch) -> dict[str, Tensor]:
        """Compute the energy of a batch: the three smoothness terms, ``data`` and ``total``."""
        with self.seeded(1):  # dropout
            codes = self.head.codes(batch.tokens)
        with torch.autocast(self.device.type, enabled=False):
            codes = codes.float()
            logits = self.head.teacher_logits(codes)
            terms = smoothness_loss(
                self.head.standardise(batch.tokens),
                logits.softmax(-1),
                shifts=self.shifts,
                weights=self.weights,
                generator=self.generator(),
                token_weights=batch.weights,
            )
            cosines = self.head.student_cosines(codes.detach())
            terms["data"] = data_loss(cosines, logits.argmax(-1), self.student_temperature, batch.weights)
        terms["total"] = terms["total"] + self.weight_data * terms["data"]
        return terms
