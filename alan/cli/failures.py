"""One line for every error that a user can act on: bad input, files, memory and worker processes."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from alan.errors import AlanError, is_out_of_memory

_PLACE = "check who may read and write there, or give another place"
_DEVICE = "check the disk or the network drive, then run again"
_PROCESSES = "raise the limit of processes (ulimit -u), or use fewer workers"
#: Error number of the file system to the remedy.
_REMEDIES = {
    errno.ENOSPC: "free some, run again",
    errno.EDQUOT: "free some, run again",
    errno.EACCES: _PLACE,
    errno.EPERM: _PLACE,
    errno.EROFS: "give another place",
    errno.ENOTDIR: "a part of this path is a file; give another place",
    errno.EISDIR: "give a file",
    errno.EEXIST: "a file stands where a folder is needed; give another place",
    errno.ENOENT: "check the spelling",
    errno.ENAMETOOLONG: "shorten it",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs: the system has no more files to open",
    errno.EAGAIN: _PROCESSES,
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.ELOOP: "a link leads to itself; give another place",
    **dict.fromkeys((errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT), _DEVICE),
}
#: Last line of a traceback for errors of this package, and of the system.
_RAISED = re.compile(r"alan\.errors\.\w+: (.+)")
_SYSTEM = re.compile(r"\w+: \[Errno (\d+)\] (.+?)(?:: '(.+)')?$")
#: Characters that end a name in a text.
_ENDS = re.compile(r"[\"\n,]")
#: Errors of process pools and torch's launcher for a process that was killed.
_LOST_PROCESS = {"BrokenProcessPool", "ProcessExitedException"}
#: Messages of Lightning about a class that lacks a method.
_LOOP = re.compile(r"^No `(\w+)\(\)` method defined|^`(\w+)` must be implemented")
#: Messages of libraries about limits of the system, which carry no error number.
_LIMITS = {
    "too many open files": errno.EMFILE,
    "failed to init uv loop": errno.EMFILE,  # from torch.distributed
    "can't start new thread": errno.EAGAIN,
}


def in_one_line(error: BaseException) -> str | None:
    """Describe an error and its remedy in one line.

    Args:
        error: Error that a verb raised.

    Returns:
        One line; None for an error of the program.
    """
    # errors are recognised by the names of their classes where an import would take seconds
    name, text = type(error).__name__, " ".join(str(error).split())
    if name == "MisconfigurationException" and (found := _LOOP.search(text)):
        return (
            f"the class has no {found[1] or found[2]}, which this verb needs: measure networks of ALAN with "
            "`alan evaluate`, or define it in a class of your own"
        )
    if isinstance(error, AlanError) or name == "MisconfigurationException":
        return str(error)
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        return _of_a_name(error)
    number = getattr(error, "errno", None) if isinstance(error, OSError) else None
    if name == "ProcessRaisedException":
        return _of_another_process(str(error))
    if is_out_of_memory(error) or number == errno.ENOMEM:
        return f"out of memory ({text[:200] or name}): lower the batch size or the number of workers; run again"
    if name in _LOST_PROCESS or text.startswith("DataLoader worker"):
        return (
            "a worker process was killed, probably out of memory: lower the number of workers; the same command "
            "continues from what was saved"
        )
    if _raised_in(error, Path("lightning", "pytorch", "callbacks")):  # their options contradict the run
        return f"trainer.callbacks: {text}"
    number = number or next((number for words, number in _LIMITS.items() if words in text.lower()), None)
    if number not in _REMEDIES:
        return None
    where = getattr(error, "filename2", None) or getattr(error, "filename", None)
    full = number in (errno.ENOSPC, errno.EDQUOT)
    what = "no space left on disk" if full else os.strerror(number).lower()
    where = where or ("input or output" if _REMEDIES[number] == _DEVICE else "output")
    return f"{where}: {what}; {_REMEDIES[number]}"


def _of_a_name(error: UnicodeEncodeError) -> str:
    """Describe a file name that cannot be written into a text, in one line."""
    parts = _ENDS.split(error.object[: error.start])[-1], _ENDS.split(error.object[error.start :])[0]
    name = "".join(parts).encode("utf-8", "surrogateescape")
    return f"the file name {name!r} is not UTF-8: rename the file (convmv does so for whole folders)"


def _raised_in(error: BaseException, folder: Path) -> bool:
    """Return whether an error was raised in a folder of a library."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and str(folder) in place.tb_frame.f_code.co_filename


def _of_another_process(text: str) -> str | None:
    """Return the line of an error in another process of a run, whose traceback torch passes on as text."""
    last = text.strip().splitlines()[-1]
    if found := _RAISED.match(last):
        return found[1]
    if found := _SYSTEM.match(last):
        return in_one_line(OSError(int(found[1]), found[2], found[3]))
    return in_one_line(RuntimeError(last))  # a limit, in the words of a library
