"""A study that can be killed anywhere and shared by several processes: no point is trained twice, none is lost."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from alan.errors import ConfigError, ParameterError, is_out_of_memory
from alan.runs import plain
from alan.search.sampler import DROPPED, BuildablePairs, DistinctSampler, is_taken, retried_trials, taken_points
from alan.search.settings import StudySettings
from alan.search.space import Builds, Point, SearchSpace, point_key
from alan.search.storage import HISTORY, queue
from alan.search.trial import Outcome, Report

_log = logging.getLogger(__name__)

#: Trains a point and reports its validations.
TrialObjective = Callable[[Point, Report], Outcome]
#: Attributes of a trial: the reason of its failure, its process and start, the outcome besides its values.
REASON, WORKER, STARTED, DETAILS, LATENCY = "reason", "worker", "started", "details", "latency"
_SPACE = "space"
#: Errors that fail only the trial; any other error ends the search.
_FAILURES = (RuntimeError, MemoryError, ValueError)
#: Seconds between two checks of what other processes do.
_POLL = 0.2


class _DropTrial(Exception):  # noqa: N818 (a signal, not an error)
    """The trial does not count; its point is trained by another one, or cannot be built."""


@dataclass(frozen=True)
class SearchProgress:
    """State of a study.

    Attributes:
        settled: Trials that count as done: finished, pruned, or failed for a reason of their own.
        running: Trials being trained, by any process.
        best: Highest IoU so far, or None.
    """

    settled: int
    running: int
    best: float | None


class SearchStudy:
    """A study over a space; several objects, in several processes, may work on one.

    Args:
        study: Optuna's study, with its sampler and pruner.
        points: All points of the space.
        settings: Settings of the study.
        pairs: Pairs that can be built.
        validations: Number of validations of a trial; after the last one there is nothing to stop.
    """

    def __init__(
        self,
        study: Study,
        points: Sequence[Point],
        settings: StudySettings,
        pairs: BuildablePairs,
        validations: int,
    ) -> None:
        self.study, self.points, self.settings, self.pairs = study, points, settings, pairs
        self.validations = validations
        self._unclaimed: dict[int, float] = {}  # trials without a process, and when they were first seen

    @classmethod
    def open(
        cls,
        storage: RDBStorage,
        space: SearchSpace,
        settings: StudySettings,
        *,
        identity: dict[str, Any],
        builds: Builds = lambda *pair: None,
        validations: int = 1,
    ) -> SearchStudy:
        """Open a study, or create it.

        Args:
            storage: Storage of the study.
            space: The space, with checked names.
            settings: Settings of the study.
            identity: Mapping from name to JSON-able value of everything that must not change under one name.
            builds: Returns why a pair cannot be built, or None; called when a point is drawn.
            validations: Number of validations of a trial, for the pruner.

        Raises:
            ConfigError: The storage holds a study of this name over another space, of another training, sampler
                or pruner.
        """
        better = {"iou": StudyDirection.MAXIMIZE, "latency": StudyDirection.MINIMIZE}
        own = {name: getattr(settings, name) for name in ("objectives", "sampler", "pruner")}
        identity = plain({_SPACE: asdict(space), **own, **identity})
        if settings.name in optuna.get_all_study_names(storage):
            _check_same(settings.name, optuna.load_study(study_name=settings.name, storage=storage), identity)
        study = optuna.create_study(
            storage=storage,
            study_name=settings.name,
            directions=[better[name] for name in settings.objectives],
            load_if_exists=True,
            pruner=_pruner(settings.pruner, validations),
        )
        for name, value in identity.items():
            if name not in study.user_attrs:
                study.set_user_attr(name, value)
        _check_same(settings.name, study, identity)
        points, pairs = space.points(), BuildablePairs(study, builds)
        study.sampler = DistinctSampler(
            settings.sampler,
            points,
            space.axes(),
            seed=settings.seed,
            taken=lambda: taken_points(study.get_trials(deepcopy=False)),
            pairs=pairs,
        )
        return cls(study, points, settings, pairs, validations)

    @property
    def n_trials(self) -> int:
        """Number of points to train: as many as asked for, and no more than there are and can be built."""
        impossible = self.pairs.impossible()
        return min(self.settings.n_trials, sum(point.pair not in impossible for point in self.points))

    def trials(self) -> list[FrozenTrial]:
        """Return the trials that stand for a point, in the order of their numbers."""
        every = self.study.get_trials(deepcopy=False)
        return [trial for trial in every if trial.params and is_taken(trial, every)]

    def progress(self) -> SearchProgress:
        """Count the trials."""
        every = self.study.get_trials(deepcopy=False)
        counted = [trial for trial in every if is_taken(trial, every)]
        values = [trial.values[0] for trial in counted if trial.state is TrialState.COMPLETE and trial.values]
        return SearchProgress(
            sum(trial.state.is_finished() for trial in counted),
            sum(trial.state is TrialState.RUNNING for trial in counted),
            max(values, default=None),
        )

    def run(
        self, objective: TrialObjective, on_trial: Callable[[SearchProgress], None] = lambda progress: None
    ) -> None:
        """Train points until ``n_trials`` are settled, by this and other processes together.

        A trial that another process runs is waited for; if that process dies, its point is trained again, once. If
        this process was so slow or stopped so long that another one failed its trial, the trial is dropped.

        Args:
            objective: Trains a point. A RuntimeError, MemoryError or ValueError that it raises fails the trial;
                any other error ends the search, and the point is queued again.
            on_trial: Called with the progress after each trial and while waiting.

        Raises:
            ParameterError: No pair of the space can be built.
        """
        while True:
            self._reap()
            state, wanted = self.progress(), self.n_trials
            on_trial(state)
            if not wanted:
                first = next(iter(self.pairs.impossible().values()))
                raise ParameterError(f"no pair of the space can be built, the first: {first}")
            if state.settled >= wanted:
                return
            if state.settled + state.running >= wanted:
                time.sleep(_POLL)
                continue
            with warnings.catch_warnings():  # the heartbeats come from this class, not from Optuna's loop
                warnings.filterwarnings("ignore", "Heartbeat of storage")
                trial = self.study.ask()
            try:
                self._train(trial, objective)
            except UpdateFinishedTrialError:
                _log.warning(
                    "trial %d is dropped: this process sent no heartbeat for more than %d s, and another one "
                    "trains its point again",
                    trial.number,
                    self.settings.grace,
                )

    def _train(self, trial: Trial, objective: TrialObjective) -> None:
        """Train the point of a trial and report its result to the study.

        Raises:
            UpdateFinishedTrialError: Another process has given the trial up.
        """
        values, state = None, TrialState.FAIL
        try:
            with self._alive(trial):  # first: without a heartbeat, a claimed trial would be waited for forever
                trial.set_user_attr(WORKER, f"{socket.gethostname()}:{os.getpid()}")
                trial.set_user_attr(STARTED, datetime.now(UTC).isoformat(timespec="seconds"))
                values, state = self._outcome(trial, objective), TrialState.COMPLETE
        except optuna.TrialPruned:
            state = TrialState.PRUNED
        except _DropTrial as drop:
            trial.set_user_attr(DROPPED, str(drop))
        except UpdateFinishedTrialError:
            raise
        except _FAILURES as error:
            trial.set_user_attr(REASON, describe_failure(error))
        except BaseException:
            with contextlib.suppress(UpdateFinishedTrialError):
                trial.set_user_attr(DROPPED, "interrupted")
                frozen = self._tell(trial, None, TrialState.FAIL)
                queue(self.study, frozen)
            raise
        self._tell(trial, values, state)

    def _tell(self, trial: Trial, values: Sequence[float] | None, state: TrialState) -> FrozenTrial:
        try:
            return self.study.tell(trial, values, state)
        except ValueError as error:  # Optuna's error for a trial that another process has finished
            if self.study.trials[trial.number].state is TrialState.RUNNING:
                raise
            raise UpdateFinishedTrialError(str(error)) from error

    def _outcome(self, trial: Trial, objective: TrialObjective) -> tuple[float, ...]:
        """Choose the trial's point, train it, and keep its outcome."""
        sampler: Any = self.study.sampler
        choices = {name: list(values) for name, values in sampler.axes.items()}
        point = Point(**{name: trial.suggest_categorical(name, values) for name, values in choices.items()})
        if point.pair not in self.pairs:
            raise _DropTrial("its pair cannot be built")
        self._claim(trial, point)

        def report(step: int, iou: float) -> None:
            if len(self.settings.objectives) == 1:
                trial.report(iou, step)
                if step < self.validations and trial.should_prune():
                    raise optuna.TrialPruned

        outcome = objective(point, report)
        trial.set_user_attr(DETAILS, outcome.details)
        trial.set_user_attr(LATENCY, outcome.latency)
        values = {"iou": outcome.iou, "latency": outcome.latency}
        return tuple(values[name] for name in self.settings.objectives)

    def _claim(self, trial: Trial, point: Point) -> None:
        """Drop the trial if an earlier one has its point, or if the trials before it are enough.

        Numbers are given in order, so a trial waits until all earlier ones have chosen: then no two processes
        train one point.
        """
        key, patience = point_key(point.to_dict()), time.monotonic() + self.settings.grace
        while True:
            every = self.study.get_trials(deepcopy=False)
            earlier = [other for other in every if other.number < trial.number and is_taken(other, every)]
            choosing = [o for o in earlier if o.state is TrialState.RUNNING and len(o.params) < len(trial.params)]
            if not choosing or time.monotonic() > patience:
                break
            time.sleep(_POLL)
        if any(point_key(other.params) == key for other in earlier if other.params):
            raise _DropTrial("another trial has this point")
        if sum(other.state is not TrialState.WAITING for other in earlier) >= self.n_trials:
            raise _DropTrial("other trials are enough")

    @contextlib.contextmanager
    def _alive(self, trial: Trial) -> Iterator[None]:
        """Send heartbeats from a thread while the block runs."""
        storage: Any = self.study._storage
        done = threading.Event()

        def beat() -> None:
            while not done.wait(self.settings.heartbeat):
                with contextlib.suppress(StorageInternalError, sqlalchemy.exc.SQLAlchemyError):  # next time
                    storage.record_heartbeat(trial._trial_id)

        if not hasattr(storage, "record_heartbeat"):  # a storage in memory
            yield
            return
        storage.record_heartbeat(trial._trial_id)
        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _reap(self) -> None:
        """Fail the trials of dead processes, and queue their points again."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            fail_stale_trials(self.study)
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        unclaimed = {trial.number: trial for trial in running if WORKER not in trial.user_attrs}
        now = time.monotonic()
        self._unclaimed = {number: self._unclaimed.get(number, now) for number in unclaimed}
        for number, seen in self._unclaimed.items():
            if now - seen >= self.settings.grace:
                with contextlib.suppress(UpdateFinishedTrialError, ValueError):  # another process was faster
                    storage, trial = self.study._storage, unclaimed[number]
                    storage.set_trial_user_attr(trial._trial_id, DROPPED, "its process died before it began")
                    self.study.tell(number, state=TrialState.FAIL)
                    if trial.params:  # it was to be trained again
                        queue(self.study, trial, {HISTORY: trial.system_attrs.get(HISTORY, [])})


def describe_failure(error: BaseException) -> str:
    """Return the reason of a failure, in one line."""
    text = " ".join(str(error).split())[:300] or type(error).__name__
    return f"out of memory ({text})" if is_out_of_memory(error) else text


def died_twice(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Return whether a trial failed because its process died, and is not tried again."""
    failed = trial.state is TrialState.FAIL and REASON not in trial.user_attrs
    return failed and DROPPED not in trial.user_attrs and trial.number not in retried_trials(trials)


def _pruner(name: str, validations: int) -> optuna.pruners.BasePruner:
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=max(validations, 1))
    return optuna.pruners.NopPruner()


def _check_same(name: str, study: Study, identity: dict[str, Any]) -> None:
    found = {key: study.user_attrs[key] for key in identity if key in study.user_attrs}
    changed = [key for key, value in found.items() if value != identity[key]]
    if not changed:
        return
    where, value = changed[0], identity[changed[0]]
    if isinstance(value, dict):
        where += f" ({', '.join(key for key in value if found[where].get(key) != value[key])})"
    raise ConfigError(
        f"study {name!r} differs in its {where}: continue it as it was, or give the search another study.name and "
        "another --out"
    )
