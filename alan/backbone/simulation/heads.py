"""Dense prediction heads and their losses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from alan.backbone.base import BackboneSpec
from alan.backbone.conv import ConvBlock
from alan.backbone.simulation.targets import signed_distances, ventricle_coordinates, wall_masks
from alan.bounds import NonNegativeFloat, PositiveFloat, bounded
from alan.data.sample import VIEWS
from alan.errors import ParameterError

#: Error at which the smooth L1 losses turn from squares into absolute values.
_BETA = 0.1
#: Channels of the first upsampled map of tokens; they halve with each factor of two, down to the second number.
_WIDEST, _NARROWEST = 64, 16


@bounded
@dataclass(frozen=True)
class TargetWeights:
    """Weights of the losses of dense targets; 0 leaves a target out.

    Attributes:
        tissue: Weight of the structures and the background at each pixel (cross-entropy plus soft Dice).
        distance: Weight of the signed distances to the outlines of the structures (smooth L1).
        coordinates: Weight of the long-axis and the transverse position in the left ventricle and its wall (smooth
            L1).
        view: Weight of the view of the frame (cross-entropy).
        phase: Weight of the phase of the beat, 0 at ED to 1 at ES (smooth L1).
        small: Weight of the structures once more, each frame and structure counted alike (soft Dice), so that an
            atrium of a few rows counts as much as a whole one.
        clip: Distance in pixels at which the signed distances are clipped.

    Raises:
        ParameterError: A value is out of range, or every weight is 0.
    """

    tissue: NonNegativeFloat = 1.0
    distance: NonNegativeFloat = 1.0
    coordinates: NonNegativeFloat = 1.0
    view: NonNegativeFloat = 0.1
    phase: NonNegativeFloat = 0.1
    small: NonNegativeFloat = 0.0
    clip: PositiveFloat = 10.0

    def __post_init__(self) -> None:
        if not any((self.tissue, self.distance, self.coordinates, self.view, self.phase, self.small)):
            raise ParameterError("every weight is 0, so nothing would be learned: give one above 0")


class Outputs(NamedTuple):
    """Predictions of the heads for a batch.

    Attributes:
        tissue: (B, C + 1, H, W) logits, background first.
        distance: (B, C, H, W) signed distances over ``clip``.
        coordinates: (B, 2, H, W) long-axis and transverse position.
        view: (B, 4) logits in the order of :data:`alan.data.sample.VIEWS`.
        phase: (B,) phase of the beat.
        features: (B, D) vector of the frame, from which view and phase are read.
    """

    tissue: Tensor
    distance: Tensor
    coordinates: Tensor
    view: Tensor
    phase: Tensor
    features: Tensor

    def part(self, start: int, stop: int | None = None) -> Outputs:
        """Compute the predictions for the frames ``start`` to ``stop`` - 1 of the batch."""
        return Outputs(*(x[start:stop] for x in self))


class DenseHeads(nn.Module):
    """Heads for dense targets and for those of the whole frame; they are discarded when the network is locked.

    A convolutional network predicts the dense targets itself. The tokens of other networks are upsampled to every
    second pixel, by factors of two with a pair of 3 x 3 convolutions each, and read by a 1 x 1 convolution. View
    and phase are read from the vector of the frame: the mean of the bottleneck, or the CLS token.

    Args:
        spec: Specification of the network.
        n_structures: Number of structures C.

    Raises:
        ParameterError: The network itself predicts another number of structures.
    """

    def __init__(self, spec: BackboneSpec, n_structures: int) -> None:
        super().__init__()
        self.spec = spec
        self.n_structures = n_structures
        frame, channels = spec.widths_of_tokens
        if not spec.own_outputs:
            self.rise = nn.ModuleList()
            for level in range(max(1, math.ceil(math.log2(spec.token_size / 2)))):
                width = max(_NARROWEST, _WIDEST >> level)
                self.rise.append(ConvBlock(channels, width))
                channels = width
            self.pixel = nn.Conv2d(channels, 2 * n_structures + 3, 1)
        elif len(spec.structures) != n_structures:
            raise ParameterError(
                f"the network is for {len(spec.structures)} structures, the data have {n_structures}: "
                "name the same ones"
            )
        self.frame = nn.Linear(frame, len(VIEWS) + 1)

    def forward(self, network: Any, images: Tensor) -> Outputs:
        """Predict from the tokens of a network of ``spec`` for normalised images (B, in_chans, H, W)."""
        frame, grid = self.spec.tokens(network, images)
        x = grid.permute(0, 3, 1, 2)  # (B, D, h, w)
        if self.spec.own_outputs:
            pixel = network.outputs(x)
        else:
            for block in self.rise:
                x = block(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
            pixel = self.pixel(x)
        tissue, distance, coordinates = pixel.float().split([self.n_structures + 1, self.n_structures, 2], 1)
        whole = self.frame(frame).float()
        return Outputs(tissue, distance, coordinates, whole[:, :-1], whole[:, -1], frame.float())


class DenseLabels(NamedTuple):
    """Labels of a batch from the simulator, at the resolution of the predictions.

    Attributes:
        labels: (B, h, w) uint8, 0 background and i + 1 for structure i.
        sector: (B, h, w) bool, the ultrasound sector.
        view: (B,) int64 index into ``VIEWS``, or -1 where it is not known.
        phase: (B,) float32, 0 at ED to 1 at ES, or NaN where it is not known.
    """

    labels: Tensor
    sector: Tensor
    view: Tensor
    phase: Tensor


def dense_losses(
    outputs: Outputs, truth: DenseLabels, *, structures: tuple[str, ...], weights: TargetWeights, size: int
) -> dict[str, Tensor]:
    """Compute the losses of the targets whose weight is not 0, unweighted.

    Args:
        outputs: Predictions (B, ..., h, w).
        truth: Labels of the same frames.
        structures: Names of the labels; coordinates need ``lv`` and ``la``.
        weights: Weights of the targets.
        size: Side of the frames in pixels, the unit of the distances.

    Returns:
        Mapping from the name of the target to its loss, a scalar; 0 where no frame of the batch has the target.
    """
    found: dict[str, Tensor] = {}
    labels = truth.labels
    pixels = size / labels.shape[-1]  # per step of the grid
    step = 2 if pixels < 2 else 1  # distances and coordinates vary slowly
    if weights.tissue:
        found["tissue"] = tissue_loss(outputs.tissue, labels)
    if weights.distance:
        target = signed_distances(wall_masks(labels, structures), weights.clip / pixels, step)
        found["distance"] = F.smooth_l1_loss(outputs.distance[..., ::step, ::step], target, beta=_BETA)
    if weights.coordinates:
        coarse = labels[:, ::step, ::step]
        lv, la = (coarse == structures.index(name) + 1 for name in ("lv", "la"))
        values, known = ventricle_coordinates(lv, la, truth.sector[:, ::step, ::step])
        predicted = outputs.coordinates[..., ::step, ::step]
        found["coordinates"] = masked_smooth_l1(predicted, values, known[:, None].expand_as(values))
    if weights.view:
        summed = F.cross_entropy(outputs.view, truth.view, ignore_index=-1, reduction="sum")
        found["view"] = summed / (truth.view >= 0).sum().clamp(min=1)
    if weights.phase:
        found["phase"] = masked_smooth_l1(outputs.phase, truth.phase.nan_to_num(), truth.phase.isfinite())
    if weights.small:
        found["small"] = frame_dice_loss(outputs.tissue, labels)
    return found


def tissue_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute cross-entropy plus 1 - soft Dice: the mean over structures of the Dice over the whole batch.

    Args:
        logits: (B, C + 1, H, W), background first.
        labels: (B, H, W) integer.
    """
    target = labels.long()
    probabilities = logits.softmax(1)
    truth = F.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2)
    both, total = (probabilities * truth).sum((0, 2, 3)), (probabilities + truth).sum((0, 2, 3))
    dice = (2 * both + 1) / (total + 1)
    return F.cross_entropy(logits, target) + 1 - dice[1:].mean()


