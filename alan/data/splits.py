"""Splits by patient: checked, drawn at random, or read from a mapping or a file."""

from __future__ import annotations

import itertools
import logging
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from alan.bounds import PositiveInt, Seed, bounded
from alan.data.readers.tables import read_structured
from alan.data.sample import SPLITS
from alan.errors import DataError, ParameterError, SplitLeakError, nearest

_log = logging.getLogger(__name__)
#: Number of missing patients that a message names.
_NAMED = 3


def check_split(patients: Sequence[str], splits: Sequence[str], studies: Sequence[str] | None = None) -> None:
    """Refuse a patient or a study that is in two splits.

    Args:
        patients: Patient of each sample; samples with ``""`` are not checked.
        splits: Split of each sample; samples with ``""`` are in no split and are not checked.
        studies: Study of each sample; samples with ``""`` are not checked.

    Raises:
        ParameterError: The lengths differ.
        SplitLeakError: A patient or study is in two splits; the message names it and both splits. Names that
            differ in case, spaces or the form of Unicode only are one.
    """
    columns = {"patient": patients} if studies is None else {"patient": patients, "study": studies}
    for what, names in columns.items():
        if len(names) != len(splits):
            raise ParameterError(
                f"{len(names)} entries for {what} but {len(splits)} splits: give one of each for every sample"
            )
        seen: dict[str, tuple[str, str]] = {}
        for name, split in zip(names, splits, strict=True):
            spelling = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
            first, other = seen.setdefault(spelling, (name, split)) if name and split else (name, split)
            if other != split:
                shown = repr(name) if first == name else f"{first!r}, also spelt {name!r},"
                raise SplitLeakError(
                    f"{what} {shown} is in two splits, {other!r} and {split!r}: "
                    f"put all samples of a {what} into one split"
                )


