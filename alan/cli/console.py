"""Output of a verb: its lines and warnings on standard error and, with ``--log-file``, in a file."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alan.errors import ABOUT_CODE, AlanWarning, ConfigError
from alan.files import redact
from alan.progress import NO_BARS

_log = logging.getLogger("alan")

#: Packages that read files of the user; their warnings concern the user's data.
_READERS = ("PIL", "av", "h5py", "pydicom", "pylibjpeg")


@dataclass(frozen=True)
class Options:
    """Options of every verb.

    Attributes:
        quiet: Show warnings and errors only, no progress.
        log_file: File to which all lines are appended, with the time.
    """

    quiet: bool = False
    log_file: str | None = None


def common_options(args: Sequence[str]) -> tuple[Options, list[str]]:
    """Separate the options common to all verbs from a verb's own arguments.

    Raises:
        ConfigError: ``--log-file`` without a file.
    """
    quiet, log_file, rest = False, None, []
    words = iter(args)
    for word in words:
        name, given, value = word.partition("=")
        if name in ("--log-file", "--log_file"):
            log_file = value if given else next(words, "")
            if not log_file or log_file.startswith("--"):
                raise ConfigError("--log-file needs a file: give --log-file FILE")
        elif word == "--quiet":
            quiet = True
        else:
            rest.append(word)
    return Options(quiet, log_file), rest


@contextlib.contextmanager
def console(options: Options) -> Iterator[None]:
    """Show the package's messages and warnings as plain lines while the block runs.

    Args:
        options: Options of every verb.
    """
    handlers = [_handler(_Terminal(), logging.WARNING if options.quiet else logging.INFO)]
    if options.log_file is not None:
        Path(options.log_file).parent.mkdir(parents=True, exist_ok=True)
        file = _LogFile(options.log_file, encoding="utf-8", errors="backslashreplace")
        handlers.append(_handler(file, logging.DEBUG, "%(asctime)s %(levelname)s %(message)s"))
    level, showwarning, bars = _log.level, warnings.showwarning, os.environ.get(NO_BARS)
    _log.setLevel(min(handler.level for handler in handlers))
    for handler in handlers:
        _log.addHandler(handler)
    warnings.showwarning = _show_warning
    if options.quiet:
        os.environ[NO_BARS] = "1"
    try:
        yield
    finally:
        warnings.showwarning = showwarning
        for handler in handlers:
            _log.removeHandler(handler)
            handler.close()
        _log.setLevel(level)
        if options.quiet:
            os.environ.pop(NO_BARS)
            if bars is not None:
                os.environ[NO_BARS] = bars


def quiet_lightning() -> None:
    """Show only Lightning's warnings; call it after the import, which sets a level."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def show(text: str, level: int = logging.ERROR) -> None:
    """Show one line about the verb itself: an error, a note or an interruption.

    Args:
        text: The line; line breaks and passwords in it are replaced.
        level: Its level in the log file.
    """
    _log.log(level, "alan: %s", " ".join(text.split()))


class _Terminal(logging.StreamHandler):  # type: ignore[type-arg]
    """Standard error; progress bars are moved out of the way of lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record between the bars, whose lock may be held by a process that was killed."""
        tqdm = sys.modules.get("tqdm")
        with tqdm.tqdm.external_write_mode(self.stream, nolock=True) if tqdm else contextlib.nullcontext():
            super().emit(record)


class _LogFile(logging.FileHandler):
    """The log file; a full disk is reported once, when the file is closed."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the name of logging)
        """Ignore a record that cannot be written."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


class _RedactingFormatter(logging.Formatter):
    """Lines without passwords."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        return redact(super().format(record))


def _handler(handler: logging.Handler, level: int, form: str = "%(message)s") -> logging.Handler:
    handler.setLevel(level)
    handler.setFormatter(_RedactingFormatter(form))
    return handler


def _show_warning(message: Warning | str, category: type[Warning], filename: str = "", *_: Any, **__: Any) -> None:
    """Show the package's warnings, and those of the libraries that read the user's files."""
    third_party = not issubclass(category, ABOUT_CODE) and any(
        f"{os.sep}{package}{os.sep}" in filename for package in _READERS
    )
    if third_party or issubclass(category, AlanWarning):
        show(f"note: {message}", logging.WARNING)
