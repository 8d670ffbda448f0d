"""What a network is taught through: heads that read dense targets off its features, and their losses."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from alan.backbone.conv import ConvBlock, ConvNet, ConvSpec
from alan.backbone.simulation.targets import outlines, signed_distances, ventricle_coordinates
from alan.backbone.vit import VitSpec
from alan.data.sample import VIEWS
from alan.errors import ParameterError

#: Error at which the smooth L1 losses turn from squares into absolute values.
_BETA = 0.1


@dataclass(frozen=True)
class TargetWeights:
    """Weights of the losses; 0 leaves one out.

    Attributes:
        tissue: structures and background at each pixel: cross-entropy plus soft Dice.
        distance: signed distances to the outlines of the structures: smooth L1.
        coordinates: long-axis and transverse position in the left ventricle and its wall: smooth L1.
        view: the view of the frame: cross-entropy.
        phase: 0 at ED to 1 at ES: smooth L1.
        clip: distance in pixels at which the distances end.
    """

    tissue: float = 1.0
    distance: float = 1.0
    coordinates: float = 1.0
    view: float = 0.1
    phase: float = 0.1
    clip: float = 10.0

    def __post_init__(self) -> None:
        for entry in fields(self):
            if getattr(self, entry.name) < 0:
                raise ParameterError(f"{entry.name} is {getattr(self, entry.name)}: it must not be negative")
        if not self.clip:
            raise ParameterError("clip is 0: distances end at a distance above 0")
        if not any((self.tissue, self.distance, self.coordinates, self.view, self.phase)):
            raise ParameterError("every weight is 0: nothing is taught")


class Outputs(NamedTuple):
    """What the heads say of a batch.

    Attributes:
        tissue: (B, C + 1, H, W) logits, background first.
        distance: (B, C, H, W).
        coordinates: (B, 2, H, W).
        view: (B, 4) logits in the order of :data:`alan.data.sample.VIEWS`.
        phase: (B,).
    """

    tissue: Tensor
    distance: Tensor
    coordinates: Tensor
    view: Tensor
    phase: Tensor

    def part(self, start: int, stop: int | None = None) -> Outputs:
        """Frames ``start`` to ``stop`` - 1 of the batch."""
        return Outputs(*(x[start:stop] for x in self))


class DenseHeads(nn.Module):
    """Heads for dense targets and for those of the whole frame; they are thrown away when the network is locked.

    A convolutional network has the layer for dense targets in itself. The patch tokens of a ViT are upsampled to
    every second pixel, doubling by doubling, with a pair of 3 x 3 convolutions each, then read by a 1 x 1
    convolution. View and phase are read off the mean of the bottleneck, or off the CLS token.

    Args:
        spec: of the network; a :class:`ConvSpec` names the structures.
        n_structures: C.
        width: channels of the first upsampled map of a ViT; they halve with each doubling, down to 16.

    Raises:
        ParameterError: the specification of a convolutional network names another number of structures.
    """

    def __init__(self, spec: VitSpec | ConvSpec, n_structures: int, width: int = 64) -> None:
        super().__init__()
        self.n_structures = n_structures
        if isinstance(spec, ConvSpec):
            if len(spec.structures) != n_structures:
                raise ParameterError(
                    f"the network is for {len(spec.structures)} structures, the data have {n_structures}: "
                    "name the same ones"
                )
            pooled = spec.widths[-1]
        else:
            pooled = channels = spec.dim
            self.rise = nn.ModuleList()
            for level in range(max(1, math.ceil(math.log2(spec.patch_size / 2)))):
                self.rise.append(ConvBlock(channels, max(16, width >> level)))
                channels = max(16, width >> level)
            self.pixel = nn.Conv2d(channels, 2 * n_structures + 3, 1)
        self.frame = nn.Linear(pooled, len(VIEWS) + 1)

    def forward(self, network: Any, images: Tensor) -> Outputs:
        """What a network of the kind of ``spec`` says of normalised images (B, in_chans, H, W)."""
        if isinstance(network, ConvNet):
            maps = network(images)
            pixel, pooled = network.outputs(maps[0]), maps[-1].mean((2, 3))
        else:
            tokens: Tensor = network.forward_features(images)
            n, _, dim = tokens.shape
            side = math.isqrt(tokens.shape[1] - 1)
            x, pooled = tokens[:, 1:].transpose(1, 2).reshape(n, dim, side, side), tokens[:, 0]
            for block in self.rise:
                x = block(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
            pixel = self.pixel(x)
        tissue, distance, coordinates = pixel.float().split([self.n_structures + 1, self.n_structures, 2], 1)
        frame = self.frame(pooled).float()
        return Outputs(tissue, distance, coordinates, frame[:, :-1], frame[:, -1])


class Truth(NamedTuple):
    """What the simulator knows of a batch, at the resolution of the outputs.

    Attributes:
        labels: (B, h, w) uint8, 0 background and i + 1 for structure i.
        sector: (B, h, w) bool.
        view: (B,) int64 index into ``VIEWS``, or -1.
        phase: (B,) float32 0 at ED to 1 at ES, or NaN.
    """

    labels: Tensor
    sector: Tensor
    view: Tensor
    phase: Tensor


def dense_losses(
    outputs: Outputs, truth: Truth, *, structures: tuple[str, ...], weights: TargetWeights, size: int
) -> dict[str, Tensor]:
    """Losses of the targets whose weight is not 0, unweighted.

    Args:
        outputs: of the heads, (B, ..., h, w).
        truth: of the same frames.
        structures: names; coordinates need ``lv`` and ``la``.
        weights: see :class:`TargetWeights`.
        size: side of the frames in pixels, in which the distances count.

    Returns:
        Name of the target to its loss, a scalar; 0 where nothing of a batch is known.
    """
    found: dict[str, Tensor] = {}
    labels = truth.labels
    pixels = size / labels.shape[-1]  # of a step of the grid
    step = 2 if pixels < 2 else 1  # distances and coordinates vary slowly
    if weights.tissue:
        found["tissue"] = tissue_loss(outputs.tissue, labels)
    if weights.distance:
        target = signed_distances(outlines(labels, structures), weights.clip / pixels, step)
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
    return found


def tissue_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy plus 1 - soft Dice, the mean over structures of the Dice over the whole batch.

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


def masked_smooth_l1(values: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Smooth L1 (beta 0.1), the mean over what is known; 0 where nothing is.

    Args:
        values: any shape.
        target: of that shape.
        known: of that shape, bool.
    """
    errors = F.smooth_l1_loss(values, target, beta=_BETA, reduction="none")
    return (errors * known).sum() / known.sum().clamp(min=1)


