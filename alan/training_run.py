"""The run folder of a training.

It holds ``config.yaml`` (all options, defaults included), ``metrics.jsonl`` (one line per logging step),
``checkpoints/last.ckpt`` (and ``best.ckpt`` where the module names a validation score in ``monitor``) and, when
training is complete, the exported model and ``run.json``. The same command run again continues from ``last.ckpt``;
with another configuration it refuses to touch the folder.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from alan import signals
from alan.arrays import verify_zip
from alan.backbone.checkpoint import load_plain
from alan.errors import CheckpointError
from alan.files import naming_full_disk, write_bytes, write_text
from alan.runs import (
    CONFIG,
    FINISHED,
    METRICS,
    Run,
    check_command,
    config_text,
    holds_run,
    read_config,
    remove_run,
)
from alan.trainer import LastCheckpoint

_log = logging.getLogger(__name__)


@runtime_checkable
class Exports(Protocol):
    """A Lightning module that can write the model users will load."""

    export_name: str

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the trained model to ``path``."""


class JsonLinesLogger(Logger):
    """Metrics as one JSON object per line; a resumed run drops the lines after its checkpoint and appends.

    Args:
        folder: The run folder; the file is ``metrics.jsonl`` in it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Path(folder) / METRICS

    @property
    @override
    def name(self) -> str:
        return ""

    @property
    @override
    def version(self) -> str:
        return ""

    @property
    @override
    def log_dir(self) -> str:
        return str(self.path.parent)

    @property
    @override
    def save_dir(self) -> str:
        return str(self.path.parent)

    @override
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: ``config.yaml`` holds them."""

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line: ``{"step": ..., name: value, ...}``."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with naming_full_disk(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")

    def count(self) -> int:
        """Count the lines that are written."""
        return len(self._lines())

    @rank_zero_only
    def rewind(self, lines: int) -> None:
        """Keep the first lines: a resumed run writes the others again."""
        if lines < self.count():
            write_text(self.path, "".join(self._lines()[:lines]))

    def _lines(self) -> list[str]:
        return self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []


