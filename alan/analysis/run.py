"""Analysis of files and folders of loops into one folder of results, on several processes, resumable."""

from __future__ import annotations

import logging
import os
import shutil
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from alan._version import __version__
from alan.analysis.exports import NEIGHBOURS, Output, References, export_loop, median_beat
from alan.analysis.kinds import NotALoopError
from alan.analysis.loop import Loop, open_loops
from alan.analysis.loop_analysis import LoopSettings, analyze_loop
from alan.analysis.measures import Grid
from alan.analysis.model import AnalysisModel, Runtime
from alan.analysis.patients import KeyMasks, summarise_patients
from alan.analysis.reference import AGREEMENT
from alan.analysis.results import LoopResult, PatientResult
from alan.analysis.sources import Source, find_sources, write_key
from alan.analysis.tables import LOOP_FOLDER, RESULT, TABLES, read_loops, write_tables
from alan.bounds import PositiveFloat, PositiveInt, bounded
from alan.data.pseudonyms import patient_key
from alan.downstream.whitebox.opinion import ExpertOpinion
from alan.errors import SHORTAGE, AlanError, ConfigError, DataError, ParameterError, is_out_of_memory
from alan.files import atomic, fingerprint, read_json, write_json
from alan.progress import Progress, no_progress, part_of
from alan.runs import FAILURES, open_run, report_failures
from alan.workers import worker_pool

_log = logging.getLogger(__name__)

#: Folder of the state of each file, from which an interrupted run continues.
SOURCES = "sources"
#: Folder of the pages of the patients.
PAGES = "patients"
#: Shares of the work on a file when its loops are open, and of the work on a loop when it is measured.
_OPENED, _ANALYZED = 0.1, 0.7
#: Label maps of a loop on the grid of the model.
LABELS = "labels.npz"
#: Largest number of nearest labelled frames that are drawn.
_THUMBNAILS = 10
#: Everything that an analysis writes into its folder.
CONTENTS = (*TABLES, LOOP_FOLDER, SOURCES, AGREEMENT, PAGES, "report.html")


