"""Extract stills from cine loops: the command ``alan frames``."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from alan.bounds import NonNegativeInt, PositiveInt, bounded
from alan.data.blanking import find_blanking
from alan.data.io.base import Cine, FrameBuffer, pixel_aspect, suppress_notes, without_numbers
from alan.data.io.cine import DICOM, LABEL_MAP, LABELS, VIDEOS, frame_source, is_cine, stem
from alan.data.io.dicom import is_dicom
from alan.data.io.dicom_series import find_split_loops
from alan.data.io.frames import open_stream, read_all
from alan.data.io.medical import MEDICAL, medical_files
from alan.data.readers.base import SIMULATION, is_simulated
from alan.data.readers.manifest import COLUMNS, MANIFEST, manifest_row
from alan.errors import AlanWarning, DataError
from alan.files import files_below, fingerprint, read_json, short_name, unreachable_below, write_json, write_rows
from alan.runs import FAILURES, Run, open_run, report_failures
from alan.workers import usable_cpus, worker_pool

_log = logging.getLogger(__name__)
_IMAGES, _UNFINISHED = "images", "unfinished"
#: Loops for which it takes longer to start a process than to decode them.
_FEW = 4


@dataclass(frozen=True)
class _Loop:
    """A loop, its name below the root, the beginning of the names of its stills, and its further files."""

    path: Path
    source: str
    name: str
    others: tuple[Path, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files, in the order of time."""
        return (self.path, *self.others)


@dataclass(frozen=True)
class _Outcome:
    """Result of a loop: the manifest rows of its stills, or the reason why it was skipped."""

    rows: list[list[str | int | float]] = field(default_factory=list)
    failure: str = ""
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@bounded
def extract_frames(
    root: str,
    out: str,
    *,
    every: PositiveInt = 1,
    sector: bool = False,
    workers: NonNegativeInt | None = None,
    strict: bool = False,
    overwrite: bool = False,
) -> None:
    """Extract stills from cine loops (AVI, MP4, DICOM, NIfTI, MHD, TIFF stacks).

    Writes ``images/NAME_0001.png`` (grey, the number counts the frames of the loop from 1) and ``manifest.csv``
    with the columns image, source, frame, time_s, row_mm, column_mm, height, width and patient (a pseudonym, from
    the header of DICOM files; unknown values are empty), as :class:`alan.data.FrameFolder` reads them. NAME is the
    path of the loop below ``root``, folders joined by ``_``, without suffix; names too long for a file are
    shortened and end in a digest. Loops that were split into DICOM files of one frame are put together under the
    name of their first file. Stills of a simulated archive are marked as simulated. Loops that cannot be
    decoded, and loops whose NAME is taken by another one, are listed in ``failures.csv`` with the reason.

    Loops are decoded in several processes. A run that was killed continues after the last complete loop when the
    same command is repeated; ``images`` and ``manifest.csv`` appear when all loops are done. Text that is burnt
    into the pictures, such as the name of a patient, stays there unless ``sector`` is set.

    Args:
        root: A cine loop, or a folder that is searched for cine loops, linked folders included. It may also follow
            the verb (alan frames LOOPS --out STILLS).
        out: Folder to write into.
        every: Extract every n-th frame, starting with the first.
        sector: Blank everything outside the ultrasound sector and paint over text inside it, as alan analyze does;
            loops without a sector are skipped.
        workers: Number of processes that decode; 0 decodes in this one, null takes one for each core.
        strict: Exit with code 1 if a loop was skipped.
        overwrite: Replace stills that were extracted with other options.

    Raises:
        ParameterError: ``every`` or ``workers`` is out of range.
        ConfigError: ``out`` holds stills that were extracted with other options or from other files.
        DataError: There is no loop, none can be decoded, or ``out`` holds other files.
        LockError: Another process writes to ``out``.
        SkippedError: A loop was skipped, and ``strict`` is true.
    """
    source, target = Path(root), Path(out)
    loops, failures = _loops(source)
    total = len(loops) + len(failures)
    config: dict[str, Any] = {"root": str(source.absolute()), "every": every, "files": _fingerprint(loops)}
    if sector:
        config["sector"] = True
    with open_run(target, "frames", config, overwrite, (_IMAGES, MANIFEST, SIMULATION, _UNFINISHED)) as run:
        if run.finished:
            shutil.rmtree(target / _UNFINISHED, ignore_errors=True)
            _log.info("%s: already done; give another folder, or extract again with --overwrite true", target)
            return
        outcomes = _extract_all(loops, target / _UNFINISHED, every, workers, sector=sector)
        refused = [(loop.source, outcome.failure) for loop, outcome in outcomes.items() if outcome.failure]
        failures += refused
        rows = [row for outcome in outcomes.values() for row in outcome.rows]
        if not rows:
            raise DataError(
                f"{root}: none of {len(failures)} cine loops can be decoded; the first: {': '.join(failures[0])}"
            )
        if is_simulated(source):
            write_json(target / SIMULATION, {"stills_of": str(source.absolute()), "complete": True})
        _publish(run, rows)
        _report(outcomes)
        _log.info("%s: %d stills of %d cine loops", target, len(rows), len(loops) - len(refused))
        report_failures(target / FAILURES, failures, total, strict=strict)


