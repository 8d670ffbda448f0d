"""Weights of an ensemble, searched on validation cases: random grid search (the study's) or Optuna's sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from alan.errors import ParameterError, nearest
from alan.extras import third_party
from alan.supervised.agreement import Agreement, Objective
from alan.supervised.ensemble import check_weights

Sampler = Literal["random", "tpe"]
_SAMPLERS = ("random", "tpe")
_OBJECTIVES = ("iou", "dice")
#: Steps of the grid between 0 and 1: the study's weights have two decimals.
GRID = 100


@dataclass(frozen=True)
class WeightSearch:
    """Outcome of a search.

    Attributes:
        weights: name to weight as drawn (not divided by their sum).
        score: of these weights on the validation frames, 0..1.
        equal: score of equal weights.
        members: name to the score of the member alone.
        history: one row a trial: ``trial``, ``kind`` (``equal``, ``single``, ``given`` or the sampler), a column
            ``weight <name>`` for each member, and ``score``.
    """

    weights: dict[str, float]
    score: float
    equal: float
    members: dict[str, float]
    history: pd.DataFrame


def search_weights(
    agreement: Agreement,
    names: Sequence[str],
    *,
    sampler: Sampler = "random",
    objective: Objective = "iou",
    trials: int = 500,
    seed: int = 0,
    progress: bool = True,
) -> WeightSearch:
    """Find weights whose mean of probabilities scores best on validation frames.

    Equal weights and every member alone are tried first, so that what is found is never below them on these
    frames; of equal scores the earlier trial counts. The study draws at random from a grid of two decimals
    (section 2.1.4); ``tpe`` is Optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011) on the
    same grid.

    Args:
        agreement: the members' predictions, see :func:`alan.supervised.agreement.collect`.
        names: the members' names, in the order of ``agreement``.
        sampler: ``random`` or ``tpe``.
        objective: mean IoU over structures and frames (the study's), or mean ``dice``.
        trials: draws of the sampler, beside equal weights and single members.
        seed: of the sampler.
        progress: show a bar.

    Raises:
        ParameterError: an unknown name, fewer than one trial, names that do not fit, or frames in which no
            structure is annotated.
        ConfigError: Optuna is not installed.
    """
    if sampler not in _SAMPLERS:
        raise ParameterError(f"unknown sampler {sampler!r}: {nearest(sampler, _SAMPLERS)}")
    if trials < 1:
        raise ParameterError(f"trials={trials}: give at least 1")
    _check(agreement, names, objective)
    n = len(agreement.probabilities)
    trial = _Trials(agreement, objective)
    with tqdm(total=trials, desc=f"weights: {sampler}", unit="trial", leave=False, disable=not progress) as bar:
        draw = _random if sampler == "random" else _tpe
        draw(trial, n, trials, seed, bar)
    return trial.outcome(names, int(np.argmax([row[2] for row in trial.rows])))


def score_weights(
    agreement: Agreement, names: Sequence[str], weights: Mapping[str, float] | None, objective: Objective = "iou"
) -> WeightSearch:
    """Score given weights, or equal ones, beside every member alone: a search without a draw.

    Args:
        agreement: the members' predictions.
        names: the members' names, in the order of ``agreement``.
        weights: name to weight; None for equal ones.
        objective: ``iou`` or ``dice``.

    Raises:
        ParameterError: as :func:`search_weights` and :func:`alan.supervised.ensemble.check_weights`.
    """
    given = check_weights(names, weights)
    _check(agreement, names, objective)
    trial = _Trials(agreement, objective)
    if weights is not None:
        trial("given", np.array(list(given.values())))
    return trial.outcome(names, 0 if weights is None else len(trial.rows) - 1)


class _Trials:
    """Scores weights and remembers them; equal weights and every member alone come first."""

    def __init__(self, agreement: Agreement, objective: Objective) -> None:
        self.agreement, self.objective = agreement, objective
        self.rows: list[tuple[str, NDArray[np.float64], float]] = []
        n = len(agreement.probabilities)
        self("equal", np.ones(n))
        for single in np.eye(n):
            self("single", single)

    def __call__(self, kind: str, weights: NDArray[np.float64]) -> float:
        score = self.agreement.score(weights, self.objective)
        self.rows.append((kind, weights, score))
        return score

    def outcome(self, names: Sequence[str], chosen: int) -> WeightSearch:
        history = pd.DataFrame(np.array([row[1] for row in self.rows]), columns=[f"weight {n}" for n in names])
        history.insert(0, "kind", [row[0] for row in self.rows])
        history.insert(0, "trial", np.arange(len(self.rows)))
        history["score"] = [row[2] for row in self.rows]
        return WeightSearch(
            weights={name: float(value) for name, value in zip(names, self.rows[chosen][1], strict=True)},
            score=self.rows[chosen][2],
            equal=self.rows[0][2],
            members={name: self.rows[1 + i][2] for i, name in enumerate(names)},
            history=history,
        )


def _check(agreement: Agreement, names: Sequence[str], objective: str) -> None:
    if objective not in _OBJECTIVES:
        raise ParameterError(f"unknown objective {objective!r}: {nearest(objective, _OBJECTIVES)}")
    if len(names) != len(agreement.probabilities):
        raise ParameterError(f"{len(names)} names for {len(agreement.probabilities)} members: give one for each")
    if not agreement.truth[:, 1:].any():
        raise ParameterError("no frame of the split shows a structure: weights cannot be searched on it")


def _random(try_out: _Trials, n: int, trials: int, seed: int, bar: tqdm[Any]) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(trials):
        grid = rng.integers(0, GRID + 1, n)
        while not grid.any():
            grid = rng.integers(0, GRID + 1, n)
        try_out("random", grid / GRID)
        bar.update()


def _tpe(try_out: _Trials, n: int, trials: int, seed: int, bar: tqdm[Any]) -> None:
    optuna = third_party("optuna", "search")
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: Any) -> float:
        weights = np.array([trial.suggest_int(f"w{i}", 0, GRID) for i in range(n)]) / GRID
        bar.update()
        return try_out("tpe", weights) if weights.any() else 0.0

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, n_trials=trials)
