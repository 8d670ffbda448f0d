"""A study that can be killed anywhere and shared by several processes: no point twice, none lost."""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import optuna
import torch
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from alan.errors import ConfigError
from alan.search.sampler import DROPPED, DistinctSampler, is_taken, retried, taken_points
from alan.search.settings import StudySettings
from alan.search.space import Point, SearchSpace, point_key
from alan.search.trial import Outcome, Report

#: Trains a point and reports its validations.
Objective = Callable[[Point, Report], Outcome]
#: Attributes of a trial: why it failed, who runs it, the outcome beside its values.
REASON, WORKER, DETAILS, LATENCY = "reason", "worker", "details", "latency"
_SPACE = "space"
#: What a trial may raise that is its own affair; anything else ends the search.
_FAILURES = (RuntimeError, MemoryError, ValueError)
#: Seconds between two looks at what other processes do.
_POLL = 0.2


class _Recorded(Exception):  # noqa: N818 (a signal to Optuna, not an error)
    """The trial's reason to fail stands in its attributes."""


@dataclass(frozen=True)
class Progress:
    """Where a study stands.

    Attributes:
        settled: trials that count as done: finished, pruned, or failed for a reason of their own.
        running: trials being trained, by any process.
        best: highest IoU so far, or None.
    """

    settled: int
    running: int
    best: float | None


