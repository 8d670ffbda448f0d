"""Results of a search: the table of trials, the best points, importances, and the files of the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.study import Study, create_study
from optuna.trial import FrozenTrial, TrialState, create_trial

from alan.data.store.reader import FrameStore
from alan.files import read_entry, write_json, write_table, write_text
from alan.runs import plain, provenance
from alan.search.settings import SearchSettings
from alan.search.space import Point
from alan.search.study import DETAILS, LATENCY, REASON, STARTED, WORKER, SearchStudy, died_twice
from alan.words import plural

SCHEMA = "alan-search/1"
RESULTS, TRIALS, BEST, DATABASE = "results.json", "trials.csv", "best.yaml", "study.db"
#: Number of best points that are shown, each with a configuration that trains it again.
SHOWN = 5
#: Number of finished trials below which no importance is computed.
ENOUGH = 10
AXES = ("encoder", "decoder", "depth", "lr", "batch_size")
_DIED = "its process died twice (the system kills a process that takes too much memory)"


def trial_table(search: SearchStudy) -> pd.DataFrame:
    """Return one row per trial that stands for a point, in the order of their numbers.

    Returns:
        Columns ``trial``, ``state`` (``complete``, ``pruned``, ``failed``, ``running``, ``waiting``), the axes,
        ``iou`` (0..1; the last validation of a pruned trial), ``latency`` (seconds per frame), details,
        ``started`` (UTC), ``seconds``, ``worker``, and ``reason`` of a failure.
    """
    every = search.study.get_trials(deepcopy=False)
    table = pd.DataFrame([_row(trial, every) for trial in search.trials()])
    return table.astype({"parameters": "Int64"} if "parameters" in table else {})  # integers beside missing values


def _row(trial: FrozenTrial, every: list[FrozenTrial]) -> dict[str, Any]:
    attributes = trial.user_attrs
    details = {name: value for name, value in attributes.get(DETAILS, {}).items() if name != "seconds"}
    return {
        "trial": trial.number,
        "state": "failed" if trial.state is TrialState.FAIL else trial.state.name.lower(),
        **{name: trial.params.get(name) for name in AXES},
        "iou": trial.values[0] if trial.values else None,
        "latency": attributes.get(LATENCY),
        **details,
        "started": attributes.get(STARTED),
        "seconds": None if trial.duration is None else trial.duration.total_seconds(),
        "worker": attributes.get(WORKER),
        "reason": attributes.get(REASON) or (_DIED if died_twice(trial, every) else None),
    }


def importances(study: Study) -> tuple[dict[str, float], str]:
    """Compute the share of the IoU's variance between trials that each axis explains, by Optuna's fANOVA.

    Where a pruner leaves too few finished trials, the IoU at the first validation is explained instead, which
    every trial has, so that trials of one length are compared.

    Returns:
        Mapping from the name of each axis to its share (they add up to 1), and a note on their reliability; an
        empty dictionary where fewer than :data:`ENOUGH` trials can be used, or no axis or score varies.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    done = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    scores, what = [float(trial.values[0]) for trial in done], "finished trials"
    if len(done) < ENOUGH:
        early = [trial for trial in trials if trial.intermediate_values]
        if len(early) < ENOUGH:
            return {}, f"Importances need at least {ENOUGH} finished trials; there are {len(done)}."
        done, what = early, "trials, for the IoU at their first validation"
        scores = [float(trial.intermediate_values[min(trial.intermediate_values)]) for trial in done]
    varied = [name for name in AXES if len({trial.params[name] for trial in done}) > 1]
    if not varied or len(set(scores)) < 2:
        return {}, "Importances need trials that differ, in their points and in their scores."
    scored = create_study(direction="maximize")
    for trial, score in zip(done, scores, strict=True):
        scored.add_trial(create_trial(params=trial.params, distributions=trial.distributions, value=score))
    found = get_param_importances(scored, evaluator=FanovaImportanceEvaluator(seed=0), params=varied)
    rough = " With fewer than 50 they are rough." if len(done) < 50 else ""
    return found, f"fANOVA over {len(done)} {what}.{rough}"


