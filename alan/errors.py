"""Errors and warnings: one root class, few subclasses. Each message names the value, the bound and the remedy."""

from __future__ import annotations

import contextlib
import difflib
import errno
from collections.abc import Iterable, Iterator


class AlanError(Exception):
    """Root of every error raised on purpose; the command line prints it as one line and exits with code 2."""


class ParameterError(AlanError, ValueError):
    """A parameter or an array is outside what the function accepts."""


class ConfigError(AlanError):
    """A command or a configuration file names something that does not exist, or contradicts itself."""


class DataError(AlanError):
    """A dataset on disk is missing, incomplete or unreadable."""


class SkippedError(AlanError):
    """Work ended and was written, but something was skipped and ``strict`` was asked for; exit code 1."""


class SplitLeakError(DataError):
    """A patient (or study) is in more than one split."""


class CheckpointError(AlanError):
    """Weights are missing, truncated, unsafe to load, or belong to another architecture."""


class CacheError(AlanError):
    """A feature cache belongs to another backbone, preprocessing or archive."""


class SelectionError(AlanError, ValueError):
    """No parcel satisfies the selection rule."""


class LockError(AlanError):
    """Another process is writing to the same run folder or file."""


class AlanWarning(UserWarning):
    """Something was skipped or looks wrong, and the work continues."""


#: Warnings about code. Another thread may raise them while a file is read, and they say nothing about it.
ABOUT_CODE = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
#: Exceptions of the parsing of damaged content, by Python and by HDF5, safetensors and torch.
_DAMAGE = (OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError)


@contextlib.contextmanager
def damaged(kind: type[AlanError], what: str, remedy: str) -> Iterator[None]:
    """Report the exceptions of a block that parses a file as one error.

    Args:
        kind: Class of the error; errors of this class pass unchanged.
        what: Start of the message, the file and what is wrong with it; the exception follows in brackets.
        remedy: End of the message.

    Raises:
        AlanError: An error of ``kind``, in place of the exceptions that damaged content causes.
    """
    try:
        yield
    except kind:
        raise
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise kind(f"{what} ({reason}): {remedy}") from error


#: Error numbers for too many open files, which is no fault of the file being read.
SHORTAGE = {errno.EMFILE, errno.ENFILE}
_MEMORY = (
    *("allocate memory", "insufficient memory", "bad_alloc", "unable to allocate", "out of memory"),
    *("could not create a primitive", "could not create a memory"),  # oneDNN
    "failed to map segment",  # while a library is loaded
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory is exhausted, by its class or by a known message of a library."""
    name, text = type(error).__name__, str(error).lower()
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":
        return True
    if name == "SystemError":  # the interpreter could not even allocate the error
        return "without exception set" in text or "without setting an exception" in text
    possible = isinstance(error, (RuntimeError, OSError, ImportError)) or name == "error"  # a class of OpenCV
    return possible and any(words in text for words in _MEMORY)


#: Number of choices that a message lists where there are more than three times as many.
_MOST_CHOICES = 10


def nearest(name: str, choices: Iterable[str]) -> str:
    """Suggest the nearest known name for a misspelt one.

    Args:
        name: The unknown name.
        choices: The names that exist.

    Returns:
        ``"did you mean 'x'? "`` if a name is close, then the choices, for the end of a message. If there are many
        choices, only close ones and the total number are listed.
    """
    known = sorted(choices)
    close = difflib.get_close_matches(name, known, n=_MOST_CHOICES, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    if len(known) <= 3 * _MOST_CHOICES:
        return f"{hint}choose one of: {', '.join(known)}"
    return f"{hint}choose one of {len(known)}, such as: {', '.join(close or known[:_MOST_CHOICES])}"
