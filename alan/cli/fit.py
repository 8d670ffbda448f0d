"""The verbs of Lightning's command line: ``alan fit``, ``validate``, ``test`` and ``predict``.

A run folder holds ``config.yaml`` (all options, defaults included), ``metrics.jsonl`` (one line per logging step),
``checkpoints/last.ckpt`` (and ``best.ckpt`` where the module names a validation score in ``monitor``) and, when
training is complete, the exported model and ``run.json``. The same command run again continues from ``last.ckpt``;
with another configuration it refuses to touch the folder.
"""

from __future__ import annotations

import importlib
import warnings
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers.logger import Logger
from typing_extensions import override

from alan.cli.console import quiet_lightning
from alan.cli.fit_options import DATA, MODULES, class_names
from alan.cli.parsing import Parser
from alan.cli.training import CheckpointFiles, JsonLinesLogger, RunFolder, StoppableCheckpoint
from alan.errors import CheckpointError, ConfigError
from alan.locks import lock_folder
from alan.precision import choose_precision
from alan.progress import quiet
from alan.runs import CONFIG, FINISHED, METRICS, Run, config_text, holds_run, read_config, remove_run
from alan.tensors import verify_zip
from alan.trainer import Trainer

#: Options that may change between two starts of one run.
_FREE = ("out", "overwrite", "ckpt_path", "weights_only", "config")
#: Options other than those of the trained classes.
_OPTIONS = ("model", "data", "trainer", "seed_everything", "checkpoint_every")


class FitParser(Parser, LightningArgumentParser):
    """Parser of the verbs of Lightning."""

    functions = (LightningTrainer, Trainer)
    names = (*Parser.names, *_OPTIONS, *_FREE)
    classes: ClassVar[dict[str, type]] = {}


def module_classes() -> dict[str, type]:
    """Return the public modules and data modules by their bare names, which the command line takes."""
    return {
        name: getattr(importlib.import_module(package), name)
        for package in (*MODULES, *DATA)
        for name in class_names([package])
    }


