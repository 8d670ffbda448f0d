"""Pool-based active learning with the existing masks as the oracle; a run can be resumed after any phase."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from alan.active.acquisition import random
from alan.active.diversity import ENCODER, FrameFeatures, choose
from alan.active.dropout import MonteCarloDropout
from alan.active.parcels import ParcelPool, coverage
from alan.active.pool import score_pool
from alan.active.protocol import ActiveFrames, open_frames
from alan.active.settings import COVERAGE, DISAGREEMENT, K_CENTRE, RANDOM, WITHOUT_DROPOUT, ActiveLoop, PoolData
from alan.active.state import STATE, FinishedPhase, State, initial_order, read_state
from alan.active.tables import write_phases, write_results
from alan.arrays import FloatArray, IntArray
from alan.runs import open_run, plain
from alan.supervised.segmenter import Segmenter, save_segmenter
from alan.supervised.settings import TrainingSettings
from alan.supervised.training import measure, train

#: Everything that a run may write; ``overwrite`` removes these and nothing else.
CONTENTS = (
    "config.yaml",
    STATE,
    "phases.csv",
    "results.json",
    "report.html",
    "summary.csv",
    "summary.tex",
    "columns.csv",
    "labelled",
    "weights",
    "figures",
)
#: Networks of a phase: the one that is measured, and the one with dropout that scores.
_MEASURED, _SCORING = "measured", "scoring"


class _Loops:
    """Loops of all functions and seeds; loops with the same labels share their trainings."""

    def __init__(
        self, frames: ActiveFrames, loop: ActiveLoop, training: TrainingSettings, state: State, out: Path
    ) -> None:
        self.frames, self.loop, self.training, self.state, self.out = frames, loop, training, state, out
        self.units = frames.units(loop.unit)
        self._features_of = FrameFeatures(loop.diversity, loop.batch_size) if loop.diversity else None
        if loop.parcels is not None:
            self._parcels = ParcelPool(
                frames.pool, loop.parcels, loop.white_boxes, frames.structures, loop.batch_size
            )

    def run(self) -> None:
        total = len(self.loop.seeds) * len(self.loop.functions) * self.loop.phases
        with tqdm(total=total, initial=len(self.state.finished), desc="active learning", unit="phase") as bar:
            for seed in self.loop.seeds:
                for phase in range(1, self.loop.phases + 1):
                    for labelled, functions in self._pending(seed, phase).items():
                        bar.set_postfix_str(f"seed {seed}, {', '.join(functions)}, {len(labelled)} labels")
                        done = self._phase(seed, phase, list(labelled), functions)
                        self.state.finished += done
                        self.state.save(self.out)
                        self._forget(seed, phase - 1, functions)
                        if done[0].stopped:  # functions of one list stop together
                            self._forget(seed, phase, functions)
                        write_phases(self.out, self.state, self.frames)
                        bar.update(len(functions))

    def _pending(self, seed: int, phase: int) -> Mapping[tuple[int, ...], list[str]]:
        """Group the functions that have not finished a phase by the images that they have labelled before it."""
        groups: dict[tuple[int, ...], list[str]] = {}
        for function in self.loop.functions:
            done = self.state.loop(function, seed)
            if len(done) == phase - 1 and not (done and done[-1].stopped):
                groups.setdefault(tuple(self.state.labelled(function, seed)), []).append(function)
        return groups

    def _phase(self, seed: int, phase: int, labelled: list[int], functions: list[str]) -> list[FinishedPhase]:
        """Train, measure, and choose the images to label next."""
        kind = _MEASURED if self.loop.two_networks else _SCORING
        segmenter = self._train(kind, seed, phase, labelled, functions)
        scores: dict[str, float] = {}
        for split, measured in self.frames.measured.items():  # the last split is the one that is reported
            found, images = measure(segmenter, measured, self.loop.batch_size)
            scores |= {f"{split}_{name}": value for name, value in found.items()}
        wanted, stopped = self._next_batch(phase, len(labelled), scores["val_iou"])
        chosen: dict[str, list[int]] = {function: [] for function in functions}
        if wanted:
            chosen = self._choose(seed, phase, labelled, functions, wanted, segmenter)
        cases = _mean(images)
        return [
            FinishedPhase(function, seed, phase, len(labelled), scores, chosen[function], stopped, cases)
            for function in functions
        ]

    def _train(self, kind: str, seed: int, phase: int, labelled: list[int], functions: list[str]) -> Segmenter:
        """Train a network of a phase, from the last phase's weights where the loop starts warm."""
        training = self.training if kind == _SCORING else self.training.without_dropout()
        last = self._weights(kind, functions[0], seed, phase - 1)  # functions of one list share their past
        start = str(last) if self.loop.warm_start and phase > 1 else None
        title = "train to score" if kind == _SCORING else "train"
        network = train(training, self.frames.labelled(labelled), seed, start=start, desc=title)
        if self.loop.warm_start and phase < self.loop.phases:
            (self.out / "weights").mkdir(exist_ok=True)
            for function in functions:
                save_segmenter(network, self._weights(kind, function, seed, phase))
        return network

    def _weights(self, kind: str, function: str, seed: int, phase: int) -> Path:
        return self.out / "weights" / f"{kind}_{function}_{seed}_{phase}.safetensors"

    def _forget(self, seed: int, phase: int, functions: list[str]) -> None:
        """Remove the weights of a phase that no later one needs."""
        for kind in (_MEASURED, _SCORING):
            for function in functions:
                self._weights(kind, function, seed, phase).unlink(missing_ok=True)

    def _next_batch(self, phase: int, n_labels: int, iou: float) -> tuple[int, str]:
        """Return the number of images to label next, and the reason if it is 0."""
        left = len(self.frames.pool) - n_labels
        budget = math.inf if self.loop.budget is None else self.loop.budget - n_labels
        if self.loop.stop_iou is not None and iou >= self.loop.stop_iou:
            return 0, "threshold"
        if left == 0 or budget <= 0:
            return 0, "pool" if left == 0 else "budget"
        if phase == self.loop.phases:
            return 0, "phases"
        return int(min(self.loop.per_phase, left, budget)), ""

    def _choose(  # noqa: PLR0917
        self, seed: int, phase: int, labelled: list[int], functions: list[str], wanted: int, segmenter: Segmenter
    ) -> dict[str, list[int]]:
        """Choose the positions to label next, for each function."""
        rest, known = np.setdiff1d(np.arange(len(self.frames.pool)), labelled), np.array(labelled, np.int64)
        chosen: dict[str, list[int]] = {}

        def keep(
            function: str, scores: FloatArray, network: Segmenter | None = None, candidates: int | None = None
        ) -> None:
            units, means = self.units.mean(rest, scores)
            features, centres = (None, None) if network is None else self._features(network, units, known)
            picks = choose(means, min(wanted, len(units)), features, centres, candidates or self.loop.candidates)
            chosen[function] = self.units.take(units[picks], wanted)

        if RANDOM in functions:
            keep(RANDOM, random(len(self.units), [seed, phase])[self.units.of[rest]])
        if COVERAGE in functions:
            units, histograms = self.units.mean(np.arange(len(self.frames.pool)), self._parcels.histograms)
            done = np.unique(self.units.of[known])
            picks = coverage(histograms, min(wanted, len(units) - len(done)), done)
            chosen[COVERAGE] = self.units.take(picks, wanted)
        if DISAGREEMENT in functions:
            keep(DISAGREEMENT, self._parcels.disagreement(segmenter, rest), self._diverse(segmenter))
        if K_CENTRE in functions:
            keep(K_CENTRE, np.zeros(len(rest)), segmenter, len(rest))
        scoring = [function for function in functions if function not in WITHOUT_DROPOUT]
        if scoring:
            network = segmenter
            if self.loop.two_networks:
                network = self._train(_SCORING, seed, phase, labelled, functions)
            sampler = MonteCarloDropout(network, self.loop.passes, seed)
            uncertain = score_pool(sampler, self.frames.pool.part(rest), scoring, self.loop.batch_size)
            for function in scoring:
                keep(function, uncertain[function], self._diverse(network))
        return chosen

    def _diverse(self, network: Segmenter) -> Segmenter | None:
        """Return the network whose features make a choice diverse; None if the highest scores are taken."""
        return network if self.loop.diversity else None

    def _features(
        self, network: Segmenter, units: IntArray, labelled: IntArray
    ) -> tuple[Callable[[IntArray], FloatArray], FloatArray]:
        """Return the features of some of the units, computed on demand, and those of the labelled ones."""
        compute = self._features_of or FrameFeatures(ENCODER, self.loop.batch_size)

        def of(wanted: IntArray) -> FloatArray:
            positions = np.flatnonzero(np.isin(self.units.of, wanted))
            found, means = self.units.mean(positions, compute(self.frames.pool.read(positions), network))
            return means[np.searchsorted(found, wanted)]

        return lambda top: of(units[top]), of(self.units.of[labelled])


