"""Run folders: open one for a configuration, lock it, resume it, remove what it wrote, mark it complete.

Every verb that writes a folder opens it here::

    with open_run(folder, "segment", config, overwrite, contents) as run:
        if not run.finished:
            ...
            run.finish()
"""

from __future__ import annotations

import contextlib
import csv
import math
import os
import platform
import re
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from alan._version import __version__
from alan.errors import AlanError, AlanWarning, ConfigError, DataError, SkippedError
from alan.files import read_json, redact, write_json, write_rows, write_text
from alan.locks import LOCK, lock_folder
from alan.words import plural

#: The configuration of a run, its mark of completion and its list of skipped files, in its folder.
CONFIG, FINISHED, FAILURES, METRICS = "config.yaml", "run.json", "failures.csv", "metrics.jsonl"
_LIBRARIES = ("numpy", "scipy", "scikit-learn", "scikit-image", "torch", "timm", "lightning", "h5py")
_COMMAND = "# alan "  # begins the first line of a configuration, which names the command of the run
_PART = re.compile(r"\..+\.\d+\.part")  # the temporary files of alan.files.atomic


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


def settings(values: Mapping[str, Any], *leave_out: str) -> dict[str, Any]:
    """Return the arguments of a verb that belong to the configuration of its run.

    Args:
        values: ``locals()`` at the beginning of the verb.
        *leave_out: Arguments that change no result, besides ``out`` and ``overwrite``.
    """
    return {name: value for name, value in values.items() if name not in ("out", "overwrite", *leave_out)}


@dataclass
class Run:
    """An open run folder.

    Attributes:
        folder: The folder.
        resumed: Whether it already held a run of this configuration, whose finished parts may be used.
        keep: Whether written files are kept when a new run fails because of bad input.
    """

    folder: Path
    resumed: bool
    keep: bool = False

    @property
    def finished(self) -> bool:
        """Whether an earlier process has completed this run, and nothing has been removed since."""
        try:
            outputs = read_json(self.folder / FINISHED).get("outputs", ())
            return all((self.folder / name).exists() for name in outputs)
        except (DataError, AttributeError, TypeError):  # missing or damaged
            return False

    def finish(self, temporary: str = "") -> None:
        """Mark the run complete: ``run.json`` records the command, the versions, the time and the files written.

        Args:
            temporary: Name of a folder that is removed afterwards.
        """
        names = [path.name for path in self.folder.iterdir()]
        outputs = sorted(name for name in names if not name.startswith(".") and name != temporary)
        write_json(self.folder / FINISHED, {**provenance({}), "outputs": outputs})


@contextlib.contextmanager
def open_run(
    out: Path, command: str, config: Mapping[str, Any], overwrite: bool, contents: Sequence[str]
) -> Iterator[Run]:
    """Open a run folder for a configuration, and hold its lock while the block runs.

    Temporary files of a killed process are removed. If a new run fails with an :class:`AlanError`, its contents
    are removed too, so that bad input leaves nothing behind.

    Args:
        out: The folder; it is created if it is missing.
        command: The verb whose runs the folder holds, such as ``segment``.
        config: Configuration of the run, JSON-able.
        overwrite: Remove the files of an earlier run first.
        contents: Names of all files and folders that a run of this kind may write.

    Yields:
        The open run.

    Raises:
        DataError: ``out`` is a file, or a folder of something else, such as a run of another command.
        ConfigError: It holds a run with another configuration, or a damaged one, and ``overwrite`` is False.
        LockError: Another process is writing to it.
    """
    everything = (CONFIG, FINISHED, FAILURES, *contents)
    with lock_folder(out):
        run = Run(out, _claim(out, command, config, overwrite, everything))
        try:
            yield run
        except SkippedError:
            raise
        except AlanError:
            if not (run.resumed or run.keep):
                remove_run(out, everything)
            raise


def _claim(out: Path, command: str, config: Any, overwrite: bool, contents: Sequence[str]) -> bool:
    """Write the configuration of a new run, or compare it with that of the run in the folder."""
    check_command(out, command)
    if (out / CONFIG).exists() and overwrite:
        remove_run(out, contents)
    elif holds_run(out, command, config):
        return True
    write_text(out / CONFIG, config_text(config, command))
    return False


def config_text(config: Any, command: str) -> str:
    """Return the configuration of a run as YAML, without passwords, after a comment that names its command."""
    return f"{_COMMAND}{command}\n" + redact(yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True))


def check_command(out: Path, command: str) -> None:
    """Refuse the run of another command, whose files :func:`remove_run` would leave beside the new ones.

    Args:
        out: A folder, which may be missing or hold no run.
        command: The verb that wants to write to it.

    Raises:
        DataError: It holds a run of another verb. Runs of earlier versions do not state theirs.
    """
    if (found := command_of(out)) not in ("", command):
        raise DataError(
            f"{out}: holds a run of alan {found}, which alan {command} does not replace: "
            "give another folder, or delete this one first"
        )