def agreement_losses(student: Outputs, teacher: Outputs, inside: Tensor, confidence: float) -> dict[str, Tensor]:
    """Disagreement of a student with a teacher on frames without labels.

    ``tissue`` is the cross-entropy to the teacher's probabilities p, weighted pixel by pixel by how sure it is,
    ``(max p - confidence) / (1 - confidence)``, at least 0; ``distance`` is the smooth L1 of the distances. Both
    are means over the pixels inside (after Tarvainen and Valpola 2017, section 2, and Sohn et al. 2020, equation
    4, where the weight is 0 or 1).

    Args:
        student: outputs (B, ..., h, w).
        teacher: outputs of the same frames, brought to the same place; ``tissue`` holds probabilities.
        inside: (B, h, w) bool, the pixels that count.
        confidence: below 1; the teacher's largest probability from which on it is listened to.
    """
    entropy = -(teacher.tissue * student.tissue.log_softmax(1)).sum(1)
    weight = ((teacher.tissue.amax(1) - confidence) / (1 - confidence)).clamp(min=0) * inside
    count = inside.sum().clamp(min=1)
    errors = F.smooth_l1_loss(student.distance, teacher.distance, beta=_BETA, reduction="none").mean(1)
    return {"tissue": (entropy * weight).sum() / count, "distance": (errors * inside).sum() / count}
