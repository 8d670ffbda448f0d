"""Patient identification: patient, study, view and split from a table, a rule, a manifest or file names."""

from __future__ import annotations

import os
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from alan.data.readers.tables import read_rows
from alan.data.sample import SPLITS, VIEWS, Record
from alan.data.splits import resolve_splits
from alan.errors import AlanWarning, DataError, ParameterError, nearest

#: The table of patients, in the folder of the dataset.
TABLE = "patients.csv"
_SPLITS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
_COLUMNS = ("study", "view", "split")


def picture_id(name: str) -> str:
    """Make the id of a picture: its name without suffix, folders joined by ``_``, such as ``p1_a4c_3``.

    Names that look the same have the same id, in whatever form of Unicode they are written (NFC or NFD).
    """
    path = PurePosixPath(name.replace("\\", "/"))
    parts = path.with_suffix("").parts if path.name else path.parts
    return unicodedata.normalize("NFC", "_".join(parts))


def identify(
    root: Path,
    ids: Sequence[str],
    *,
    patient: str | None = None,
    split: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    seed: int = 0,
    attributes: Mapping[str, Mapping[str, float | int | str]] | None = None,
) -> list[Record]:
    r"""Identify the patients of pictures.

    The patient comes from ``root/patients.csv`` if it exists, otherwise from the rule, otherwise from the manifest
    of ``alan frames`` (the pseudonym of the patient in a DICOM header), otherwise it is the part of the id before
    the first ``_``. A warning is given if the last rule makes every picture a separate patient, because
    pictures of one patient could then be in different splits.

    Args:
        root: Folder of the dataset. Its ``patients.csv`` has the columns ``file`` (with or without suffix) and
            ``patient``, and may have ``study``, ``view`` and ``split``.
        ids: Id of each picture, see :func:`picture_id`.
        patient: The rule, a regular expression that matches the whole id and has a group ``patient``, and may have
            ``study``, ``view`` and ``split``: ``(?P<patient>p\d+)_(?P<view>A4C|A2C)_.*``.
        split: As :func:`alan.data.splits.resolve_splits` takes it; it takes precedence over the splits of a
            table or a rule.
        seed: Seed of the draw if ``split`` gives fractions.
        attributes: Mapping from id to further attributes; ``patient`` among them is the pseudonym.

    Returns:
        One record per id.

    Raises:
        ParameterError: There are a table and a rule, the rule is not a regular expression or has other groups, or
            the split is malformed.
        DataError: An id is missing from the table, is in it twice with different facts, or does not match the
            rule; or a view or split is unknown.
        SplitLeakError: The split names a patient twice.
    """
    if not ids:
        return []
    table, known = root / TABLE, attributes or {}
    if table.is_file() and patient is not None:
        raise ParameterError(f"{table} and patient={patient!r} both identify the patients: keep one of them")
    if table.is_file():
        facts = _by_table(table, ids)
    elif patient is not None:
        facts = _by_rule(patient, ids)
    else:
        facts = _by_name(ids, known)
    splits = None if split is None else resolve_splits([fact["patient"] for fact in facts], split, seed)
    records = []
    for name, fact in zip(ids, facts, strict=True):
        chosen = _split(fact.get("split") or "", name) if splits is None else splits[fact["patient"]]
        view = fact.get("view") or ""
        if view and view not in VIEWS:
            raise DataError(f"{name}: unknown view {view!r}: {nearest(view, VIEWS)}")
        more = {key: value for key, value in known.get(name, {}).items() if key != "patient"}
        records.append(Record(name, fact["patient"], chosen, view, fact.get("study") or "", more))
    return records


def _by_name(ids: Sequence[str], known: Mapping[str, Mapping[str, float | int | str]]) -> list[dict[str, str]]:
    """Identify patients by the pseudonyms of the manifest, otherwise by the name up to the first ``_``."""
    keys = [str(known.get(name, {}).get("patient", "")) for name in ids]
    patients = [key or name.partition("_")[0] or name for key, name in zip(keys, ids, strict=True)]
    if not any(keys) and len(ids) > 1 and (n := len(set(patients))) in (1, len(ids)):
        counts = (
            f"each of {len(ids)} pictures counts as a patient of its own"
            if n > 1
            else f"all {len(ids)} pictures count as one patient"
        )
        harm = "pictures of one patient may get into different splits" if n > 1 else "they cannot be split"
        warnings.warn(
            f"{counts}, by the part before the first '_' of its name ({ids[0]!r}): {harm}; add {TABLE} with the "
            "columns file and patient, or set the option patient",
            AlanWarning,
            stacklevel=4,
        )
    return [{"patient": patient} for patient in patients]


def _by_table(path: Path, ids: Sequence[str]) -> list[dict[str, str]]:
    named: dict[str, list[dict[str, str]]] = {}
    for row in read_rows(path, ("file", "patient"), _COLUMNS):
        fact = {key: row.get(key, "") for key in ("patient", *_COLUMNS)}
        file = unicodedata.normalize("NFC", row["file"].replace("\\", "/")).removeprefix("images/")
        for name in {file, picture_id(file)}:
            named.setdefault(name, []).append(fact)
    for name in ids:
        found = named.get(name)
        if not found or not found[0]["patient"]:
            raise DataError(f"{path}: has no row for {name!r}: add one, or remove the picture")
        if any(fact != found[0] for fact in found):
            raise DataError(f"{path}: has two different rows for {name!r}: keep one")
    return [named[name][0] for name in ids]


def _by_rule(rule: str, ids: Sequence[str]) -> list[dict[str, str]]:
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise ParameterError(f"patient={rule!r} is not a regular expression ({error}): correct it") from error
    groups = set(pattern.groupindex)
    if "patient" not in groups or not groups <= {"patient", *_COLUMNS}:
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


def _split(word: str, name: str) -> str:
    split = _SPLITS.get(word.lower(), word.lower())
    if split not in ("", *SPLITS):
        raise DataError(f"{name}: unknown split {word!r}: {nearest(word, SPLITS)}")
    return split
