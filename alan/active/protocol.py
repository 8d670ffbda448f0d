"""Protocol of active learning: the loop, and the frames of the pool and of the measured splits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from annotated_types import Interval

from alan.active.acquisition import RANDOM, Passes, check_functions
from alan.active.pool import StorePool
from alan.bounds import PositiveInt, Seed, bounded
from alan.data.loaders.datasets import StoreSet
from alan.data.loaders.labelled import LabelledFrames
from alan.data.store.reader import FrameStore
from alan.data.structures import check_structures
from alan.errors import DataError, ParameterError, SplitLeakError
from alan.files import fingerprint
from alan.supervised.networks import NetworkSpec
from alan.supervised.training import TrainingSettings


@dataclass(frozen=True)
class PoolData:
    """Frames of active learning: a pool whose masks are the oracle, and the measured splits.

    Attributes:
        store: Path of the frame store.
        structures: Names, or unions of names (``lv+myo``); a single one is segmented as binary.
        pool_split: Split whose annotated frames are the pool.
        val_split: Split that is measured in every phase and decides when to stop.
        test_split: Split that is measured as well and shown in the report; null shows ``val_split``.
        views: Views used; null uses all.
        phases: Phases of the beat used, ``ED`` and ``ES``; null uses every annotated frame.
    """

    store: str
    structures: tuple[str, ...] = ("lv",)
    pool_split: str = "train"
    val_split: str = "val"
    test_split: str | None = None
    views: tuple[str, ...] | None = None
    phases: tuple[str, ...] | None = ("ED", "ES")


@bounded
@dataclass(frozen=True)
class ActiveLoop:
    """Loop of active learning (EDNAS, section III-B): train, score the pool, label the best images, repeat.

    Attributes:
        functions: Acquisition functions, each with a loop of its own: ``cfe``, ``mfe``, ``mi``, ``std``,
            ``random``.
        seeds: Seeds of the repetitions: initial set, weights and draws; all functions of a seed share the initial
            set.
        initial: Number of labelled images in the first phase.
        per_phase: Number of images labelled after each phase.
        phases: Number of trainings of each loop.
        budget: Number of labelled images at which a loop ends; null sets no limit.
        stop_iou: IoU on ``val_split`` at which a loop ends; null sets no limit.
        passes: Number of stochastic passes of a score, T.
        diversity: Features for a diverse choice by k-centre: ``encoder`` (those of the scoring network) or a
            backbone (its CLS token); null takes the highest scores. The random loop stays random.
        candidates: With ``diversity``, images are chosen among this many times as many of the highest scores.
        batch_size: Number of images scored or measured at a time.
    """

    functions: tuple[str, ...] = ("random", "mfe", "cfe", "mi", "std")
    seeds: tuple[Seed, ...] = (0,)
    initial: PositiveInt = 40
    per_phase: PositiveInt = 50
    phases: PositiveInt = 21
    budget: PositiveInt | None = None
    stop_iou: Annotated[float, Interval(gt=0, le=1)] | None = None
    passes: Passes = 30
    diversity: str | None = None
    candidates: PositiveInt = 5
    batch_size: PositiveInt = 16

    def check(self, network: NetworkSpec) -> None:
        """Refuse a loop that cannot run.

        Raises:
            ParameterError: A function is unknown, a seed is given twice, the budget is below the initial set, or
                the network of a scoring function has no dropout.
        """
        check_functions(self.functions)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ParameterError(f"seeds is {list(self.seeds)}: give at least one, each once")
        if self.budget is not None and self.budget < self.initial:
            raise ParameterError(
                f"budget is {self.budget}, below the initial set of {self.initial} images: give at least as many"
            )
        scoring = [name for name in self.functions if name != RANDOM]
        if scoring and network.dropout == 0:
            raise ParameterError(
                f"the network has no dropout, and {', '.join(scoring)} cannot score without: set "
                "training.network.dropout above 0, for example 0.3"
            )


class ActiveFrames:
    """Frames of a run, opened and checked.

    Args:
        data: Choice of the frames.

    Attributes:
        structures: Names of the structures.
        pool_table: One row per frame of the pool, as ``FrameStore.labelled``.
        pool: The same frames without their masks.
        measured: ``val`` and, where there is one, ``test``: labelled frames.
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
                raise SplitLeakError(
                    f"patient {min(both)!r} and {len(both) - 1} more are in the pool ({data.pool_split!r}) and in "
                    f"{splits[name]!r}: put all frames of a patient in one split"
                )
        self.measured = {name: self._labelled(table) for name, table in tables.items()}
        parts = [self._labelled(self.pool_table).fingerprint, *(x.fingerprint for x in self.measured.values())]
        self.fingerprint = fingerprint(parts)

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
        AlanError: As :class:`ActiveFrames` and :meth:`alan.supervised.TrainingSettings.module`.
    """
    loop.check(training.network)
    frames = ActiveFrames(data)
    if loop.initial > len(frames.pool):
        raise ParameterError(
            f"initial is {loop.initial}, but the pool holds {len(frames.pool)} images ({Path(data.store).name}, "
            f"{data.pool_split}): lower it"
        )
    training.module(frames.structures, 0)
    return frames
