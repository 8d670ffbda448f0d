"""Label efficiency: check a protocol, compute its cells, and summarise them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from alan.data.store.reader import FrameStore
from alan.data.structures import check_structures
from alan.errors import AlanError, DataError
from alan.evaluation.label_efficiency.features import FeatureFiles, Models
from alan.evaluation.label_efficiency.protocol import (
    CELL_SCHEMA,
    GridCell,
    Inputs,
    LabelEfficiencyProtocol,
    Workspace,
)
from alan.evaluation.label_efficiency.summary import cell_rows, summarise_cells
from alan.evaluation.metrics import dice
from alan.evaluation.results import Result
from alan.evaluation.splits import EvaluationSplits, count_split, describe_store
from alan.files import read_json, write_json
from alan.workers import worker_pool

_log = logging.getLogger(__name__)


def check_efficiency(protocol: LabelEfficiencyProtocol, models: Models) -> tuple[FrameStore, EvaluationSplits]:
    """Refuse a protocol that cannot be carried out, before anything is computed.

    Args:
        protocol: The protocol.
        models: Loaders of the models that the methods use.

    Returns:
        The frame store, and its frames of the label split (all patients) and of the test split.

    Raises:
        ParameterError: There are fewer labelled patients than asked for, or a parameter of a method is out of
            range.
        DataError: A store or a structure is missing.
        SplitLeakError: A patient is in two splits, or a model learned from the test split.
        CheckpointError: A model cannot be read or does not fit.
    """
    store = FrameStore(protocol.store)
    store.check_structures(check_structures(protocol.structures))
    splits = protocol.splits(store)
    for method in protocol.methods:
        try:
            method.check(protocol, store, models)
        except AlanError as error:
            raise type(error)(f"method {method.name!r}: {error}") from error
    return store, splits


def list_cells(protocol: LabelEfficiencyProtocol) -> list[GridCell]:
    """List the cells of a protocol, seed by seed.

    With all patients every seed draws the same, so methods without a random start of their own have one cell
    there; methods that can segment without labels also have one with 0 patients.
    """
    fixed = [GridCell(method, 0, protocol.seeds[0]) for method in protocol.methods if method.unlabelled]
    return fixed + [
        GridCell(method, n, seed)
        for place, seed in enumerate(protocol.seeds)
        for n in protocol.label_patients
        for method in protocol.methods
        if method.trainable and (method.stochastic or n is not None or not place)
    ]


def measure_efficiency(protocol: LabelEfficiencyProtocol, folder: Path) -> Result:
    """Compute every cell that is not there yet, and summarise all cells.

    Args:
        protocol: Methods, patients and frames to compare.
        folder: Run folder. Features and cells are kept in its ``features`` and ``cells``, unless ``work`` names
            another place.

    Returns:
        The result; ``cases`` has one row per cell, structure and phase.

    Raises:
        AlanError: As :func:`check_efficiency`.
        ConfigError: A worker process was killed.
    """
    models = Models()
    store, splits = check_efficiency(protocol, models)
    place = folder if protocol.work is None else Path(protocol.work)
    if place.exists() and not place.is_dir():
        raise DataError(f"{place}: is a file; work needs a folder")
    indices = np.concatenate([splits.label["frame"].to_numpy(), splits.test["frame"].to_numpy()])
    frames = FeatureFiles(store, indices, place / "features", protocol.batch_size)
    inputs = {method.name: method.prepare(protocol, frames, models) for method in protocol.methods}
    cells = list_cells(protocol)
    results = compute_cells(protocol, splits, inputs, place / "cells", cells)
    summary = {
        "store": describe_store(store),
        "leaks": store.leaks,
        "label": count_split(splits.label),
        "test": count_split(splits.test),
        "structures": list(protocol.structures),
        "seeds": list(protocol.seeds),
        "largest_component": protocol.largest_component,
        **summarise_cells(cells, results, splits.test, protocol.structures),
    }
    return Result(summary, cell_rows(cells, results, splits.test, protocol.structures))


def compute_cells(
    protocol: LabelEfficiencyProtocol,
    splits: EvaluationSplits,
    inputs: Mapping[str, Inputs],
    folder: Path,
    cells: Sequence[GridCell],
) -> list[dict[str, Any]]:
    """Read the results of finished cells and compute the others, with a progress bar.

    Args:
        protocol: The protocol.
        splits: Frames of the protocol.
        inputs: Mapping from the name of each method to its prepared inputs.
        folder: Folder of the finished cells.
        cells: The cells.

    Returns:
        One result for each cell, in their order.

    Raises:
        ConfigError: A worker process was killed.
    """
    work = Workspace(protocol, splits, inputs, folder)
    found = {place: kept for place, cell in enumerate(cells) if (kept := read_cell(work, cell)) is not None}
    waiting = [place for place in range(len(cells)) if place not in found]
    with tqdm(total=len(cells), initial=len(found), desc="label efficiency", unit="cell") as bar:
        if protocol.workers == 1 or len(waiting) < 2:
            for place in waiting:
                bar.set_postfix_str(cells[place].title)
                found[place] = compute_cell(work, cells[place])
                bar.update()
        else:
            for place, result in _in_processes(work, cells, waiting):
                found[place] = result
                bar.set_postfix_str(f"done: {cells[place].title}")
                bar.update()
    return [found[place] for place in range(len(cells))]


def read_cell(work: Workspace, cell: GridCell) -> dict[str, Any] | None:
    """Read the result of a finished cell; None if there is none."""
    try:
        value = read_json(work.path(cell))
    except DataError:
        return None
    return value if isinstance(value, dict) and value.get("key") == work.key(cell) else None


def compute_cell(work: Workspace, cell: GridCell) -> dict[str, Any]:
    """Fit a method on the labelled patients of a cell, measure it on the test split, and write the result.

    Torch uses one thread, so that the result does not depend on the number of processes.

    Args:
        work: Frames and features.
        cell: Method, structures and patients of the measurement.

    Returns:
        ``key``, ``patients`` (number of labelled ones), ``seed``, ``seconds``, ``dice`` (structure to one value
        per test frame, None where undefined), ``empty`` (structure to the number of frames in which nothing was
        predicted), ``reasons`` (structure to the reason why nothing was selected) and ``failed`` (why the cell has
        no result, otherwise empty; such a cell is not written).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = time.perf_counter()
    result: dict[str, Any] = {"schema": CELL_SCHEMA, "key": work.key(cell), "seed": cell.seed, "failed": ""}
    result["patients"] = int(work.splits.label["patient"].iloc[work.rows(cell)].nunique())
    try:
        masks, reasons = cell.method.segment(work, cell)
    except AlanError as error:
        _log.warning("%s: failed (%s)", cell.title, error)
        return {**result, "failed": str(error), "dice": {}, "empty": {}, "reasons": {}, "seconds": math.nan}
    finally:
        torch.set_num_threads(threads)
    result["seconds"] = time.perf_counter() - start
    result["dice"], result["empty"], result["reasons"] = {}, {}, dict(reasons)
    for value, name in enumerate(work.protocol.structures, 1):
        scores = dice(masks[name], work.test_maps == value)
        result["dice"][name] = [None if math.isnan(x) else float(x) for x in scores]
        result["empty"][name] = int((~masks[name].any((1, 2))).sum())
    write_json(work.path(cell), result)
    return result


def _in_processes(
    work: Workspace, cells: Sequence[GridCell], waiting: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield place and result of each waiting cell as they come; an interruption also ends the processes."""
    shared = (work.protocol, work.splits, work.inputs, work.folder)
    n = min(work.protocol.workers, len(waiting))
    with worker_pool(n, _start_worker, *shared, preload=__name__) as pool:
        futures = {pool.submit(_compute, cells[place]): place for place in waiting}
        for future in as_completed(futures):
            yield futures[future], future.result()


_WORK: list[Workspace] = []


def _start_worker(*shared: Any) -> None:
    """Set up a process, in which Lightning reports errors only."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    _WORK[:] = [Workspace(*shared)]


def _compute(cell: GridCell) -> dict[str, Any]:
    return compute_cell(_WORK[0], cell)
