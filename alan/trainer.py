"""Lightning's trainer with ``precision: auto``, and checkpoints that resume exactly wherever a run was killed.

A checkpoint is written at the very end of a batch: after its metrics are logged, its validation has run and the
best checkpoint is kept. Lightning's own callback writes it before all of that, and a run that is killed in between
resumes without the validation and without the logged metrics.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

from lightning.fabric.plugins.precision.precision import _PRECISION_INPUT
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from typing_extensions import override

from alan.bounds import PositiveInt, bounded
from alan.precision import choose_precision

#: Lightning logs an advertisement for a logger of its own whenever a trainer is made.
logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
    lambda record: "litlogger" not in record.getMessage()
)


@contextlib.contextmanager
def silent_lightning() -> Iterator[None]:
    """Hide warnings of Lightning, and log lines of Lightning and of networks below an error: they break a bar."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "alan.supervised")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class Trainer(LightningTrainer):
    """Lightning's trainer; see there for all arguments but ``precision``.

    Args:
        precision: Numerical precision; ``auto`` is bf16-mixed where the device computes bfloat16 faster, else
            32-true.
        **kwargs: Arguments of :class:`lightning.pytorch.Trainer`.
    """

    def __init__(self, *, precision: Literal["auto"] | _PRECISION_INPUT | None = None, **kwargs: Any) -> None:
        chosen: Any = precision
        if precision == "auto":
            chosen = choose_precision(precision, str(kwargs.get("accelerator", "auto")))
        super().__init__(precision=chosen, **kwargs)
        loop = self.fit_loop.epoch_loop
        self.fit_loop.epoch_loop = _EpochLoop(self, min_steps=loop.min_steps, max_steps=loop.max_steps)


class _EpochLoop(_TrainingEpochLoop):
    """Call ``on_batch_done`` of :class:`LastCheckpoint` at the end of a batch, after logging and validation."""

    @override
    def on_advance_end(self, data_fetcher: Any) -> None:
        if self._skip_next_val:  # resumed after a validation: no batch was trained in this iteration
            self._skip_next_val = False
            return
        super().on_advance_end(data_fetcher)
        if not self._should_accumulate():
            for callback in self.trainer.callbacks:
                if isinstance(callback, LastCheckpoint):
                    callback.on_batch_done(self.trainer)


class Rewindable(Protocol):
    """A log whose lines after a checkpoint are dropped when the run is resumed."""

    def count(self) -> int:
        """Count the lines that are written."""

    def rewind(self, lines: int) -> None:
        """Keep the first lines."""


class LastCheckpoint(Checkpoint):
    """Write ``last.ckpt`` every N steps and at the end of the training.

    The checkpoint holds the number of lines of the log: a resumed run drops the lines after them and writes them
    again.

    Args:
        folder: Folder of the checkpoint.
        checkpoint_every: Optimiser steps between two checkpoints, 1 or more.
        log: Log of the metrics, which is rewound; None if there is none.
    """

    @bounded
    def __init__(self, folder: Path, checkpoint_every: PositiveInt, log: Rewindable | None = None) -> None:
        self.path = folder / "last.ckpt"
        self.checkpoint_every = checkpoint_every
        self.metrics_log = log
        self._lines = 0

    def on_batch_done(self, trainer: LightningTrainer) -> None:
        """Write the checkpoint where it is due; called by the loop of :class:`Trainer`."""
        if trainer.global_step % self.checkpoint_every == 0:
            trainer.save_checkpoint(self.path)

    @override
    def on_train_start(self, trainer: LightningTrainer, pl_module: Any) -> None:
        if self.metrics_log is not None:
            self.metrics_log.rewind(self._lines)

    @override
    def on_train_end(self, trainer: LightningTrainer, pl_module: Any) -> None:
        if not trainer.interrupted:
            trainer.save_checkpoint(self.path)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"lines": 0 if self.metrics_log is None else self.metrics_log.count()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._lines = state_dict["lines"]