class AlanCLI(LightningCLI):
    """LightningCLI with ``--out``, ``--overwrite`` and ``--checkpoint_every``.

    Args:
        stack: Holds the lock of the run folder until the caller closes it.
        args: Arguments of LightningCLI.
        kwargs: Arguments of LightningCLI.
    """

    def __init__(self, stack: ExitStack, *args: Any, **kwargs: Any) -> None:
        self.stack = stack
        super().__init__(*args, **kwargs)

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--out", type=str, default="runs/fit", help="Folder of this run.")
        parser.add_argument(
            "--overwrite", type=bool, default=False, help="Replace a run with another configuration."
        )
        parser.add_argument(
            "--checkpoint_every", type=int, default=200, help="Optimiser steps between two checkpoints."
        )

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and check the seed before Lightning does."""
        super().parse_arguments(parser, args)
        seed = self.config[self.config["subcommand"]].get("seed_everything")
        if seed is not None and not 0 <= seed < 2**32:
            raise ConfigError(f"seed_everything is {seed}: give 0 to {2**32 - 1}, or true for a random one")

    @override
    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would read hyperparameters from a checkpoint; ours are in the configuration."""

    @override
    def before_instantiate_classes(self) -> None:
        """Lock and check the run folder before anything is built; ``fast_dev_run`` uses none."""
        self.settings = self.config[self.config["subcommand"]]
        self.run_folder = Run(Path(self.settings["out"]), resumed=False)
        trial = bool(self.settings["trainer"].get("fast_dev_run"))
        self.writes = self.config["subcommand"] == "fit" and not trial
        for name in ("max_steps", "max_epochs") if self.writes else ():
            if self.settings["trainer"].get(name) == 0:
                raise ConfigError(f"trainer.{name} is 0: give at least 1, or -1 for no limit")
        if not trial:
            self.stack.enter_context(lock_folder(self.run_folder.folder))
        self._choose_precision()
        self._spread_seed()
        if self.config["subcommand"] == "fit":
            self.settings["weights_only"] = True
        if self.writes:
            self._open_folder()

    def _choose_precision(self) -> None:
        """Replace the precision ``auto``; a resumed run keeps the value of its configuration."""
        trainer, saved = self.settings["trainer"], self.run_folder.folder / CONFIG
        if trainer.get("precision") == "auto":
            resumed = saved.exists() and not self.settings["overwrite"]
            recorded = (read_config(saved).get("trainer") or {}).get("precision") if resumed else None
            trainer["precision"] = choose_precision("auto", trainer["accelerator"], recorded)

    def _spread_seed(self) -> None:
        """Give the seed of the run, if it has one, to the model and to the data, unless they have their own."""
        for part in ("model", "data"):
            options = (self.settings.get(part) or {}).get("init_args") or {}
            if options.get("seed") == 0:
                options["seed"] = int(self.settings["seed_everything"] or 0)

    def _plain_config(self) -> dict[str, Any]:
        text = self._parser("fit").dump(self.settings, skip_none=False, format="yaml")
        config: dict[str, Any] = yaml.safe_load(text)
        return {key: value for key, value in config.items() if key not in _FREE}

    def _open_folder(self) -> None:
        config, folder = self._plain_config(), self.run_folder.folder
        self.config_text = config_text(config)
        if (folder / CONFIG).exists() and self.settings["overwrite"]:
            return
        self.run_folder.resumed = holds_run(folder, config)
        last = folder / "checkpoints" / "last.ckpt"
        if self.run_folder.resumed and last.exists() and not self.settings["ckpt_path"]:
            _check_readable(last)
            self.settings["ckpt_path"] = str(last)

    def before_fit(self) -> None:
        """Clear the folder for ``--overwrite true``, now that everything could be built."""
        if self.writes and self.settings["overwrite"] and self.trainer.is_global_zero:
            model = getattr(self.model, "export_name", None)
            remove_run(
                self.run_folder.folder, ["checkpoints", METRICS, CONFIG, FINISHED, *([model] if model else [])]
            )

    def after_fit(self) -> None:
        """Complete a run that was killed between its last step and its export."""
        if self.writes:
            self.folder_callback.complete(self.trainer, self.model)

    @override
    def instantiate_trainer(self, **kwargs: Any) -> LightningTrainer:
        """Build the trainer with the run folder's logger, checkpoints and export."""
        settings = dict(self._get(self.config_init, "trainer", default={}))
        folder = self.run_folder.folder
        loggers = settings.get("logger")
        others = [loggers] if isinstance(loggers, Logger) else loggers if isinstance(loggers, list) else []
        metrics = JsonLinesLogger(folder)
        settings |= {"default_root_dir": str(folder), "logger": [metrics, *others]}
        settings["plugins"] = [*_as_list(settings.get("plugins")), CheckpointFiles()]
        callbacks = _as_list(settings.get("callbacks"))
        if self.writes:
            self.folder_callback = RunFolder(self.run_folder, self.config_text)
            callbacks += [*self._checkpoints(folder / "checkpoints", metrics), self.folder_callback]
        if quiet():
            settings["enable_progress_bar"] = False
        if settings.get("enable_progress_bar") is not False:
            callbacks.append(TQDMProgressBar(refresh_rate=5))
        try:
            return self.trainer_class(**{**settings, "callbacks": callbacks, **kwargs})
        except (ValueError, TypeError, ImportError) as error:  # an accelerator, a strategy ... that does not exist
            reason = " ".join(str(error).split())
            raise ConfigError(f"trainer: {reason} Give other --trainer options, or leave them out") from error

    def _checkpoints(self, folder: Path, metrics: JsonLinesLogger) -> list[Callback]:
        """The best checkpoint of modules that validate, then the last one, which holds the best score."""
        found: list[Callback] = []
        if monitor := getattr(self.model, "monitor", None):  # (score, "max" or "min")
            found.append(
                ModelCheckpoint(
                    folder,
                    "best",
                    monitor=monitor[0],
                    mode=monitor[1],
                    save_weights_only=True,
                    save_on_train_epoch_end=False,
                    enable_version_counter=False,
                )
            )
        return [*found, StoppableCheckpoint(folder, self.settings["checkpoint_every"], metrics)]


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _check_readable(path: Path) -> None:
    try:
        verify_zip(path)
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, OSError ...
        raise CheckpointError(
            f"{path}: cannot be read ({type(error).__name__}): delete it, or start again with --overwrite true"
        ) from error


def run_lightning(args: list[str]) -> Namespace:
    """Run ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        args: The command line from the verb on, such as ``["fit", "--config", "configs/dino/tiny_demo.yaml"]``.

    Returns:
        A namespace with ``model``, ``trainer`` and ``out``.

    Raises:
        ConfigError: A key is misspelt, or the run folder belongs to another configuration.
        LockError: Another process is writing to the run folder.
        CheckpointError: ``last.ckpt`` is truncated.
        KeyboardInterrupt: The training was interrupted; the same call continues from ``last.ckpt``.
    """
    quiet_lightning()
    FitParser.classes = module_classes()
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
        try:
            cli = AlanCLI(
                stack,
                LightningModule,
                LightningDataModule,
                trainer_class=Trainer,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=None,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                parser_class=FitParser,
                trainer_defaults={"enable_model_summary": False},
                args=args,
            )
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # Lightning makes an exit of it
                raise error.__context__ from None
            raise
    return Namespace(model=cli.model, trainer=cli.trainer, out=cli.run_folder.folder)
