"""Weight trained networks on validation cases, and write the ensemble: the work of ``alan ensemble``."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from alan._version import __version__
from alan.bounds import PositiveInt, Seed, bounded
from alan.devices import choose_device
from alan.errors import CheckpointError, ParameterError
from alan.files import fingerprint, redact, write_table
from alan.progress import batches
from alan.runs import open_run, plain
from alan.supervised.settings import Average, Objective, Sampler

if not TYPE_CHECKING:  # jsonargparse executes blocks of `if TYPE_CHECKING`, which would slow --help
    pass
else:
    import pandas as pd

    from alan.data.store.reader import FrameStore
    from alan.supervised.ensemble import EnsembleSegmenter, Member
    from alan.supervised.member_predictions import MemberPredictions
    from alan.supervised.search_weights import WeightSearch

_log = logging.getLogger(__name__)

ENSEMBLE, HISTORY = "ensemble.json", "history.csv"
_PREDICTIONS = "predictions.npz"
#: Everything that a run may write.
CONTENTS = (ENSEMBLE, HISTORY, _PREDICTIONS)


@bounded
def run_ensemble(
    out: str | os.PathLike[str],
    store: str,
    members: Mapping[str, str],
    *,
    weights: Literal["searched", "equal"] | dict[str, float] = "searched",
    sampler: Sampler = "random",
    objective: Objective = "iou",
    trials: PositiveInt = 500,
    average: Average = "probabilities",
    folds: Mapping[str, Sequence[str]] | None = None,
    split: str = "val",
    views: tuple[str, ...] | None = None,
    phases: tuple[str, ...] | None = ("ED", "ES"),
    batch_size: PositiveInt = 8,
    seed: Seed = 0,
    overwrite: bool = False,
) -> Path:
    """Choose the weights of trained networks on validation frames, and write the ensemble.

    The run folder holds ``config.yaml``, ``history.csv`` with every trial and, written last, ``ensemble.json``.
    Every member predicts the validation frames once; the predictions are kept until the run is complete, so that
    the same command continues an interrupted run. A complete run with the same inputs is reused.

    Args:
        out: Run folder.
        store: Frame store of the validation cases.
        members: Names and files of the members: a ``segmenter.safetensors``, or the JSON of soft parcels.
        weights: Weights of the members: ``searched`` by the sampler, ``equal``, or a weight for each name.
        sampler: Sampler of the weights: ``random`` (as in the ensemble study) or ``tpe`` (Optuna).
        objective: Score that the weights maximise: mean ``iou`` (as in the study) or ``dice`` over structures and
            frames.
        trials: Number of draws of the sampler.
        average: Quantity to average over the members: ``probabilities`` (as in the study) or ``logits``.
        folds: Names of the members, and the files of the same networks trained on all folds (``data.fold`` of
            ``alan fit``): the weights are then chosen on the held-out patients of every fold instead of the split,
            so that few validation patients do not decide. The gain over the best member is measured on each fold
            with weights and member chosen on the other folds.
        split: Split whose labels choose the weights; never ``test``.
        views: Views to use; null for all.
        phases: Phases to use; null for every annotated frame.
        batch_size: Number of frames that go through the members at a time.
        seed: Seed of the sampler.
        overwrite: Replace a run with another configuration.

    Returns:
        Path of ``ensemble.json``.

    Raises:
        ParameterError: Members cannot be averaged, a value is out of bounds, or the split is ``test``.
        SplitLeakError: A member was trained on the split.
        DataError: A store or structure is missing, or the folder holds something else.
        CheckpointError: A member cannot be read.
        ConfigError: The folder holds a run with another configuration, or Optuna is not installed.
    """
    import pandas as pd

    from alan.data.store.reader import FrameStore
    from alan.downstream.members import load_member, save_ensemble
    from alan.evaluation.splits import check_unseen
    from alan.supervised.ensemble import EnsembleSegmenter, check_members, check_weights
    from alan.supervised.search_weights import score_weights, search_weights

    if split == "test":
        raise ParameterError("split is 'test': choose weights on validation cases; `alan evaluate` measures test")
    folder = Path(out)
    settings = {"weights": weights, "sampler": sampler, "objective": objective, "trials": trials, "split": split}
    where = {"views": views, "phases": phases, "batch_size": batch_size, "seed": seed}
    config = plain({"store": store, "members": dict(members), **settings, **where})
    if average != "probabilities":
        config["average"] = average
    if folds:
        config["folds"] = plain(folds)
    frames = FrameStore(store)
    loaded: dict[str, Member] = {name: load_member(path) for name, path in members.items()}
    check_members(loaded)
    if isinstance(weights, dict):
        check_weights(loaded, weights)
    structures = next(iter(loaded.values())).structures
    frames.check_structures(structures)
    if folds:
        groups = _fold_groups(folds, loaded, frames, views, phases)
        table = pd.concat([part for _, part in groups], ignore_index=True)
    else:
        table = frames.labelled(split=split, views=views, phases=phases)
        groups = [(loaded, table)]
        for name, member in loaded.items():
            check_unseen(getattr(member, "provenance", {}), f"member {name!r}", frames, split, chosen=False)
    parts = [
        [[m.fingerprint for m in networks.values()], rows[["frame", "label"]].to_numpy(np.int64).tolist()]
        for networks, rows in groups
    ]
    key = fingerprint([frames.fingerprint, [member.fingerprint for member in loaded.values()], parts])
    with open_run(folder, "ensemble", config, overwrite, CONTENTS) as run:
        if run.resumed and _reusable(folder / ENSEMBLE, key):
            _log.info("%s: the same configuration and inputs as before, ensemble reused", folder / ENSEMBLE)
            (folder / _PREDICTIONS).unlink(missing_ok=True)  # left by a run that was killed at its end
            return folder / ENSEMBLE
        (folder / ENSEMBLE).unlink(missing_ok=True)
        predictions = replace(
            _predictions(folder / _PREDICTIONS, key, groups, frames, batch_size), average=average
        )

        def choose(part: MemberPredictions) -> WeightSearch:
            if weights != "searched":
                given = weights if isinstance(weights, dict) else None
                return score_weights(part, list(loaded), given, objective)
            return search_weights(
                part, list(loaded), sampler=sampler, objective=objective, trials=trials, seed=seed
            )

        found = choose(predictions)
        write_table(folder / HISTORY, found.history)
        validation = {
            "store": frames.fingerprint,
            "patients": int(table["patient"].nunique()),
            "frames": len(table),
            **plain({**settings, **where}),
            "average": average,
            "folds": max((len(files) for files in (folds or {}).values()), default=0),
            "score": found.score,
            "equal": found.equal,
            "members": found.members,
            "pooled": _pooled(predictions, found.weights, objective),
        }
        if folds:
            validation["held_out"] = _held_out_gain(predictions, groups, choose, objective)
        origin = {
            "trained_by": "ensemble",
            "alan": __version__,
            "command": redact(shlex.join(["alan", *sys.argv[1:]])),
            "stores": [frames.fingerprint],
            "inputs": key,
            "val_split": split,
            "validation": validation,
        }
        ensemble = EnsembleSegmenter(loaded, found.weights, origin, average=average)
        save_ensemble(ensemble, folder / ENSEMBLE, dict(members))
        (folder / _PREDICTIONS).unlink(missing_ok=True)
        _log_scores(ensemble, found, objective, "the held-out patients of all folds" if folds else split)
    return folder / ENSEMBLE


def _fold_groups(
    folds: Mapping[str, Sequence[str]],
    members: Mapping[str, Member],
    store: FrameStore,
    views: tuple[str, ...] | None,
    phases: tuple[str, ...] | None,
) -> list[tuple[dict[str, Member], pd.DataFrame]]:
    """Load the networks of each fold, with the frames of its held-out patients.

    Raises:
        ParameterError: The names differ from those of the members, a member has no network of some fold, or a
            network was not trained on a fold of this store.
    """
    import pandas as pd

    from alan.data.loaders.labelled import FOLD_SEED
    from alan.data.splits import fold_patients
    from alan.downstream.members import load_member
    from alan.supervised.ensemble import check_members

    if set(folds) != set(members):
        raise ParameterError(f"folds has {', '.join(folds)}: give the members, {', '.join(members)}")
    found: dict[tuple[int, int], dict[str, Member]] = {}
    for name, files in folds.items():
        for file in files:
            network = load_member(file)
            known: dict[str, Any] = getattr(network, "provenance", {})
            if "fold" not in known or store.fingerprint not in known.get("stores", []):
                raise ParameterError(f"{file}: was not trained on a fold of this store: set data.fold of alan fit")
            found.setdefault((int(known["fold"][0]), int(known["fold"][1])), {})[name] = network
    numbers, sizes = sorted(number for number, _ in found), {n for _, n in found}
    complete = len(sizes) == 1 and numbers == list(range(min(sizes)))
    if not complete or any(set(group) != set(members) for group in found.values()):
        raise ParameterError("folds is not complete: give a network of every fold for every member")
    splits = [known["train_split"], known["val_split"]]
    tables = [store.labelled(split=name, views=views, phases=phases) for name in splits]
    whole = pd.concat(tables, ignore_index=True)
    keys = store.name + "/" + whole["patient"]
    groups = []
    for (number, n), group in sorted(found.items()):
        check_members({**group, **{f"{name} (whole)": member for name, member in members.items()}})
        held_out = whole[keys.isin(fold_patients(keys, n, FOLD_SEED)[number])].reset_index(drop=True)
        groups.append(({name: group[name] for name in members}, held_out))
    return groups


def _pooled(predictions: MemberPredictions, weights: Mapping[str, float], objective: Objective) -> dict[str, Any]:
    """Compute the score of the pixels of all frames together: ``score`` (ensemble), and that of ``members``."""
    singles = zip(weights, np.eye(len(weights)), strict=True)
    return {
        "score": predictions.pooled(np.array(list(weights.values())), objective),
        "members": {name: predictions.pooled(single, objective) for name, single in singles},
    }


def _held_out_gain(
    predictions: MemberPredictions,
    groups: Sequence[tuple[Mapping[str, Member], pd.DataFrame]],
    choose: Callable[[MemberPredictions], WeightSearch],
    objective: Objective,
) -> dict[str, Any]:
    """Compute the gain over the best member on each fold, with weights and member chosen on the other folds.

    Returns:
        ``gain``: interval over patients of the paired difference, over all folds, frames and structures;
        ``folds``: for each fold its ``weights``, ``best`` member and mean ``gain``.
    """
    from alan.evaluation.intervals import bootstrap_interval

    fold = np.repeat(np.arange(len(groups)), [len(table) for _, table in groups])
    patients = np.concatenate([table["patient"].to_numpy() for _, table in groups])
    gains, rows = np.full((len(fold), len(predictions.structures)), np.nan), []
    for number in range(len(groups)):
        found, held_out = choose(predictions.part(fold != number)), predictions.part(fold == number)
        best = max(found.members, key=lambda name: found.members[name])
        single = np.array([float(name == best) for name in found.weights])
        ensemble = held_out.values(np.array(list(found.weights.values())), objective)
        gains[fold == number] = ensemble - held_out.values(single, objective)
        mean = bootstrap_interval(gains[fold == number].ravel()).mean
        rows.append({"weights": found.weights, "best": best, "gain": mean})
    gain = bootstrap_interval(gains.ravel(), np.repeat(patients, gains.shape[1]))
    return {"gain": gain.to_dict(), "folds": rows}


def _reusable(path: Path, key: str) -> bool:
    """Return whether a file holds an ensemble of the same networks, weighted on the same frames."""
    from alan.downstream.members import load_ensemble

    try:
        return path.exists() and load_ensemble(path).provenance.get("inputs") == key
    except CheckpointError:
        return False


def _predictions(
    path: Path,
    key: str,
    groups: Sequence[tuple[Mapping[str, Member], pd.DataFrame]],
    store: FrameStore,
    batch_size: int,
) -> MemberPredictions:
    """Predict the frames of each group by its members, or read what an interrupted run has kept in ``path``."""
    from alan.supervised.member_predictions import join, load_predictions, save_predictions

    kept = load_predictions(path, key)
    if kept is not None:
        return kept
    predictions = join([_predict(members, table, store, batch_size) for members, table in groups])
    save_predictions(predictions, path, key)
    return predictions


def _predict(
    members: Mapping[str, Member], table: pd.DataFrame, store: FrameStore, batch_size: int
) -> MemberPredictions:
    """Predict frames by every member."""
    import torch

    from alan.supervised.member_predictions import collect

    numbers = table[["frame", "label"]].to_numpy(np.int64)
    for member in members.values():
        if isinstance(member, torch.nn.Module):
            member.to(choose_device())
    structures = next(iter(members.values())).structures
    parts = (numbers[part] for part in batches(len(numbers), batch_size, "members"))
    frames = (
        (torch.from_numpy(store.frames(part[:, 0])), torch.from_numpy(store.label_maps(part[:, 1], structures)))
        for part in parts
    )
    return collect(members, frames)


def _log_scores(ensemble: EnsembleSegmenter, found: WeightSearch, objective: str, where: str) -> None:
    """Log the weights and the scores."""
    shares = zip(ensemble.members, ensemble.shares(), strict=True)
    _log.info("weights: %s", ", ".join(f"{name} {share:.3f}" for name, share in shares))
    alone = ", ".join(f"{name} {score:.4f}" for name, score in found.members.items())
    name = {"iou": "IoU", "dice": "Dice"}[objective]
    _log.info(
        "mean %s on %s: ensemble %.4f, equal weights %.4f, members alone: %s",
        name, where, found.score, found.equal, alone,
    )  # fmt: skip
    pooled = ensemble.provenance["validation"]["pooled"]
    alone = ", ".join(f"{member} {score:.4f}" for member, score in pooled["members"].items())
    _log.info(
        "%s of the pixels of all frames together: ensemble %.4f, members alone: %s", name, pooled["score"], alone
    )
    if held_out := ensemble.provenance["validation"].get("held_out"):
        gain = held_out["gain"]
        points = tuple(100 * gain[key] for key in ("mean", "low", "high"))
        _log.info(
            "gain over the best member on each fold, both chosen on the others: %+.2f points of %s (%.2f to %.2f)",
            points[0], name, *points[1:],
        )  # fmt: skip