@bounded
@dataclass(frozen=True)
class AnalysisSettings:
    """Settings of an analysis.

    Attributes:
        model: Path or name of the model, see :class:`alan.analysis.Manifest`.
        loop: Settings of the analysis of a loop.
        spacing: Size of a pixel in mm, or (row, column) sizes; None uses the size in the file.
        frame_rate: Frames per second; None uses the times in the file.
        stills: Whether files with a single frame, or frames that do not differ, are analyzed too.
        outputs: Files to write for each loop.
        runtime: Library that runs the network: ``torch``, or ``onnx`` for onnxruntime.
        dicom_references: UIDs by which DICOM objects refer to a DICOM file: ``pseudonymous`` ones, or those of the
            file with its patient and study, so that an archive shows the objects on the loop (``keep``).
        opinions: Files of an expert's opinions on parcels, see :meth:`alan.analysis.AnalysisModel.load`.
    """

    model: str = "alan-sim"
    loop: LoopSettings = field(default_factory=LoopSettings)
    spacing: PositiveFloat | tuple[PositiveFloat, PositiveFloat] | None = None
    frame_rate: PositiveFloat | None = None
    stills: bool = True
    outputs: tuple[Output, ...] = ("overlay", "png", "nifti")
    runtime: Runtime = "torch"
    dicom_references: References = "pseudonymous"
    opinions: tuple[str, ...] = ()


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
    settings: AnalysisSettings = AnalysisSettings(),
    *,
    patient_rule: str | None = None,
    workers: PositiveInt | None = None,
    strict: bool = False,
    overwrite: bool = False,
    key: str | os.PathLike[str] | None = None,
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
        patient_rule: Regular expression with the group ``patient``, see :func:`alan.analysis.find_sources`.
        workers: Number of processes; None uses one per core, but no more than there are files.
        strict: Raise an error if a file was left out.
        overwrite: Replace a run with another configuration.
        key: CSV file to write that links pseudonyms to files. It must be outside the folder of the results, which
            contains no identifier.
        finish: Function that is called with the results before the lock of the folder is released; it may write a
            report.
        progress: Told the share that is done, 0 to 1, and what is done; with several processes, it counts files.

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
    model = AnalysisModel.load(settings.model, settings.runtime, settings.opinions)
    if model.bank is None and settings.loop.view is None:
        raise ConfigError(f"the model {settings.model} has no bank of views: give --view")
    sources, others = find_sources(inputs, patient_rule, leave_out=folder)
    if not sources:
        reason = f"; the first of {len(others)} others: {others[0][1]}" if others else ""
        raise DataError(f"{', '.join(map(str, inputs))}: no loop is found{reason}")
    config = {
        "inputs": [patient_key(Path(path).resolve()) for path in inputs],  # names of folders may name patients
        "patient_rule": None if patient_rule is None else fingerprint(patient_rule),
        "settings": replace(settings, opinions=()),  # paths may name anything
        "opinions": [ExpertOpinion.from_json(path).to_dict() for path in settings.opinions],
        "model": model.fingerprint,
    }
    if key is not None:
        write_key(Path(key), sources, inputs, {name for name, _ in others})
    with open_run(folder, config, overwrite, CONTENTS) as run:
        run.keep = True
        states = _analyze_all(sources, folder, settings, model=model, workers=workers, progress=progress)
        _remove_others(folder, sources, states)
        found, n_measured = _collect(folder, sources, states, others)
        write_tables(folder, found.loops, found.patients)
        _log.info(
            "%s: %s of %s, %d left out, %d cannot be decoded",
            folder,
            _count(n_measured, "loop"),
            _count(len(found.patients), "patient"),
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
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """Analyze the files that are not done, and return the state of each file by name."""
    done = {source.name: state for source in sources if (state := _state(folder, source)) is not None}
    todo = [source for source in sources if source.name not in done]
    if done:
        _log.info("%s: %d of %d files are already done", folder, len(done), len(sources))
    n = min(workers or os.cpu_count() or 1, len(todo))
    with tqdm(total=len(sources), initial=len(done), desc="analyze", unit="file") as bar:
        if n <= 1:
            worker = Worker(folder, settings, model)
            for source in todo:
                first, total = len(done), len(sources)
                done[source.name] = worker(source, part_of(progress, first / total, (first + 1) / total))
                _log_file(source, done[source.name])
                bar.update()
            return done
        with worker_pool(n, _start_worker, folder, settings, preload=__name__) as pool:
            futures = {pool.submit(_work, source): source for source in todo}
            for future in as_completed(futures):
                source = futures.pop(future)
                done[source.name] = future.result()
                _log_file(source, done[source.name])
                bar.update()
                progress(len(done) / len(sources), f"{len(done)} of {len(sources)} files")
    return done


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _log_file(source: Source, state: Mapping[str, Any]) -> None:
    """Write the outcome of a file to the log file."""
    outcome = state["failure"] or state["left_out"] or _count(len(state["loops"]), "loop")
    _log.debug("%s (%s): %s", source.path, source.name, outcome)
    if state["traceback"]:
        _log.debug("%s: %s", source.name, state["traceback"])


class Worker:
    """Analyzes files one after the other and writes their results.

    Args:
        folder: Folder of the results.
        settings: Settings of the analysis.
        model: The model; None loads the model of the settings.
    """

    def __init__(self, folder: Path, settings: AnalysisSettings, model: AnalysisModel | None = None) -> None:
        self.folder, self.settings = folder, settings
        self.model = model or AnalysisModel.load(settings.model, settings.runtime, settings.opinions)
        self.provenance = {
            "alan": __version__,
            "model": Path(settings.model).name,
            "model_fingerprint": self.model.fingerprint,
            "runtime": self.model.runtime,
            "settings": fingerprint(replace(settings, opinions=())),
        }

    def __call__(self, source: Source, progress: Progress = no_progress) -> dict[str, Any]:
        """Analyze a file, and return its state: the names of its loops, or the reason why it has none."""
        state: dict[str, Any] = {"stamp": _stamp(source), "loops": [], "left_out": None, "failure": None}
        text = ""
        try:
            progress(0.0, "looking for the sector")
            loops = self._open(source)
            ends = np.linspace(_OPENED, 1, len(loops) + 1)
            parts = [part_of(progress, start, stop) for start, stop in pairwise(ends.tolist())]
            state["loops"] = [self._loop(loop, part) for loop, part in zip(loops, parts, strict=True)]
        except NotALoopError as error:
            state["left_out"] = str(error).removeprefix(f"{source.name}: ")
        except DataError as error:
            state["failure"] = source.redact(str(error)).removeprefix(f"{source.name}: ")
        except OSError as error:
            read = error.filename is not None and Path(error.filename) in (source.path, *source.stills)
            if not read or error.errno in SHORTAGE:
                raise  # the disk is full, the results cannot be written, or too many files are open
            state["failure"] = f"cannot be read ({error.strerror}); copy it again"
        except Exception as error:  # a fault of the program does not keep the other files from being analyzed
            if isinstance(error, AlanError) or is_out_of_memory(error):
                raise
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}"
            state["failure"] = f"unexpected error ({place}): report it, with the output of alan doctor"
            text = traceback.format_exc()
        write_json(_state_file(self.folder, source), state)
        return {**state, "traceback": text}  # which may name files, so that it is not written into the results

    def _open(self, source: Source) -> list[Loop]:
        settings = self.settings
        return open_loops(source, spacing=settings.spacing, frame_rate=settings.frame_rate, stills=settings.stills)

    def _loop(self, loop: Loop, progress: Progress = no_progress) -> str:
        """Analyze a loop and write its files, the result last."""
        analyzing = part_of(progress, 0, _ANALYZED)
        found = analyze_loop(loop, self.model, self.settings.loop, self.provenance, analyzing)
        progress(_ANALYZED, "drawing")
        references = loop.references(keep=False)
        study = references.study if references else ""
        found = replace(found, result=replace(found.result, simulated=loop.simulated, study=study))
        target = self.folder / LOOP_FOLDER / loop.name
        if found.thumbnails is not None:
            with atomic(target / NEIGHBOURS) as temporary:
                Image.fromarray(np.concatenate(list(found.thumbnails[:_THUMBNAILS]), axis=1)).save(
                    temporary, format="PNG"
                )
        if found.labels is not None:
            outputs, keep = self.settings.outputs, self.settings.dicom_references == "keep"
            export_loop(
                self.folder,
                loop,
                found.labels,
                found.result,
                outputs,
                evidence=found.evidence,
                references=loop.references(keep=True) if keep else references,
            )
            with atomic(target / LABELS) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, labels=found.labels)
        found.result.to_json(target / RESULT)
        return loop.name


