"""Search of ensemble weights on validation cases: random grid search (as in the study) or Optuna's TPE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from alan.bounds import PositiveInt, Seed, bounded
from alan.errors import ParameterError
from alan.extras import third_party
from alan.progress import quiet
from alan.supervised.ensemble import check_weights
from alan.supervised.member_predictions import MemberPredictions
from alan.supervised.settings import Objective, Sampler

#: Number of steps of the grid between 0 and 1: the study's weights have two decimals.
GRID = 100


@dataclass(frozen=True)
class WeightSearch:
    """Result of a search.

    Attributes:
        weights: Mapping from name to weight as drawn (not divided by their sum).
        score: Score of these weights on the validation frames, 0..1.
        equal: Score of equal weights.
        members: Mapping from name to the score of the single member.
        history: One row per trial: ``trial``, ``kind`` (``equal``, ``single``, ``given`` or the sampler), a column
            ``weight <name>`` for each member, and ``score``.
    """

    weights: dict[str, float]
    score: float
    equal: float
    members: dict[str, float]
    history: pd.DataFrame


@bounded
def search_weights(
    predictions: MemberPredictions,
    names: Sequence[str],
    *,
    sampler: Sampler = "random",
    objective: Objective = "iou",
    trials: PositiveInt = 500,
    seed: Seed = 0,
    progress: bool = True,
) -> WeightSearch:
    """Find the weights with the best score on validation frames.

    Equal weights and single members are tried first, so that the result is never below them on these frames; of
    equal scores the earlier trial counts. The study draws at random from a grid of two decimals
    (section 2.1.4); ``tpe`` is Optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011) on the
    same grid.

    Args:
        predictions: Predictions of the members, see :func:`alan.supervised.member_predictions.collect`.
        names: Names of the members, in the order of ``predictions``.
        sampler: ``random`` or ``tpe``.
        objective: Mean ``iou`` over structures and frames (as in the study), or mean ``dice``.
        trials: Number of draws, in addition to equal weights and single members.
        seed: Seed of the sampler.
        progress: Show a bar.

    Raises:
        ParameterError: The names do not fit, or no frame shows a structure.
        ConfigError: Optuna is not installed.
    """
    _check(predictions, names)
    n = len(predictions.probabilities)
    trial = _Trials(predictions, objective)
    with tqdm(
        total=trials, desc=f"weights: {sampler}", unit="trial", leave=False, disable=not progress or quiet()
    ) as bar:
        draw = _random if sampler == "random" else _tpe
        draw(trial, n, trials, seed, bar)
    return trial.outcome(names, int(np.argmax([row[2] for row in trial.rows])))


@bounded
def score_weights(
    predictions: MemberPredictions,
    names: Sequence[str],
    weights: Mapping[str, float] | None,
    objective: Objective = "iou",
) -> WeightSearch:
    """Score given weights, or equal ones, and every single member.

    Args:
        predictions: Predictions of the members.
        names: Names of the members, in the order of ``predictions``.
        weights: Mapping from name to weight; None for equal ones.
        objective: Mean ``iou`` or ``dice`` over structures and frames.

    Raises:
        ParameterError: As :func:`search_weights` and :func:`alan.supervised.ensemble.check_weights`.
    """
    given = check_weights(names, weights)
    _check(predictions, names)
    trial = _Trials(predictions, objective)
    if weights is not None:
        trial("given", np.array(list(given.values())))
    return trial.outcome(names, 0 if weights is None else len(trial.rows) - 1)


class _Trials:
    """Scores of all weights tried so far; equal weights and single members come first."""

    def __init__(self, predictions: MemberPredictions, objective: Objective) -> None:
        self.predictions, self.objective = predictions, objective
        self.rows: list[tuple[str, NDArray[np.float64], float]] = []
        n = len(predictions.probabilities)
        self("equal", np.ones(n))
        for single in np.eye(n):
            self("single", single)

    def __call__(self, kind: str, weights: NDArray[np.float64]) -> float:
        score = self.predictions.score(weights, self.objective)
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


def _check(predictions: MemberPredictions, names: Sequence[str]) -> None:
    if len(names) != len(predictions.probabilities):
        raise ParameterError(f"{len(names)} names for {len(predictions.probabilities)} members: give one for each")
    if not predictions.truth[:, 1:].any():
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