def _loops(root: Path) -> tuple[list[_Loop], list[tuple[str, str]]]:
    """List the loops with the names of their stills, and the skipped files with the reason."""
    if root.is_file():
        return [_Loop(root, root.name, short_name(stem(root.name)))], []
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder; check the spelling")
    loops: dict[str, _Loop] = {}
    passed = [(path.relative_to(root).as_posix(), reason) for path, reason in unreachable_below(root)]
    for path in files_below(root):
        if not is_cine(path):
            continue
        relative = path.relative_to(root)
        source = relative.as_posix()
        if stem(path.name).endswith(LABELS):
            passed.append((source, LABEL_MAP))
            continue
        name = short_name("_".join([*relative.parts[:-1], stem(path.name)]))
        loop = loops.setdefault(name, _Loop(path, source, name))
        if loop.path != path:
            passed.append((source, f"would be written as {name!r}, like {loop.source}: rename one"))
    if not loops:
        known = ", ".join((*VIDEOS, *MEDICAL, *DICOM))
        raise DataError(f"{root}: holds no cine loop ({known}, DICOM under any name, or TIFF stacks)")
    return _joined(list(loops.values())), passed


def _joined(loops: Sequence[_Loop]) -> list[_Loop]:
    """Put loops that were split into DICOM files of one frame together, each in the place of its first file."""
    dicom = (loop.path for loop in loops if is_dicom(loop.path))
    split = {paths[0]: paths[1:] for paths in find_split_loops(dicom)}
    others = {path for paths in split.values() for path in paths}
    return [replace(loop, others=split.get(loop.path, ())) for loop in loops if loop.path not in others]


