"""Resumable analysis of files and folders of loops into one folder of results, in several processes."""

from __future__ import annotations

import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tqdm import tqdm

from alan.analysis.dicom_report import write_patient_measurements
from alan.analysis.exports import MEASUREMENTS, SEGMENTATION, median_beat
from alan.analysis.measures import Grid
from alan.analysis.model import AnalysisModel
from alan.analysis.patients import KeyMasks, add_doubt, summarise_patients
from alan.analysis.results import LoopResult, PatientResult
from alan.analysis.same_loop import Outlined, find_same_loops
from alan.analysis.sources import Source, find_sources, write_key
from alan.analysis.tables import (
    AGREEMENT,
    LOOP_FOLDER,
    RESULT,
    SOURCES,
    STATISTICS,
    TABLES,
    read_loops,
    write_tables,
)
from alan.analysis.worker import LABELS, AnalysisSettings, Worker, finished_state
from alan.arrays import ByteArray, load_arrays
from alan.bounds import PositiveInt, bounded
from alan.data.pseudonyms import patient_key
from alan.data.sample import View
from alan.devices import choose_device
from alan.downstream.whitebox.opinion import ExpertOpinion
from alan.errors import ConfigError, DataError, ParameterError
from alan.files import fingerprint
from alan.progress import Progress, no_progress, part_of
from alan.runs import FAILURES, open_run, report_failures
from alan.words import plural
from alan.workers import usable_cpus, worker_pool

_log = logging.getLogger(__name__)

#: Folder of the pages of the patients.
PAGES = "patients"
#: Everything that an analysis writes into its folder.
CONTENTS = (*TABLES, LOOP_FOLDER, SOURCES, AGREEMENT, STATISTICS, PAGES, "report.html")


@dataclass(frozen=True)
class Analysis:
    """Results of an analysis.

    Attributes:
        folder: Folder of the results.
        names: Name of each loop, in the order of the files.
        patients: Summary of each patient.
        left_out: Name and reason of each file that shows no loop that can be measured.
        failures: Name and reason of each file that cannot be decoded.
    """

    folder: Path
    names: tuple[str, ...]
    patients: tuple[PatientResult, ...]
    left_out: tuple[tuple[str, str], ...]
    failures: tuple[tuple[str, str], ...]

    @property
    def loops(self) -> Iterator[LoopResult]:
        """Result of each loop, in the order of the files, read one after the other."""
        return read_loops(self.folder, self.names)


