"""What a protocol returns, and the run folder that keeps it."""

from __future__ import annotations

import math
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from alan._version import __version__
from alan.errors import ConfigError, DataError
from alan.files import atomic, read_json, write_json, write_text

SCHEMA = "alan-results/1"
CONFIG, RESULTS, EXAMPLES = "config.yaml", "results.json", "examples.npz"
#: Everything that a run may write; ``overwrite`` removes these and nothing else.
CONTENTS = (
    CONFIG,
    RESULTS,
    EXAMPLES,
    "per_case.csv",
    "per_image_views.csv",
    "label_efficiency.csv",
    "report.html",
    "models",
    "maps",
    "features",
    "cells",
    "figures",
    "curves",
)
_LIBRARIES = ("numpy", "scipy", "scikit-learn", "scikit-image", "torch", "timm", "lightning", "h5py")


@dataclass
class Result:
    """Outcome of a protocol.

    Attributes:
        summary: nested dictionary of plain values; goes to ``results.json``.
        cases: one row per measured case; goes to a CSV file.
        models: file name to the dictionary of a fitted white box; goes to ``models/``.
        examples: arrays of the frames shown in the report; goes to ``examples.npz``.
    """

    summary: dict[str, Any]
    cases: pd.DataFrame
    models: dict[str, Any] = field(default_factory=dict)
    examples: dict[str, NDArray[Any]] = field(default_factory=dict)


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


def open_run(out: Path, config: Mapping[str, Any], overwrite: bool, contents: Sequence[str] = CONTENTS) -> bool:
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


def remove_run(out: Path, contents: Sequence[str] = CONTENTS) -> None:
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


def write_result(out: Path, result: Result, cases_name: str) -> None:
    """Write a protocol's cases, white boxes and examples (not ``results.json``: it seals the run).

    Args:
        out: the run folder.
        result: what to write.
        cases_name: file name of the CSV; NaN is an empty cell.
    """
    with atomic(out / cases_name) as temporary:
        result.cases.to_csv(temporary, index=False, float_format="%.6g")
    for name, model in result.models.items():
        write_json(out / "models" / name, plain(model))
    if result.examples:
        with atomic(out / EXAMPLES) as temporary, temporary.open("wb") as file:
            # mypy takes the unpacked arrays for numpy's flags.
            np.savez_compressed(file, **result.examples)  # type: ignore[arg-type]


def read_results(out: Path) -> dict[str, Any]:
    """Read ``results.json`` of a run folder.

    Raises:
        DataError: there is none, or it is of another schema.
    """
    results = read_json(out / RESULTS)
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        raise DataError(f"{out / RESULTS}: not of the schema {SCHEMA}; run alan evaluate again")
    return results


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