def _fingerprint(loops: Sequence[_Loop]) -> str:
    """Compute a fingerprint of the files of all loops from their names, sizes and times."""
    files = [file for loop in loops for path in loop.paths for file in medical_files(path)]
    return fingerprint([[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files])


def _extract_all(
    loops: Sequence[_Loop], folder: Path, every: int, workers: int | None, *, sector: bool
) -> dict[_Loop, _Outcome]:
    """Return the outcome of each loop, in their order."""
    for name in (_IMAGES, "loops"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    n = min(usable_cpus(), len(loops) // _FEW) if workers is None else min(workers, len(loops))
    found: dict[_Loop, _Outcome] = {}
    with tqdm(total=len(loops), desc="extract stills", unit="loop") as bar:
        if n <= 1:
            for loop in loops:
                found[loop] = _extract(loop, folder, every, sector=sector)
                bar.update()
            return found
        with worker_pool(n, preload=__name__) as pool:
            futures = {pool.submit(_extract, loop, folder, every, sector=sector): loop for loop in loops}
            for future in as_completed(futures):
                found[futures[future]] = future.result()
                bar.update()
    return {loop: found[loop] for loop in loops}


def _extract(loop: _Loop, folder: Path, every: int, *, sector: bool) -> _Outcome:
    """Write the stills of a loop, unless an earlier process has done so; called in worker processes."""
    record = folder / "loops" / f"{loop.name}.json"
    with contextlib.suppress(DataError, TypeError):  # there is none yet, or one of another version
        return _Outcome(**read_json(record))
    with warnings.catch_warnings(record=True) as caught, suppress_notes():
        warnings.simplefilter("always")
        try:
            cine = _read_blanked(*loop.paths) if sector else read_all(frame_source(*loop.paths, whole=True))
        except DataError as error:
            return _Outcome(failure=_without(str(error), loop.path))
    if cine.attributes.get("volume"):
        return _Outcome(failure="its frames are slices of a volume: export a plane as a loop")
    told = [_without(str(warning.message), loop.path) for warning in caught]
    outcome = _Outcome(_write_stills(cine, folder / _IMAGES, loop, every), "", list(cine.notes), told)
    write_json(record, asdict(outcome))
    return outcome


def _read_blanked(*paths: Path) -> Cine:
    """Read a loop, blank everything outside its sector and paint over text inside it."""
    stream = open_stream(frame_source(*paths))
    header, frames = stream.header, FrameBuffer(paths[0])
    blanking = find_blanking(stream.samples, stream.shape, pixel_aspect(header))
    for frame in stream:
        frames.append(blanking.apply(frame[None])[0])
    return Cine(frames=frames.stack(), **{**vars(header), "notes": (*header.notes, *blanking.notes)})


def _without(text: str, path: Path) -> str:
    """Remove the path at the start of a message, and the folder of other files."""
    return text.removeprefix(f"{path}: ").replace(f"{path.parent}{os.sep}", "")


def _write_stills(cine: Cine, folder: Path, loop: _Loop, every: int) -> list[list[str | int | float]]:
    """Write every n-th frame and return the rows of the manifest."""
    rows = []
    for index in range(0, len(cine.frames), every):
        image = f"{loop.name}_{index + 1:04d}.png"
        Image.fromarray(cine.frames[index]).save(folder / image)
        time = None if cine.times is None else float(cine.times[index])
        shape = cine.frames.shape[1:]
        rows.append(
            manifest_row(
                image, loop.source, index + 1, shape, time=time, spacing=cine.spacing, patient=cine.patient
            )
        )
    return rows


def _publish(run: Run, rows: Iterable[Sequence[Any]]) -> None:
    """Move the stills to their place and mark the run complete; repeating it after an interruption is safe."""
    write_rows(run.folder / MANIFEST, COLUMNS, rows)
    unfinished, images = run.folder / _UNFINISHED / _IMAGES, run.folder / _IMAGES
    if not images.exists():
        unfinished.replace(images)
    run.finish(temporary=_UNFINISHED)
    shutil.rmtree(run.folder / _UNFINISHED)


def _report(outcomes: dict[_Loop, _Outcome]) -> None:
    """Log how loops were converted, and warn of messages of decoders, once for each kind."""
    notes = ((loop.source, note) for loop, outcome in outcomes.items() for note in outcome.notes)
    told = ((loop.source, text) for loop, outcome in outcomes.items() for text in outcome.warnings)
    for line in _group_messages(notes):
        _log.info("%s", line)
    for line in _group_messages(told):
        warnings.warn(line, AlanWarning, stacklevel=3)


def _group_messages(messages: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield one line per kind of message: the first message and the number of further loops that have it."""
    groups: dict[str, list[str]] = {}
    for source, text in messages:
        groups.setdefault(without_numbers(text), []).append(f"{source}: {text}")
    for lines in groups.values():
        yield lines[0] + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else "")