def command_of(folder: Path) -> str:
    """Return the verb whose run a folder holds; empty if it holds none, or one of an earlier version."""
    path = folder / CONFIG
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline().rstrip()
    return first.removeprefix(_COMMAND) if first.startswith(_COMMAND) else ""


def holds_run(out: Path, command: str, config: Any) -> bool:
    """Return whether a folder holds a run of a configuration; call it while the lock of the folder is held.

    Temporary files of a killed process are removed.

    Args:
        out: The folder.
        command: The verb of the run.
        config: Its configuration.

    Returns:
        False if the folder is empty.

    Raises:
        DataError: It holds something else.
        ConfigError: It holds a run with another configuration, or with a damaged one.
    """
    path = out / CONFIG
    sweep(out, deep=path.exists())
    if not path.exists():
        if any(file.name != LOCK for file in out.iterdir()):
            raise DataError(
                f"{out}: holds files but no {CONFIG}, so it is not a run of this command; give another folder"
            )
        return False
    before, now = read_config(path), yaml.safe_load(config_text(config, command))
    if before != now:
        changed = sorted(changed_options(before, now))
        raise ConfigError(
            f"{out}: holds a run with another configuration ({', '.join(changed[:4])}): "
            "give another folder, or replace it with --overwrite true"
        )
    return True


def read_config(path: Path) -> dict[str, Any]:
    """Read the configuration of a run.

    Raises:
        ConfigError: It is not a YAML file of options.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError):
        config = None
    if not isinstance(config, dict):
        raise ConfigError(
            f"{path}: damaged, not a YAML file of options: restore it, give another folder, "
            "or replace the run with --overwrite true"
        )
    return config


def sweep(folder: Path, *, deep: bool = True, age: float = 0) -> None:
    """Remove the temporary files that killed processes left in a folder; call it while its lock is held.

    Args:
        folder: The folder.
        deep: Search the folders below it too.
        age: Seconds since the last change; younger files are kept. A folder without a lock needs it, because other
            processes may be writing to it.
    """
    for place, folders, names in os.walk(folder):
        for path in (Path(place, name) for name in [*folders, *names] if _PART.fullmatch(name)):
            with contextlib.suppress(FileNotFoundError):  # another process has just renamed it
                if age and time.time() - path.stat().st_mtime < age:
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
        if not deep:
            break


def remove_run(out: Path, contents: Sequence[str]) -> None:
    """Remove the files of a run (``contents``) from its folder."""
    for name in contents:
        target = out / name
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def changed_options(a: Any, b: Any, name: str = "") -> set[str]:
    """Return the names of the options in which two configurations differ, such as ``loop.seeds``."""
    if isinstance(a, dict) and isinstance(b, dict):
        found: set[str] = set()
        for key in {*a, *b}:
            found |= changed_options(a.get(key), b.get(key), f"{name}.{key}" if name else str(key))
        return found
    return set() if a == b else {name or "all of it"}


def report_failures(
    path: Path,
    failures: Sequence[tuple[str, str]],
    total: int,
    *,
    strict: bool,
    output: str = "",
    skipped: int | None = None,
) -> None:
    """List what was skipped in a CSV file, and warn of it once.

    Args:
        path: The list, usually ``failures.csv`` in the run folder; an earlier one is replaced or removed.
        failures: File and reason of each failure.
        total: Number of files that were requested.
        strict: Raise an error in place of the warning.
        output: Name of the file that was written, where several files of one folder share the list; their rows
            are kept, and a third column names the file.
        skipped: Number of files that were skipped; None counts all failures. The other failures are problems of
            files that were used all the same.

    Raises:
        SkippedError: Something was skipped and ``strict`` is True; the command line exits with code 1.
    """
    rows = _rows_of_others(path, output) if output else []
    if not failures and not rows:
        path.unlink(missing_ok=True)
        return
    rows += [[*failure, output] if output else [*failure] for failure in failures]
    write_rows(path, ("file", "reason", "output") if output else ("file", "reason"), rows)
    if not failures:
        return
    skipped = len(failures) if skipped is None else skipped
    others = len(failures) - skipped
    found = f"found {plural(others, 'other problem' if skipped else 'problem')}"
    counts = f"skipped {skipped} of {total} files" if skipped else f"{found} in {plural(total, 'file')}"
    also = f" and {found}" if skipped and others else ""
    text = f"{counts}{also}, listed in {path}; the first: {': '.join(failures[0])}"
    if strict:
        raise SkippedError(text)
    warnings.warn(text, AlanWarning, stacklevel=2)


def _rows_of_others(path: Path, output: str) -> list[list[str]]:
    """Return the rows of a list of failures that belong to other outputs of the folder."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in list(csv.reader(file))[1:] if len(row) == 3 and row[2] != output]


def provenance(inputs: Mapping[str, str]) -> dict[str, Any]:
    """Return versions, machine, command and the fingerprints of the inputs.

    Args:
        inputs: Mapping from the path of each input to its fingerprint.
    """
    versions = {"alan": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": redact(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "system": platform.platform(),
        "versions": versions,
        "inputs": dict(inputs),
    }