_worker: Worker | None = None


def _start_worker(folder: Path, settings: AnalysisSettings) -> None:
    """Load the model once per process; the processes share the cores."""
    import torch

    torch.set_num_threads(1)
    global _worker  # noqa: PLW0603 (state of the process)
    _worker = Worker(folder, settings)


def _work(source: Source) -> dict[str, Any]:
    assert _worker is not None
    return _worker(source)


def _stamp(source: Source) -> str:
    """Fingerprint the version of the program and names, sizes and times of the files; empty if one is missing."""
    paths = (source.path, *source.stills)
    try:
        found = [(str(path.resolve()), path.stat()) for path in paths]
    except OSError:
        return ""
    return fingerprint([__version__, *((name, status.st_size, status.st_mtime_ns) for name, status in found)])


def _state_file(folder: Path, source: Source) -> Path:
    return folder / SOURCES / f"{source.name}.json"


def _state(folder: Path, source: Source) -> dict[str, Any] | None:
    """Read the state of a file that is done and unchanged; None otherwise, and for a failure, which may pass."""
    path = _state_file(folder, source)
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = read_json(path)
    except DataError:
        return None
    whole = all((folder / LOOP_FOLDER / name / RESULT).is_file() for name in state["loops"])
    return state if whole and not state["failure"] and state["stamp"] == _stamp(source) else None


def _remove_others(folder: Path, sources: Sequence[Source], states: Mapping[str, dict[str, Any]]) -> None:
    """Remove the results of files that have changed or are missing since an earlier run of the folder."""
    known = {
        f"{LOOP_FOLDER}/*/{RESULT}": {name for source in sources for name in states[source.name]["loops"]},
        f"{PAGES}/*/*.html": {source.patient for source in sources if states[source.name]["loops"]},
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
    unknown: dict[str, str] = {}
    for patient in sorted(names_of):
        loops = [replace(loop, frames=()) for loop in read_loops(folder, names_of[patient])]
        masks = {loop.loop: key for loop in loops if (key := _key_masks(folder, loop)) is not None}
        unknown |= {loop.loop: loop.reason for loop in loops if loop.status != "measured"}
        patients += summarise_patients(loops, masks)
    by = {
        kind: [(source.name, state[kind]) for source in sources if (state := states[source.name])[kind]]
        for kind in ("left_out", "failure")
    }
    names = tuple(name for source in sources for name in states[source.name]["loops"])
    left_out = [(name, unknown[name]) for name in names if name in unknown]
    found = Analysis(folder, names, tuple(patients), (*others, *by["left_out"], *left_out), tuple(by["failure"]))
    return found, len(names) - len(unknown)


def _key_masks(folder: Path, result: LoopResult) -> KeyMasks | None:
    """Read the masks of the left ventricle of the median beat of a loop; None without a beat."""
    beat = median_beat(result)
    if beat is None or "lv" not in result.structures:
        return None
    with np.load(folder / LOOP_FOLDER / result.loop / LABELS) as file:
        labels = file["labels"]
    value = result.structures.index("lv") + 1
    pixels = (result.box[2] / labels.shape[1], result.box[3] / labels.shape[2])
    return KeyMasks(
        labels[beat.ed] == value,
        labels[beat.es] == value,
        Grid(pixels, result.pixel_mm, result.pixel_aspect).spacing,
    )
