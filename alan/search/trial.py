"""One trial: train a point, score it on validation frames, time it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from alan.data.loaders.labelled import LabelledFrameDataModule
from alan.errors import ParameterError
from alan.search.latency import measure_latency
from alan.search.settings import TrialTraining
from alan.search.space import Point
from alan.supervised.module import SegmentationModule
from alan.supervised.networks import NetworkSpec

#: Told of each validation: its number, from 1, and the mean IoU; it may raise to stop the training.
Report = Callable[[int, float], None]


@dataclass(frozen=True)
class Outcome:
    """What a trial gave.

    Attributes:
        iou: best mean validation IoU over the validations, 0..1.
        latency: seconds a frame, see :func:`alan.search.latency.measure_latency`.
        details: further JSON-able values for the tables.
    """

    iou: float
    latency: float
    details: dict[str, Any] = field(default_factory=dict)


class _Watch(Callback):
    """Keep and report the validation scores."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.scores: list[dict[str, float]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val_")}
        self.scores.append(found)
        self.report(len(self.scores), found["val_iou"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Only errors from Lightning and about padding: a line for each trial would break the bar."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "alan.supervised")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def train_point(point: Point, training: TrialTraining, report: Report = lambda step, iou: None) -> Outcome:
    """Train a point as ``alan fit`` would and give its best validation IoU.

    Args:
        point: network, learning rate and batch size.
        training: everything else.
        report: told of each validation.

    Returns:
        The outcome.

    Raises:
        ParameterError: the network cannot be built, the loss is not finite, or the IoU is undefined.
        RuntimeError: out of memory, among other things.
        KeyboardInterrupt: the training was interrupted.
    """
    start, watch = time.perf_counter(), _Watch(report)
    with _quiet():
        data = LabelledFrameDataModule(**training.data(point))
        module = SegmentationModule(**training.module(point), network=NetworkSpec(**training.network(point)))
        trainer = Trainer(
            **training.trainer(),
            callbacks=[watch],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        try:
            trainer.fit(module, datamodule=data)
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # Lightning makes an exit of it
                raise KeyboardInterrupt from error
            raise
    defined = [scores for scores in watch.scores if math.isfinite(scores["val_iou"])]
    if not defined:
        raise ParameterError("the validation IoU is undefined: no validation frame shows or is given a structure")
    best = max(defined, key=lambda scores: scores["val_iou"])
    weights = sum(parameter.numel() for parameter in module.model.parameters())
    device = torch.device("cuda") if training.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    latency = measure_latency(module.model.to(device), data.val_frames.stores.size)
    details = {
        "val_dice": best["val_dice"],
        **{name: best[name] for name in best if name.startswith("val_iou_")},
        "parameters": weights,
        "device": str(device),
        "seconds": time.perf_counter() - start,
    }
    return Outcome(best["val_iou"], latency, details)
