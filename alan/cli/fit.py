"""The verbs of Lightning's command line: ``alan fit``, ``validate``, ``test`` and ``predict``."""

from __future__ import annotations

import importlib
import warnings
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from typing_extensions import override

from alan.cli.console import quiet_lightning
from alan.cli.fit_options import DATA, MODULES, class_names
from alan.cli.parsing import Parser
from alan.errors import ConfigError
from alan.locks import lock_folder
from alan.precision import choose_precision
from alan.progress import quiet
from alan.trainer import Trainer
from alan.training_run import RunFolder, check_readable

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
        """Do nothing: hyperparameters are in the configuration, not in the checkpoint."""

    @override
    def before_instantiate_classes(self) -> None:
        """Lock and check the run folder before anything is built; ``fast_dev_run`` uses none."""
        self.settings = self.config[self.config["subcommand"]]
        self.run_folder = RunFolder(Path(self.settings["out"]))
        trial = bool(self.settings["trainer"].get("fast_dev_run"))
        self.writes = self.config["subcommand"] == "fit" and not trial
        for name in ("max_steps", "max_epochs") if self.writes else ():
            if self.settings["trainer"].get(name) == 0:
                raise ConfigError(f"trainer.{name} is 0: give at least 1, or -1 for no limit")
        if not trial:
            self.stack.enter_context(lock_folder(self.run_folder.run.folder))
        self._choose_precision()
        self._spread_seed()
        if self.config["subcommand"] == "fit":
            self.settings["weights_only"] = True
        if self.writes:
            last = self.run_folder.open(self._plain_config(), overwrite=self.settings["overwrite"])
            if last is not None and not self.settings["ckpt_path"]:
                check_readable(last)
                self.settings["ckpt_path"] = str(last)

    def _choose_precision(self) -> None:
        """Replace the precision ``auto``; a resumed run keeps the value of its configuration."""
        trainer = self.settings["trainer"]
        if trainer.get("precision") == "auto":
            recorded = None if self.settings["overwrite"] else self.run_folder.recorded_precision()
            trainer["precision"] = choose_precision("auto", trainer["accelerator"], recorded)

    def _spread_seed(self) -> None:
        """Pass the seed of the run, if it has one, to the model and to the data, unless they have their own."""
        for part in ("model", "data"):
            options = (self.settings.get(part) or {}).get("init_args") or {}
            if options.get("seed") == 0:
                options["seed"] = int(self.settings["seed_everything"] or 0)

    def _plain_config(self) -> dict[str, Any]:
        text = self._parser("fit").dump(self.settings, skip_none=False, format="yaml")
        config: dict[str, Any] = yaml.safe_load(text)
        return {key: value for key, value in config.items() if key not in _FREE}

    def before_fit(self) -> None:
        """Clear the folder for ``--overwrite true``, now that everything could be built."""
        if self.writes and self.settings["overwrite"] and self.trainer.is_global_zero:
            self.run_folder.clear(self.model)

    def after_fit(self) -> None:
        """Complete a run that was killed between its last step and its export."""
        if self.writes:
            self.run_folder.complete(self.trainer, self.model)

    @override
    def instantiate_trainer(self, **kwargs: Any) -> LightningTrainer:
        """Build the trainer with the run folder's logger, checkpoints and export."""
        settings = self.run_folder.trainer_settings(dict(self._get(self.config_init, "trainer", default={})))
        callbacks = settings["callbacks"]
        if self.writes:
            callbacks += self.run_folder.callbacks(self.model, self.settings["checkpoint_every"])
        if quiet():
            settings["enable_progress_bar"] = False
        if settings.get("enable_progress_bar") is not False:
            callbacks.append(TQDMProgressBar(refresh_rate=5))
        try:
            return self.trainer_class(**{**settings, **kwargs})
        except (
            ValueError,
            TypeError,
            ImportError,
            MisconfigurationException,
        ) as error:  # an accelerator, a strategy
            reason = " ".join(str(error).split())
            raise ConfigError(f"trainer: {reason} Give other --trainer options, or leave them out") from error


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
            if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns it into an exit
                raise error.__context__ from None
            raise
    return Namespace(model=cli.model, trainer=cli.trainer, out=cli.run_folder.run.folder)
