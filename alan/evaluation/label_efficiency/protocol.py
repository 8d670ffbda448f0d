"""How many labels does each method need? Dice on the test side against the number of labelled patients."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.context
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from alan.data.splits import draw_patients
from alan.data.store.reader import FrameStore
from alan.data.structures import check_structures
from alan.downstream.whitebox.steps import PostProcessing
from alan.errors import ConfigError, DataError, ParameterError
from alan.evaluation.cases import Sides, choose_sides
from alan.evaluation.label_efficiency.cells import Bench, Cell, Workspace, compute_cell
from alan.evaluation.label_efficiency.frames import check_models, prepare_features, prepare_priors
from alan.evaluation.label_efficiency.methods import DETERMINISTIC, Method, check_methods
from alan.evaluation.label_efficiency.summary import cell_rows, summarise_cells
from alan.evaluation.results import Result
from alan.evaluation.summary import count_side
from alan.supervised.segmenter import load_segmenter


@dataclass(frozen=True)
class LabelEfficiencyProtocol:
    """What is compared, on which frames, with how many labelled patients.

    No choice is made on the test side: every method is fitted on the drawn patients of the label side alone, with
    the settings given here, and a network's last weights are measured. Backbones and parcels may have seen frames
    of the label side without their labels; they must not have seen the test side.

    Attributes:
        store: path of the frame store.
        methods: the lines of the figure.
        structures: structures to segment.
        label_split: side that gives labels.
        test_split: side that is measured.
        label_patients: numbers of labelled patients; null for all.
        seeds: each draws an order of the patients, of which every number takes the first, the same for all
            methods; and starts the trainings.
        views: views used; null for all.
        phases: phases used.
        postprocessing: of methods that join parcels by a rule.
        largest_component: of all other methods but the atlas, keep each structure's largest component.
        batch_size: frames through a network at a time.
        accelerator: ``cpu``, ``gpu`` or ``auto``, on which networks are trained; numbers are the same from run to
            run on one kind of machine.
        workers: processes that compute cells, each on one thread; their number does not change any result.
        work: folder of finished cells and features, which several runs may share, so that a run with one more
            method computes only that; null: the run's own.
    """

    store: str
    methods: list[Method]
    structures: tuple[str, ...] = ("lv", "myo", "la")
    label_split: str = "train"
    test_split: str = "test"
    label_patients: tuple[int | None, ...] = (1, 2, 5, 10, 20, 50, 100, None)
    seeds: tuple[int, ...] = (0, 1, 2)
    views: tuple[str, ...] | None = None
    phases: tuple[str, ...] = ("ED", "ES")
    postprocessing: PostProcessing = field(default_factory=PostProcessing)
    largest_component: bool = True
    batch_size: int = 32
    accelerator: Literal["cpu", "gpu", "auto"] = "cpu"
    workers: int = 1
    work: str | None = None


def check_efficiency(protocol: LabelEfficiencyProtocol) -> tuple[FrameStore, Sides]:
    """Refuse a protocol that cannot be carried out, before anything is computed.

    Returns:
        The store, and its rows of the label side (all patients) and of the test side.

    Raises:
        ParameterError: an empty or repeated list, a number out of range, more labelled patients than there are,
            or as :func:`alan.evaluation.label_efficiency.methods.check_methods`.
        DataError: a store or structure that is not there.
        SplitLeakError: a patient on two sides, or a segmenter that learnt from the test side.
        CheckpointError: a model that cannot be read.
    """
    for name in ("structures", "label_patients", "seeds", "phases"):
        values = list(getattr(protocol, name))
        if not values or len(set(values)) < len(values):
            raise ParameterError(f"{name}={values}: give at least one, each once")
    for name, low in (("batch_size", 1), ("workers", 1)):
        if getattr(protocol, name) < low:
            raise ParameterError(f"{name}={getattr(protocol, name)}: give at least {low}")
    if min(protocol.seeds) < 0:
        raise ParameterError(f"seeds={list(protocol.seeds)}: give 0 or more")
    store = FrameStore(protocol.store)
    check_structures(protocol.structures)
    store.check_structures(protocol.structures)
    sides = choose_sides(
        store,
        train_split=None,
        label_split=protocol.label_split,
        test_split=protocol.test_split,
        views=protocol.views,
        phases=protocol.phases,
        label_patients=None,
        seed=0,
    )
    everyone = len(draw_patients(sides.label["patient"], None, 0))
    for n in protocol.label_patients:
        draw_patients(sides.label["patient"], n, 0)
        if n == everyone and None in protocol.label_patients:
            raise ParameterError(f"label_patients holds {n} and null, which are the same here: leave one out")
    check_methods(protocol.methods, protocol.structures, store.fingerprint, protocol.test_split)
    check_models(protocol.methods)
    return store, sides


def list_cells(protocol: LabelEfficiencyProtocol) -> list[Cell]:
    """The cells of a protocol, one whole seed after the other.

    With all patients every seed draws the same, so methods without a random start of their own have one cell
    there; a fixed segmenter, and a rule with a prior, have one at 0 patients.
    """
    cells = []
    for place, seed in enumerate(protocol.seeds):
        for n in protocol.label_patients:
            for method in protocol.methods:
                if method.kind == "segmenter" or (place and n is None and method.kind in DETERMINISTIC):
                    continue
                cells.append(Cell(method, n, seed))
    unlabelled = [method for method in protocol.methods if method.kind == "segmenter" or method.prior is not None]
    fixed = [Cell(method, 0, protocol.seeds[0]) for method in unlabelled]
    return fixed + cells


def measure_efficiency(protocol: LabelEfficiencyProtocol, folder: Path) -> Result:
    """Compute every cell that is not there yet, and summarise them.

    Args:
        protocol: what to compare.
        folder: run folder; features and cells are kept in its ``features`` and ``cells`` unless ``work`` says
            where else.

    Returns:
        The result; ``cases`` has one row for each cell, structure and phase.

    Raises:
        AlanError: as :func:`check_efficiency`.
        ConfigError: a worker process was killed.
    """
    store, sides = check_efficiency(protocol)
    place = folder if protocol.work is None else Path(protocol.work)
    if place.exists() and not place.is_dir():
        raise DataError(f"{place}: is a file; work needs a folder")
    frames = np.concatenate([sides.label["frame"].to_numpy(), sides.test["frame"].to_numpy()])
    features = prepare_features(protocol.methods, store, frames, place / "features", protocol.batch_size)
    priors = prepare_priors(
        protocol.methods, protocol.structures, protocol.phases, place / "features", protocol.batch_size
    )
    paths = {path for method in protocol.methods for path in (method.segmenter, method.init) if path is not None}
    bench = Bench(
        store=protocol.store,
        structures=protocol.structures,
        label_split=protocol.label_split,
        test_split=protocol.test_split,
        views=protocol.views,
        phases=protocol.phases,
        postprocessing=protocol.postprocessing,
        largest_component=protocol.largest_component,
        batch_size=protocol.batch_size,
        accelerator=protocol.accelerator,
        features=features,
        priors=priors,
        digests={path: load_segmenter(path).fingerprint for path in sorted(paths)},
        folder=str(place / "cells"),
    )
    cells = list_cells(protocol)
    results = compute_cells(bench, sides, cells, protocol.workers)
    cases = cell_rows(cells, results, sides.test, protocol.structures)
    summary = {
        "store": {
            "name": store.name,
            "fingerprint": store.fingerprint,
            "size": store.size,
            "skipped": store.skipped,
        },
        "leaks": store.leaks,
        "label": count_side(sides.label),
        "test": count_side(sides.test),
        "structures": list(protocol.structures),
        "seeds": list(protocol.seeds),
        "largest_component": protocol.largest_component,
        **summarise_cells(cells, results, sides.test, protocol.structures),
    }
    return Result(summary, cases)


def compute_cells(bench: Bench, sides: Sides, cells: Sequence[Cell], workers: int) -> list[dict[str, Any]]:
    """Results of cells: kept ones read, the others computed, with a progress bar.

    Args:
        bench: what the cells need.
        sides: the frames.
        cells: the cells.
        workers: processes; 1 computes in this one.

    Returns:
        One result for each cell, in their order.

    Raises:
        ConfigError: a worker process was killed.
    """
    work = Workspace(bench, sides)
    found = {place: kept for place, cell in enumerate(cells) if (kept := work.kept(cell)) is not None}
    waiting = [place for place in range(len(cells)) if place not in found]
    with tqdm(total=len(cells), initial=len(found), desc="label efficiency", unit="cell") as bar:
        if workers == 1 or len(waiting) < 2:
            for place in waiting:
                bar.set_postfix_str(cells[place].title)
                found[place] = compute_cell(work, cells[place])
                bar.update()
        else:
            for place, result in _in_processes(bench, sides, cells, waiting, workers):
                found[place] = result
                bar.set_postfix_str(f"done: {cells[place].title}")
                bar.update()
    return [found[place] for place in range(len(cells))]


def _in_processes(
    bench: Bench, sides: Sides, cells: Sequence[Cell], waiting: Sequence[int], workers: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Place and result of each waiting cell, as they come; an interruption ends the processes, too."""
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(workers, len(waiting)), _context(), _start_worker, (bench, sides))
    try:
        futures = {pool.submit(_compute, cells[place]): place for place in waiting}
        for future in as_completed(futures):
            yield futures[future], future.result()
        pool.shutdown()
    except BrokenProcessPool as error:
        raise ConfigError(
            "a worker process was killed, perhaps for want of memory: lower label_efficiency.workers "
            f"({workers}); the same command goes on from the finished cells"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()


def _context() -> multiprocessing.context.BaseContext:
    """How processes start: not as copies of this one (torch's threads and CUDA would hang), imports made once."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


_WORK: list[Workspace] = []


def _start_worker(bench: Bench, sides: Sides) -> None:
    """Set up a process: interruptions are the parent's affair, Lightning says only what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    _WORK[:] = [Workspace(bench, sides)]


def _compute(cell: Cell) -> dict[str, Any]:
    return compute_cell(_WORK[0], cell)
