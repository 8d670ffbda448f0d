"""Load and save networks, soft parcels and ensembles."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alan.downstream.soft_parcels import ParcelMember, load_parcel_member
from alan.errors import CheckpointError, DataError, ParameterError, damaged
from alan.files import read_entry, read_json, write_json
from alan.runs import plain
from alan.supervised.ensemble import EnsembleSegmenter
from alan.supervised.segmenter import Segmenter, load_segmenter

SCHEMA = "alan-ensemble/1"

Network = Segmenter | ParcelMember | EnsembleSegmenter


def load_member(path: str | os.PathLike[str]) -> Segmenter | ParcelMember:
    """Load a member of an ensemble: a ``segmenter.safetensors``, or the JSON of soft parcels.

    Raises:
        CheckpointError: See :func:`alan.supervised.load_segmenter` and
            :func:`alan.downstream.soft_parcels.load_parcel_member`.
        DataError: A JSON file is missing or damaged.
    """
    return load_parcel_member(path) if Path(path).suffix == ".json" else load_segmenter(path)


def load_network(path: str | os.PathLike[str]) -> Network:
    """Load a member or an ensemble, whichever the file contains.

    Raises:
        CheckpointError: See :func:`load_member` and :func:`load_ensemble`.
        DataError: A JSON file is missing or damaged.
    """
    if Path(path).suffix != ".json":
        return load_segmenter(path)
    entry = read_json(path)
    schema = entry.get("schema") if isinstance(entry, dict) else None
    return load_ensemble(path) if schema == SCHEMA else load_parcel_member(path)


def with_flips(network: Network) -> Network:
    """Return the same network with probabilities averaged over flips, see :class:`alan.supervised.Segmenter`.

    Args:
        network: A segmenter, or an ensemble, whose members are changed.

    Raises:
        ParameterError: It is made of soft parcels, which depend on the orientation.
    """
    if isinstance(network, Segmenter):
        return network.with_flips()
    if isinstance(network, ParcelMember):
        raise ParameterError("flips is True, but soft parcels cannot be averaged over flips: set it to false")
    members: dict[str, Any] = {name: with_flips(member) for name, member in network.members.items()}  # type: ignore[arg-type]
    return EnsembleSegmenter(members, network.weights, network.provenance, average=network.average)


def save_ensemble(
    ensemble: EnsembleSegmenter, path: str | os.PathLike[str], members: Mapping[str, str | os.PathLike[str]]
) -> None:
    """Write weights, fingerprints and provenance as JSON, atomically; the members stay in their own files.

    Args:
        ensemble: The ensemble.
        path: File to write, ending in ``.json``.
        members: Mapping from name to the file of each member, which is recorded relative to ``path``.

    Raises:
        ParameterError: A member has no file.
    """
    missing = [name for name in ensemble.members if name not in members]
    if missing:
        raise ParameterError(f"the member {missing[0]!r} has no file: give the file of every member")
    folder = Path(path).resolve().parent
    rows = [
        {
            "name": name,
            "path": Path(os.path.relpath(Path(members[name]).resolve(), folder)).as_posix(),
            "weight": ensemble.weights[name],
            "fingerprint": member.fingerprint,
        }
        for name, member in ensemble.members.items()
    ]
    entry = {"schema": SCHEMA, "structures": list(ensemble.structures), "members": rows}
    if ensemble.average != "probabilities":
        entry["average"] = ensemble.average
    write_json(path, {**entry, "fingerprint": ensemble.fingerprint, "provenance": plain(ensemble.provenance)})


def load_ensemble(path: str | os.PathLike[str]) -> EnsembleSegmenter:
    """Read what :func:`save_ensemble` (or ``alan ensemble``) wrote.

    Raises:
        DataError: The file is missing or is not JSON.
        CheckpointError: The file is of another kind, a member is missing or is not the one it was written with, or
            weights were changed afterwards.
    """
    file = Path(path)
    entry = read_entry(file, SCHEMA, "make an ensemble with `alan ensemble`", CheckpointError)
    members: dict[str, Any] = {}
    weights: dict[str, float] = {}
    with damaged(CheckpointError, f"{file}: the ensemble is malformed", "run `alan ensemble` again"):
        for row in entry["members"]:
            name = row["name"]
            members[name] = _member(file, name, row["path"], row["fingerprint"])
            weights[name] = row["weight"]
        average = entry.get("average", "probabilities")
        ensemble = EnsembleSegmenter(members, weights, entry["provenance"], average=average)
        stated = entry["fingerprint"]
    if ensemble.fingerprint != stated:
        raise CheckpointError(f"{file}: its weights were changed after it was written: run `alan ensemble` again")
    return ensemble


def _member(file: Path, name: str, path: str, stated: str) -> Segmenter | ParcelMember:
    try:
        member = load_member(file.parent / path)
    except (CheckpointError, DataError) as error:
        raise CheckpointError(f"{file}: its member {name!r} cannot be loaded ({error})") from error
    if member.fingerprint != stated:
        raise CheckpointError(
            f"{file}: its member {name!r} was {str(stated)[:12]}, {path} is {member.fingerprint[:12]}: "
            "the member was trained again, run `alan ensemble` again"
        )
    return member
