"""One trial of a search: train a point, score it on validation frames, measure its latency."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from alan.errors import ParameterError
from alan.search.settings import SearchSettings
from alan.search.space import Point
from alan.supervised.timing import measure_latency
from alan.supervised.training import train

#: Called after each validation with its number, from 1, and the mean IoU; it may raise to end the training.
Report = Callable[[int, float], None]


@dataclass(frozen=True)
class Outcome:
    """Result of a trial.

    Attributes:
        iou: Best mean validation IoU over the validations, 0..1.
        latency: Median seconds per frame, see :func:`alan.supervised.timing.measure_latency`.
        details: Further JSON-able values for the tables.
    """

    iou: float
    latency: float
    details: dict[str, Any] = field(default_factory=dict)


def train_point(
    point: Point,
    settings: SearchSettings,
    report: Report = lambda number, iou: None,
) -> Outcome:
    """Train a point as ``alan fit`` would, and score it by its best validation.

    Args:
        point: Network, learning rate and batch size.
        settings: Frames, and all settings that the space does not vary.
        report: Called after each validation.

    Returns:
        The outcome.

    Raises:
        ParameterError: The network cannot be built, the loss is not finite, or the IoU is undefined.
        RuntimeError: Out of memory, among other reasons.
        KeyboardInterrupt: The training was interrupted.
    """
    start = time.perf_counter()
    validations: list[dict[str, float]] = []

    def keep(number: int, scores: dict[str, float]) -> None:
        validations.append(scores)
        report(number, scores["val_iou"])

    try:
        frames = settings.data.module()
        segmenter = train(
            settings.training_of(point),
            frames.train_frames,
            settings.data.seed,
            val=frames.val_frames,
            val_every=settings.study.val_every,
            on_validation=keep,
        )
        defined = [scores for scores in validations if math.isfinite(scores["val_iou"])]
        if not defined:
            raise ParameterError(
                "the validation IoU is undefined: no validation frame shows or is given a structure"
            )
        best = max(defined, key=lambda scores: scores["val_iou"])
        latency = measure_latency(segmenter.model, frames.val_frames.stores.size)
        details = {
            "latency_low": latency.low,
            "latency_high": latency.high,
            "val_dice": best["val_dice"],
            **{name: best[name] for name in best if name.startswith("val_iou_")},
            "parameters": sum(parameter.numel() for parameter in segmenter.parameters()),
            "device": str(next(segmenter.parameters()).device),
        }
        return Outcome(best["val_iou"], latency.median, {**details, "seconds": time.perf_counter() - start})
    finally:  # free a network that was too large before the next one is built
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