class SearchStudy:
    """A study over a space; several objects, in several processes, may work on one.

    Args:
        study: Optuna's study, with its sampler and pruner.
        points: the points of the space that can be built.
        settings: number of trials and objectives.

    Attributes:
        n_trials: points to be trained; not more than there are.
    """

    def __init__(self, study: Study, points: Sequence[Point], settings: StudySettings) -> None:
        self.study = study
        self.settings = settings
        self.n_trials = min(settings.n_trials, len(points))
        self._number: int | None = None  # the trial that this process is at

    @classmethod
    def open(
        cls,
        storage: RDBStorage,
        space: SearchSpace,
        points: Sequence[Point],
        settings: StudySettings,
        *,
        identity: dict[str, Any],
        validations: int = 1,
    ) -> SearchStudy:
        """Open a study, or make it.

        Args:
            storage: where it is kept.
            space: the checked space.
            points: its points that can be built.
            settings: sampler, pruner, number of trials.
            identity: name to a JSON-able value of all that must not change under one name.
            validations: reports of a whole trial, for the pruner.

        Raises:
            ConfigError: the storage holds a study of this name over another space, or of another training.
        """
        better = {"iou": StudyDirection.MAXIMIZE, "latency": StudyDirection.MINIMIZE}
        directions = [better[name] for name in settings.objectives]
        identity = {_SPACE: asdict(space), "objectives": list(settings.objectives), **identity}
        identity = {name: _plain(value) for name, value in identity.items()}
        names = optuna.get_all_study_names(storage)
        if settings.name in names:
            _check_same(settings.name, optuna.load_study(study_name=settings.name, storage=storage), identity)
        study = optuna.create_study(
            storage=storage,
            study_name=settings.name,
            directions=directions,
            load_if_exists=True,
            pruner=_pruner(settings.pruner, validations),
        )
        for name, value in identity.items():
            if name not in study.user_attrs:
                study.set_user_attr(name, value)
        _check_same(settings.name, study, identity)
        study.sampler = DistinctSampler(
            settings.sampler,
            points,
            space.axes(),
            settings.seed,
            lambda: taken_points(study.get_trials(deepcopy=False)),
        )
        return cls(study, points, settings)

    def trials(self) -> list[FrozenTrial]:
        """Trials that stand for a point, in the order of their numbers."""
        every = self.study.get_trials(deepcopy=False)
        return [trial for trial in every if trial.params and is_taken(trial, every)]

    def progress(self) -> Progress:
        """Count the trials."""
        every = self.study.get_trials(deepcopy=False)
        counted = [trial for trial in every if is_taken(trial, every)]
        values = [trial.values[0] for trial in counted if trial.state is TrialState.COMPLETE and trial.values]
        return Progress(
            sum(trial.state.is_finished() for trial in counted),
            sum(trial.state is TrialState.RUNNING for trial in counted),
            max(values, default=None),
        )

    def run(self, objective: Objective, on_trial: Callable[[Progress], None] = lambda progress: None) -> None:
        """Train points until ``n_trials`` are settled, by this and other processes together.

        A trial that another process runs is waited for; if that process dies, its point is tried again, once.

        Args:
            objective: trains a point. A RuntimeError, MemoryError or ValueError of its is recorded as the trial's
                failure; any other error ends the search, and the point stays to be tried.
            on_trial: told of the state after each trial and while waiting.
        """
        while True:
            self._reap()
            state = self.progress()
            on_trial(state)
            if state.settled >= self.n_trials:
                return
            if state.settled + state.running >= self.n_trials:
                time.sleep(_POLL)
                continue
            try:
                self.study.optimize(lambda trial: self._try(trial, objective), n_trials=1, catch=(_Recorded,))
            except BaseException:
                self._queue_again()
                raise
            finally:
                self._number = None

    def _try(self, trial: Trial, objective: Objective) -> float | tuple[float, ...]:
        """Claim the trial's point, train it, and keep what came of it."""
        self._number = trial.number
        trial.set_user_attr(WORKER, f"{socket.gethostname()}:{os.getpid()}")
        axes = {name: list(space.choices) for name, space in self._axes(trial).items()}
        point = Point(**{name: trial.suggest_categorical(name, values) for name, values in axes.items()})
        self._claim(trial, point)

        def report(step: int, iou: float) -> None:
            if len(self.settings.objectives) == 1:
                trial.report(iou, step)
                if trial.should_prune():
                    raise optuna.TrialPruned

        try:
            outcome = objective(point, report)
        except optuna.TrialPruned:
            raise
        except _FAILURES as error:
            trial.set_user_attr(REASON, reason_of(error))
            raise _Recorded from error
        except BaseException:
            trial.set_user_attr(DROPPED, "interrupted")
            raise
        trial.set_user_attr(DETAILS, outcome.details)
        trial.set_user_attr(LATENCY, outcome.latency)
        values = {"iou": outcome.iou, "latency": outcome.latency}
        return tuple(values[name] for name in self.settings.objectives)

    def _axes(self, trial: Trial) -> dict[str, Any]:
        sampler: Any = self.study.sampler
        return dict(sampler.infer_relative_search_space(self.study, trial))

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
            self._drop(trial, "another trial has this point")
        if sum(other.state is not TrialState.WAITING for other in earlier) >= self.n_trials:
            self._drop(trial, "other trials are enough")

    @staticmethod
    def _drop(trial: Trial, reason: str) -> None:
        trial.set_user_attr(DROPPED, reason)
        raise _Recorded

    def _reap(self) -> None:
        """Fail the trials of dead processes, and queue them again where they may be."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            fail_stale_trials(self.study)
        silent = datetime.now() - timedelta(seconds=self.settings.grace)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            # killed before its first sign of life
            if WORKER not in trial.user_attrs and trial.datetime_start and trial.datetime_start < silent:
                storage, number = self.study._storage, trial._trial_id
                storage.set_trial_user_attr(number, DROPPED, "its process died before it began")
                self.study.tell(trial.number, state=TrialState.FAIL)

    def _queue_again(self) -> None:
        """Queue the point of a trial that was interrupted."""
        trial = next((t for t in self.study.get_trials() if t.number == self._number), None)
        if trial is None or trial.user_attrs.get(DROPPED) != "interrupted":
            return
        if trial.state is TrialState.RUNNING:
            self.study.tell(trial.number, state=TrialState.FAIL)
        again = optuna.create_trial(
            state=TrialState.WAITING, params=trial.params, distributions=trial.distributions
        )
        self.study.add_trial(again)


def reason_of(error: BaseException) -> str:
    """Why a trial failed, in one line."""
    text = " ".join(str(error).split())[:300]
    short = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in text
    return f"out of memory ({text or type(error).__name__})" if short else text or type(error).__name__


def died_twice(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Whether a trial failed because its process died, and will not be tried again."""
    failed = trial.state is TrialState.FAIL and REASON not in trial.user_attrs
    return failed and DROPPED not in trial.user_attrs and trial.number not in retried(trials)


def _pruner(name: str, validations: int) -> optuna.pruners.BasePruner:
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=max(validations, 1))
    return optuna.pruners.NopPruner()


def _plain(value: Any) -> Any:
    """As JSON gives it back: tuples are lists."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _check_same(name: str, study: Study, identity: dict[str, Any]) -> None:
    found = {key: study.user_attrs[key] for key in identity if key in study.user_attrs}
    changed = [key for key, value in found.items() if value != identity[key]]
    if not changed:
        return
    where = changed[0]
    if where == _SPACE:
        axes = [axis for axis in identity[_SPACE] if found[_SPACE].get(axis) != identity[_SPACE][axis]]
        where = f"search space ({', '.join(axes)})"
    raise ConfigError(
        f"study {name!r} is of another {where}: give the search another study.name, and another --out"
    )
