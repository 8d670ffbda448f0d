"""Simulated archives: seeded patients in an official layout, written atomically and resumable."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Interval
from tqdm.auto import tqdm

from alan.bounds import NonNegativeInt, PositiveInt, Share, bounded
from alan.data.readers.base import SIMULATION
from alan.data.sample import SPLITS
from alan.errors import DataError, ParameterError, nearest
from alan.files import fingerprint, read_json, write_json
from alan.locks import LOCK, lock_folder
from alan.progress import quiet
from alan.runs import sweep
from alan.workers import worker_pool

if not TYPE_CHECKING:  # jsonargparse executes blocks of `if TYPE_CHECKING`, which would slow --help
    pass
else:
    from alan.data.simulator.layouts import Layout, PatientJob

#: Marker file of a simulated archive, and folder of the rows of finished patients until the archive is complete.
MARKER, PARTS = SIMULATION, ".simulation"
#: Incremented when the same arguments give other bytes.
SCHEMA = "alan-simulation/4"


@bounded
def simulate_archive(
    out: str | os.PathLike[str],
    layout: str = "camus",
    n_patients: Annotated[int, Interval(ge=3, le=9999)] = 60,
    *,
    views: Sequence[str] | None = None,
    n_frames: PositiveInt | None = None,
    size: int | tuple[int, int] | None = None,
    split: tuple[Share, Share, Share] = (0.7, 0.1, 0.2),
    first_patient: Annotated[int, Interval(ge=1, le=9999)] = 1,
    seed: NonNegativeInt = 0,
    workers: PositiveInt = 1,
    progress: bool = True,
) -> Path:
    """Write an archive of simulated patients in an official layout.

    The same arguments give the same bytes, whatever the number of workers. An interrupted run continues when it is
    called again; a complete archive is left unchanged.

    Args:
        out: Folder to write to; it must be new, empty, or hold the same archive.
        layout: Layout of the archive: echonet (AVI and CSV; A4C), camus (NIfTI with masks; A4C and A2C, on request
            also PLAX and PSAX), tmed (PNG and CSV; all four views) or clinic (AVI of a whole screen and ef.csv;
            A4C and A2C).
        n_patients: Number of patients, 3 to 9999.
        views: Views to simulate (A4C, A2C, PLAX, PSAX); null simulates the official views of the layout.
        n_frames: Frames per clip (tmed: images per view and study); null uses the default of the layout.
        size: Side of the frames in pixels, or height and width; null uses the default of the layout.
        split: Fractions of train, val and test patients, which sum to 1; each split has at least one patient.
        first_patient: Number of the first patient in the names of the files. Archives whose stores are read
            together need different numbers, because a number stands for a patient.
        seed: Seed of patients, clips and split.
        workers: Number of processes.
        progress: Whether to show a progress bar.

    Returns:
        The folder.

    Raises:
        ParameterError: An argument is outside its bounds, or a name is misspelt.
        DataError: The folder holds something else, or cannot be written.
        LockError: Another process is writing to the folder.
    """
    from alan.data.simulator.anatomy import PatientAnatomy
    from alan.data.simulator.layouts import LAYOUTS, PatientJob
    from alan.data.simulator.sequence import check_shape

    kind = _layout(layout, views)
    if abs(sum(split) - 1) > 1e-6:
        raise ParameterError(f"split is {split}: give fractions of train, val and test that sum to 1")
    chosen = tuple(views) if views is not None else kind.views
    frames = kind.n_frames if n_frames is None else n_frames
    shape = kind.size if size is None else (size, size) if isinstance(size, int) else (size[0], size[1])
    check_shape(shape)
    if frames < kind.min_frames:
        raise ParameterError(f"n_frames is {frames}: give at least {kind.min_frames} for the {layout} layout")
    if first_patient + n_patients > 10_000:
        raise ParameterError(
            f"first_patient is {first_patient}: give at most {10_000 - n_patients} for {n_patients} patients, "
            "whose numbers have four digits"
        )
    folder = Path(out)
    settings: dict[str, Any] = {
        "schema": SCHEMA,
        "layout": layout,
        "n_patients": n_patients,
        "views": list(chosen),
        "n_frames": frames,
        "size": list(shape),
        "split": list(split),
        "seed": seed,
        **({"first_patient": first_patient} if first_patient > 1 else {}),
    }
    order = list(LAYOUTS).index(layout)  # archives of the same seed in different layouts share no patient
    splits = draw_splits(n_patients, split, seed)
    jobs = [
        PatientJob(
            root=folder,
            number=first_patient + i,
            anatomy=PatientAnatomy.sample([seed, order, i + 1]),
            seed=(seed, order, i + 1),
            split=splits[i],
            views=chosen,
            n_frames=frames,
            shape=shape,
        )
        for i in range(n_patients)
    ]
    with lock_folder(folder):
        if not _claim(folder, settings):
            _write_archive(folder, kind, jobs, workers, progress)
            _mark(folder, settings, complete=True)
        shutil.rmtree(folder / PARTS, ignore_errors=True)  # also of a run that was killed when it was complete
    return folder


def _write_archive(folder: Path, kind: Layout, jobs: list[PatientJob], workers: int, progress: bool) -> None:
    """Write the patients that are missing, then the tables of the layout."""
    parts = folder / PARTS
    pending = [job for job in jobs if not (parts / f"{job.number}.json").exists()]
    bar = tqdm(
        total=len(jobs),
        initial=len(jobs) - len(pending),
        desc="simulate",
        unit="patient",
        disable=not progress or quiet(),
    )
    try:
        with bar:
            for number, rows in _run(kind, pending, workers):
                write_json(parts / f"{number}.json", rows)
                bar.update()
        for stale in folder.rglob(".*.part*"):  # files of a killed run
            stale.unlink()
        kind.finish(folder, jobs, [read_json(parts / f"{job.number}.json") for job in jobs])
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written ({error}): finished patients are kept; free space and run again"
        ) from error


def draw_splits(n_patients: int, shares: tuple[float, float, float], seed: int) -> list[str]:
    """Assign patients to train, val and test at random.

    Args:
        n_patients: Number of patients, at least 3.
        shares: Fractions of train, val and test.
        seed: Seed of the shuffle.

    Returns:
        One of ``alan.data.sample.SPLITS`` per patient; no split is empty.
    """
    n_val, n_test = (max(1, min(round(share * n_patients), n_patients - 2)) for share in shares[1:])
    n_test = min(n_test, n_patients - 1 - n_val)
    names = np.repeat(np.array(SPLITS), [n_patients - n_val - n_test, n_val, n_test])
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0]))
    return [str(name) for name in rng.permutation(names)]


def _layout(layout: str, views: Sequence[str] | None) -> Layout:
    """Find a layout by name and check the requested views."""
    from alan.data.simulator.layouts import LAYOUTS
    from alan.data.simulator.sequence import check_view

    if layout not in LAYOUTS:
        raise ParameterError(f"unknown layout {layout!r}: {nearest(layout, LAYOUTS)}")
    kind = LAYOUTS[layout]
    known = (*kind.views, *kind.more_views)
    for view in kind.views if views is None else views:
        check_view(view)
        if view not in known:
            raise ParameterError(f"the {layout} layout has no view {view}: choose one of: {', '.join(known)}")
    if views is not None and (not views or len(set(views)) < len(views)):
        raise ParameterError(f"views is {list(views)}: give each view once, out of {', '.join(known)}")
    return kind


def _claim(folder: Path, settings: dict[str, Any]) -> bool:
    """Mark the folder as this archive; return True if the archive is already complete."""
    marker = folder / MARKER
    if marker.exists():
        found = read_json(marker)
        theirs = {key: found.get(key) for key in settings}
        if theirs != settings:
            other = ", ".join(
                f"{k} {theirs[k]!r} not {settings[k]!r}" for k in settings if theirs[k] != settings[k]
            )
            raise DataError(
                f"{folder} holds another simulated archive ({other}): give another folder, or delete it"
            )
        return bool(found.get("complete"))
    sweep(folder, deep=False)
    if any(path.name != LOCK for path in folder.iterdir()):
        raise DataError(f"{folder} is not empty and holds no simulated archive: give a new folder")
    _mark(folder, settings, complete=False)
    return False


def _mark(folder: Path, settings: dict[str, Any], *, complete: bool) -> None:
    write_json(folder / MARKER, {**settings, "fingerprint": fingerprint(settings), "complete": complete})


def _run(kind: Layout, jobs: list[PatientJob], workers: int) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Write patients in one or several processes; yield the number and the rows of each finished patient."""
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            yield job.number, kind.write_patient(job)
        return
    import torch

    with worker_pool(min(workers, len(jobs)), torch.set_num_threads, 1) as pool:
        futures = {pool.submit(kind.write_patient, job): job.number for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
