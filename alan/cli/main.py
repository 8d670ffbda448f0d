"""The command line ``alan VERB``: dispatch, exit codes, and errors in one line."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import select
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from alan._version import __version__
from alan.cli.console import common_options, console, quiet_lightning, show
from alan.cli.examples import examples
from alan.cli.failures import in_one_line
from alan.errors import AlanError, ConfigError, SkippedError, nearest
from alan.signals import Interruption, handle_signals, received_signal

#: Mapping from verb to its function (``module:name``), whose signature is the verb's options, and one line of
#: help.
VERBS = {
    "demo": ("alan.cli.demo:demo", "run the whole method on a simulated archive, and write a report"),
    "simulate": ("alan.data.simulator.archive:simulate_archive", "simulate an echo archive in an official layout"),
    "frames": ("alan.data.extract:extract_frames", "extract stills from cine loops (AVI, MP4, DICOM, NIfTI, MHD)"),
    "check": ("alan.cli.check:check", "read everything in an archive and list what is wrong with it"),
    "prepare": ("alan.cli.prepare:prepare", "decode an archive once into a frame store"),
    "parcels": ("alan.parcels.run:run_parcels", "fit k-means parcels on unlabelled frames"),
    "name": (
        "alan.downstream.whitebox.run:run_naming",
        "name parcels by simulated frames: white boxes without a human label",
    ),
    "assemble": (
        "alan.analysis.assemble:assemble_model",
        "assemble a model for 'alan analyze' from parcels, white boxes and simulated views",
    ),
    "calibrate": (
        "alan.analysis.calibration:calibrate_model",
        "calibrate the intervals of a model by patients with masks",
    ),
    "segment": (
        "alan.downstream.run:run_segmentation",
        "segment a folder of pictures or a frame store, with a contact sheet",
    ),
    "analyze": (
        "alan.cli.analyze:analyze",
        "measure loops of any vendor: beats, volumes, ejection fraction, with a report",
    ),
    "export": (
        "alan.analysis.model_export:export_model",
        "export backbone and parcel head to ONNX or torch.export",
    ),
    "cache": ("alan.cache.run:write_cache", "write a locked backbone's features or parcels to HDF5"),
    "evaluate": (
        "alan.cli.evaluate:evaluate",
        "fit white boxes on a few labels, measure them, and write a report",
    ),
    "ensemble": (
        "alan.evaluation.ensemble:run_ensemble",
        "choose the weights of trained networks on validation frames",
    ),
    "search": ("alan.cli.search:search", "search encoder, decoder and training (EDNAS), with a report"),
    "report": (
        "alan.report.rewrite:rewrite_report",
        "write the report of a finished run again, or draw the losses of a training",
    ),
    "active run": ("alan.cli.active:active_run", "compare acquisition functions on frames with masks"),
    "active merge": ("alan.cli.active:active_merge", "merge runs of other functions or seeds, with a report"),
    "active suggest": ("alan.active.suggestion:run_suggestion", "rank unlabelled images: which to label next"),
    "ui": ("alan.app.page:ui", "open a page for experts in the browser: analyze loops, edit parcels"),
    "configs": ("alan.cli.configs:configs", "list the configurations that are installed with ALAN"),
    "doctor": ("alan.cli.doctor:doctor", "show versions, hardware, codecs, installed files and extras"),
}
#: Verbs of Lightning's command line.
LIGHTNING = {
    "fit": "train a backbone, a parcel head or a segmentation network",
    "validate": "measure a checkpoint on the validation frames of its training",
    "test": "run the test loop of a module of your own",
    "predict": "run the prediction loop of a module, with callbacks that write the predictions",
}
#: Exit codes, as they are documented.
EXIT_CODES = """exit codes
  0    the work is complete
  1    some input was skipped and --strict was given, 'alan analyze' could not decode a file,
       'alan check' found something wrong, or an unexpected error (with a traceback)
  2    bad input, a full disk, or a place that cannot be read or written (one line names it)
  129  the terminal was closed (SIGHUP); the same command continues from what was saved
  130  interrupted by Ctrl-C; the same command continues from what was saved
  141  the program that reads the output has ended, as in 'alan configs | head -1'
  143  terminated by SIGTERM; the same command continues from what was saved"""
COMMON = """options of every verb
  --config FILE     YAML file of options, or the name of an installed one ('alan configs' lists them)
  --log-file FILE   append all messages to a file, with the time
  --quiet           show warnings and errors only
  --NAME+ VALUE     add a value to an option that takes a list
  --help            list the options of a verb"""


def _usage() -> str:
    rows = {**{verb: text for verb, (_, text) in VERBS.items()}, **LIGHTNING}
    lines = [f"  {verb:<14} {text}" for verb, text in rows.items()]
    head = f"alan {__version__}\n\nusage: alan VERB [--config FILE] [options]\n\nverbs\n"
    return "\n\n".join([head + "\n".join(lines), COMMON, EXIT_CODES])


def _epilog(verb: str) -> str:
    """Return the text below the options of a verb."""
    return "\n\n".join([examples(verb), COMMON, EXIT_CODES])


def _is_group(word: str) -> bool:
    """Return whether a word begins a verb of two words."""
    return any(name.startswith(f"{word} ") for name in VERBS)


#: Verbs that take arguments without an option, to the option that takes them and whether it is a list.
_FILES = {
    "active merge": ("runs", True),
    "active suggest": ("input", False),
    "analyze": ("inputs", True),
    "calibrate": ("model", False),
    "export": ("model", False),
    "frames": ("root", False),
    "report": ("run", False),
    "segment": ("input", False),
}


def name_files(verb: str, args: list[str]) -> list[str]:
    """Turn arguments without an option into one: ``analyze A B --out C`` or ``analyze --out C A B``."""
    option, several = _FILES.get(verb, ("", False))
    first = next((n for n, arg in enumerate(args) if arg.startswith("-")), len(args))
    places = list(range(first))
    if not first:  # every option takes one value
        taken = [arg.startswith("-") and "=" not in arg for arg in args]
        places = [n for n, arg in enumerate(args) if not arg.startswith("-") and not taken[n - 1]]
    if not option or not places or (len(places) > 1 and not several):
        return args
    files = [args[n] for n in places]
    rest = [arg for n, arg in enumerate(args) if n not in places]
    return [f"--{option}={_as_yaml(files) if several else files[0]}", *rest]


def _as_yaml(files: list[str]) -> str:
    """Write paths as a list in YAML."""
    import yaml

    for file in files:
        if file != file.encode(errors="ignore").decode():
            raise ConfigError(f"{file!a}: its name is not in UTF-8: give the folder above it, or rename it")
    return yaml.safe_dump(files, default_style='"', default_flow_style=True, width=float("inf")).strip()


def class_help(args: list[str]) -> list[str]:
    """Turn ``--model CLASS --help`` into ``--model.help CLASS``; without a class the help is that of the verb."""
    for option in ("--model", "--data"):
        for before, arg in pairwise([*args, ""]):
            name, given, value = before.partition("=")
            if name == option:
                return [f"{option}.help", value if given else arg]
    return ["--help"]


def _call(function: Callable[..., Any], verb: str, args: Sequence[str]) -> None:
    from alan.cli.inputs import check_inputs
    from alan.cli.parsing import function_parser

    parser = function_parser(function, verb, _epilog(verb))
    parsed = parser.parse_args(list(args))
    check_inputs(parsed.as_dict())
    values = parser.instantiate_classes(parsed).as_dict()
    values.pop("config", None)
    seed = values.get("seed", 0)
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed is {seed}: give 0 to {2**32 - 1}")
    function(**values)


def _lightning(verb: str, args: list[str]) -> None:
    from alan.cli.fit_options import show_help
    from alan.cli.inputs import check_inputs, training_values
    from alan.cli.parsing import in_home

    if args == ["--help"]:
        show_help(verb, LIGHTNING[verb], _epilog(verb))
        return
    if not any(arg.startswith("--print_config") for arg in args):
        check_inputs(in_home(training_values(args)))
    from alan.cli.fit import run_lightning

    run_lightning([verb, *("--help" if arg == "--help-all" else arg for arg in args)])


def _find_modules_here() -> None:
    """Let classes be named that lie in modules of the working folder, as `python -m alan` does."""
    with contextlib.suppress(FileNotFoundError):  # the folder was removed
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)


def _run(args: list[str]) -> None:
    from alan.cli.parsing import find_configs

    verb, rest = args[0], args[1:]
    if verb in {*LIGHTNING, "prepare", "check"}:
        _find_modules_here()
    if _is_group(verb):
        verb, rest = " ".join(args[:2]), args[2:]
    if "--help" in rest or "-h" in rest:
        rest = class_help(rest) if verb in LIGHTNING else ["--help"]
    if verb in LIGHTNING:
        _lightning(verb, find_configs(rest))
    elif verb in VERBS:
        module, _, name = VERBS[verb][0].partition(":")
        rest = find_configs(name_files(verb, rest))
        function = getattr(importlib.import_module(module), name)
        quiet_lightning()
        _call(function, verb, rest)
    elif verb.startswith("-"):
        options = ("--quiet", "--log-file", "--help", "--version")
        raise ConfigError(f"unknown option {verb!r}: {nearest(verb, options)}")
    else:
        raise ConfigError(f"unknown verb {verb!r}: {nearest(verb, [*VERBS, *LIGHTNING])}")


def main(args: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        args: The command line without the program's name; ``None`` takes it from ``sys.argv``.

    Returns:
        The exit code, see :data:`EXIT_CODES`.
    """
    _open_streams()
    try:
        try:
            return _main(args)
        finally:
            sys.stdout.flush()
    except OSError as error:  # the standard output or the log file
        gone = isinstance(error, BrokenPipeError) and _reader_has_gone()
        line = None if gone else in_one_line(error)
        if line is None and not gone:
            raise
        with contextlib.suppress(io.UnsupportedOperation):  # unwritten output must not fail again at the exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if gone:
            return 128 + signal.SIGPIPE
        sys.stderr.write(f"alan: error: {line}\n")
        return 2


