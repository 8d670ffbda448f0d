"""Whose picture it is: patient, study, view and side out of a table or out of file names."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from alan.data.readers.base import check_columns
from alan.data.sample import SPLITS, VIEWS, Record
from alan.data.splits import resolve_splits
from alan.errors import DataError, ParameterError, nearest

#: The table of patients, in the folder of the data set.
TABLE = "patients.csv"
_SIDES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}


def picture_id(name: str) -> str:
    """Id of a picture: its name without suffix, folders joined by ``_`` (``p1/a4c_3.png`` is ``p1_a4c_3``)."""
    return "_".join(PurePosixPath(name).with_suffix("").parts)


def identify(
    root: Path,
    ids: Sequence[str],
    *,
    patient: str | None = None,
    split: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    seed: int = 0,
    attributes: Mapping[str, Mapping[str, float | int | str]] | None = None,
) -> list[Record]:
    r"""Say whose pictures these are.

    The patient comes from ``root/patients.csv`` where that is, else from the rule, else it is what stands before
    the first ``_`` of the id (the whole id without one). So pictures whose names begin alike are never put on
    two sides.

    Args:
        root: folder of the data set. Its ``patients.csv`` has the columns ``file`` (with or without suffix) and
            ``patient``, and perhaps ``study``, ``view`` and ``split``.
        ids: id of each picture, see :func:`picture_id`.
        patient: the rule, a regular expression that matches the whole id and has a group ``patient``, and perhaps
            ``study``, ``view`` and ``split``: ``(?P<patient>p\d+)_(?P<view>A4C|A2C)_.*``.
        split: as :func:`alan.data.splits.resolve_splits` takes it; it goes before a side of table or rule.
        seed: of the draw where ``split`` gives fractions.
        attributes: id to further attributes.

    Returns:
        One record an id.

    Raises:
        ParameterError: table and rule both, a rule that is no regular expression or has other groups, or a
            malformed split.
        DataError: an id that the table lacks, has twice with different facts, or that the rule does not match; an
            unknown view or side.
        SplitLeakError: the split names a patient on two sides.
    """
    if not ids:
        return []
    table = root / TABLE
    if table.is_file() and patient is not None:
        raise ParameterError(f"{table} and patient={patient!r} both say whose pictures these are: keep one")
    if table.is_file():
        facts = _by_table(table, ids)
    elif patient is not None:
        facts = _by_rule(patient, ids)
    else:
        facts = [{"patient": name.partition("_")[0] or name} for name in ids]
    sides = None if split is None else resolve_splits([fact["patient"] for fact in facts], split, seed)
    records = []
    for name, fact in zip(ids, facts, strict=True):
        side = _side(fact.get("split") or "", name) if sides is None else sides[fact["patient"]]
        view = fact.get("view") or ""
        if view and view not in VIEWS:
            raise DataError(f"{name}: unknown view {view!r}: {nearest(view, VIEWS)}")
        more = dict((attributes or {}).get(name, {}))
        records.append(Record(name, fact["patient"], side, view, fact.get("study") or "", more))
    return records


def _by_table(path: Path, ids: Sequence[str]) -> list[dict[str, str]]:
    named: dict[str, list[dict[str, str]]] = {}
    for row in read_rows(path, ("file", "patient")):
        fact = {key: cell for key, cell in row.items() if key != "file"}
        for name in {row["file"], picture_id(row["file"])}:
            named.setdefault(name, []).append(fact)
    for name in ids:
        found = named.get(name)
        if not found or not found[0]["patient"]:
            raise DataError(f"{path}: says no patient for {name!r}: add a row, or take the picture away")
        if any(fact != found[0] for fact in found):
            raise DataError(f"{path}: has two different rows for {name!r}: keep one")
    return [named[name][0] for name in ids]


def _by_rule(rule: str, ids: Sequence[str]) -> list[dict[str, str]]:
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise ParameterError(f"patient={rule!r} is no regular expression ({error})") from error
    groups = set(pattern.groupindex)
    known = {"patient", "study", "view", "split"}
    if "patient" not in groups or not groups <= known:
        raise ParameterError(
            f"patient={rule!r} has the groups {sorted(groups)}: it needs (?P<patient>...) and may have "
            "study, view and split"
        )
    facts = []
    for name in ids:
        match = pattern.fullmatch(name)
        if match is None or not match["patient"]:
            raise DataError(
                f"{name}: patient={rule!r} does not match this whole name: change the rule or the name"
            )
        facts.append({key: value or "" for key, value in match.groupdict().items()})
    return facts


def _side(word: str, name: str) -> str:
    side = _SIDES.get(word.lower(), word.lower())
    if side not in ("", *SPLITS):
        raise DataError(f"{name}: unknown split {word!r}: {nearest(word, SPLITS)}")
    return side


def read_rows(path: Path, required: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV file with a header, cells stripped, empty cells as ``""``.

    Raises:
        DataError: undecodable, or without a required column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            check_columns(list(reader.fieldnames or ()), required, path)
            return [{key: cell.strip() for key, cell in row.items() if key is not None} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file ({error})") from error
