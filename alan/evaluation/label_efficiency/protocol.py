"""The label-efficiency protocol, the interface of its methods, and the frames that its cells share.

A cell is one method, fitted on the labels of a number of patients drawn by a seed and measured on the test frames.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alan.bounds import PositiveInt, Seed, bounded
from alan.data.splits import draw_patients
from alan.data.store.reader import FrameStore
from alan.downstream.whitebox.steps import PostProcessing, main_component
from alan.errors import ParameterError, nearest
from alan.evaluation.protocols import check_distinct
from alan.evaluation.splits import EvaluationSplits, read_splits
from alan.files import fingerprint
from alan.progress import batches

if not TYPE_CHECKING:  # jsonargparse executes blocks of `if TYPE_CHECKING`, which would slow --help
    pass
else:
    from alan.downstream.whitebox.prior import ParcelPrior
    from alan.evaluation.label_efficiency.features import FeatureFile, FeatureFiles, Models
    from alan.supervised.segmenter import Segmenter

CELL_SCHEMA = "alan-efficiency-cell/2"
Masks = dict[str, NDArray[np.bool_]]


class Inputs(NamedTuple):
    """Results that all cells of a method share; small, so that they can be sent to another process.

    Attributes:
        features: Features of the labelled and test frames.
        priors: Mapping from (structure, phase) to the prior of its parcels; the phase is empty for all phases
            together.
        fingerprints: Fingerprints of all models and priors that the method reads.
    """

    features: FeatureFile | None = None
    priors: Mapping[tuple[str, str], ParcelPrior] = {}
    fingerprints: tuple[str, ...] = ()


class Prediction(NamedTuple):
    """Segmentation of the test frames in one cell.

    Attributes:
        masks: Mapping from structure to (m, S, S) bool.
        reasons: Mapping from structure to the reason why nothing could be segmented.
    """

    masks: Masks
    reasons: Mapping[str, str] = {}


@dataclass(frozen=True)
class Method(ABC):
    """One line of the label-efficiency figure.

    Subclasses are frozen dataclasses; their fields are the keys of an entry of ``methods`` in a configuration.

    Attributes:
        name: Name in the report.
        kind: Name of the class in configurations.
        label: Name of the class in the report.
        family: Methods of one family have related colours in the report.
        stochastic: Whether the seed changes more than the patients drawn.
        trainable: Whether the method learns from labels; if not, it has a single cell, with 0 patients.
        paths: Fields that hold the path or name of a model.
        stores: Fields that hold the path of a frame store.
    """

    name: str

    kind: ClassVar[str]
    label: ClassVar[str]
    family: ClassVar[Literal["parcels", "probe", "network", "fixed", "atlas"]]
    stochastic: ClassVar[bool] = False
    trainable: ClassVar[bool] = True
    paths: ClassVar[tuple[str, ...]] = ()
    stores: ClassVar[tuple[str, ...]] = ()

    @property
    def unlabelled(self) -> bool:
        """Whether the method can segment without any label."""
        return not self.trainable

    @property
    def pretrained(self) -> bool:
        """Whether the training of a network starts from other weights."""
        return False

    def files(self, names: Sequence[str]) -> list[str]:
        """Return the values of the given fields (:attr:`paths` or :attr:`stores`) that are set."""
        return [value for name in names if (value := getattr(self, name)) is not None]

    def settings(self) -> dict[str, Any]:
        """Return all fields as plain values, with the kind, as in a configuration."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values = {key: v.get_params() if hasattr(v, "get_params") else v for key, v in values.items()}
        return {"name": values.pop("name"), "kind": self.kind, **values}

    def cleaning(self, protocol: LabelEfficiencyProtocol) -> Any:
        """Return the settings of the protocol that change this method's masks after the prediction."""
        return protocol.largest_component

    def check(  # noqa: B027 (a method without models and parameters has nothing to check)
        self, protocol: LabelEfficiencyProtocol, store: FrameStore, models: Models
    ) -> None:
        """Refuse a method that cannot be carried out, before anything is computed.

        Raises:
            ParameterError: A parameter is out of range.
            CheckpointError: A model cannot be read or does not fit.
            DataError: A frame store is missing or lacks a structure.
            SplitLeakError: A model or prior learned from the test frames.
        """

    def prepare(self, protocol: LabelEfficiencyProtocol, frames: FeatureFiles, models: Models) -> Inputs:
        """Compute what all cells of the method share, or find it where an earlier call kept it."""
        return Inputs(fingerprints=tuple(models.segmenter(path).fingerprint for path in self.files(self.paths)))

    @abstractmethod
    def segment(self, work: Workspace, cell: GridCell) -> Prediction:
        """Fit on the labelled frames of a cell and segment the test frames.

        Raises:
            AlanError: The fit failed; the cell has no result.
        """


