"""One cell of the label-efficiency table: a method, a number of patients, a seed; learnt, measured, kept."""

from __future__ import annotations

import json
import logging
import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from alan.data.loaders.labelled import LabelledFrameDataModule
from alan.data.splits import draw_patients
from alan.data.store.reader import FrameStore
from alan.downstream.whitebox.prior import ParcelPrior
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.selection import ParcelSelector
from alan.downstream.whitebox.steps import PostProcessing, main_component
from alan.errors import AlanError, DataError, SelectionError
from alan.evaluation.baselines import Atlas
from alan.evaluation.cases import Sides, of_phase
from alan.evaluation.label_efficiency.frames import Prepared, feature_name
from alan.evaluation.label_efficiency.methods import (
    Method,
    decoder_readout,
    linear_readout,
    network_module,
    start_from,
)
from alan.evaluation.metrics import dice
from alan.evaluation.whitebox import segment
from alan.files import fingerprint, read_json, write_json
from alan.supervised.segmenter import Segmenter, load_segmenter

SCHEMA = "alan-efficiency-cell/1"
_log = logging.getLogger(__name__)


class Cell(NamedTuple):
    """What one cell is of.

    Attributes:
        method: the method.
        patients: number of labelled patients; None for all, 0 for a fixed segmenter or a prior alone.
        seed: of the draw and of the training.
    """

    method: Method
    patients: int | None
    seed: int

    @property
    def title(self) -> str:
        """As the progress bar says it."""
        n = "all" if self.patients is None else self.patients
        return f"{self.method.name}, {n} patients, seed {self.seed}"


@dataclass(frozen=True)
class Bench:
    """All that a cell needs beside its method; small, so that it can be sent to another process.

    Attributes:
        store: path of the frame store.
        structures: structures to segment.
        label_split: side that gives labels.
        test_split: side that is measured.
        views: views used; None for all.
        phases: phases used.
        postprocessing: from parcels to segment.
        largest_component: of label maps, keep the largest component of each structure.
        batch_size: frames through a network at a time.
        accelerator: on which networks are trained.
        features: feature name to its file.
        priors: name of a method to each structure's prior, as JSON; of a method with a list for each phase, to
            that of ``structure phase``.
        digests: path of a segmenter or of the start of a training to its fingerprint.
        folder: where cells are kept.
    """

    store: str
    structures: tuple[str, ...]
    label_split: str
    test_split: str
    views: tuple[str, ...] | None
    phases: tuple[str, ...]
    postprocessing: PostProcessing
    largest_component: bool
    batch_size: int
    accelerator: Literal["cpu", "gpu", "auto"]
    features: Mapping[str, Prepared]
    priors: Mapping[str, Mapping[str, str]]
    digests: Mapping[str, str]
    folder: str


class Workspace:
    """Frames and masks that all cells of a process share.

    Args:
        bench: what the cells need.
        sides: rows of the label side (all patients) and of the test side.
    """

    def __init__(self, bench: Bench, sides: Sides) -> None:
        self.bench, self.sides = bench, sides
        self.store = FrameStore(bench.store)
        self.label_maps = self.store.label_maps(sides.label["label"], bench.structures)
        self.test_maps = self.store.label_maps(sides.test["label"], bench.structures)
        self._features: dict[str, NDArray[Any]] = {}

    def rows(self, cell: Cell) -> NDArray[np.int64]:
        """Rows of the label side that a cell may learn from."""
        if cell.patients == 0:
            return np.empty(0, np.int64)
        drawn = draw_patients(self.sides.label["patient"], cell.patients, cell.seed)
        return np.flatnonzero(self.sides.label["patient"].isin(drawn).to_numpy())

    def features(self, method: Method, rows: NDArray[np.int64] | None) -> NDArray[Any]:
        """Features of rows of the label side, or of the test side for None; not copied where all are asked for."""
        name, n = feature_name(method), len(self.sides.label)
        if name not in self._features:
            self._features[name] = self.bench.features[name].read()
        values = self._features[name]
        if rows is None:
            return values[n:]
        return values[:n] if len(rows) == n else values[rows]

    def key(self, cell: Cell) -> str:
        """SHA-256 over everything that decides a cell's result; the method's name does not."""
        bench, method = self.bench, cell.method
        settings = {k: v for k, v in asdict(method).items() if k not in ("name", *_PLACES)}
        if not settings["per_phase"]:
            del settings["per_phase"]  # cells of before it was there stay
        sources = [bench.digests[path] for path in (method.segmenter, method.init) if path is not None]
        if name := feature_name(method):
            sources.append(bench.features[name].fingerprint)
        sources += bench.priors.get(method.name, {}).values()
        steps: Any = asdict(bench.postprocessing) if method.kind == "rule" else bench.largest_component
        frames = [self.sides.label["frame"].tolist(), self.sides.test["frame"].tolist()]
        what = [self.store.fingerprint, frames, bench.structures, steps, settings, sources]
        return fingerprint([SCHEMA, *what, cell.patients, cell.seed])

    def path(self, cell: Cell) -> Path:
        """The file of a cell."""
        n = "all" if cell.patients is None else f"{cell.patients:04d}"
        return Path(self.bench.folder) / f"{cell.method.kind}-n{n}-seed{cell.seed}-{self.key(cell)[:16]}.json"

    def kept(self, cell: Cell) -> dict[str, Any] | None:
        """The result of an earlier run; None where there is none."""
        try:
            value = read_json(self.path(cell))
        except DataError:
            return None
        return value if isinstance(value, dict) and value.get("key") == self.key(cell) else None