@bounded
def analyze_files(
    inputs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    settings: AnalysisSettings = AnalysisSettings(),  # noqa: B008 (frozen)
    *,
    patient: str | None = None,
    views: Mapping[str, View] = MappingProxyType({}),
    workers: PositiveInt | None = None,
    strict: bool = False,
    overwrite: bool = False,
    key: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    finish: Callable[[Analysis], None] | None = None,
    progress: Progress = no_progress,
) -> Analysis:
    """Analyze files and folders of loops.

    After an interruption, the same call continues with the files that are not done. Files that changed since, were
    added to a folder, or were analyzed by another version of the program are analyzed. A file that cannot be
    decoded does not stop the others.

    Args:
        inputs: Files and folders.
        out: Folder of the results.
        settings: Settings of the analysis.
        patient: Regular expression with the group ``patient``, see :func:`alan.analysis.find_sources`.
        views: Mapping from a text to the view of the loops in whose path below their input it occurs.
        workers: Number of processes; None uses one per core, but no more than there are files.
        strict: Raise an error if a file was left out.
        overwrite: Replace a run with another configuration.
        key: CSV file to write that links pseudonyms to files. It must be outside the folder of the results, which
            contains no identifier.
        device: Device that runs the network, see :func:`alan.devices.choose_device`.
        finish: Function that is called with the results before the lock of the folder is released; it may write a
            report.
        progress: Receives the finished share, 0 to 1, and the name of the present step; with several processes, it
            counts files.

    Returns:
        The results.

    Raises:
        ParameterError: An argument is out of its bounds, or ``key`` or an input lies inside ``out``.
        DataError: An input does not exist, no loop is found, or the model is missing.
        ConfigError: The folder contains a run with another configuration.
        SkippedError: A file could not be decoded, or was left out and ``strict`` is True; everything else is done.
    """
    folder = Path(out)
    if key is not None and Path(key).resolve().is_relative_to(folder.resolve()):
        raise ParameterError(f"key is {key}: give a file outside {folder}, whose files hold no identifier")
    within = [path for path in inputs if Path(path).resolve().is_relative_to(folder.resolve())]
    if within:
        raise ParameterError(f"out is {folder}, the folder of the input {within[0]}: give another folder")
    choose_device(device)
    model = AnalysisModel.load(settings.model, settings.runtime, settings.opinions)
    timed = settings.frame_rate is not None
    sources, others = find_sources(inputs, patient, leave_out=folder, timed=timed, views=views)
    if not sources:
        left_out = f"{plural(len(others), 'file')} left out{', the first' if len(others) > 1 else ''}"
        reason = f"; {left_out}: {others[0][1]}" if others else ""
        raise DataError(f"{', '.join(map(str, inputs))}: no loop is found{reason}")
    if model.bank is None and settings.loop.view is None and any(source.view is None for source in sources):
        raise ConfigError(f"the model {settings.model} has no bank of views: give --view")
    config = {
        "inputs": [patient_key(Path(path).resolve()) for path in inputs],  # folders may be named after patients
        "patient": None if patient is None else fingerprint(patient),
        "views": fingerprint(dict(views)) if views else None,
        "settings": replace(settings, opinions=()),  # paths may contain any name
        "opinions": [ExpertOpinion.from_json(path).to_dict() for path in settings.opinions],
        "model": model.fingerprint,
    }
    if key is not None:
        write_key(Path(key), sources, inputs, {name for name, _ in others})
    with open_run(folder, "analyze", config, overwrite, CONTENTS) as run:
        run.keep = True
        states = _analyze_all(
            sources, folder, settings, model=model, workers=workers, device=device, progress=progress
        )
        _remove_others(folder, sources, states)
        found, n_measured = _collect(folder, sources, states, others)
        if "dicom" in settings.outputs:
            _report_patients(folder, found.patients)
        write_tables(folder, found.loops, found.patients)
        _log.info(
            "%s: %s of %s, %d left out, %d cannot be decoded",
            folder,
            plural(n_measured, "loop"),
            plural(len(found.patients), "patient"),
            len(found.left_out),
            len(found.failures),
        )
        paths = {source.name: source.path for source in sources}
        for name, reason in found.failures:
            _log.warning("%s (%s): %s", paths[name], name, reason)
        listed = [*found.failures, *found.left_out]
        total, broken = len(sources) + len(others), bool(found.failures)
        try:
            report_failures(folder / FAILURES, listed, total, strict=strict or broken)
        finally:
            if finish is not None:
                finish(found)
    return found


