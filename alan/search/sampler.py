"""Draw points that no trial has taken: any of Optuna's samplers, without its repeats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from alan.search.space import Point, point_key

#: Draws of a sampler before one of the free points is taken at random.
TRIES = 64


def _no_sampler(seed: int) -> None:
    return None


_MAKERS: Mapping[str, Callable[[int], BaseSampler | None]] = {
    "random": _no_sampler,
    "tpe": lambda seed: TPESampler(seed=seed),
    "nsga2": lambda seed: NSGAIISampler(seed=seed),
}


class DistinctSampler(BaseSampler):
    """Points of a finite space, each at most once.

    ``random`` draws uniformly from the free points. ``tpe`` and ``nsga2`` are asked up to :data:`TRIES` times for
    a free point, then one is drawn uniformly: a trial of the same point would train the same network again. What
    is drawn follows from the seed, the trial's number and the finished trials: a search that was killed goes on as
    it would have.

    Args:
        kind: ``random``, ``tpe`` or ``nsga2``.
        points: the points that can be built.
        axes: name of a parameter to its values.
        seed: of the draws.
        taken: gives the keys of the points that trials have taken.
    """

    def __init__(
        self,
        kind: str,
        points: Sequence[Point],
        axes: Mapping[str, Sequence[Any]],
        seed: int,
        taken: Callable[[], set[str]],
    ) -> None:
        self.points = {point_key(point.to_dict()): point for point in points}
        self.axes = axes
        self.seed = seed
        self.taken = taken
        self._make = _MAKERS[kind]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space: all parameters are drawn together."""
        return {name: CategoricalDistribution(list(values)) for name, values in self.axes.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A free point; of all points where none is free (the trial is then dropped)."""
        seeds = np.random.SeedSequence([self.seed, trial.number])
        rng = np.random.default_rng(seeds)
        taken = self.taken()
        free = [key for key in self.points if key not in taken] or list(self.points)
        sampler = self._make(int(seeds.generate_state(1)[0]))
        if sampler is not None:
            allowed = set(free)
            for _ in range(TRIES):
                drawn = self._drawn(sampler, study, trial, search_space)
                if point_key(drawn) in allowed:
                    return drawn
        return self.points[free[rng.integers(len(free))]].to_dict()

    @staticmethod
    def _drawn(
        sampler: BaseSampler, study: Study, trial: FrozenTrial, space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        joint = sampler.infer_relative_search_space(study, trial)
        drawn = sampler.sample_relative(study, trial, joint)
        for name, distribution in space.items():
            if name not in drawn:
                drawn[name] = sampler.sample_independent(study, trial, name, distribution)
        return drawn

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never used: :meth:`sample_relative` draws every parameter."""
        raise optuna.exceptions.OptunaError(f"{param_name} is no axis of the search space")


def taken_points(trials: Sequence[FrozenTrial]) -> set[str]:
    """Keys of the points that are trained, being trained, queued, or failed for a reason of their own."""
    return {point_key(trial.params) for trial in trials if trial.params and is_taken(trial, trials)}


def is_taken(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Whether a trial stands for its point: not if it was dropped, or died and is tried again."""
    if trial.state is not TrialState.FAIL:
        return True
    return DROPPED not in trial.user_attrs and trial.number not in retried(trials)


def retried(trials: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of the trials whose process died and that another trial repeats."""
    return {number for trial in trials for number in trial.system_attrs.get(HISTORY, ())}


#: Attribute of a trial that does not count, with the reason.
DROPPED = "dropped"
#: Optuna's attribute of a retried trial: the numbers before it.
HISTORY = "retry_history"