def _main(args: Sequence[str] | None) -> int:
    """Run one verb, with its messages on the console and in the log file."""
    if sys.platform == "win32":  # run folders are locked by functions of POSIX
        sys.stderr.write("alan: error: Windows is not supported: install ALAN in WSL 2 (wsl --install)\n")
        return 2
    try:
        options, arguments = common_options(sys.argv[1:] if args is None else args)
    except AlanError as error:
        sys.stderr.write(f"alan: error: {error}\n")
        return 2
    asked = [argument for argument in arguments[:2] if argument in {"-h", "--help", "help"}]
    if not arguments or arguments[0] in asked or (asked and _is_group(arguments[0])):
        sys.stdout.write(_usage() + "\n")
        return 0
    if arguments[0] in {"-V", "--version"}:
        sys.stdout.write(f"alan {__version__}\n")
        return 0
    with console(options):
        log = logging.getLogger("alan")
        log.debug("alan %s: %s", __version__, shlex.join(arguments))
        code = _exit_code(arguments)
        log.debug("exit code %d", code)
        return code


def _open_streams() -> None:
    """Open the standard streams that the caller has closed, so that no file of the run gets their descriptors."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, number)
            if null != number:
                os.close(null)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))


def _reader_has_gone() -> bool:
    """Return whether standard output is a pipe whose reader has ended, as after ``alan configs | head -1``."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _exit_code(arguments: list[str]) -> int:
    """Run a verb, and show its errors in one line."""
    try:
        with handle_signals():
            _run(arguments)
    except SkippedError as error:
        show(f"error: {error}")
        return 1
    except KeyboardInterrupt as error:
        return _exit_interrupted(error)
    except SystemExit as error:  # Lightning exits where it is interrupted; argparse after --help
        if received_signal() is None and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        return _exit_interrupted(error)
    except Exception as error:
        line = in_one_line(error)
        if line is None or received_signal() is not None:
            logging.getLogger("alan").debug("unexpected error", exc_info=True)
        if received_signal() is not None and not isinstance(error, OSError):
            return _exit_interrupted(error)  # an interrupted verb may raise anything
        if line is None:
            raise
        show(f"error: {line}")
        return 2
    return 0


def _exit_interrupted(error: BaseException) -> int:
    by = error if isinstance(error, Interruption) else Interruption(received_signal() or 2)
    show(f"interrupted ({by}); the same command continues from what was saved", logging.WARNING)
    return by.exit_code