def _mean(images: FloatArray) -> list[float]:
    """Average over the structures that are defined in each image, (n, structures) to n."""
    known = ~np.isnan(images)
    counts = known.sum(1)
    sums = np.where(known, images, 0.0).sum(1)
    found: list[float] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).tolist()
    return found


def run_active(
    out: str,
    data: PoolData,
    *,
    loop: ActiveLoop = ActiveLoop(),  # noqa: B008 (frozen)
    training: TrainingSettings = TrainingSettings(),  # noqa: B008 (frozen)
    title: str = "Active learning",
    overwrite: bool = False,
) -> Path:
    """Run the loops of all functions and seeds, and write the tables.

    The folder holds ``config.yaml``, ``state.json`` (the finished phases), ``phases.csv`` (one row per function,
    seed and phase), ``labelled`` (the images that each loop labelled, in order), ``weights`` (of each loop's last
    phase, while a warm-started run continues) and ``results.json``. The same call continues after the last
    finished phase, and ends with the results of an uninterrupted run. Bad input leaves nothing behind.

    Args:
        out: Run folder.
        data: Frames of the pool and of the measured splits.
        loop: Settings of the loop.
        training: Settings of the trainings; the segmenting networks have no dropout, the scoring ones have it.
        title: Heading of the report.
        overwrite: Replace a run with another configuration.

    Returns:
        The run folder.

    Raises:
        ParameterError: Settings contradict each other.
        DataError: The store is missing, the pool is empty, or ``out`` holds something else.
        SplitLeakError: A patient of the pool is in a measured split.
        ConfigError: The folder holds a run with another configuration or of other frames.
    """
    frames = open_frames(data, loop, training)
    folder = Path(out)
    config = plain({"title": title, "data": data, "loop": loop, "training": training})
    with open_run(folder, "active run", config, overwrite, CONTENTS) as run:
        if run.resumed and (folder / STATE).exists():
            state = read_state(folder, frames.fingerprint)
        else:
            units = frames.units(loop.unit)
            initial = {seed: units.take(initial_order(len(units), seed), loop.initial) for seed in loop.seeds}
            state = State(frames.fingerprint, initial)
        try:
            _Loops(frames, loop, training, state, folder).run()
        finally:
            run.keep = bool(state.finished)
        write_results(folder, state, frames, data, loop, title=title)
    return folder