def _analyze_all(
    sources: Sequence[Source],
    folder: Path,
    settings: AnalysisSettings,
    *,
    model: AnalysisModel,
    workers: int | None,
    device: str,
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """Analyze the files that are not done, and return the state of each file by name."""
    done = {source.name: state for source in sources if (state := finished_state(folder, source)) is not None}
    todo = [source for source in sources if source.name not in done]
    if done:
        _log.info("%s: %d of %d files are already done", folder, len(done), len(sources))
    n = min(workers or usable_cpus(), len(todo))
    with tqdm(total=len(sources), initial=len(done), desc="analyze", unit="file") as bar:
        if n <= 1:
            worker = Worker(folder, settings, model, device)
            for source in todo:
                first, total = len(done), len(sources)
                done[source.name] = worker(source, part_of(progress, first / total, (first + 1) / total))
                _log_file(source, done[source.name])
                bar.update()
            return done
        with worker_pool(n, _start_worker, folder, settings, device, preload=__name__) as pool:
            futures = {pool.submit(_work, source): source for source in todo}
            for future in as_completed(futures):
                source = futures.pop(future)
                done[source.name] = future.result()
                _log_file(source, done[source.name])
                bar.update()
                progress(len(done) / len(sources), f"{len(done)} of {len(sources)} files")
    return done


def _log_file(source: Source, state: Mapping[str, Any]) -> None:
    """Write the outcome of a file to the log file."""
    outcome = state["failure"] or state["left_out"] or plural(len(state["loops"]), "loop")
    _log.debug("%s (%s): %s", source.path, source.name, outcome)
    if state["traceback"]:
        _log.debug("%s: %s", source.name, state["traceback"])


_worker: Worker | None = None


def _start_worker(folder: Path, settings: AnalysisSettings, device: str) -> None:
    """Load the model once per process; the processes share the cores."""
    import torch

    torch.set_num_threads(1)
    global _worker  # noqa: PLW0603 (state of the process)
    _worker = Worker(folder, settings, device=device)


def _work(source: Source) -> dict[str, Any]:
    assert _worker is not None
    return _worker(source)


def _remove_others(folder: Path, sources: Sequence[Source], states: Mapping[str, dict[str, Any]]) -> None:
    """Remove the results of files that have changed or are missing since an earlier run of the folder."""
    known = {
        f"{LOOP_FOLDER}/*/{RESULT}": {name for source in sources for name in states[source.name]["loops"]},
        f"{PAGES}/*/*": {source.patient for source in sources if states[source.name]["loops"]},
    }
    for pattern, names in known.items():
        for path in list(folder.glob(pattern)):
            if path.parent.name not in names:
                shutil.rmtree(path.parent)


def _collect(
    folder: Path,
    sources: Sequence[Source],
    states: Mapping[str, dict[str, Any]],
    others: Sequence[tuple[str, str]],
) -> tuple[Analysis, int]:
    """Summarise the patients, one after the other so that memory does not grow with the number of loops.

    Returns:
        The results, and the number of loops that were measured.
    """
    names_of: dict[str, list[str]] = defaultdict(list)
    for source in sources:
        names_of[source.patient] += states[source.name]["loops"]
    patients: list[PatientResult] = []
    outlined: list[Outlined] = []
    unknown: dict[str, str] = {}
    unclear = {source.patient: source.doubt for source in sources if source.doubt}
    for patient in sorted(names_of):
        loops = []
        for loop in read_loops(folder, names_of[patient]):
            outlined += filter(None, [Outlined.of(loop)])
            loops.append(replace(loop, frames=()))
        masks = {loop.loop: key for loop in loops if (key := _key_masks(folder, loop)) is not None}
        unknown |= {loop.loop: loop.reason for loop in loops if loop.status != "measured"}
        patients += summarise_patients(loops, masks, unclear)
    shared = find_same_loops(outlined, lambda name: _labels(folder, name))
    patients = [add_doubt(result, shared.get(result.patient, "")) for result in patients]
    by = {
        kind: [(source.name, state[kind]) for source in sources if (state := states[source.name])[kind]]
        for kind in ("left_out", "failure")
    }
    names = tuple(name for source in sources for name in states[source.name]["loops"])
    left_out = [(name, unknown[name]) for name in names if name in unknown]
    found = Analysis(folder, names, tuple(patients), (*others, *by["left_out"], *left_out), tuple(by["failure"]))
    return found, len(names) - len(unknown)


def _report_patients(folder: Path, patients: Sequence[PatientResult]) -> None:
    """Write the DICOM report of each patient in place of an earlier one."""
    for patient in patients:
        path = folder / PAGES / patient.patient / MEASUREMENTS
        path.unlink(missing_ok=True)
        names = (MEASUREMENTS, SEGMENTATION)
        files = [folder / LOOP_FOLDER / loop / name for loop in patient.loops for name in names]
        write_patient_measurements(path, patient, [file for file in files if file.is_file()])


def _labels(folder: Path, loop: str) -> ByteArray:
    """Read the label maps of a loop."""
    return load_arrays(folder / LOOP_FOLDER / loop / LABELS, ("labels",))["labels"]


def _key_masks(folder: Path, result: LoopResult) -> KeyMasks | None:
    """Read the masks of the left ventricle of the median beat of a loop; None without a beat."""
    beat = median_beat(result)
    if beat is None or "lv" not in result.structures:
        return None
    labels = _labels(folder, result.loop)
    value = result.structures.index("lv") + 1
    return KeyMasks(labels[beat.ed] == value, labels[beat.es] == value, Grid.of(result, labels).spacing)