@bounded
def draw_patients(patients: Iterable[str], label_patients: PositiveInt | None, seed: Seed) -> list[str]:
    """Draw labelled patients at random.

    Every protocol draws with this function, so that a number and a seed mean the same patients everywhere. Draws
    are nested: with the same seed, the patients of a smaller number are among those of a larger one.

    Args:
        patients: Patient of each sample, in any order, with repeats.
        label_patients: Number of patients to draw; None draws all of them.
        seed: Seed of the random order.

    Returns:
        The patients in the order in which they are drawn.

    Raises:
        ParameterError: There are fewer patients than ``label_patients``.
    """
    names = sorted(set(patients))
    if label_patients is not None and label_patients > len(names):
        raise ParameterError(
            f"label_patients is {label_patients}: give 1 to {len(names)}, the number of labelled patients"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    return [names[index] for index in order[:label_patients]]


@bounded
def fold_patients(patients: Iterable[str], folds: Annotated[int, Ge(2)], seed: Seed) -> list[list[str]]:
    """Divide patients into folds whose sizes differ by at most one.

    Args:
        patients: Patient of each sample, in any order, with repeats.
        folds: Number of folds.
        seed: Seed of the random order, that of :func:`draw_patients`.

    Returns:
        The patients of each fold.

    Raises:
        ParameterError: There are fewer patients than folds.
    """
    order = draw_patients(patients, None, seed)
    if len(order) < folds:
        raise ParameterError(f"folds is {folds}: give 2 to {len(order)}, the number of patients")
    return [order[start::folds] for start in range(folds)]


@bounded
def split_patients(patients: Iterable[str], shares: Mapping[str, float], seed: Seed) -> dict[str, str]:
    """Draw a split by patient.

    Args:
        patients: Patient of each sample, in any order, with repeats.
        shares: Mapping from split to its fraction of the patients (floats with a sum of 1) or to its number of
            patients (integers; the remaining patients are in no split). Fractions are rounded by largest
            remainder.
        seed: Seed of the draw. The same seed and patients give the same split, whatever the order of the samples.

    Returns:
        Mapping from patient to split, every patient exactly once; ``""`` for no split.

    Raises:
        ParameterError: An unknown or empty split, or shares that are neither fractions with a sum of 1 nor counts
            that fit.
    """
    names = sorted(set(patients))
    check_split_names(shares)
    values = list(shares.values())
    if all(isinstance(value, int) for value in values):
        counts = [int(value) for value in values]
        if sum(counts) > len(names):
            raise ParameterError(f"the split needs {sum(counts)} patients: give at most {len(names)} in all")
    else:
        if abs(sum(values) - 1) > 1e-6:
            raise ParameterError(
                f"the fractions {dict(shares)} add up to {sum(values):g}: give fractions with a sum of 1"
            )
        exact = np.asarray(values) * len(names)
        rounded = np.floor(exact + 1e-9).astype(int)
        order = np.argsort(rounded - exact, kind="stable")
        rounded[order[: len(names) - rounded.sum()]] += 1
        counts = rounded.tolist()
    for split, count in zip(shares, counts, strict=True):
        if count < 1:
            raise ParameterError(
                f"split {split!r} gets {count} of {len(names)} patients: give it a larger share, or check how "
                "patients are identified"
            )
    drawn = np.random.default_rng(seed).permutation(len(names))
    splits = dict.fromkeys(names, "")
    start = 0
    for split, count in zip(shares, counts, strict=True):
        splits.update((names[index], split) for index in drawn[start : start + count])
        start += count
    return splits


def check_different(**splits: str | None) -> None:
    """Check that no split has two uses.

    Args:
        **splits: Split of each use (``train_split``, ``test_split``); None is all splits, or none.

    Raises:
        SplitLeakError: Two uses have the same split.
    """
    for (first, a), (second, b) in itertools.combinations(splits.items(), 2):
        if a == b and a is not None:
            raise SplitLeakError(f"{first} and {second} are both {a!r}: give each its own split")


def check_split_names(splits: Iterable[str]) -> None:
    """Refuse names of splits other than train, val and test.

    Raises:
        ParameterError: A name is unknown (the message offers the nearest one), or none is given.
    """
    given = list(splits)
    if not given:
        raise ParameterError(f"the split is empty: give at least one of {', '.join(SPLITS)}")
    for split in given:
        if split not in SPLITS:
            raise ParameterError(f"unknown split {split!r}: {nearest(str(split), SPLITS)}")


def read_split(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a split from a YAML or JSON file: split to ids and ranges, as :func:`assign_splits` takes it.

    Raises:
        DataError: The file is missing or does not hold a mapping.
    """
    source = Path(path)
    if not source.is_file():
        raise DataError(f"{source}: no such split file")
    value = read_structured(source, "a YAML or JSON file")
    if not isinstance(value, dict):
        raise DataError(f"{source}: a split file maps train, val and test to patients, such as 'train: 1-300'")
    return value


def expand_ids(entry: Any) -> set[str]:
    """Expand ids and ranges, such as ``"1-300, 305, patient0400"``.

    Args:
        entry: A text of ids and ranges separated by commas, a number, or a list of such entries.

    Returns:
        Names as given, and numbers as decimal strings without leading zeros.

    Raises:
        ParameterError: An entry is of another type, or a range runs backwards.
    """
    if isinstance(entry, bool) or not isinstance(entry, (str, int, list, tuple)):
        raise ParameterError(f"cannot read {entry!r} as patients: give ids or ranges such as '1-300, 305'")
    if isinstance(entry, int):
        return {str(entry)}
    if not isinstance(entry, str):
        return set[str]().union(*(expand_ids(part) for part in entry))
    ids: set[str] = set()
    for part in filter(None, (word.strip() for word in entry.split(","))):
        match = re.fullmatch(r"(\d+)\s*-\s*(\d+)", part)
        if match is None:
            ids.add(str(int(part)) if part.isdecimal() else part)
            continue
        first, last = int(match[1]), int(match[2])
        if first > last:
            raise ParameterError(f"range {part!r} runs backwards: give the smaller number first")
        ids.update(str(number) for number in range(first, last + 1))
    return ids


def assign_splits(patients: Iterable[str], splits: Mapping[str, Any]) -> dict[str, str]:
    """Assign patients to the splits that a mapping names.

    Args:
        patients: Ids of the patients that exist, with repeats. A number in the mapping means the patient whose id
            is that number after an optional word (``7`` is ``patient0007``, but not ``test-patient0007``).
        splits: Mapping from split to ids and ranges, see :func:`expand_ids`. Ids that do not exist are ignored,
            because an archive may be a part of its release; their number is logged.

    Returns:
        Mapping from patient to split; ``""`` for patients that the mapping does not name.

    Raises:
        ParameterError: A split is unknown.
        DataError: A split has no patient.
        SplitLeakError: A patient is named in two splits.
    """
    check_split_names(splits)
    assigned = dict.fromkeys(patients, "")
    known_ids = {form for name in assigned for form in (name, _number(name))}
    for split, entry in splits.items():
        ids = expand_ids(entry)
        absent = sorted(ids - known_ids, key=lambda name: (len(name), name))
        if absent:
            more = ", ..." if len(absent) > _NAMED else ""
            listed = ", ".join(absent[:_NAMED])
            _log.info("split %s: %d of %d patients missing: %s%s", split, len(absent), len(ids), listed, more)
        members = [name for name in assigned if name in ids or _number(name) in ids]
        if not members:
            known = ", ".join(list(assigned)[:4])
            raise DataError(
                f"split {split!r} is empty: none of the {len(assigned)} patients ({known}, ...) is in {entry!r}"
            )
        for name in members:
            if assigned[name]:
                raise SplitLeakError(
                    f"patient {name!r} is in two splits, {assigned[name]!r} and {split!r}: name it in one of them"
                )
            assigned[name] = split
    return assigned


@bounded
def resolve_splits(
    patients: Iterable[str], split: Mapping[str, Any] | str | os.PathLike[str], seed: Seed = 0
) -> dict[str, str]:
    """Assign patients to splits according to the option ``split`` of a reader.

    Args:
        patients: Ids of the patients that exist, with repeats.
        split: Mapping from split to patients as :func:`assign_splits` takes it, split to a fraction of the
            patients (floats with a sum of 1, drawn by :func:`split_patients`), or the path of a YAML or JSON file
            of either.
        seed: Seed of the draw; without fractions it has no effect.

    Returns:
        Mapping from patient to split; ``""`` for patients in no split.

    Raises:
        ParameterError: As in the two functions.
        DataError: The file is missing or malformed, or a split has no patient.
        SplitLeakError: A patient is named in two splits.
    """
    splits = split if isinstance(split, Mapping) else read_split(split)
    if all(isinstance(share, float) for share in splits.values()):
        return split_patients(patients, splits, seed)
    return assign_splits(patients, splits)


def _number(patient: str) -> str:
    match = re.fullmatch(r"[A-Za-z_]*?0*(\d+)", patient)
    return match[1] if match else ""
