"""Frames of active learning: the pool and the measured splits, opened and validated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alan.active.acquisition import check_functions
from alan.active.pool import StorePool
from alan.active.settings import COVERAGE, DISAGREEMENT, WITHOUT_DROPOUT, ActiveLoop, PoolData
from alan.arrays import ByteArray, FloatArray, IntArray
from alan.data.loaders.labelled import LabelledFrames
from alan.data.loaders.modules import StoreSet
from alan.data.store.reader import FrameStore
from alan.data.structures import check_structures
from alan.errors import DataError, ParameterError, SplitLeakError
from alan.files import fingerprint
from alan.supervised.module import SegmentationModule
from alan.supervised.settings import NetworkSpec, TrainingSettings

#: Side in pixels of the thumbnails whose correlation measures the similarity of images.
_THUMBNAIL = 16


class Units:
    """Images of a pool in the groups in which they are labelled.

    Args:
        groups: Name of the group of each image, such as its patient; None makes each of ``n`` images its own.
        n: Number of images.

    Attributes:
        of: (n,) unit of each image, numbered in the order of the first images.
    """

    def __init__(self, groups: Sequence[str] | None, n: int) -> None:
        numbers: dict[object, int] = {}
        names = range(n) if groups is None else groups
        self.of: IntArray = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)

    def __len__(self) -> int:
        return int(self.of.max()) + 1

    def mean(self, positions: IntArray, values: FloatArray) -> tuple[IntArray, FloatArray]:
        """Average values of images over each unit.

        Args:
            positions: (m,) images.
            values: (m, ...) their values.

        Returns:
            The units of the images, ascending, and the mean of each.
        """
        units, inverse, counts = np.unique(self.of[positions], return_inverse=True, return_counts=True)
        sums = np.zeros((len(units), *np.shape(values)[1:]))
        np.add.at(sums, inverse, values)
        return units, sums / counts.reshape(-1, *[1] * (sums.ndim - 1))

    def take(self, units: Iterable[int], wanted: int) -> list[int]:
        """Collect the images of units, in their order, until there are at least ``wanted``."""
        taken: list[int] = []
        for unit in units:
            if len(taken) >= wanted:
                break
            taken += np.flatnonzero(self.of == unit).tolist()
        return taken


class ActiveFrames:
    """Frames of a run, opened and checked.

    Args:
        data: Frames of the pool and of the measured splits.

    Attributes:
        structures: Names of the structures.
        pool_table: One row per frame of the pool, as ``FrameStore.labelled``.
        pool: The same frames without their masks.
        measured: ``val`` and, where there is one, ``test``: labelled frames.
        measured_patients: Patient of each frame of the split that is reported, the last of ``measured``.
        fingerprint: SHA-256 of store, pool and measured frames.

    Raises:
        DataError: The store or a structure is missing, or a split is empty.
        SplitLeakError: A patient of the pool is in a measured split.
    """

    def __init__(self, data: PoolData) -> None:
        self.structures = check_structures(data.structures)
        self._stores = StoreSet([data.store])
        self.store: FrameStore = self._stores.stores[0]
        self.store.check_structures(self.structures)
        splits = {"val": data.val_split, **({"test": data.test_split} if data.test_split else {})}
        names = [data.pool_split, *splits.values()]
        if len(set(names)) < len(names):
            raise SplitLeakError(
                f"pool_split, val_split and test_split are {', '.join(names)}: give different splits"
            )
        self.pool_table = self._table(data, data.pool_split, "the pool is empty: ")
        self.pool = StorePool(self.store, self.pool_table["frame"].to_numpy(np.int64))
        tables = {name: self._table(data, split) for name, split in splits.items()}
        pooled = set(self.pool_table["patient"])
        for name, table in tables.items():
            both = pooled & set(table["patient"])
            if both:
                first = (
                    f"patient {min(both)!r} is"
                    if len(both) == 1
                    else f"{len(both)} patients ({min(both)!r} ...) are"
                )
                raise SplitLeakError(
                    f"{first} in the pool ({data.pool_split!r}) and in {splits[name]!r}: put all frames of a "
                    "patient in one split"
                )
        self.measured = {name: self._labelled(table) for name, table in tables.items()}
        self.measured_patients: list[str] = list(tables.values())[-1]["patient"].tolist()
        parts = [self._labelled(self.pool_table).fingerprint, *(x.fingerprint for x in self.measured.values())]
        self.fingerprint = fingerprint(parts)

    @cached_property
    def thumbnails(self) -> NDArray[np.float32]:
        """(n, side * side) standardised thumbnails of the pool, whose products are correlations; read once."""
        return np.concatenate([_thumbnail(batch) for _, batch in self.pool.batches(256)])

    def units(self, unit: str) -> Units:
        """Group the pool into what is labelled at a time: each ``image``, or the images of each ``patient``."""
        patients = self.pool_table["patient"].tolist() if unit == "patient" else None
        return Units(patients, len(self.pool))

    def _table(self, data: PoolData, split: str, what: str = "") -> pd.DataFrame:
        try:
            return self.store.labelled(split, data.views, data.phases).reset_index(drop=True)
        except DataError as error:
            raise DataError(f"{what}{error}") from error

    def _labelled(self, table: pd.DataFrame) -> LabelledFrames:
        return LabelledFrames(self._stores, table.assign(store=0), self.structures)

    def labelled(self, positions: list[int]) -> LabelledFrames:
        """Return frames of the pool with their masks, the oracle's answer."""
        return self._labelled(self.pool_table.iloc[positions].reset_index(drop=True))


