"""Run folders: open one for a configuration, remove what a run wrote, record where results came from."""

from __future__ import annotations

import math
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from alan._version import __version__
from alan.errors import ConfigError, DataError
from alan.files import write_text

#: The configuration of a run, in its folder.
CONFIG = "config.yaml"
_LIBRARIES = ("numpy", "scipy", "scikit-learn", "scikit-image", "torch", "timm", "lightning", "h5py")


def plain(value: Any) -> Any:
    """Reduce to what strict JSON and YAML hold: NaN and infinities become None, tuples lists, paths text."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value


def open_run(out: Path, config: Mapping[str, Any], overwrite: bool, contents: Sequence[str]) -> bool:
    """Open a run folder for a configuration.

    Args:
        out: the folder; made where it is missing.
        config: what the run is asked to do, plain values.
        overwrite: remove an earlier run's files first.
        contents: names of all that a run of this kind may write.

    Returns:
        True where the folder already held a run of this very configuration: its finished parts may be used.

    Raises:
        DataError: ``out`` is a file, or a folder of something else.
        ConfigError: it holds a run with another configuration, and ``overwrite`` is False.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; a run needs a folder")
    path = out / CONFIG
    if out.is_dir() and any(out.iterdir()) and not path.exists():
        raise DataError(
            f"{out}: holds files but no {CONFIG}, so it is no run of this command; give another folder"
        )
    if path.exists() and overwrite:
        remove_run(out, contents)
    if not path.exists():
        write_text(path, yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True))
        return False
    before, now = yaml.safe_load(path.read_text(encoding="utf-8")), plain(config)
    if before != now:
        changed = sorted(_changed(before, now))
        raise ConfigError(
            f"{out}: holds a run with another configuration ({', '.join(changed[:4])}): "
            "give another folder, or overwrite=true to replace it"
        )
    return True


def remove_run(out: Path, contents: Sequence[str]) -> None:
    """Remove what a run has written (``contents``), and the folder where nothing else is in it."""
    for name in contents:
        target = out / name
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()


def _changed(a: Any, b: Any, name: str = "") -> set[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        found: set[str] = set()
        for key in {*a, *b}:
            found |= _changed(a.get(key), b.get(key), f"{name}.{key}" if name else str(key))
        return found
    return set() if a == b else {name or "all of it"}


def provenance(inputs: Mapping[str, str]) -> dict[str, Any]:
    """Versions, machine, command and the fingerprints of what was read.

    Args:
        inputs: path of each input to its fingerprint.
    """
    versions = {"alan": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "system": platform.platform(),
        "versions": versions,
        "inputs": dict(inputs),
    }
