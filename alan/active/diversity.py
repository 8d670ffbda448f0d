"""Choice of a diverse batch: greedy k-centre among the most uncertain candidates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alan.arrays import ByteArray, FloatArray, IntArray
from alan.backbone.base import Backbone
from alan.backbone.load import load_backbone
from alan.bounds import PositiveInt, bounded
from alan.errors import ParameterError
from alan.progress import batches
from alan.supervised.segmenter import Segmenter

#: Name of the scoring network's own features.
ENCODER = "encoder"


def k_centre(features: FloatArray, k: int, centres: FloatArray | None = None) -> IntArray:
    """Choose points one by one, each the farthest from all centres so far.

    The largest distance of a point to its centre is at most twice the least possible one (Gonzalez 1985; Sener and
    Savarese, *Active Learning for Convolutional Neural Networks: A Core-Set Approach*, 2018, algorithm 1).

    Args:
        features: (m, D) candidates.
        k: Number of points to choose, 1 to m.
        centres: (c, D) points that are centres already; without any, the first candidate is chosen first.

    Returns:
        (k,) int64, distinct rows of ``features`` in the order of choice; of equally distant ones the first.

    Raises:
        ParameterError: ``k`` is out of range.
    """
    points = np.asarray(features, np.float64)
    if not 1 <= k <= len(points):
        raise ParameterError(f"k is {k}: give 1 to {len(points)}, the number of candidates")
    nearest = np.full(len(points), np.inf)
    for centre in () if centres is None else np.asarray(centres, np.float64):
        nearest = np.minimum(nearest, ((points - centre) ** 2).sum(1))
    picked = []
    for _ in range(k):
        pick = int(nearest.argmax())
        picked.append(pick)
        nearest = np.minimum(nearest, ((points - points[pick]) ** 2).sum(1))
        nearest[picked] = -1
    return np.array(picked, np.int64)


@bounded
def choose(
    scores: FloatArray,
    k: PositiveInt,
    features: Callable[[IntArray], FloatArray] | None = None,
    centres: FloatArray | None = None,
    candidates: PositiveInt = 5,
) -> IntArray:
    """Choose the k images to label next.

    Args:
        scores: (n,) scores; images with larger scores come first, NaN is never chosen.
        k: Number of images; fewer are returned where there are fewer scores.
        features: Returns the (m, D) features of m positions; None takes the k largest scores.
        centres: (c, D) features of images that are labelled already.
        candidates: With features, the k images are chosen among the ``candidates * k`` largest scores.

    Returns:
        Positions int64 in the order of choice; of equal scores the earlier position comes first.
    """
    order: IntArray = np.argsort(-scores, kind="stable")[: int((~np.isnan(scores)).sum())]
    if features is None or not len(order):
        return order[:k]
    top = order[: candidates * k]
    return top[k_centre(features(top), min(k, len(top)), centres)]


class FrameFeatures:
    """Features of frames, from the scoring network's encoder or from a frozen backbone.

    Args:
        source: ``encoder``, or a path or name for :func:`alan.backbone.load_backbone`.
        batch_size: Frames per forward pass.

    Raises:
        CheckpointError: The backbone cannot be read.
    """

    def __init__(self, source: str, batch_size: int = 32) -> None:
        self.batch_size = batch_size
        self._backbone: Backbone | None = None if source == ENCODER else load_backbone(source)

    def __call__(self, frames: ByteArray, segmenter: Segmenter) -> FloatArray:
        """Compute features.

        Args:
            frames: (n, S, S) uint8.
            segmenter: Scoring network.

        Returns:
            (n, D) float64: the mean over space of the encoder's deepest features, or the backbone's CLS token.
        """
        rows = []
        for part in batches(len(frames), self.batch_size):
            batch = torch.from_numpy(frames[part])
            if self._backbone is None:
                rows.append(encoder_features(segmenter, batch))
            else:
                rows.append(self._backbone(batch.to(self._backbone.device)).cls)
        return torch.cat(rows).double().cpu().numpy()


def encoder_features(segmenter: Segmenter, frames: Tensor) -> Tensor:
    """Average the encoder's deepest features over space.

    Args:
        segmenter: The network.
        frames: (B, H, W) uint8.

    Returns:
        (B, D) float32.

    Raises:
        ParameterError: The encoder's last output is not a feature map.
    """
    network: Any = segmenter.model.network
    encoder = network.encoder[-1] if isinstance(network.encoder, torch.nn.ModuleList) else network.encoder
    found: list[Any] = []
    handle = encoder.register_forward_hook(lambda _, __, output: found.append(output))
    try:
        segmenter.probabilities(frames)
    finally:
        handle.remove()
    deepest = found[0][-1] if isinstance(found[0], (list, tuple)) else found[0]
    if not isinstance(deepest, Tensor) or deepest.ndim != 4:
        raise ParameterError("this encoder has no feature map to average: set diversity to a backbone")
    return deepest.float().mean((2, 3))