def pruning(trials: Sequence[FrozenTrial], validations: int) -> dict[str, Any]:
    """Count the trials that were stopped early, and the share of the budget that this saved.

    Args:
        trials: Trials of a study.
        validations: Number of validations of a trial that runs to its end.

    Returns:
        ``pruned``: number of trials that were stopped early; ``saved``: share of the training steps of all
        finished and stopped trials that were not trained, None where there is no such trial.
    """
    counted = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    early = [t for t in counted if t.state is TrialState.PRUNED]
    left = sum(validations - len(t.intermediate_values) for t in early)
    saved = left / (validations * len(counted)) if counted else None
    return {"pruned": len(early), "saved": saved}


def summarise_search(search: SearchStudy, settings: SearchSettings) -> dict[str, Any]:
    """Collect everything that the report shows, JSON-able."""
    table = trial_table(search)
    rows: list[dict[str, Any]] = [] if table.empty else _records(table)
    done = sorted((row for row in rows if row["state"] == "complete"), key=lambda row: -row["iou"])
    study, data, training = settings.study, settings.data, settings.training
    pareto = [trial.number for trial in search.study.best_trials] if len(study.objectives) > 1 and done else []
    shares, note = importances(search.study)
    length, unit = (training.steps, "step") if training.steps else (training.epochs, "epoch")
    return {
        "schema": SCHEMA,
        "study": {
            "name": study.name,
            "sampler": study.sampler,
            "pruner": study.pruner,
            "objectives": list(study.objectives),
            "n_trials": search.n_trials,
        },
        "space": {
            "size": settings.space.size,
            "axes": {name: list(values) for name, values in settings.space.axes().items()},
            "impossible": [{"pair": list(p), "reason": r} for p, r in search.pairs.impossible().items()],
        },
        "training": {
            "structures": list(data.structures),
            "length": plural(length, unit),
            "val_split": data.val_split,
            "label_patients": data.label_patients,
        },
        "stores": [{"name": store.name, "simulated": store.simulated} for store in map(FrameStore, data.stores)],
        "trials": rows,
        "best": done[:SHOWN],
        "pareto": pareto,
        "pruning": pruning(search.trials(), settings.validations),
        "importances": shares,
        "importances_note": note,
        "failed": [row for row in rows if row["state"] == "failed"],
    }


def best_name(rank: int) -> str:
    """Return the name of the configuration that trains the point of a rank again, from 1."""
    return BEST if rank == 1 else BEST.replace(".", f"_{rank}.")


def write_search_results(
    folder: Path, search: SearchStudy, settings: SearchSettings, inputs: Mapping[str, str]
) -> None:
    """Write ``trials.csv``, the configurations of the best points and, last, ``results.json``.

    ``best.yaml`` trains the best point again, and ``best_2.yaml`` to ``best_5.yaml`` the next ones, as far as
    there are finished trials.

    Args:
        folder: The run folder.
        search: The study.
        settings: Its settings.
        inputs: Mapping from the path of each store to its fingerprint.
    """
    summary = {**summarise_search(search, settings), "provenance": provenance(inputs)}
    write_table(folder / TRIALS, trial_table(search))
    for rank, best in enumerate(summary["best"], 1):
        point, path = Point(**{name: best[name] for name in AXES}), folder / best_name(rank)
        head = (
            f"# Trial {best['trial']} of the search {summary['study']['name']!r}: mean validation IoU "
            f"{best['iou']:.4f}.\n#   alan fit --config {path} --out {path.with_suffix('')}\n"
        )
        text = yaml.safe_dump(settings.fit_config(point), sort_keys=False, allow_unicode=True)
        write_text(path, head + text)
    write_json(folder / RESULTS, plain(summary))


def read_search(folder: Path) -> dict[str, Any]:
    """Read ``results.json`` of a search's run folder.

    Raises:
        DataError: There is none, or it is of another schema.
    """
    return read_entry(folder / RESULTS, SCHEMA, "run alan search again")


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows with None where there is no value, and Python's own numbers."""
    plain = table.astype(object).where(table.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in plain.to_dict("records")]
