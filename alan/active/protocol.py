"""What a run of active learning is asked to do, and the frames it does it on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from alan.active.acquisition import RANDOM, check_functions, check_passes
from alan.active.pool import StorePool
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
    """The frames: a pool whose masks are the oracle, and the sides that are measured.

    Attributes:
        store: path of the frame store.
        structures: names, or unions of names (``lv+myo``); one is binary.
        pool_split: side whose annotated frames are the pool.
        val_split: side that is measured in every phase and decides when to stop.
        test_split: side that is measured beside it and shown in the report; None shows ``val_split``.
        views: views to take, or None for all.
        phases: ``ED`` and ``ES``, or None for every annotated frame.
    """

    store: str
    structures: tuple[str, ...] = ("lv",)
    pool_split: str = "train"
    val_split: str = "val"
    test_split: str | None = None
    views: tuple[str, ...] | None = None
    phases: tuple[str, ...] | None = ("ED", "ES")


@dataclass(frozen=True)
class ActiveLoop:
    """The loop (EDNAS, section III-B): train, score the pool, label the best, again.

    Attributes:
        functions: acquisition functions, each a loop of its own: cfe, mfe, mi, std, random.
        seeds: each a repetition with an initial set, weights and draws of its own; all functions of a seed share
            the initial set.
        initial: labelled images in the first phase.
        per_phase: images labelled after each phase.
        phases: number of trainings of each loop.
        budget: labelled images at which a loop ends, or None for as many as the phases take.
        stop_iou: IoU on ``val_split`` at which a loop ends, or None.
        passes: T, stochastic passes of a score.
        diversity: None takes the highest scores; ``encoder`` (the scoring network's features) or a backbone (its
            CLS token) picks by k-centre among ``candidates`` times as many. The random loop stays random.
        candidates: see ``diversity``.
        batch_size: images scored or measured at a time.
    """

    functions: tuple[str, ...] = ("random", "mfe", "cfe", "mi", "std")
    seeds: tuple[int, ...] = (0,)
    initial: int = 40
    per_phase: int = 50
    phases: int = 21
    budget: int | None = None
    stop_iou: float | None = None
    passes: int = 30
    diversity: str | None = None
    candidates: int = 5
    batch_size: int = 16

    def check(self, network: NetworkSpec) -> None:
        """Refuse a loop that cannot run.

        Raises:
            ParameterError: a value out of range, or a network without dropout where one must score.
        """
        check_functions(self.functions)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ParameterError(f"seeds={list(self.seeds)}: give at least one, each once, 0 or more")
        for name in ("initial", "per_phase", "phases", "candidates", "batch_size"):
            if getattr(self, name) < 1:
                raise ParameterError(f"{name}={getattr(self, name)}: must be 1 or more")
        check_passes(self.passes)
        if self.budget is not None and self.budget < self.initial:
            raise ParameterError(
                f"budget={self.budget} is below the initial set of {self.initial} images: raise it, lower initial"
            )
        if self.stop_iou is not None and not 0 < self.stop_iou <= 1:
            raise ParameterError(f"stop_iou={self.stop_iou}: give a value above 0 and up to 1, or null")
        if set(self.functions) != {RANDOM} and network.dropout == 0:
            scoring = ", ".join(name for name in self.functions if name != RANDOM)
            raise ParameterError(
                f"the network has no dropout, and {scoring} cannot score without: set training.network.dropout "
                "above 0, for example 0.3"
            )


class ActiveFrames:
    """The frames of a run, opened and checked.

    Args:
        data: which frames.

    Attributes:
        structures: as given.
        pool_table: one row a frame of the pool, as ``FrameStore.labelled``.
        pool: the same frames without their masks.
        measured: ``val`` and, where there is one, ``test``: labelled frames.
        fingerprint: SHA-256 of store, pool and measured frames.

    Raises:
        DataError: a store or structure that is not there, or an empty side.
        SplitLeakError: a patient of the pool is measured.
    """

    def __init__(self, data: PoolData) -> None:
        self.structures = check_structures(data.structures)
        self._stores = StoreSet([data.store])
        self.store: FrameStore = self._stores.stores[0]
        self.store.check_structures(self.structures)
        sides = {"val": data.val_split, **({"test": data.test_split} if data.test_split else {})}
        names = [data.pool_split, *sides.values()]
        if len(set(names)) < len(names):
            raise SplitLeakError(
                f"pool_split, val_split and test_split are {', '.join(names)}: give different sides"
            )
        self.pool_table = self._table(data, data.pool_split, "the pool is empty: ")
        self.pool = StorePool(self.store, self.pool_table["frame"].to_numpy(np.int64))
        tables = {side: self._table(data, split) for side, split in sides.items()}
        pooled = set(self.pool_table["patient"])
        for side, table in tables.items():
            both = pooled & set(table["patient"])
            if both:
                raise SplitLeakError(
                    f"patient {min(both)!r} and {len(both) - 1} more are in the pool ({data.pool_split!r}) and in "
                    f"{sides[side]!r}: put all frames of a patient on one side"
                )
        self.measured = {side: self._labelled(table) for side, table in tables.items()}
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
        """Frames of the pool with their masks: what the oracle says of them."""
        return self._labelled(self.pool_table.iloc[positions].reset_index(drop=True))


def open_frames(data: PoolData, loop: ActiveLoop, training: TrainingSettings) -> ActiveFrames:
    """Check all that a run is asked to do, and open its frames.

    Raises:
        ParameterError: a value out of range, or an initial set larger than the pool.
        AlanError: as :class:`ActiveFrames` and :meth:`alan.supervised.TrainingSettings.module`.
    """
    loop.check(training.network)
    frames = ActiveFrames(data)
    if loop.initial > len(frames.pool):
        raise ParameterError(
            f"initial={loop.initial}, but the pool holds {len(frames.pool)} images ({Path(data.store).name}, "
            f"{data.pool_split}): lower it"
        )
    training.module(frames.structures, 0)
    return frames
