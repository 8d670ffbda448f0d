"""Run a command in a forked process that is killed at a chosen event, and compare what two runs have left.

A fork shares the libraries that this process has imported, so a try takes as long as the command itself. Events
are renames: every file that is written whole is renamed into place.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors import safe_open

from alan.cli.main import main

#: Keys whose values say when and where a result was made.
VOLATILE = {"created", "command", "system", "seconds", "minutes"}


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Its exit code, or minus the signal that killed it.
        error: What it wrote to standard error.
        events: Number of renames that were begun.
    """

    code: int
    error: str
    events: int


@dataclass(frozen=True)
class Plan:
    """What happens to a command.

    Attributes:
        kill_at: Number of the rename (from 1) at which it is killed; 0 for none.
        after: Kill it after the rename rather than before.
        delay: Seconds after which ``number`` is sent, or None.
        number: Signal that is sent after ``delay``.
        setup: Called in the process before the command.
    """

    kill_at: int = 0
    after: bool = False
    delay: float | None = None
    number: int = signal.SIGKILL
    setup: Callable[[], None] = field(default=lambda: None)


def run(args: Sequence[Any], plan: Plan = Plan(), timeout: float = 300) -> Ended:
    """Run ``alan args`` in a forked process."""
    words = [str(arg) for arg in args]
    error_read, error_write = os.pipe()
    count_read, count_write = os.pipe()
    child = os.fork()
    if not child:
        _be_the_command(words, plan, error_write, count_write)
    os.close(error_write)
    os.close(count_write)
    error, counts = io.BytesIO(), io.BytesIO()
    readers = [threading.Thread(target=_drain, args=pair) for pair in ((error_read, error), (count_read, counts))]
    for reader in readers:
        reader.start()
    if plan.delay is not None:
        time.sleep(plan.delay)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, plan.number)
    code = _wait(child, timeout)
    for reader in readers:
        reader.join()
    return Ended(code, error.getvalue().decode(errors="replace"), len(counts.getvalue()))


def _be_the_command(words: list[str], plan: Plan, error: int, count: int) -> None:
    """Run the command in the child, and never return."""
    code = 99
    try:
        os.setpgid(0, 0)
        os.dup2(error, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (for the life of the child)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        _count_renames(plan, count)
        plan.setup()
        code = main(words)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _count_renames(plan: Plan, count: int) -> None:
    owner, events = os.getpid(), 0

    def wrapped(rename: Callable[..., Any]) -> Callable[..., Any]:
        def renames(*args: Any, **kwargs: Any) -> Any:
            nonlocal events
            if os.getpid() != owner:
                return rename(*args, **kwargs)
            events += 1
            os.write(count, b".")
            if events == plan.kill_at and not plan.after:
                os.kill(owner, signal.SIGKILL)
            result = rename(*args, **kwargs)
            if events == plan.kill_at:
                os.kill(owner, signal.SIGKILL)
            return result

        return renames

    os.replace, os.rename = wrapped(os.replace), wrapped(os.rename)


def _drain(source: int, target: io.BytesIO) -> None:
    with os.fdopen(source, "rb") as file:
        target.write(file.read())


def _wait(child: int, timeout: float) -> int:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            _kill_group(child)
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    _kill_group(child)
    os.waitpid(child, 0)
    raise TimeoutError(f"the command ran for more than {timeout} s")


def _kill_group(child: int) -> None:
    """End the workers of a command that was killed."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


def contents(folder: Path, ignore: Sequence[str] = ()) -> dict[str, Any]:
    """What is in a folder, so that two runs can be compared: relative path to a digest of the content.

    Args:
        folder: The folder; its own path within files does not count, nor do times and commands.
        ignore: Regular expressions of relative paths that do not count.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(re.fullmatch(pattern, name) for pattern in ignore):
            found[name] = _content(path, folder)
    return found


def _content(path: Path, folder: Path) -> Any:
    match path.suffix:
        case ".json":
            return _plain(json.loads(path.read_text(encoding="utf-8")), folder)
        case ".ckpt":
            saved = torch.load(path, map_location="cpu", weights_only=True)
            return _plain(
                {key: saved.get(key) for key in ("state_dict", "optimizer_states", "global_step")}, folder
            )
        case ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: _plain(file.get_tensor(key), folder) for key in sorted(file.keys())}
        case ".h5":
            return _hdf5(path)
        case ".npz":
            with np.load(path) as file:
                return {key: _plain(file[key], folder) for key in file.files}
        case ".csv" | ".yaml" | ".jsonl" | ".html" | ".cfg" | ".txt":
            return path.read_text(encoding="utf-8").replace(str(folder), "OUT")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _hdf5(path: Path) -> dict[str, Any]:
    found = {}

    def visit(name: str, item: Any) -> None:
        found[f"{name}:attributes"] = {key: str(value) for key, value in item.attrs.items()}
        if isinstance(item, h5py.Dataset):
            value = item[()]
            found[name] = value.tolist() if item.dtype.hasobject else _plain(value, path)

    with h5py.File(path) as file:
        visit("/", file)
        file.visititems(visit)
    return found


def _plain(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part, folder) for key, part in value.items() if key not in VOLATILE}
    if isinstance(value, (list, tuple)):
        return [_plain(part, folder) for part in value]
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, (np.ndarray, np.generic)):
        return value.dtype.str, value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
    return value.replace(str(folder), "OUT") if isinstance(value, str) else value


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of files that only one of two runs has left, or whose content differs."""
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
