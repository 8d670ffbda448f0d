"""``alan fit`` and its siblings: LightningCLI with one folder per run, exact resume and an exported model.

A run folder holds ``config.yaml`` (everything, defaults included), ``metrics.jsonl`` (one line a logging step),
``checkpoints/last.ckpt`` (and ``best.ckpt`` where the module names a validation score in ``monitor``) and, when
training is over, the exported model. The same command run again goes on from ``last.ckpt``; with another
configuration it refuses to touch the folder.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import warnings
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from alan.backbone.checkpoint import load_plain
from alan.cli.parsing import OneLineErrors
from alan.errors import CheckpointError, ConfigError
from alan.files import atomic, naming_full_disk, write_text
from alan.precision import choose_precision
from alan.trainer import LastCheckpoint, Trainer

#: What may change between two starts of one run without making it another run.
_FREE = ("out", "overwrite", "ckpt_path", "weights_only", "config")


class FitParser(OneLineErrors, LightningArgumentParser):
    """For the verbs of Lightning."""


@runtime_checkable
class Exports(Protocol):
    """A Lightning module that can write the model users will load."""

    export_name: str

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the trained model to ``path``."""


class JsonLinesLogger(Logger):
    """Metrics as one JSON object a line; a resumed run drops what came after its checkpoint and appends.

    Args:
        folder: the run folder; the file is ``metrics.jsonl`` in it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.jsonl"

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
        """Nothing: ``config.yaml`` holds them."""

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
        if self.path.exists():
            write_text(self.path, "".join(self._lines()[:lines]))

    def _lines(self) -> list[str]:
        return self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []


class _CheckpointFiles(TorchCheckpointIO):
    """Checkpoints that are whole or absent on every disk, and that hold plain tensors."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write beside ``path``, then rename; Lightning would copy it from the system's temporary folder."""
        content = io.BytesIO()  # torch's own writer hides what went wrong with a file
        torch.save(checkpoint, content)
        with atomic(path) as temporary:
            temporary.write_bytes(content.getbuffer())

    @override
    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read on the CPU; :class:`CheckpointError` where that is impossible or unsafe."""
        return load_plain(Path(path))


class _RunFolder(Callback):
    """Write the configuration, and when training is over the model users will load.

    The configuration is written after the first batch: what fails before has left nothing.

    Args:
        config: the configuration as YAML.
    """

    def __init__(self, config: str) -> None:
        self.config = config

    @override
    def on_train_batch_end(
        self, trainer: LightningTrainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero and self.config:
            write_text(Path(trainer.default_root_dir) / "config.yaml", self.config)
            self.config = ""

    @override
    def on_train_end(self, trainer: LightningTrainer, pl_module: LightningModule) -> None:
        if trainer.interrupted:
            return
        folder = Path(trainer.default_root_dir)
        if trainer.is_global_zero and isinstance(pl_module, Exports):
            pl_module.export(folder / pl_module.export_name)


class AlanCLI(LightningCLI):
    """LightningCLI with ``--out``, ``--overwrite`` and ``--checkpoint_every``."""

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--out", type=str, default="runs/fit", help="folder of this run")
        parser.add_argument("--overwrite", type=bool, default=False, help="start anew in a used folder")
        parser.add_argument("--checkpoint_every", type=int, default=200, help="steps between two checkpoints")

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and check the seed before Lightning does."""
        super().parse_arguments(parser, args)
        seed = self.config[self.config["subcommand"]].get("seed_everything")
        if seed is not None and not 0 <= seed < 2**32:
            raise ConfigError(f"seed_everything is {seed}: give 0 to {2**32 - 1}, or true for a random one")

    @override
    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would read hyperparameters out of a checkpoint; ours stand in the configuration."""

    @override
    def before_instantiate_classes(self) -> None:
        """Look at the run folder before anything is built."""
        self.settings = self.config[self.config["subcommand"]]
        self.out = Path(self.settings["out"])
        if self.config["subcommand"] == "fit":
            self.settings["weights_only"] = True
            self._open_folder()

    def _plain_config(self) -> dict[str, Any]:
        text = self._parser("fit").dump(self.settings, skip_none=False, format="yaml")
        config: dict[str, Any] = yaml.safe_load(text)
        return {key: value for key, value in config.items() if key not in _FREE}

    def _settle_precision(self, recorded: str | None) -> None:
        """Replace ``precision: auto`` by what the run recorded, or by what suits this machine."""
        settings = self.settings["trainer"]
        if isinstance(settings["precision"], str):
            accelerator = str(settings["accelerator"])
            settings["precision"] = choose_precision(settings["precision"], accelerator, recorded)

    def _open_folder(self) -> None:
        saved, before = self.out / "config.yaml", {}
        if saved.exists() and not self.settings["overwrite"]:
            before = yaml.safe_load(saved.read_text(encoding="utf-8"))
        self._settle_precision(before.get("trainer", {}).get("precision"))
        config = self._plain_config()
        self.config_text = yaml.safe_dump(config, sort_keys=False)
        if saved.exists() and self.settings["overwrite"]:
            return
        if saved.exists():
            changed = sorted(key for key in config if config[key] != before.get(key))
            if changed:
                raise ConfigError(
                    f"{self.out} holds a run with another configuration (it differs in: {', '.join(changed)}): "
                    "choose another --out, or start anew with --overwrite true"
                )
            last = self.out / "checkpoints" / "last.ckpt"
            if last.exists() and not self.settings["ckpt_path"]:
                _check_readable(last)
                self.settings["ckpt_path"] = str(last)
        elif self.out.exists() and any(self.out.iterdir()):
            raise ConfigError(f"{self.out} is not empty and holds no run of alan fit: choose another --out")

    def before_fit(self) -> None:
        """Clear the folder for ``--overwrite true``, now that everything could be built."""
        if self.settings["overwrite"] and self.trainer.is_global_zero:
            for name in ("checkpoints", "metrics.jsonl", "config.yaml", getattr(self.model, "export_name", "")):
                path = self.out / name
                if name and path.is_dir():
                    shutil.rmtree(path)
                elif name:
                    path.unlink(missing_ok=True)

    @override
    def instantiate_trainer(self, **kwargs: Any) -> LightningTrainer:
        """Build the trainer with the run folder's logger, checkpoints and export."""
        logger = JsonLinesLogger(self.out)
        callbacks: list[Callback] = [
            LastCheckpoint(self.out / "checkpoints", self.settings["checkpoint_every"], logger)
        ]
        if monitor := getattr(self.model, "monitor", None):  # (score, "max" or "min") of modules that validate
            score, mode = monitor
            callbacks.append(
                ModelCheckpoint(
                    self.out / "checkpoints",
                    "best",
                    monitor=score,
                    mode=mode,
                    save_weights_only=True,
                    save_on_train_epoch_end=False,
                    enable_version_counter=False,
                )
            )
        settings = dict(self._get(self.config_init, "trainer", default={}))
        extra = [logger] if settings.get("logger") is None else settings["logger"]
        settings |= {"default_root_dir": str(self.out), "logger": extra}
        settings["plugins"] = [*(settings.get("plugins") or []), _CheckpointFiles()]
        if self.config["subcommand"] == "fit":
            settings["callbacks"] = [*(settings.get("callbacks") or []), *callbacks, _RunFolder(self.config_text)]
        if settings.get("enable_progress_bar") is not False:
            settings["callbacks"] = [*(settings.get("callbacks") or []), TQDMProgressBar(refresh_rate=5)]
        try:
            return self.trainer_class(**{**settings, **kwargs})
        except ValueError as error:  # an accelerator, a strategy ... that does not exist
            raise ConfigError(f"trainer: {error}") from error


def _check_readable(path: Path) -> None:
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, OSError ...
        raise CheckpointError(
            f"{path}: cannot be read ({type(error).__name__}): delete it, or start anew with --overwrite true"
        ) from error


def run_lightning(args: list[str]) -> Namespace:
    """Run ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        args: the command line from the verb on, e.g. ``["fit", "--config", "configs/dino/tiny_demo.yaml"]``.

    Returns:
        A namespace with ``model``, ``trainer`` and ``out``.

    Raises:
        ConfigError: a key is misspelt, or the run folder belongs to another configuration.
        CheckpointError: ``last.ckpt`` is truncated.
        KeyboardInterrupt: the training was interrupted; the same call goes on from ``last.ckpt``.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
        try:
            cli = AlanCLI(
                LightningModule,
                LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=None,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                parser_class=FitParser,
                trainer_class=Trainer,
                trainer_defaults={"enable_model_summary": False},
                args=args,
            )
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # Lightning makes an exit of it
                raise KeyboardInterrupt from error
            raise
    return Namespace(model=cli.model, trainer=cli.trainer, out=cli.out)
