"""Run a command in a forked process, let something happen to it, and compare what two runs have left.

A fork shares the libraries that this process has imported, so a try takes as long as the command itself; what
a command imports in its first, uninterrupted run is imported here afterwards. Events are renames: every file that
is written whole is renamed into place. Times are seconds of the processor, so that other programs change nothing.
"""

from __future__ import annotations

import contextlib
import csv
import faulthandler
import gc
import hashlib
import importlib
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
import psutil
import pydicom
import pytest
import torch
from safetensors import safe_open
from tqdm import tqdm

from alan.cli.main import main

#: Seconds without any work, or in all, after which a command hangs, and the exit code that says so.
IDLE, LONGEST, HUNG = 150, 1500, 124
#: Keys whose values say when and where a result was made; paths are relative to it.
VOLATILE = {"created", "command", "system", "seconds", "minutes", "started", "worker", "path"}
VOLATILE |= {"latency", "latency_low", "latency_high", "ms"}


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Its exit code, or minus the signal that killed it; 124 if it hung.
        error: What it wrote to standard error, with the stacks of its threads if it hung.
        events: Number of renames that were begun.
        seconds: Processor time that it used, without its child processes.
    """

    code: int
    error: str
    events: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What happens to a command.

    Attributes:
        at: Number of the rename (from 1) at which it happens; 0 for none.
        after: Let it happen after the rename rather than before.
        number: Signal that the command gets.
        delay: Seconds of processor time after which the signal is sent, in place of a rename; None for none.
        error: Raised by the rename, in place of a signal.
        setup: Called in the process before the command.
        share: Whether this process imports the libraries that the command has imported.
    """

    at: int = 0
    after: bool = False
    number: int = signal.SIGKILL
    delay: float | None = None
    error: OSError | None = None
    setup: Callable[[], None] = field(default=lambda: None)
    share: bool = False


class Running:
    """A command that runs in a forked process.

    Args:
        args: The words after ``alan``.
        plan: What happens to it.
    """

    def __init__(self, args: Sequence[Any], plan: Plan = Plan()) -> None:
        if torch.cuda.is_initialized():
            pytest.skip("a process that uses CUDA cannot be forked")
        words = [str(arg) for arg in args]
        pipes = [os.pipe() for _ in range(3)]
        gc.freeze()  # the child's collections would copy every page of this process
        self.pid, self._plan, self._sent, self.seconds = os.fork(), plan, plan.delay is None, 0.0
        if not self.pid:
            _be_the_command(words, plan, *(write for _, write in pipes))
        self._texts = [io.BytesIO() for _ in pipes]
        self._readers = []
        for (read, write), text in zip(pipes, self._texts, strict=True):
            os.close(write)
            self._readers.append(threading.Thread(target=_drain, args=(read, text), daemon=True))
            self._readers[-1].start()

    def send(self, number: int) -> None:
        """Send a signal; nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def interrupt(self, number: int) -> None:
        """Send a signal to the command and its workers, as a terminal and a job scheduler do."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait(self) -> int:
        """Wait until it has ended, or has been stopped; its exit code, minus its signal, or 0 for stopped.

        A command that does nothing for a long time, or waits for something again and again, writes the stacks of
        its threads and is killed: code 124.
        """
        begin = idle_since = time.monotonic()
        idle_at = looked_at = 0.0
        while time.monotonic() < min(idle_since + IDLE, begin + LONGEST):
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if pid and os.WIFSTOPPED(status):
                return 0
            if pid:
                _kill_group(self.pid)
                return os.waitstatus_to_exitcode(status)
            self.seconds = _processor_time(self.pid, self.seconds)
            if not self._sent and self.seconds >= (self._plan.delay or 0):
                self._sent = True
                self.send(self._plan.number)
            if time.monotonic() > looked_at + 5:
                looked_at, work = time.monotonic(), self.seconds + _workers_time(self.pid)
                if abs(work - idle_at) > 0.05:
                    idle_since, idle_at = looked_at, work
            time.sleep(0.005)
        self.send(signal.SIGUSR1)
        time.sleep(1)
        _kill_group(self.pid)
        os.waitpid(self.pid, 0)
        return HUNG

    def end(self) -> Ended:
        """Wait for its end, and return how it ended."""
        code = self.wait()
        for reader in self._readers:
            reader.join(timeout=IDLE)
        error, count, modules = (text.getvalue().decode(errors="replace") for text in self._texts)
        for name in [name for name in modules.split() if not name.startswith("triton")]:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        return Ended(code, error, len(count), self.seconds)


def _processor_time(pid: int, before: float) -> float:
    """Seconds of processor time of a process and its threads, by its clock of the kernel."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:  # it has ended
        return before


def _workers_time(pid: int) -> float:
    """Seconds of processor time of the processes that a process has started and that still run."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(child.cpu_times()[:2])
    return total


def run(args: Sequence[Any], plan: Plan = Plan()) -> Ended:
    """Run ``alan args`` in a forked process to its end."""
    return Running(args, plan).end()


def _be_the_command(words: list[str], plan: Plan, error: int, count: int, modules: int) -> None:
    """Run the command in the child, and never return."""
    code, before = 99, set(sys.modules)
    try:
        os.setpgid(0, 0)
        os.dup2(error, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (for the life of the child)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        faulthandler.register(signal.SIGUSR1, file=2)
        tqdm.set_lock(threading.RLock())  # that of the parent may be held by a child that was killed
        torch.cuda._is_in_bad_fork = bool  # all of it runs on the CPU, and may fork again
        _count_renames(plan, count)
        plan.setup()
        code = main(words)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        if plan.share:
            os.write(modules, " ".join(name for name in sys.modules if name not in before).encode()[:60_000])
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
            if events == plan.at and not plan.after:
                _happen(plan)
            result = rename(*args, **kwargs)
            if events == plan.at and plan.after:
                _happen(plan)
            return result

        return renames

    os.replace, os.rename = wrapped(os.replace), wrapped(os.rename)


def _happen(plan: Plan) -> None:
    if plan.error is not None:
        raise plan.error
    signal.raise_signal(plan.number)


def _drain(source: int, target: io.BytesIO) -> None:
    with os.fdopen(source, "rb", buffering=0) as file:
        while part := file.read(65536):
            target.write(part)


def _kill_group(child: int) -> None:
    """End the workers of a command that was killed."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


def contents(folder: Path, ignore: Sequence[str] = (), *, numbered: bool = False) -> dict[str, Any]:
    """What is in a folder, so that two runs can be compared: relative path to a digest of the content.

    Args:
        folder: The folder; its own path within files does not count, nor do times and commands.
        ignore: Regular expressions of relative paths that do not count.
        numbered: Whether rows are trials of a study: one that was interrupted keeps its number, and its point is
            trained under a new one, so that numbers and the order of rows do not count.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(re.fullmatch(pattern, name) for pattern in ignore):
            content = _content(path, folder)
            found[name] = _without_numbers(content) if numbered else content
    return found


def _without_numbers(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub(r"Trial \d+", "Trial N", value)
    if isinstance(value, dict):
        return {key: _without_numbers(part) for key, part in value.items() if key != "trial"}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return sorted(map(_without_numbers, value), key=repr)
    return value


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
        case ".h5" | ".rank0" | ".rank1":
            return _hdf5(path)
        case ".npz":
            with np.load(path) as file:
                return {key: _plain(file[key], folder) for key in file.files}
        case ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                return _plain(list(csv.DictReader(file)), folder)
        case ".dcm":
            return sorted(element.keyword for element in pydicom.dcmread(path))
        case ".yaml" | ".jsonl" | ".html" | ".cfg" | ".txt":
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