def open_frames(data: PoolData, loop: ActiveLoop, training: TrainingSettings) -> ActiveFrames:
    """Check the settings of a run, and open its frames.

    Raises:
        ParameterError: Settings contradict each other, or the initial set is larger than the pool.
        AlanError: As :class:`ActiveFrames` and :meth:`alan.supervised.SegmentationModule.from_settings`.
    """
    check_loop(loop, training.network)
    frames = ActiveFrames(data)
    if loop.initial > len(frames.pool):
        raise ParameterError(
            f"initial is {loop.initial}, but the pool holds {len(frames.pool)} images ({Path(data.store).name}, "
            f"{data.pool_split}): lower it"
        )
    SegmentationModule.from_settings(training, frames.structures, 0)
    return frames


def check_loop(loop: ActiveLoop, network: NetworkSpec) -> None:
    """Refuse a loop that cannot run.

    Raises:
        ParameterError: A function is unknown, a seed is given twice, the budget is below the initial set, the
            network of a scoring function has no dropout, or parcels or white boxes are missing.
    """
    check_functions(loop.functions)
    if not loop.seeds or len(set(loop.seeds)) < len(loop.seeds):
        raise ParameterError(f"seeds is {list(loop.seeds)}: give at least one, each once")
    if loop.budget is not None and loop.budget < loop.initial:
        raise ParameterError(
            f"budget is {loop.budget}, below the initial set of {loop.initial} images: give at least as many"
        )
    if loop.parcels is None and {COVERAGE, DISAGREEMENT} & set(loop.functions):
        raise ParameterError(
            "parcels is null, but coverage and disagreement need a parcel model: give one, such as "
            "alan-sim-small-parcels"
        )
    if not loop.white_boxes and DISAGREEMENT in loop.functions:
        raise ParameterError("white_boxes is empty, but disagreement needs them: give one for each structure")
    scoring = [name for name in loop.functions if name not in WITHOUT_DROPOUT]
    if scoring and network.dropout == 0:
        raise ParameterError(
            f"the network has no dropout, and {', '.join(scoring)} cannot score without: set "
            "training.network.dropout above 0, for example 0.3"
        )


def _thumbnail(frames: ByteArray) -> NDArray[np.float32]:
    step = max(1, frames.shape[1] // _THUMBNAIL)
    side = frames.shape[1] // step
    blocks = frames[:, : side * step, : side * step].reshape(len(frames), side, step, side, step)
    small = blocks.mean((2, 4)).reshape(len(frames), -1)  # (n, side * side)
    small = small - small.mean(1, keepdims=True)
    length = np.linalg.norm(small, axis=1, keepdims=True)
    return np.asarray(np.divide(small, length, out=np.zeros_like(small), where=length > 0), np.float32)
