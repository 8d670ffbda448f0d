"""Files of a training in its run folder: metrics, checkpoints, the configuration and the exported model."""

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
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from alan.backbone.checkpoint import load_plain
from alan.cli import signals
from alan.files import naming_full_disk, write_bytes, write_text
from alan.runs import CONFIG, METRICS, Run
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
    """Checkpoints that are whole or absent on every disk, and that hold plain tensors."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write next to ``path``, then rename; Lightning would copy it from the system's temporary folder."""
        content = io.BytesIO()  # torch's own writer hides what went wrong with a file
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
    """Write the configuration, and when training is complete the model users will load.

    The configuration is written after the first batch: what fails before has left nothing.

    Args:
        run: The run.
        config: The configuration as YAML.
    """

    def __init__(self, run: Run, config: str) -> None:
        self.run, self.config = run, config

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