class CheckpointFiles(TorchCheckpointIO):
    """Checkpoints of plain tensors, written atomically on every file system."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write next to ``path``, then rename; Lightning would copy from the system's temporary folder."""
        content = io.BytesIO()  # torch's own writer hides the error of the file system
        torch.save(checkpoint, content)
        write_bytes(path, content.getbuffer())

    @override
    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read on the CPU; :class:`alan.errors.CheckpointError` where that is impossible or unsafe."""
        return load_plain(Path(path))


class StoppableCheckpoint(LastCheckpoint):
    """Keep ``last.ckpt``; a first Ctrl-C or SIGTERM saves the current step, then stops.

    Several processes would not stop after the same step: they stop at once.
    """

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        signals.defer(trainer.world_size == 1)

    @override
    def on_batch_done(self, trainer: Trainer) -> None:
        if trainer.world_size == 1 and signals.received_signal() is not None:
            trainer.save_checkpoint(self.path)
            signals.stop_if_asked()
        super().on_batch_done(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.defer(False)
        super().on_train_end(trainer, pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        signals.defer(False)


class RunFolder(Callback):
    """Open the folder, and write the configuration and, when training is complete, the model users will load.

    The configuration is written after the first batch, so that a run that fails before leaves nothing behind.

    Args:
        folder: The run folder, whose lock the caller holds.
    """

    def __init__(self, folder: Path) -> None:
        self.run = Run(folder, resumed=False)
        self.metrics = JsonLinesLogger(folder)
        self.checkpoints = folder / "checkpoints"
        self.config = ""

    def recorded_precision(self) -> str | None:
        """Return the precision of the run that the folder holds; None where there is none."""
        saved = self.run.folder / CONFIG
        return (read_config(saved).get("trainer") or {}).get("precision") if saved.exists() else None

    def open(self, config: Mapping[str, Any], *, overwrite: bool) -> Path | None:
        """Begin a run, or continue the one in the folder.

        Args:
            config: Configuration of the run.
            overwrite: Whether :meth:`clear` will remove an earlier run.

        Returns:
            The last checkpoint of the run in the folder; None where there is none.

        Raises:
            ConfigError: The folder holds a run with another configuration.
            DataError: It holds something else, such as a run of another command.
        """
        self.config = config_text(config, "fit")
        check_command(self.run.folder, "fit")
        if (self.run.folder / CONFIG).exists() and overwrite:
            return None
        self.run.resumed = holds_run(self.run.folder, "fit", config)
        last = self.checkpoints / "last.ckpt"
        return last if self.run.resumed and last.exists() else None

    def clear(self, module: LightningModule) -> None:
        """Remove the files of an earlier run."""
        model = [module.export_name] if isinstance(module, Exports) else []
        remove_run(self.run.folder, [self.checkpoints.name, METRICS, CONFIG, FINISHED, *model])

    def trainer_settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Add the folder, its log of metrics and the writer of its checkpoints to the settings of a trainer."""
        loggers = settings.get("logger")
        others = [loggers] if isinstance(loggers, Logger) else loggers if isinstance(loggers, list) else []
        return {
            **settings,
            "default_root_dir": str(self.run.folder),
            "logger": [self.metrics, *others],
            "plugins": [*_as_list(settings.get("plugins")), CheckpointFiles()],
            "callbacks": _as_list(settings.get("callbacks")),
        }

    def callbacks(self, module: LightningModule, checkpoint_every: int) -> list[Callback]:
        """Return the callbacks: this one, the last checkpoint, and the best one of modules that validate.

        Args:
            module: The trained module.
            checkpoint_every: Optimiser steps between two checkpoints.
        """
        best: list[Callback] = []
        if monitor := getattr(module, "monitor", None):  # (score, "max" or "min")
            best.append(
                ModelCheckpoint(
                    self.checkpoints,
                    "best",
                    monitor=monitor[0],
                    mode=monitor[1],
                    save_weights_only=True,
                    save_on_train_epoch_end=False,
                    enable_version_counter=False,
                )
            )
        return [*best, StoppableCheckpoint(self.checkpoints, checkpoint_every, self.metrics), self]

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero and self.config:
            write_text(self.run.folder / CONFIG, self.config)
            self.config = ""

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not trainer.interrupted and isinstance(pl_module, Exports):
            pl_module.export(self.run.folder / pl_module.export_name)

    def complete(self, trainer: Trainer, module: LightningModule) -> None:
        """Mark the run complete; export the model first if the run was killed between its last step and that."""
        if trainer.interrupted or not (self.run.folder / CONFIG).exists():
            return
        if self.run.finished:
            _log.info("%s: the training is complete already", self.run.folder)
            return
        if trainer.is_global_zero:
            if isinstance(module, Exports) and not (self.run.folder / module.export_name).exists():
                module.export(self.run.folder / module.export_name)
            self.run.finish()
            _log.info("%s: %s", self.run.folder, self._outcome(trainer, module))

    def _outcome(self, trainer: Trainer, module: LightningModule) -> str:
        """Name the files of the run, and how to draw its metrics, or why there are none."""
        exported = f"{module.export_name} and " if isinstance(module, Exports) else ""
        if (self.run.folder / METRICS).exists():
            return f"{exported}{METRICS}, whose losses `alan report {self.run.folder}` draws"
        return f"{exported}no {METRICS}, as there are fewer steps than trainer.log_every_n_steps"


def check_readable(path: Path) -> None:
    """Check a checkpoint before the model is built; the tensors are not read.

    Raises:
        CheckpointError: It is truncated, or no checkpoint.
    """
    try:
        verify_zip(path)
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, OSError ...
        raise CheckpointError(
            f"{path}: cannot be read ({type(error).__name__}): delete it, or start again with --overwrite true"
        ) from error


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
