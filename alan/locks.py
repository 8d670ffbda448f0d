"""Locks of run folders and output files: one process writes at a time; a second one reports the first.

A lock is a file with its owner's name in it, locked with the operating system, which releases it when the process
ends, however it ends. Where a file system does not share such locks between machines, the owner's heartbeats
(the modification time of the file) distinguish a running process from one that has ended.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import json
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from alan.errors import DataError, LockError
from alan.files import naming_full_disk

_log = logging.getLogger(__name__)

#: The lock in a folder.
LOCK = ".lock"
#: Seconds between two heartbeats, and how long a lock of unknown state is watched for one.
HEARTBEAT, WATCH = 10.0, 35.0

#: Locks by process (a fork inherits the table, not the locks), and how often each is held: they are re-entrant.
_held: dict[tuple[int, Path], int] = {}


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; the folder is made if needed, and removed again if nothing is written to it.

    Args:
        folder: The folder; until the lock is released, it holds an empty file ``.lock``.

    Raises:
        DataError: It is a file.
        LockError: Another process holds the lock; the message names it.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; a run needs a folder")
    with _existing(folder), _hold(folder / LOCK, folder):
        yield


@contextlib.contextmanager
def lock_file(file: Path) -> Iterator[None]:
    """Hold the lock of a file that is to be written; its folder is made if needed.

    Temporary files that a killed process left beside it are removed.

    Args:
        file: The file; its lock is ``.<name>.lock`` beside it.

    Raises:
        LockError: Another process holds the lock; the message names it.
    """
    with _existing(file.parent), _hold(file.with_name(f".{file.name}.lock"), file):
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # other ranks may be writing theirs already
            left = re.compile(rf"\.{re.escape(file.name)}(\..+)?\.\d+\.part")
            for path in [path for path in file.parent.iterdir() if left.fullmatch(path.name)]:
                path.unlink(missing_ok=True)
        yield


@contextlib.contextmanager
def _existing(folder: Path) -> Iterator[None]:
    """Make a folder and its parents; afterwards remove those of them that are empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # not empty
            for path in missing:
                path.rmdir()


@contextlib.contextmanager
def _hold(path: Path, target: Path) -> Iterator[None]:
    key = os.getpid(), path.resolve()
    if not _is_first_rank():
        yield
        return
    if key in _held:
        _held[key] += 1
        try:
            yield
        finally:
            _held[key] -= 1
        return
    file, stop = _acquire(path, target), threading.Event()
    beat = threading.Thread(target=_beat, args=(file, stop), daemon=True)
    beat.start()
    _held[key] = 1
    try:
        yield
        if not _is_open_as(file, path):
            raise LockError(f"{target}: was removed or renamed while it was written; run the same command again")
    finally:
        del _held[key]
        stop.set()
        beat.join()
        if _is_open_as(file, path):
            path.unlink()
        os.close(file)


def _is_first_rank() -> bool:
    """Return whether this process is the first, or the only one, of a distributed run."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return next((os.environ[name] for name in names if os.environ.get(name)), "0") == "0"


def _acquire(path: Path, target: Path) -> int:
    """Lock ``path``, write the owner into it, and return the open file."""
    while True:
        if path.is_symlink():  # the file that it points to would be overwritten
            raise LockError(f"{path}: is a link, but a lock is a file of its own; remove it")
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            locked = _try_lock(file)
            owner = _read_owner(file)
            if locked is False:
                raise LockError(_in_use(target, path, owner))
            if not _is_open_as(file, path):  # its owner has just released it
                os.close(file)
                continue
            is_sure = locked and owner.get("host") == socket.gethostname()
            if owner and not is_sure and _shows_life(file, owner):
                raise LockError(_in_use(target, path, owner))
            if owner:
                _log.info("%s: took over the lock of %s, which has ended", target, _in_words(owner))
            try:
                with naming_full_disk(target):
                    os.ftruncate(file, 0)
                    os.pwrite(file, json.dumps(_myself()).encode(), 0)
            except OSError:
                path.unlink(missing_ok=True)
                raise
        except BaseException:
            os.close(file)
            raise
        return file


def _try_lock(file: int) -> bool | None:
    """Lock an open file; return False if another process holds it, and None where the file system has no locks."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EACCES, errno.EAGAIN) else None
    return True


def _is_open_as(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _beat(file: int, stop: threading.Event) -> None:
    """Send heartbeats until the event is set, or until another process has taken over the lock."""
    myself = _read_owner(file)
    while not stop.wait(HEARTBEAT):
        with contextlib.suppress(OSError):
            if _read_owner(file) != myself:
                return
            os.utime(file)


def _shows_life(file: int, owner: dict[str, Any]) -> bool:
    """Watch a lock for a heartbeat of its owner, by the clock of the file system."""
    _log.info("watching the lock of %s for %.0f s, to see whether it is alive", _in_words(owner), WATCH)
    before, end = os.fstat(file).st_mtime_ns, time.monotonic() + WATCH
    while time.monotonic() < end:
        time.sleep(min(1.0, WATCH / 5))
        if os.fstat(file).st_mtime_ns != before:
            return True
    return False


def _myself() -> dict[str, Any]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no entry in the password database
        user = str(os.getuid())
    return {
        "user": user,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]]),
    }


def _read_owner(file: int) -> dict[str, Any]:
    """Read the owner named in an open lock; empty for none."""
    try:
        owner = json.loads(os.pread(file, 4096, 0))
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _in_words(owner: dict[str, Any]) -> str:
    if not owner:
        return "another process"
    return "process {pid} of {user} on {host} ({command}, since {started})".format_map(
        {"pid": "?", "user": "?", "host": "?", "command": "?", "started": "?", **owner}
    )


def _in_use(target: Path, path: Path, owner: dict[str, Any]) -> str:
    return (
        f"{target}: {_in_words(owner)} is writing to it: wait until it has ended, or write elsewhere "
        f"(if no such process exists, delete {path})"
    )
