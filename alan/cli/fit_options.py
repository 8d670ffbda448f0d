"""Help of ``alan fit`` and its siblings, shown before PyTorch is imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

#: Packages whose modules, and those whose data modules, can be given by their bare names.
MODULES = ("alan.backbone", "alan.parcels", "alan.supervised")
DATA = ("alan.data", "alan.cache")
_HELP = """usage: alan {verb} --config CONFIG [--out OUT] [options]

{summary}

options:
  --config CONFIG       YAML file, or name of an installed one ('alan configs' lists them). Options after it
                        replace single values.
  --out OUT             Folder of this run. The same command run again continues it. (default: runs/fit)
  --overwrite {{true,false}}
                        Replace a run with another configuration. (default: false)
  --checkpoint_every N  Optimiser steps between two checkpoints. (default: 200)
  --ckpt_path FILE      Checkpoint to start from, in place of the last one of the run.
  --seed_everything N   Seed of the run, 0 or more; true draws one. The model and the data take it too, unless
                        their own seed is not 0. (default: 0)
  --model CLASS         Class to train. 'alan {verb} --model CLASS --help' lists its options, which are
                        written --model.NAME VALUE. The classes of ALAN:
                        {modules}
  --data CLASS          Class of the data, with options as those of --model. The classes of ALAN:
                        {data}
  --trainer.NAME VALUE  Options of Lightning's Trainer, such as --trainer.max_steps and --trainer.accelerator.
  --print_config        Print all options as YAML, with the values that would be used, and exit.
  --help-all            List the options of Lightning too.

{epilog}
"""


def show_help(verb: str, summary: str, epilog: str) -> None:
    """Print the help of a verb of Lightning, with the public classes by name."""
    columns = ("," + "\n" + " " * 24).join
    text = summary[0].upper() + summary[1:] + "."
    sys.stdout.write(
        _HELP.format(
            verb=verb,
            summary=text,
            epilog=epilog,
            modules=columns(class_names(MODULES)),
            data=columns(class_names(DATA)),
        )
    )


def class_names(packages: Sequence[str]) -> list[str]:
    """Return the public names of modules, or of data modules, in packages."""
    return [
        name
        for package in packages
        for name in importlib.import_module(package).__all__
        if name.endswith("DataModule" if package in DATA else "Module")
    ]