#: Mapping from the kind of a method to its class in :mod:`alan.evaluation`, which is imported when it is first
#: used.
METHODS = {
    "rule": "RuleMethod",
    "linear": "LinearMethod",
    "soft_linear": "SoftLinearMethod",
    "decoder": "DecoderMethod",
    "network": "NetworkMethod",
    "segmenter": "SegmenterMethod",
    "atlas": "AtlasMethod",
}


def method_class(kind: str) -> type[Method]:
    """Find the class of a kind of methods.

    Raises:
        ParameterError: The kind is unknown.
    """
    if kind not in METHODS:
        raise ParameterError(f"unknown kind {kind!r}: {nearest(kind, METHODS)}")
    found: type[Method] = getattr(importlib.import_module("alan.evaluation"), METHODS[kind])
    return found


class GridCell(NamedTuple):
    """One method with the labels of some patients.

    Attributes:
        method: The method.
        patients: Number of labelled patients; None for all, 0 for none.
        seed: Seed of the patients drawn and of the training.
    """

    method: Method
    patients: int | None
    seed: int

    @property
    def title(self) -> str:
        """Title for the progress bar."""
        n = "all" if self.patients is None else self.patients
        return f"{self.method.name}, {n} patients, seed {self.seed}"


@bounded
@dataclass(frozen=True)
class LabelEfficiencyProtocol:
    """Settings of the label-efficiency protocol: methods, frames and numbers of labelled patients.

    Nothing is chosen on the test split: every method is fitted with the given settings on the drawn patients of
    the label split alone, and the last weights of a network are measured. Backbones and parcels may have seen
    frames of the label split without their labels; they must not have seen the test split.

    Attributes:
        store: Path of the frame store.
        methods: Methods to compare. Each is a mapping of name, kind (rule, linear, soft_linear, decoder, network,
            segmenter or atlas) and the parameters of that kind.
        structures: Structures to segment.
        label_split: Split that gives labels.
        test_split: Split that is measured.
        label_patients: Numbers of labelled patients; null takes all.
        seeds: Seeds of the draws of patients and of the trainings. All methods learn from the same patients, and
            the patients of a smaller number are among those of a larger one.
        views: Views to use; null uses all.
        phases: Phases to use.
        postprocessing: Steps from parcels to a segment, for methods that select parcels by a rule.
        largest_component: Keep the largest component of each structure, for all other methods except the atlas.
        batch_size: Frames per forward pass.
        workers: Processes that compute cells, each on one thread; their number does not change any result.
        work: Folder of finished cells and features, which several runs may share, so that a run with one more
            method computes only that one; null keeps them in the run folder.
    """

    store: str
    methods: list[Method]
    structures: tuple[str, ...] = ("lv", "myo", "la")
    label_split: str = "train"
    test_split: str = "test"
    label_patients: tuple[PositiveInt | None, ...] = (1, 2, 5, 10, 20, 50, 100, None)
    seeds: tuple[Seed, ...] = (0, 1, 2)
    views: tuple[str, ...] | None = None
    phases: tuple[str, ...] = ("ED", "ES")
    postprocessing: PostProcessing = field(default_factory=PostProcessing)
    largest_component: bool = True
    batch_size: PositiveInt = 32
    workers: PositiveInt = 1
    work: str | None = None

    def __post_init__(self) -> None:
        """Refuse a protocol that contradicts itself.

        Raises:
            ParameterError: A list is empty or repeats a value, or two methods have the same name.
        """
        check_distinct(self, "structures", "label_patients", "seeds", "phases")
        if not self.methods:
            raise ParameterError("methods is empty: give at least one, for example {name: atlas, kind: atlas}")
        names = [method.name for method in self.methods]
        for name in names:
            if not name or names.count(name) > 1:
                raise ParameterError(f"method {name!r}: give every method a name of its own")

    def splits(self, store: FrameStore) -> EvaluationSplits:
        """Read the frames of the label split (all patients) and of the test split.

        Raises:
            ParameterError: There are fewer labelled patients than asked for, or one number twice.
            DataError: A split has no annotated frame.
            SplitLeakError: A patient or study is in two splits.
        """
        splits = read_splits(
            store,
            train_split=None,
            label_split=self.label_split,
            test_split=self.test_split,
            views=self.views,
            phases=self.phases,
            label_patients=None,
            seed=0,
        )
        everyone = splits.label["patient"].nunique()
        for n in self.label_patients:
            draw_patients(splits.label["patient"], n, 0)
            if n == everyone and None in self.label_patients:
                raise ParameterError(f"label_patients holds {n} and null, which are the same here: leave one out")
        return splits

    def settings(self) -> dict[str, Any]:
        """Return all fields that can change a result: not ``workers`` and ``work``."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        kept = {name: value for name, value in values.items() if name not in ("workers", "work")}
        return kept | {"methods": [method.settings() for method in self.methods]}


class Workspace:
    """Frames, masks and features that all cells of a process share.

    Args:
        protocol: The protocol.
        splits: Frames of the label split (all patients) and of the test split.
        inputs: Mapping from the name of each method to its prepared inputs.
        folder: Folder of the finished cells.

    Attributes:
        store: Frame store.
        label_maps: (n, S, S) uint8 label maps of the label split.
        test_maps: (m, S, S) uint8 label maps of the test split.
    """

    def __init__(
        self,
        protocol: LabelEfficiencyProtocol,
        splits: EvaluationSplits,
        inputs: Mapping[str, Inputs],
        folder: Path,
    ) -> None:
        self.protocol, self.splits, self.inputs, self.folder = protocol, splits, inputs, folder
        self.store = FrameStore(protocol.store)
        self.label_maps = self.store.label_maps(splits.label["label"], protocol.structures)
        self.test_maps = self.store.label_maps(splits.test["label"], protocol.structures)
        self._features: dict[str, NDArray[Any]] = {}

    def rows(self, cell: GridCell) -> NDArray[np.int64]:
        """Return the rows of the label split from which a cell may learn."""
        if cell.patients == 0:
            return np.empty(0, np.int64)
        drawn = draw_patients(self.splits.label["patient"], cell.patients, cell.seed)
        return np.flatnonzero(self.splits.label["patient"].isin(drawn).to_numpy())

    def features(self, cell: GridCell) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the features of the labelled frames of a cell and of the test frames."""
        file, rows, n = self.inputs[cell.method.name].features, self.rows(cell), len(self.splits.label)
        if file is None:
            raise TypeError(f"{cell.method} has prepared no features")
        if file.path not in self._features:
            self._features[file.path] = file.read()
        values = self._features[file.path]
        return values[:n] if len(rows) == n else values[rows], values[n:]  # all rows are not copied

    def predict(self, segmenter: Segmenter) -> Prediction:
        """Segment the test frames by a network."""
        import torch

        frames = self.store.frames(self.splits.test["frame"].to_numpy())
        labels = np.zeros(frames.shape, np.uint8)
        for part in batches(len(frames), self.protocol.batch_size):
            masks = segmenter.masks(torch.from_numpy(frames[part]))
            for value, name in enumerate(self.protocol.structures, 1):
                labels[part][masks[name].cpu().numpy()] = value
        return self.clean(labels)

    def clean(self, labels: NDArray[np.uint8]) -> Prediction:
        """Split label maps (m, S, S) into masks, and keep their largest components if the protocol requires it."""
        masks = {name: labels == value for value, name in enumerate(self.protocol.structures, 1)}
        if self.protocol.largest_component:
            flat = np.zeros(labels.shape[1:], np.int64)
            masks = {name: np.stack([main_component(one, flat) for one in mask]) for name, mask in masks.items()}
        return Prediction(masks)

    def key(self, cell: GridCell) -> str:
        """Return a SHA-256 of everything that decides the result of a cell; the names of the method do not."""
        method = cell.method
        hidden = ("name", *method.paths, *method.stores)  # their contents count, by the fingerprints
        settings = {name: value for name, value in method.settings().items() if name not in hidden}
        frames = [self.splits.label["frame"].tolist(), self.splits.test["frame"].tolist()]
        shared = [self.store.fingerprint, frames, self.protocol.structures, method.cleaning(self.protocol)]
        own = [settings, self.inputs[method.name].fingerprints, cell.patients, cell.seed]
        return fingerprint([CELL_SCHEMA, *shared, *own])

    def path(self, cell: GridCell) -> Path:
        """Return the file of a cell."""
        n = "all" if cell.patients is None else f"{cell.patients:04d}"
        return self.folder / f"{cell.method.kind}-n{n}-seed{cell.seed}-{self.key(cell)[:16]}.json"
