"""The command line: ``alan <verb>``; one entry, one way to fail (one line, exit code 2)."""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from alan._version import __version__
from alan.errors import AlanError, AlanWarning, ConfigError, SkippedError, nearest

#: Verb to (module, function, one line of help); the function's signature is the verb's options.
VERBS = {
    "demo": ("alan.cli.demo", "demo", "the whole chain on a simulated archive, with a report, in ten minutes"),
    "simulate": (
        "alan.data.simulator.archive",
        "simulate_archive",
        "make an echo archive in an official layout out of nothing",
    ),
    "frames": (
        "alan.data.extract",
        "extract_frames",
        "take stills out of cine loops (AVI, MP4, DICOM, NIfTI, MHD)",
    ),
    "check": ("alan.cli.check", "check", "read everything in an archive and list what is wrong with it"),
    "prepare": ("alan.cli.prepare", "prepare", "decode an archive once into a frame store"),
    "parcels": ("alan.cli.parcels", "parcels", "fit k-means parcels on unlabelled frames"),
    "name": ("alan.cli.name", "name", "name parcels by simulated frames: white boxes without a human label"),
    "segment": (
        "alan.cli.segment",
        "segment",
        "segment a folder of pictures or a frame store, with a contact sheet",
    ),
    "cache": ("alan.cache.run", "write_cache", "write a locked backbone's features or parcels to HDF5"),
    "evaluate": (
        "alan.cli.evaluate",
        "evaluate",
        "fit the white boxes on a few labels, measure, write the report",
    ),
    "ensemble": ("alan.evaluation.ensemble", "run_ensemble", "weigh fitted networks on validation cases"),
    "search": ("alan.cli.search", "search", "search encoder, decoder and training, with a report (EDNAS)"),
    "report": ("alan.cli.report", "report", "write a run's report.html again"),
    "active run": ("alan.cli.active", "active_run", "active learning with existing masks: IoU against labels"),
    "active suggest": ("alan.cli.active", "active_suggest", "rank unlabelled images: which to label next"),
}
#: Verbs of Lightning's command line.
LIGHTNING = {
    "fit": "train a backbone or a parcel head (--config configs/...)",
    "validate": "run a module's validation loop",
    "test": "run a module's test loop",
    "predict": "run a module's prediction loop",
}

#: What a user can do about an error of the file system; others are not the user's.
_REMEDIES = {
    errno.ENOSPC: "free some, run again",
    errno.EDQUOT: "free some, run again",
    errno.EACCES: "check who may read and write there, or give another place",
    errno.EPERM: "check who may read and write there, or give another place",
    errno.EROFS: "give another place",
    errno.ENOTDIR: "a part of this path is a file; give another place",
    errno.EISDIR: "give a file",
    errno.EEXIST: "a file stands where a folder is needed; give another place",
    errno.ENOENT: "check the spelling",
    errno.ENAMETOOLONG: "shorten it",
}


def _usage() -> str:
    rows = {**{verb: text for verb, (_, _, text) in VERBS.items()}, **LIGHTNING}
    lines = [f"  {verb:<14} {text}" for verb, text in rows.items()]
    head = f"alan {__version__}\n\nusage: alan <verb> [--config FILE.yaml] [options]\n\nverbs\n"
    return head + "\n".join(lines) + "\n\n'alan <verb> --help' lists a verb's options."


def _is_group(word: str) -> bool:
    """Whether a word begins verbs of two words."""
    return any(name.startswith(f"{word} ") for name in VERBS)


def _call(function: Callable[..., Any], verb: str, args: Sequence[str]) -> None:
    from alan.cli.parsing import Parser

    parser = Parser(prog=f"alan {verb}", description=(function.__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", action="config", help="YAML file with any of the options")
    parser.add_function_arguments(function)
    values = parser.instantiate_classes(parser.parse_args(list(args))).as_dict()
    values.pop("config", None)
    seed = values.get("seed", 0)
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed is {seed}: give 0 to {2**32 - 1}")
    function(**values)


def _quiet_lightning() -> None:
    """Show only Lightning's warnings; it sets its own level when it is imported."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _run(args: list[str]) -> None:
    verb, rest = args[0], args[1:]
    if _is_group(verb):
        verb, rest = " ".join(args[:2]), args[2:]
    if verb in LIGHTNING:
        from alan.cli.fit import run_lightning

        _quiet_lightning()
        run_lightning(args)
    elif verb in VERBS:
        module, name, _ = VERBS[verb]
        function = getattr(importlib.import_module(module), name)
        _quiet_lightning()
        _call(function, verb, rest)
    else:
        raise ConfigError(f"unknown verb {verb!r}: {nearest(verb, [*VERBS, *LIGHTNING])}")


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, AlanWarning):
        sys.stderr.write(f"alan: note: {message}\n")


@contextlib.contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Show the package's own messages as plain lines, its warnings as notes, and of Lightning's only warnings."""
    logger, handler = logging.getLogger("alan"), logging.StreamHandler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    previous, warnings.showwarning = warnings.showwarning, _show_warning
    try:
        yield
    finally:
        warnings.showwarning = previous
        logger.removeHandler(handler)


def main(args: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        args: the command line without the program's name; ``None`` takes it from ``sys.argv``.

    Returns:
        0 when all went well, 1 when something was skipped and ``strict`` was asked for, 2 for bad input, a full
        disk or a place that cannot be read or written (one line on standard error), 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    asked = [argument for argument in arguments[:2] if argument in {"-h", "--help", "help"}]
    if not arguments or arguments[0] in asked or (asked and _is_group(arguments[0])):
        sys.stdout.write(_usage() + "\n")
        return 0
    if arguments[0] in {"-V", "--version"}:
        sys.stdout.write(f"alan {__version__}\n")
        return 0
    try:
        with _log_to_stderr():
            _run(arguments)
    except AlanError as error:
        sys.stderr.write(f"alan: error: {' '.join(str(error).split())}\n")
        return 1 if isinstance(error, SkippedError) else 2
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        where = error.filename2 or error.filename or "output"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "no space left on disk" if full else os.strerror(error.errno).lower()
        sys.stderr.write(f"alan: error: {where}: {what}; {_REMEDIES[error.errno]}\n")
        return 2
    except Exception as error:
        if type(error).__name__ != "MisconfigurationException":  # Lightning's; not imported for the other verbs
            raise
        sys.stderr.write(f"alan: error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nalan: interrupted; the same command goes on from what it has saved\n")
        return 130
    return 0