def frame_dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute 1 - soft Dice: the mean over frames and the structures that each frame shows; 0 without any.

    Args:
        logits: (B, C + 1, H, W), background first.
        labels: (B, H, W) integer.
    """
    probabilities = logits.softmax(1)[:, 1:]
    truth = F.one_hot(labels.long(), logits.shape[1]).permute(0, 3, 1, 2)[:, 1:]
    both, area = (probabilities * truth).sum((2, 3)), truth.sum((2, 3))
    dice = 2 * both / (probabilities.sum((2, 3)) + area).clamp(min=1e-6)
    return ((1 - dice) * (area > 0)).sum() / (area > 0).sum().clamp(min=1)


def features_loss(features: Tensor, target: Tensor) -> Tensor:
    """Compute the squared error of vectors (B, D), relative to the spread of the targets over the batch."""
    spread = (target - target.mean(0)).square().sum()
    return (features - target).square().sum() / spread.clamp(min=1e-6)


def masked_smooth_l1(values: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Compute the mean smooth L1 (beta 0.1) over the known values; 0 where none is known.

    Args:
        values: Predictions of any shape.
        target: Targets of that shape.
        known: Bool of that shape.
    """
    errors = F.smooth_l1_loss(values, target, beta=_BETA, reduction="none")
    return (errors * known).sum() / known.sum().clamp(min=1)


def agreement_losses(
    student: Outputs, tissue: Tensor, distance: Tensor, inside: Tensor, confidence: float
) -> dict[str, Tensor]:
    """Compute the disagreement of a student with a teacher on frames without labels.

    ``tissue`` is the cross-entropy to the teacher's probabilities p, weighted at each pixel by the teacher's
    confidence, ``(max p - confidence) / (1 - confidence)``, at least 0; ``distance`` is the smooth L1 of the
    distances. Both are means over the pixels inside (after Tarvainen and Valpola 2017, section 2, and Sohn et al.
    2020, equation 4, where the weight is 0 or 1).

    Args:
        student: Predictions (B, ..., h, w).
        tissue: The teacher's probabilities for the same frames (B, C + 1, h, w), warped to the same places.
        distance: Its distances (B, C, h, w).
        inside: (B, h, w) bool, the pixels that count.
        confidence: Largest probability of the teacher below which a pixel is ignored, 0 to below 1.
    """
    entropy = -(tissue * student.tissue.log_softmax(1)).sum(1)
    weight = ((tissue.amax(1) - confidence) / (1 - confidence)).clamp(min=0) * inside
    count = inside.sum().clamp(min=1)
    errors = F.smooth_l1_loss(student.distance, distance, beta=_BETA, reduction="none").mean(1)
    return {"tissue": (entropy * weight).sum() / count, "distance": (errors * inside).sum() / count}
