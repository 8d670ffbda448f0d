"""SmooSeg as a Lightning module (Lan et al., NeurIPS 2023: smoothness prior for unsupervised segmentation).

Segmentation as the least energy: a smoothness term, by which tokens with like features get like assignments, and
a data term, by which the assignments are those of prototypes that a teacher holds steady. With ``F`` the cosines
of frozen features, centred as in :mod:`alan.parcels.losses`, ``A`` the teacher's soft assignments, and ``b`` a
shift,

    L_smooth = mean_ij (F_ij - b) (1 - cos(A_i, A_j))          within a frame, and between frames of two sequences
    L_data   = - mean_i log softmax(student_i / t)[argmax_k A_ik]

As the centred ``F`` has mean 0 over j, ``L_smooth`` is RAPTOR's correspondence loss less ``b``: the same closed
form without token-by-token matrices serves both (assignments are non-negative).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from alan.errors import ParameterError
from alan.parcels.heads import SmooSegHead
from alan.parcels.losses import LossWeights, raptor_loss
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
    """Smoothness term over a batch of sequences (paper, section 3.2).

    Pairs of frames are those of :func:`alan.parcels.raptor_loss`: the paper's are a frame with itself and a
    frame with one of another image (here: of another sequence); frames within a sequence may be paired too.

    Args:
        features: (B, F, T, D) frozen features.
        assignments: (B, F, T, K) soft assignments, non-negative.
        shifts: b of each kind of pairs.
        weights: weight of each kind of pairs.
        generator: draws the pairs; on the CPU.
        token_weights: (B, F, T) weights >= 0 of the tokens; None: all 1.

    Returns:
        Scalars ``self``, ``similar`` and ``contrast`` (each before its weight) and ``total``, their weighted sum.

    Raises:
        ParameterError: as :func:`alan.parcels.raptor_loss`.
    """
    terms = raptor_loss(
        features, assignments, shifts=shifts, weights=weights, generator=generator, token_weights=token_weights
    )
    names = ("self", "similar", "contrast")
    found = {name: terms[name] - shift for name, shift in zip(names, shifts, strict=True)}
    offset = sum(weight * shift for weight, shift in zip(weights, shifts, strict=True))
    return {**found, "total": terms["total"] - offset}


def data_loss(cosines: Tensor, target: Tensor, temperature: float, token_weights: Tensor | None = None) -> Tensor:
    """Data term: cross-entropy of the student's prediction against the teacher's choice (paper, section 3.3).

    Args:
        cosines: (..., K) the student's.
        target: (...) the teacher's parcel.
        temperature: of the student's softmax.
        token_weights: (...) weights >= 0 of the tokens; None: all 1.

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

    Batches and data modules are those of :class:`alan.parcels.RaptorModule`. The projector learns from the
    smoothness term through the teacher's assignments (the teacher's prototypes are fixed there), the student's
    prototypes from the data term (codes are fixed there), and before each step the teacher follows the student.
    Defaults are the published ones for Cityscapes with DINO ViT-S, but for the learning rates, the momentum and
    the dropout: those are for hundreds of steps instead of thousands. Dropout takes single values of the
    projector's input, and the affinities are those of whole features.

    Args:
        backbone: path or name, as :func:`alan.backbone.load_backbone` takes it.
        n_parcels: K, 2 to 254.
        n_codes: width of the projector's codes.
        dropout: before the projector, 0 to below 1.
        temperature: of the teacher's soft assignments; a low one makes them hard.
        student_temperature: of the student's softmax in the data term.
        momentum: share of itself that the teacher keeps in a step, 0 to below 1.
        lr: learning rate (Adam) of the projector.
        lr_prototypes: learning rate of the student's prototypes.
        shift_self: b of the pairs of a frame with itself.
        shift_similar: b of the pairs within a sequence.
        shift_contrast: b of the pairs between sequences.
        weight_self: weight of the pairs of a frame with itself.
        weight_similar: weight of the pairs within a sequence; the paper has none.
        weight_contrast: weight of the pairs between sequences.
        weight_data: weight of the data term.
        sector_only: as in :class:`alan.parcels.RaptorModule`, and so the following.
        standardise: standardise tokens per channel.
        statistics_batches: batches for that.
        input_size: side in pixels to which the backbone resizes frames; None: its training size.
        stride: step of the backbone's patches; None: the patch size.
        cache_features: keep tokens in memory as float16.
        cache_gb: room for that, in GB.
        seed: of all random numbers.

    Raises:
        CheckpointError: the backbone cannot be loaded.
        ParameterError: a value is out of range.
    """

    method = "SmooSeg"
    head: SmooSegHead

    def __init__(
        self,
        backbone: str,
        *,
        n_parcels: int = 64,
        n_codes: int = 64,
        dropout: float = 0.1,
        temperature: float = 0.1,
        student_temperature: float = 1.0,
        momentum: float = 0.99,
        lr: float = 1e-3,
        lr_prototypes: float = 5e-3,
        shift_self: float = -0.02,
        shift_similar: float = 0.0,
        shift_contrast: float = 0.5,
        weight_self: float = 1.0,
        weight_similar: float = 0.0,
        weight_contrast: float = 1.0,
        weight_data: float = 1.0,
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
        if min(lr, lr_prototypes, weight_data) <= 0 or min(self.weights) < 0 or not any(self.weights):
            raise ParameterError(
                f"lr is {lr}, lr_prototypes {lr_prototypes}, weight_data {weight_data}, the weights of pairs "
                f"{tuple(self.weights)}: the first three and one of the last must be above 0, none below"
            )
        if student_temperature <= 0 or not 0 <= momentum < 1:
            raise ParameterError(
                f"student_temperature is {student_temperature}, momentum {momentum}: above 0, and 0 to below 1"
            )
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

    def configure_optimizers(self) -> Optimizer:
        """Adam at constant rates: one for the projector, one for the student's prototypes."""
        projector = [p for p in self.head.parameters() if p is not self.head.student]
        groups = [{"params": projector, "lr": self.lr}, {"params": [self.head.student], "lr": self.lr_prototypes}]
        return torch.optim.Adam(groups)

    def terms(self, batch: TokenBatch) -> dict[str, Tensor]:
        """Compute the energy of a batch: the three smoothness terms, ``data`` and ``total``."""
        with self.own_dropout():
            codes = self.head.codes(batch.tokens)
        with torch.autocast(self.device.type, enabled=False):
            codes = codes.float()
            logits = self.head.teacher_logits(codes)
            terms = smoothness_loss(
                self.head.standardised(batch.tokens),
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

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One batch of sequences; returns the loss. See :class:`alan.parcels.training.HeadModule`."""
        self.head.follow(self.momentum)  # here and not after the step: a checkpoint then lacks nothing
        return super().training_step(batch, batch_idx)
