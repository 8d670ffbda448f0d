"""Simulated archives: every patient seeded, written whole, and continued where a run was broken off."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from alan.data.sample import SPLITS
from alan.data.simulator.anatomy import PatientAnatomy
from alan.data.simulator.layouts import LAYOUTS, Layout, PatientJob
from alan.data.simulator.sequence import check_shape, check_view
from alan.errors import DataError, ParameterError, nearest
from alan.files import fingerprint, read_json, write_json

#: The marker of a simulated archive, and the folder that holds the finished patients' rows until the end.
MARKER, PARTS = "simulation.json", ".simulation"
#: Changes when the same arguments give other bytes.
SCHEMA = "alan-simulation/3"
_MOST = 9999


def simulate_archive(
    root: str | os.PathLike[str],
    layout: str = "camus",
    n_patients: int = 60,
    *,
    views: Sequence[str] | None = None,
    n_frames: int | None = None,
    size: int | tuple[int, int] | None = None,
    split: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> Path:
    """Write an archive of simulated patients in an official layout.

    The same arguments give the same bytes, whatever the number of workers. Each patient is written whole; a run
    that was broken off is continued by calling it again, and a finished archive is left as it is.

    Args:
        root: folder to write to; new, empty, or holding this very archive.
        layout: ``echonet`` (AVI, FileList.csv, VolumeTracings.csv; A4C), ``camus`` (NIfTI, Info, split lists;
            A4C and A2C) or ``tmed`` (PNG and CSV; all four views).
        n_patients: number of patients, at least 3 (one for each side of the split).
        views: views to simulate, out of those of the layout; all of them by default.
        n_frames: frames a clip (``tmed``: images a view and study); the layout's own number by default.
        size: side in pixels or (H, W); the layout's own size by default.
        split: shares of train, val and test patients, summing to 1; each side has at least one patient.
        seed: a non-negative integer; patients, clips and the split follow from it.
        workers: number of processes, at least 1.
        progress: whether to show a progress bar.

    Returns:
        The folder.

    Raises:
        ParameterError: an argument outside its bounds; a misspelt name is answered with the nearest one.
        DataError: the folder holds something else.
    """
    kind = _layout(layout, views)
    _check_numbers(n_patients, split, seed, workers)
    chosen = tuple(views) if views is not None else kind.views
    frames = kind.n_frames if n_frames is None else n_frames
    shape = kind.size if size is None else (size, size) if isinstance(size, int) else (size[0], size[1])
    check_shape(shape)
    if frames < kind.min_frames:
        raise ParameterError(f"n_frames is {frames}, the {layout} layout needs at least {kind.min_frames}")
    folder = Path(root)
    settings: dict[str, Any] = {
        "schema": SCHEMA,
        "layout": layout,
        "n_patients": n_patients,
        "views": list(chosen),
        "n_frames": frames,
        "size": list(shape),
        "split": list(split),
        "seed": seed,
    }
    if _claim(folder, settings):
        return folder

    order = list(LAYOUTS).index(layout)  # archives of one seed share no patient
    sides = assign_splits(n_patients, split, seed)
    jobs = [
        PatientJob(
            root=folder,
            number=i + 1,
            anatomy=PatientAnatomy.sample([seed, order, i + 1]),
            seed=(seed, order, i + 1),
            split=sides[i],
            views=chosen,
            n_frames=frames,
            shape=shape,
        )
        for i in range(n_patients)
    ]
    parts = folder / PARTS
    pending = [job for job in jobs if not (parts / f"{job.number}.json").exists()]
    bar = tqdm(
        total=n_patients,
        initial=n_patients - len(pending),
        desc=f"simulate {layout}",
        unit="patient",
        disable=not progress,
    )
    try:
        with bar:
            for number, rows in _run(kind, pending, workers):
                write_json(parts / f"{number}.json", rows)
                bar.update()
        for stale in folder.rglob(".*.part*"):  # what a killed run was writing
            stale.unlink()
        kind.finish(folder, jobs, [read_json(parts / f"{job.number}.json") for job in jobs])
        _mark(folder, settings, complete=True)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written ({error}): finished patients are kept, make room and call again"
        ) from error
    shutil.rmtree(parts, ignore_errors=True)
    return folder


def assign_splits(n_patients: int, shares: tuple[float, float, float], seed: int) -> list[str]:
    """Deal patients to train, val and test at random.

    Args:
        n_patients: at least 3.
        shares: of train, val and test.
        seed: of the shuffle.

    Returns:
        One of ``alan.data.sample.SPLITS`` for each patient; no side is empty.
    """
    n_val, n_test = (max(1, min(round(share * n_patients), n_patients - 2)) for share in shares[1:])
    n_test = min(n_test, n_patients - 1 - n_val)
    names = np.repeat(np.array(SPLITS), [n_patients - n_val - n_test, n_val, n_test])
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0]))
    return [str(name) for name in rng.permutation(names)]


def _layout(layout: str, views: Sequence[str] | None) -> Layout:
    """The layout of a name, after a look at the views asked of it."""
    if layout not in LAYOUTS:
        raise ParameterError(f"unknown layout {layout!r}: {nearest(layout, LAYOUTS)}")
    kind = LAYOUTS[layout]
    for view in kind.views if views is None else views:
        check_view(view)
        if view not in kind.views:
            raise ParameterError(f"the {layout} layout has no view {view}: choose from {', '.join(kind.views)}")
    if views is not None and (not views or len(set(views)) < len(views)):
        raise ParameterError(f"views is {list(views)}, name each view once: {', '.join(kind.views)}")
    return kind


def _check_numbers(n_patients: int, split: tuple[float, float, float], seed: int, workers: int) -> None:
    if n_patients < 3:
        raise ParameterError(f"n_patients is {n_patients}, it must be at least 3, one for each side of the split")
    if n_patients > _MOST:
        raise ParameterError(f"n_patients is {n_patients}, it must be at most {_MOST}: write several archives")
    if workers < 1:
        raise ParameterError(f"workers is {workers}, at least 1 process is needed")
    if seed < 0:
        raise ParameterError(f"seed is {seed}, it must not be negative")
    if len(split) != 3 or any(not 0 <= share <= 1 for share in split) or abs(sum(split) - 1) > 1e-6:
        raise ParameterError(f"split is {split}, it must be three shares (train, val, test) that sum to 1")


def _claim(folder: Path, settings: dict[str, Any]) -> bool:
    """Mark the folder as this archive's; True if it is complete already."""
    marker = folder / MARKER
    if marker.exists():
        found = read_json(marker)
        theirs = {key: found.get(key) for key in settings}
        if theirs != settings:
            other = ", ".join(
                f"{k} {theirs[k]!r} not {settings[k]!r}" for k in settings if theirs[k] != settings[k]
            )
            raise DataError(
                f"{folder} holds another simulated archive ({other}): choose another folder or delete it"
            )
        return bool(found.get("complete"))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is not empty and holds no simulated archive: choose a new folder")
    _mark(folder, settings, complete=False)
    return False


def _mark(folder: Path, settings: dict[str, Any], *, complete: bool) -> None:
    write_json(folder / MARKER, {**settings, "fingerprint": fingerprint(settings), "complete": complete})


def _run(kind: Layout, jobs: list[PatientJob], workers: int) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Write patients, in this process or in several; give each one's number and rows as it is done."""
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            yield job.number, kind.write_patient(job)
        return
    # On Linux a fork saves each worker the import of torch; elsewhere the platform's own way is used.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    with ProcessPoolExecutor(min(workers, len(jobs)), context, torch.set_num_threads, (1,)) as pool:
        futures = {pool.submit(kind.write_patient, job): job.number for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
