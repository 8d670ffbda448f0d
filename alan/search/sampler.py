"""Sampling of points that no trial has taken: Optuna's samplers without their repetitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from alan.search.space import Pair, Point, point_key
from alan.search.storage import HISTORY

#: Draws of a sampler before one of the free points is drawn at random.
TRIES = 64
#: Attribute of a trial that does not count, with the reason.
DROPPED = "dropped"
_IMPOSSIBLE = "impossible "

#: Mapping from the name of a sampler to its maker; ``random`` is drawn by :class:`DistinctSampler` itself.
_MAKERS: Mapping[str, Callable[[int], BaseSampler] | None] = {
    "random": None,
    "tpe": lambda seed: TPESampler(seed=seed),
    "nsga2": lambda seed: NSGAIISampler(seed=seed),
}


class BuildablePairs:
    """Pairs of decoder, encoder and depth that can be built; each is tried once, when a point of it is drawn.

    What one process finds out is kept in the study, for the others and for the report.

    Args:
        study: Optuna's study.
        why_not: Returns why a pair cannot be built, or None.
    """

    def __init__(self, study: Study, why_not: Callable[[str, str, int], str | None]) -> None:
        self._study, self._why_not = study, why_not
        self._known: dict[Pair, str | None] = {}

    def __contains__(self, pair: Pair) -> bool:
        if pair not in self._known:
            reason = self._why_not(*pair)
            self._known[pair] = reason
            if reason is not None:
                self._study.set_user_attr(_IMPOSSIBLE + " ".join(map(str, pair)), reason)
        return self._known[pair] is None

    def impossible(self) -> dict[Pair, str]:
        """Return the pairs that any process has found impossible, with the reason."""
        found = {}
        for name, reason in self._study.user_attrs.items():
            if name.startswith(_IMPOSSIBLE):
                decoder, encoder, depth = name.removeprefix(_IMPOSSIBLE).split(" ")
                found[decoder, encoder, int(depth)] = str(reason)
        return found


class DistinctSampler(BaseSampler):
    """Sampler of a finite space that draws each point at most once.

    ``random`` draws uniformly from the free points. ``tpe`` and ``nsga2`` propose points, up to :data:`TRIES`,
    until one is free, otherwise a free one is drawn uniformly: a second trial of a point would train the same
    network again. A point whose pair cannot be built is skipped. What is drawn follows from the seed, the number
    of earlier trials that count and the finished trials, so that an interrupted search draws what an uninterrupted
    one does.

    Args:
        kind: ``random``, ``tpe`` or ``nsga2``.
        points: All points of the space.
        axes: Mapping from the name of a parameter to its values.
        seed: Seed of the draws.
        taken: Gives the keys of the points that trials have taken.
        pairs: Pairs that can be built.
    """

    def __init__(
        self,
        kind: str,
        points: Sequence[Point],
        axes: Mapping[str, Sequence[Any]],
        *,
        seed: int,
        taken: Callable[[], set[str]],
        pairs: BuildablePairs,
    ) -> None:
        self.points = {point_key(point.to_dict()): point for point in points}
        self.axes, self.seed, self.taken, self.pairs = axes, seed, taken, pairs
        self._make = _MAKERS[kind]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the whole space: all parameters are drawn together."""
        return {name: CategoricalDistribution(list(values)) for name, values in self.axes.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw a free point; any point where none is free (the trial is dropped then)."""
        every = study.get_trials(deepcopy=False)
        place = sum(other.number < trial.number and is_taken(other, every) for other in every)
        seeds = np.random.SeedSequence([self.seed, place])
        rng = np.random.default_rng(seeds)
        taken = self.taken()
        free = [key for key in self.points if key not in taken]
        if self._make is not None:
            sampler, allowed = self._make(int(seeds.generate_state(1)[0])), set(free)
            for _ in range(TRIES if free else 0):
                drawn = self._draw(sampler, study, trial, search_space)
                key = point_key(drawn)
                if key in allowed and self.points[key].pair in self.pairs:
                    return drawn
        while free:
            point = self.points[free[rng.integers(len(free))]]
            if point.pair in self.pairs:
                return point.to_dict()
            free = [key for key in free if self.points[key].pair != point.pair]
        return next(iter(self.points.values())).to_dict()

    @staticmethod
    def _draw(
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
        """Refuse: :meth:`sample_relative` draws every parameter."""
        raise optuna.exceptions.OptunaError(f"{param_name} is not an axis of the search space")


def taken_points(trials: Sequence[FrozenTrial]) -> set[str]:
    """Return the keys of points that are trained, in training, queued, or failed for their own reason."""
    return {point_key(trial.params) for trial in trials if trial.params and is_taken(trial, trials)}


def is_taken(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Return whether a trial stands for its point: not if it was dropped, or died and another trial repeats it."""
    if trial.state is not TrialState.FAIL:
        return True
    return bool(trial.params) and DROPPED not in trial.user_attrs and trial.number not in retried_trials(trials)


def retried_trials(trials: Sequence[FrozenTrial]) -> set[int]:
    """Return the numbers of the trials whose process died and that another trial repeats."""
    return {number for trial in trials for number in trial.system_attrs.get(HISTORY, ())}
