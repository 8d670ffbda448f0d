"""Input files of a command, checked before the libraries that would read them are imported."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from alan.errors import DataError, nearest
from alan.files import HDF5
from alan.shipped import shipped, shipped_configs, shipped_parcels

#: Suffixes of files that commands read; a name with one of them is a path, not the name of something installed.
_SUFFIXES = (*HDF5, ".safetensors", ".ckpt", ".pth", ".json", ".jsonl", ".yaml", ".yml")
#: Options that name outputs, or a folder that may be created.
_OUTPUTS = ("out", "work", "config", "title", "storage")
#: Options that name an input even without a suffix.
_INPUTS = ("input", "inputs", "run", "runs", "reference")
#: Options that name a file or something installed: with a folder in it, the name is a path.
_FILES = ("store", "parcels", "white_boxes")


def check_inputs(values: Mapping[str, Any]) -> None:
    """Refuse an input file, or a model, that does not exist.

    Args:
        values: Options by name, nested as in a configuration.

    Raises:
        DataError: A file is missing; the message names the command that writes it.
    """
    for name, value in _leaves(values):
        if name == "model" and not Path(value).exists():
            _check_model(value)
        for file in _files(value):
            path = Path(file)
            is_path = name in _FILES and len(path.parts) > 1
            is_input = is_path or name in _INPUTS or path.suffix.lower() in _SUFFIXES
            if is_input and not path.exists() and not _is_shipped(file):
                raise DataError(f"{file}: no such {_kind(name, path)}")


def _is_shipped(name: str) -> bool:
    return any(name in known for known in (shipped(), shipped(".json"), shipped_configs()))


def _files(value: str) -> list[str]:
    """Return what may be a file in an option: ``NAME?weights=FILE&key=value`` has a name and a file."""
    if Path(value).exists():
        return [value]
    name, _, options = value.partition("?")
    return [name, *(part.removeprefix("weights=") for part in options.split("&") if part.startswith("weights="))]


def _check_model(name: str) -> None:
    from alan.analysis.manifest import shipped_models

    names = {*shipped_models(), *shipped_parcels()}
    if name not in names:
        raise DataError(f"{name}: no such model; {nearest(name, sorted(names))}")


def _kind(name: str, path: Path) -> str:
    """Return a message with the missing path and the remedy."""
    if path.suffix.lower() in HDF5 or name == "store":
        is_cache = name.rpartition(".")[2] == "cache"
        return (
            "feature cache; write it with `alan cache`"
            if is_cache
            else "frame store; write it with `alan prepare`"
        )
    from alan.runs import FINISHED, METRICS

    if path.name == METRICS and path.with_name(FINISHED).exists():
        return "file, as the training has fewer steps than trainer.log_every_n_steps: leave it out"
    kind = "file or folder" if name in ("inputs", *_FILES) else "file" if path.suffix else "folder"
    return f"{kind}; check the spelling"


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in nested options with the name of its option."""
    if isinstance(value, str) and name not in _OUTPUTS:
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(part, str(key))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _leaves(part, name)


def training_values(args: Sequence[str]) -> dict[str, Any]:
    """Read the options of a training's model and data, from its configurations and its command line.

    Args:
        args: The options of ``alan fit``, with the paths of configurations. Later ones replace earlier ones.

    Returns:
        Such as ``data.stores`` and ``model.backbone`` to their values; the parser reports what cannot be read.
        Empty if an option looks like a misspelt one of the configuration, which the parser should report first.
    """
    values: dict[str, Any] = {}
    misspelt = False
    for word, after in pairwise([*args, ""]):
        name, given, value = word.partition("=")
        value = value if given else after
        try:
            if name in ("--config", "-c"):
                settings = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
                for part in ("model", "data"):
                    options = (settings.get(part) or {}).get("init_args") or {}
                    values |= {f"{part}.{key}": option for key, option in options.items()}
            elif name in ("--model", "--data"):  # another class may not take the options of the configuration
                values = {key: option for key, option in values.items() if not key.startswith(f"{name[2:]}.")}
            elif name.startswith(("--model.", "--data.")):
                option = name.removeprefix("--").replace("init_args.", "")
                misspelt |= option not in values and bool(difflib.get_close_matches(option, values, cutoff=0.8))
                values[option] = yaml.safe_load(value)
            elif name == "--ckpt_path":
                values["ckpt_path"] = value
        except (OSError, ValueError, yaml.YAMLError, TypeError, AttributeError):
            continue
    return {} if misspelt else values
