"""Baselines of the protocols: the atlas (position only) and standardised pixels (no network)."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool2d

from alan.bounds import bounded
from alan.errors import ParameterError


class Atlas:
    """Average mask of the labelled cases of a structure, at one threshold; it ignores the image.

    The threshold is the share of labelled cases at which the mask has the highest mean Dice on these cases; of
    equal ones the highest.

    Attributes:
        mean_: (H, W) float64, share of labelled cases whose mask covers the pixel, from 0 to 1.
        level_: Threshold; the atlas consists of the pixels with ``mean_ >= level_``.
        mask_: (H, W) bool, the atlas.
        score_: Mean Dice of the atlas on the labelled cases.
    """

    mean_: NDArray[np.float64]
    level_: float
    mask_: NDArray[np.bool_]
    score_: float

    def fit(self, masks: NDArray[np.bool_]) -> Atlas:
        """Average the masks and choose the threshold.

        Args:
            masks: (N, H, W) bool, at least one of them not empty; empty masks are left out.

        Returns:
            The fitted atlas.

        Raises:
            ParameterError: The shape is not (N, H, W), or all masks are empty.
        """
        masks = np.asarray(masks, dtype=bool)
        if masks.ndim != 3:
            raise ParameterError(f"masks have shape {masks.shape}: give (N, H, W)")
        masks = masks[masks.any(axis=(1, 2))]
        if not len(masks):
            raise ParameterError("all masks are empty: give at least one that is not")
        n = len(masks)
        counts = masks.sum(axis=0)  # (H, W), 0..n
        # For each threshold t in 1..n: pixels of the atlas, and pixels of each case inside it, counted from above.
        size = np.bincount(counts.ravel(), minlength=n + 1)[::-1].cumsum()[::-1][1:]  # (n,)
        inside = np.stack([np.bincount(counts[mask], minlength=n + 1) for mask in masks])
        inside = inside[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]  # (n cases, n levels)
        scores = (2 * inside / (size + masks.sum(axis=(1, 2))[:, None])).mean(axis=0)  # (n,)
        best = n - 1 - int(np.argmax(scores[::-1]))
        self.mean_ = counts / n
        self.level_ = (best + 1) / n
        self.mask_ = counts >= best + 1
        self.score_ = float(scores[best])
        return self

    def predict(self, n: int) -> NDArray[np.bool_]:
        """Return the same mask for each of ``n`` cases: (n, H, W) bool, a read-only view."""
        return np.broadcast_to(self.mask_, (n, *self.mask_.shape))


@bounded
def pixel_features(frames: NDArray[np.uint8], size: Annotated[int, Ge(2)] = 16) -> NDArray[np.float32]:
    """Standardise the pixels of a small version of each frame: features without a network.

    Args:
        frames: (N, H, W) uint8.
        size: Size of the small version in pixels, to which frames are averaged.

    Returns:
        (N, size * size) float32, each row with mean 0 and standard deviation 1 (all 0 for a constant frame).

    Raises:
        ParameterError: Frames are not (N, H, W), or the size is out of bounds.
    """
    if frames.ndim != 3:
        raise ParameterError(f"frames have shape {frames.shape}: give (N, H, W)")
    small = adaptive_avg_pool2d(torch.from_numpy(np.ascontiguousarray(frames)).float()[:, None], size)
    rows = small.flatten(1)
    rows = rows - rows.mean(dim=1, keepdim=True)
    std = rows.std(dim=1, keepdim=True, correction=0)
    return np.asarray(torch.where(std > 1e-6, rows / std.clamp(min=1e-6), 0.0).numpy(), dtype=np.float32)
