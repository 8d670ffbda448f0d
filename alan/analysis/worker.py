"""Analysis of one file: its loops, their results, and the state from which an interrupted run continues."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alan._version import __version__
from alan.analysis.exports import NEIGHBOURS, Output, References, export_loop
from alan.analysis.kinds import NotALoopError
from alan.analysis.loop import Loop, open_loops
from alan.analysis.loop_analysis import LoopSettings, analyze_loop
from alan.analysis.model import AnalysisModel, Runtime
from alan.analysis.sources import Source
from alan.analysis.tables import LOOP_FOLDER, RESULT, SOURCES
from alan.bounds import PositiveFloat, bounded
from alan.data.io.base import MAKE_READABLE
from alan.data.io.medical import medical_files
from alan.devices import choose_device
from alan.errors import SHORTAGE, AlanError, DataError, is_out_of_memory
from alan.files import atomic, fingerprint, read_json, write_json
from alan.progress import Progress, no_progress, part_of

#: Label maps of a loop on the grid of the model.
LABELS = "labels.npz"
#: Shares of the work on a file when its loops are open, and of the work on a loop when it is measured.
_OPENED, _ANALYZED = 0.1, 0.7
#: Largest number of nearest labelled frames that are drawn.
_THUMBNAILS = 10


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


class Worker:
    """Analyzes files one after the other and writes their results.

    Args:
        folder: Folder of the results.
        settings: Settings of the analysis.
        model: The model; None loads the model of the settings.
    """

    def __init__(
        self, folder: Path, settings: AnalysisSettings, model: AnalysisModel | None = None, device: str = "cpu"
    ) -> None:
        self.folder, self.settings = folder, settings
        model = model or AnalysisModel.load(settings.model, settings.runtime, settings.opinions)
        self.model = model.to(choose_device(device))
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
            state["failure"] = f"cannot be read ({error.strerror}); {MAKE_READABLE}"
        except Exception as error:  # an error of the program must not prevent the analysis of the other files
            if isinstance(error, AlanError) or is_out_of_memory(error):
                raise
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}"
            state["failure"] = f"caused an unexpected error ({place}): report it, with the output of alan doctor"
            text = traceback.format_exc()
        write_json(state_file(self.folder, source), state)
        return {**state, "traceback": text}  # it may name files, so it is not written into the results

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
        found = replace(
            found, result=replace(found.result, simulated=loop.simulated, study=study, stage=loop.stage)
        )
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


def _stamp(source: Source) -> str:
    """Fingerprint the version of the program and names, sizes and times of the files; empty if one is missing."""
    paths = dict.fromkeys((source.path, *source.stills, *medical_files(source.path)))
    try:
        found = [(str(path.resolve()), path.stat()) for path in paths]
    except OSError:
        return ""
    return fingerprint([__version__, *((name, status.st_size, status.st_mtime_ns) for name, status in found)])


def state_file(folder: Path, source: Source) -> Path:
    """Return the path of the state of a file in the folder of the results."""
    return folder / SOURCES / f"{source.name}.json"


def finished_state(folder: Path, source: Source) -> dict[str, Any] | None:
    """Read the state of a file that is done and unchanged; None otherwise, and after a failure."""
    path = state_file(folder, source)
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = read_json(path)
        whole = all((folder / LOOP_FOLDER / name / RESULT).is_file() for name in state["loops"])
        return state if whole and not state["failure"] and state["stamp"] == _stamp(source) else None
    except (DataError, LookupError, TypeError):  # damaged, or not written by this program
        return None
