"""What a method has to beat: the atlas (position only) and standardised pixels (no network)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool2d

from alan.errors import ParameterError


class Atlas:
    """The average mask of the labelled cases, at one threshold; the image is not looked at.

    The threshold is the share of labelled cases at which the average mask, cut there, reaches the highest mean
    Dice on those labelled cases; of equal ones the highest. One atlas serves one structure.

    Attributes:
        mean_: (H, W) float64, share of labelled cases whose mask covers the pixel, 0..1.
        level_: the threshold; a pixel belongs to the atlas where ``mean_ >= level_``.
        mask_: (H, W) bool, the atlas.
        score_: its mean Dice on the labelled cases.
    """

    mean_: NDArray[np.float64]
    level_: float
    mask_: NDArray[np.bool_]
    score_: float

    def fit(self, masks: NDArray[np.bool_]) -> Atlas:
        """Average the masks and choose the threshold.

        Args:
            masks: (N, H, W) bool, at least one of them not empty; empty ones are left out.

        Returns:
            self.

        Raises:
            ParameterError: not (N, H, W), or all masks are empty.
        """
        masks = np.asarray(masks, dtype=bool)
        if masks.ndim != 3:
            raise ParameterError(f"masks have shape {masks.shape}: give (N, H, W)")
        masks = masks[masks.any(axis=(1, 2))]
        if not len(masks):
            raise ParameterError("all masks are empty: an atlas needs at least one that is not")
        n = len(masks)
        counts = masks.sum(axis=0)  # (H, W), 0..n
        # For each level t in 1..n: pixels of the atlas, and of each case inside it, by counting from above.
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
        """The same mask for each of ``n`` cases: (n, H, W) bool, a read-only view."""
        return np.broadcast_to(self.mask_, (n, *self.mask_.shape))


def pixel_features(frames: NDArray[np.uint8], size: int = 16) -> NDArray[np.float32]:
    """Standardised pixels of a small version of each frame, the features of *no network*.

    Args:
        frames: (N, H, W) uint8.
        size: side of the small version; the frame is averaged down to it.

    Returns:
        (N, size * size) float32, each row with mean 0 and standard deviation 1 (all 0 for a constant frame).

    Raises:
        ParameterError: frames are not (N, H, W), or ``size`` is below 2.
    """
    if frames.ndim != 3 or size < 2:
        raise ParameterError(f"frames {frames.shape}, size={size}: give (N, H, W) and a size of at least 2")
    small = adaptive_avg_pool2d(torch.from_numpy(np.ascontiguousarray(frames)).float()[:, None], size)
    rows = small.flatten(1)
    rows = rows - rows.mean(dim=1, keepdim=True)
    std = rows.std(dim=1, keepdim=True, correction=0)
    return np.asarray(torch.where(std > 1e-6, rows / std.clamp(min=1e-6), 0.0).numpy(), dtype=np.float32)
