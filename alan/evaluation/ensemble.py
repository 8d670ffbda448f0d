"""``alan ensemble``: weigh fitted networks on validation cases and write the ensemble."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from alan._version import __version__
from alan.data.store.reader import FrameStore
from alan.downstream.members import load_ensemble, load_member, save_ensemble
from alan.errors import CheckpointError, ParameterError, SplitLeakError
from alan.files import atomic, fingerprint
from alan.runs import CONFIG, open_run, plain
from alan.supervised.ensemble import EnsembleSegmenter, Member, check_members, check_weights
from alan.supervised.member_predictions import (
    MemberPredictions,
    Objective,
    collect,
    load_predictions,
    save_predictions,
)
from alan.supervised.search_weights import Sampler, WeightSearch, score_weights, search_weights

_log = logging.getLogger(__name__)

ENSEMBLE, HISTORY = "ensemble.json", "history.csv"
_PREDICTIONS = "predictions.npz"
#: Everything that a run may write.
CONTENTS = (CONFIG, ENSEMBLE, HISTORY, _PREDICTIONS)


def run_ensemble(
    out: str | os.PathLike[str],
    store: str,
    members: Mapping[str, str],
    *,
    weights: Literal["searched", "equal"] | dict[str, float] = "searched",
    sampler: Sampler = "random",
    objective: Objective = "iou",
    trials: int = 500,
    split: str = "val",
    views: tuple[str, ...] | None = None,
    phases: tuple[str, ...] | None = ("ED", "ES"),
    batch_size: int = 8,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Weigh fitted networks on validation cases and write the ensemble.

    The run folder holds ``config.yaml``, ``history.csv`` (every trial) and, written last, ``ensemble.json``.
    Every member predicts the validation frames once (kept until the run is whole, so that an interrupted one goes
    on from there). The same call again, with the same inputs, reuses it.

    Args:
        out: the run folder.
        store: frame store of the validation cases.
        members: name to the file of a member: a ``segmenter.safetensors``, or the JSON of soft parcels.
        weights: ``searched``, ``equal``, or name to weight.
        sampler: ``random`` (the ensemble study's) or ``tpe`` (Optuna's).
        objective: mean ``iou`` (the study's) or ``dice`` over structures and frames.
        trials: draws of the sampler.
        split: side whose labels choose the weights; never ``test``.
        views: views used; None for all.
        phases: phases used; None for every annotated frame.
        batch_size: frames at a time.
        seed: of the sampler.
        overwrite: replace a run with another configuration.

    Returns:
        The path of ``ensemble.json``.

    Raises:
        ParameterError: members that cannot be averaged, a value out of range, or the test split.
        SplitLeakError: a member was trained on the split.
        DataError: a store or structure that is not there, or a folder of something else.
        CheckpointError: a member that cannot be read.
        ConfigError: the folder holds a run with another configuration, or Optuna is not installed.
    """
    if split == "test":
        raise ParameterError(
            "split is 'test': weights are chosen on validation cases; `alan evaluate` measures test"
        )
    if batch_size < 1:
        raise ParameterError(f"batch_size is {batch_size}: give 1 or more")
    folder = Path(out)
    settings = {"weights": weights, "sampler": sampler, "objective": objective, "trials": trials, "split": split}
    where = {"views": views, "phases": phases, "batch_size": batch_size, "seed": seed}
    config = plain({"store": store, "members": dict(members), **settings, **where})
    frames = FrameStore(store)
    loaded: dict[str, Member] = {name: load_member(path) for name, path in members.items()}
    check_members(loaded)
    if isinstance(weights, dict):
        check_weights(loaded, weights)
    structures = next(iter(loaded.values())).structures
    frames.check_structures(structures)
    table = frames.labelled(split=split, views=views, phases=phases)
    for name, member in loaded.items():
        _check_unseen(name, member, frames, split)
    with open_run(folder, config, overwrite, CONTENTS) as run:
        if run.resumed and _reusable(folder / ENSEMBLE, loaded, frames):
            _log.info("%s: the same configuration and inputs as before, ensemble reused", folder / ENSEMBLE)
            return folder / ENSEMBLE
        (folder / ENSEMBLE).unlink(missing_ok=True)
        agreement = _agreement(folder / _PREDICTIONS, loaded, frames, table, batch_size)
        if weights == "searched":
            found = search_weights(
                agreement, list(loaded), sampler=sampler, objective=objective, trials=trials, seed=seed
            )
        else:
            found = score_weights(
                agreement, list(loaded), weights if isinstance(weights, dict) else None, objective
            )
        with atomic(folder / HISTORY) as temporary:
            found.history.to_csv(temporary, index=False, float_format="%.6g")
        validation = {
            "store": frames.fingerprint,
            "patients": int(table["patient"].nunique()),
            "frames": len(table),
            **plain({**settings, **where}),
            "score": found.score,
            "equal": found.equal,
            "members": found.members,
        }
        origin = {
            "trained_by": "ensemble",
            "alan": __version__,
            "command": shlex.join(["alan", *sys.argv[1:]]),
            "stores": [frames.fingerprint],
            "val_split": split,
            "validation": validation,
        }
        ensemble = EnsembleSegmenter(loaded, found.weights, origin)
        save_ensemble(ensemble, folder / ENSEMBLE, dict(members))
        (folder / _PREDICTIONS).unlink(missing_ok=True)
        _say(ensemble, found, objective, split)
    return folder / ENSEMBLE