#: Keys of a method whose content, not its place, decides the result.
_PLACES = ("parcels", "prior", "backbone", "segmenter", "init")


def compute_cell(work: Workspace, cell: Cell) -> dict[str, Any]:
    """Learn from the labelled patients, measure on the test side, and keep the result.

    Torch works on one thread, so that the result does not hang on the number of processes.

    Args:
        work: frames and features.
        cell: what to compute.

    Returns:
        ``key``, ``patients`` (labelled ones), ``seed``, ``seconds``, ``dice`` (structure to one value for each
        test frame, None where undefined), ``empty`` (structure to the number of frames in which nothing was
        predicted), ``reasons`` (structure to why nothing was chosen) and ``failed`` (why the cell has no result,
        else empty; such a cell is not kept).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = time.perf_counter()
    result: dict[str, Any] = {"schema": SCHEMA, "key": work.key(cell), "seed": cell.seed, "failed": ""}
    result["patients"] = _count(work, cell)
    try:
        masks, reasons = _LEARN[cell.method.kind](work, cell)
    except AlanError as error:
        _log.warning("%s: failed (%s)", cell.title, error)
        return {**result, "failed": str(error), "dice": {}, "empty": {}, "reasons": {}, "seconds": math.nan}
    finally:
        torch.set_num_threads(threads)
    result["seconds"] = time.perf_counter() - start
    result["dice"], result["empty"], result["reasons"] = {}, {}, reasons
    for value, name in enumerate(work.bench.structures, 1):
        scores = dice(masks[name], work.test_maps == value)
        result["dice"][name] = [None if math.isnan(x) else float(x) for x in scores]
        result["empty"][name] = int((~masks[name].any((1, 2))).sum())
    write_json(work.path(cell), result)
    return result


def _count(work: Workspace, cell: Cell) -> int:
    return int(work.sides.label["patient"].iloc[work.rows(cell)].nunique())


_Learnt = tuple[dict[str, NDArray[np.bool_]], dict[str, str]]


def _rule(work: Workspace, cell: Cell) -> _Learnt:
    """A rule that chooses nothing outlines nothing: Dice 0, with the reason."""
    rows, masks, reasons = work.rows(cell), {}, {}
    source = work.bench.features[feature_name(cell.method)]
    label, test = work.features(cell.method, rows), work.features(cell.method, None)
    patients = work.sides.label["patient"].to_numpy()[rows]
    priors = work.bench.priors.get(cell.method.name, {})
    for value, name in enumerate(work.bench.structures, 1):
        masks[name] = np.zeros(test.shape, bool)
        for phase in work.bench.phases if cell.method.per_phase else ("",):
            prior = priors.get(f"{name} {phase}".strip())
            selector = ParcelSelector(
                rule=str(cell.method.rule),
                n_parcels=source.n_parcels + (source.background_id is not None),
                background_id=source.background_id,
                provenance=source.fingerprint,
                prior=None if prior is None else ParcelPrior.from_dict(json.loads(prior)),
            )
            segmenter = ParcelSegmenter(selector, work.bench.postprocessing)
            learn = of_phase(work.sides.label["phase"].iloc[rows], phase)
            use = of_phase(work.sides.test["phase"], phase)
            try:
                if cell.patients == 0:
                    segmenter.fit_prior()
                else:
                    truth = work.label_maps[rows][learn] == value
                    segmenter.fit(label[learn], truth, groups=patients[learn])
                masks[name][use] = segment(segmenter, test[use])
            except SelectionError as error:
                reasons[name] = str(error)
    return masks, reasons


def _atlas(work: Workspace, cell: Cell) -> _Learnt:
    rows, masks, reasons = work.rows(cell), {}, {}
    for value, name in enumerate(work.bench.structures, 1):
        given = work.label_maps[rows] == value
        if given.any():
            masks[name] = Atlas().fit(given).predict(len(work.test_maps))
        else:
            masks[name], reasons[name] = np.zeros(work.test_maps.shape, bool), "no labelled frame shows it"
    return masks, reasons


def _readout(work: Workspace, cell: Cell) -> _Learnt:
    method, rows, classes = cell.method, work.rows(cell), len(work.bench.structures) + 1
    source = work.bench.features[feature_name(method)].fingerprint
    readout = (
        decoder_readout(method, classes, cell.seed, source)
        if method.kind == "decoder"
        else linear_readout(method, classes, source)
    )
    readout.fit(work.features(method, rows), work.label_maps[rows])
    return _split(work, readout.predict(work.features(method, None))), {}


def _network(work: Workspace, cell: Cell) -> _Learnt:
    """Train for a fixed number of steps and take the last weights; the test side only stands in for a check."""
    from lightning.pytorch import Trainer

    bench, training = work.bench, cell.method.network
    assert training is not None  # checked with the protocol
    module = network_module(training, bench.structures, cell.seed)
    if cell.method.init is not None:
        start_from(module, load_segmenter(cell.method.init), cell.method.init)
    data = LabelledFrameDataModule(
        [bench.store],
        list(bench.structures),
        train_split=bench.label_split,
        val_split=bench.test_split,  # never read: the module checks that no patient stands on both sides
        views=None if bench.views is None else list(bench.views),
        phases=bench.phases,
        label_patients=cell.patients,
        batch_size=training.batch_size,
        seed=cell.seed,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        trainer = Trainer(
            max_steps=training.steps,
            max_epochs=-1,
            accelerator=bench.accelerator,
            devices=1,
            precision=training.precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
        )
        trainer.fit(module, data)
    return _predict(work, module.segmenter()), {}


def _segmenter(work: Workspace, cell: Cell) -> _Learnt:
    return _predict(work, load_segmenter(str(cell.method.segmenter))), {}


def _predict(work: Workspace, segmenter: Segmenter) -> dict[str, NDArray[np.bool_]]:
    """Masks of the test frames by a network, cleaned."""
    frames = work.store.frames(work.sides.test["frame"].to_numpy())
    labels = np.zeros(frames.shape, np.uint8)
    for start in range(0, len(frames), work.bench.batch_size):
        part = slice(start, start + work.bench.batch_size)
        found = segmenter.masks(torch.from_numpy(frames[part]))
        for value, name in enumerate(work.bench.structures, 1):
            labels[part][found[name].cpu().numpy()] = value
    return _split(work, labels)


def _split(work: Workspace, labels: NDArray[np.uint8]) -> dict[str, NDArray[np.bool_]]:
    """Masks of each structure out of label maps (n, S, S), each its largest component where that is asked for."""
    masks = {name: labels == value for value, name in enumerate(work.bench.structures, 1)}
    if work.bench.largest_component:
        flat = np.zeros(labels.shape[1:], np.int64)
        masks = {name: np.stack([main_component(one, flat) for one in mask]) for name, mask in masks.items()}
    return masks


_LEARN = {
    "rule": _rule,
    "atlas": _atlas,
    "linear": _readout,
    "soft_linear": _readout,
    "decoder": _readout,
    "network": _network,
    "segmenter": _segmenter,
}
