"""The page of a finished run, written again from its results."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path

from alan.errors import DataError
from alan.files import read_json
from alan.locks import lock_folder
from alan.runs import METRICS, sweep

_log = logging.getLogger(__name__)

#: Kind of the ``results.json`` of a run to the module and function that write its page.
_PAGES = {
    "alan-search": ("alan.report.search", "write_search_report"),
    "alan-active": ("alan.report.active", "write_active_report"),
}


def rewrite_report(run: str) -> None:
    """Write the report of a finished run again, or draw the losses of a training.

    Evaluations, searches and active learning have a report. Trainings, also while they run, get ``losses.png``.

    Args:
        run: Run folder of alan evaluate, search or active run, or of a training, which may still be running.

    Raises:
        DataError: The folder has no results, or they are damaged or of another version.
        LockError: Another process is writing to the folder.
    """
    results = Path(run) / "results.json"
    if not results.is_file() and (Path(run) / METRICS).is_file():
        from alan.report.figures import write_losses

        _log.info("losses: %s", write_losses(Path(run)))
        return
    if not results.is_file():
        raise DataError(
            f"{results}: no such file; a report needs the finished run of alan evaluate, search or active run, or "
            f"the {METRICS} of a training"
        )
    held = read_json(results)
    kind = str(held.get("schema")).partition("/")[0] if isinstance(held, dict) else ""
    module, name = _PAGES.get(kind, ("alan.report.html", "write_report"))
    write = getattr(importlib.import_module(module), name)
    try:
        with lock_folder(Path(run)):
            sweep(Path(run), age=3600 if kind == "alan-search" else 0)  # others may be writing to a search
            page = write(run)
    except (LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{results}: cannot be read ({type(error).__name__}: {error}); it was edited, or written by another "
            "version: run the command of the run again"
        ) from error
    _log.info("report: %s", page)