def _check_unseen(name: str, member: Member, store: FrameStore, split: str) -> None:
    known: dict[str, Any] = getattr(member, "provenance", {})
    if store.fingerprint in known.get("stores", []) and known.get("train_split") == split:
        raise SplitLeakError(
            f"member {name!r} was trained on split {split!r} of this store: weights need cases that no member "
            "was trained on"
        )


def _reusable(path: Path, members: Mapping[str, Member], store: FrameStore) -> bool:
    """Whether an ensemble of these very members, weighed on this very store, is there."""
    if not path.exists():
        return False
    try:
        ensemble = load_ensemble(path)
    except CheckpointError:
        return False
    same = {name: member.fingerprint for name, member in ensemble.members.items()}
    return ensemble.provenance.get("stores") == [store.fingerprint] and same == {
        name: member.fingerprint for name, member in members.items()
    }


def _agreement(
    path: Path, members: Mapping[str, Member], store: FrameStore, table: pd.DataFrame, batch_size: int
) -> MemberPredictions:
    """The members' predictions, read from ``path`` where an interrupted run left them."""
    numbers = table[["frame", "label"]].to_numpy(np.int64)
    key = fingerprint([[m.fingerprint for m in members.values()], store.fingerprint, numbers.tolist()])
    kept = load_predictions(path, key)
    if kept is not None:
        return kept
    if torch.cuda.is_available():
        for member in members.values():
            if isinstance(member, torch.nn.Module):
                member.to("cuda")
    structures = next(iter(members.values())).structures
    with tqdm(total=len(table), desc="members", unit="frame", leave=False) as bar:

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for start in range(0, len(numbers), batch_size):
                part = numbers[start : start + batch_size]
                yield (
                    torch.from_numpy(store.frames(part[:, 0])),
                    torch.from_numpy(store.label_maps(part[:, 1], structures)),
                )
                bar.update(len(part))

        agreement = collect(members, batches())
    save_predictions(agreement, path, key)
    return agreement


def _say(ensemble: EnsembleSegmenter, found: WeightSearch, objective: str, split: str) -> None:
    """One line of the weights and one of the scores."""
    shares = zip(ensemble.members, ensemble.shares(), strict=True)
    _log.info("weights: %s", ", ".join(f"{name} {share:.3f}" for name, share in shares))
    alone = ", ".join(f"{name} {score:.4f}" for name, score in found.members.items())
    name = {"iou": "IoU", "dice": "Dice"}[objective]
    _log.info(
        "mean %s on %s: ensemble %.4f, equal weights %.4f, members alone: %s",
        name, split, found.score, found.equal, alone,
    )  # fmt: skip
