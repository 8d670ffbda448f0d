"""Splits by patient: checked, drawn, or read from a file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from alan.data.sample import SPLITS
from alan.errors import DataError, ParameterError, SplitLeakError, nearest


def check_split(patients: Sequence[str], sides: Sequence[str], studies: Sequence[str] | None = None) -> None:
    """Refuse a split in which a patient (or a study) stands on two sides.

    Args:
        patients: the patient of each sample.
        sides: the side of each sample; ``""`` means that it is on no side.
        studies: the study of each sample; ``""`` where it has none.

    Raises:
        ParameterError: the lengths differ.
        SplitLeakError: names the patient or study and the two sides.
    """
    columns = {"patient": patients} if studies is None else {"patient": patients, "study": studies}
    for what, names in columns.items():
        if len(names) != len(sides):
            raise ParameterError(
                f"{len(names)} entries for {what} but {len(sides)} sides: give one of each a sample"
            )
        seen: dict[str, str] = {}
        for name, side in zip(names, sides, strict=True):
            if name and side and seen.setdefault(name, side) != side:
                raise SplitLeakError(
                    f"{what} {name!r} is on two sides of the split, {seen[name]!r} and {side!r}: "
                    f"put all samples of a {what} on one side"
                )


def draw_patients(patients: Iterable[str], n: int | None, seed: int) -> list[str]:
    """Draw labelled patients: the one draw of every protocol, so that a number and a seed name the same people.

    Draws are nested: with the same seed, the patients of a smaller ``n`` are among those of a larger one.

    Args:
        patients: the patient of each sample, in any order, with repeats.
        n: number of patients to draw, or None for all.
        seed: seed of the order, 0 or more.

    Returns:
        The patients in the order in which they are drawn.

    Raises:
        ParameterError: there are fewer than ``n`` patients, ``n`` is below 1, or the seed below 0.
    """
    names = sorted(set(patients))
    if seed < 0:
        raise ParameterError(f"seed is {seed}: give 0 or more")
    if n is not None and not 1 <= n <= len(names):
        raise ParameterError(f"label_patients is {n}: give 1 to {len(names)}, the labelled patients there are")
    order = np.random.default_rng(seed).permutation(len(names))
    return [names[index] for index in order[:n]]


def split_patients(patients: Iterable[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Draw a split by patient.

    Args:
        patients: the patient of each sample, in any order, with repeats.
        shares: side to a fraction (floats that add up to 1) or to a number of patients (integers; patients left
            over are on no side). Fractions are rounded by largest remainder.
        seed: the same seed and patients give the same split, whatever the order of the samples.

    Returns:
        Patient to side; every patient exactly once, ``""`` for no side.

    Raises:
        ParameterError: unknown side, shares that are neither fractions of 1 nor counts that fit, or an empty
            side.
    """
    names = sorted(set(patients))
    check_sides(shares)
    values = list(shares.values())
    if all(isinstance(value, int) for value in values):
        counts = [int(value) for value in values]
        if sum(counts) > len(names):
            raise ParameterError(f"the split asks for {sum(counts)} patients, there are {len(names)}")
    else:
        if abs(sum(values) - 1) > 1e-6:
            raise ParameterError(
                f"the fractions of a split must add up to 1, got {sum(values):g} ({dict(shares)})"
            )
        exact = np.asarray(values) * len(names)
        rounded = np.floor(exact + 1e-9).astype(int)
        order = np.argsort(rounded - exact, kind="stable")
        rounded[order[: len(names) - rounded.sum()]] += 1
        counts = rounded.tolist()
    for side, count in zip(shares, counts, strict=True):
        if count < 1:
            raise ParameterError(
                f"side {side!r} of the split gets {count} of {len(names)} patients: it would be empty"
            )
    drawn = np.random.default_rng(seed).permutation(len(names))
    sides = dict.fromkeys(names, "")
    start = 0
    for side, count in zip(shares, counts, strict=True):
        sides.update((names[index], side) for index in drawn[start : start + count])
        start += count
    return sides


def check_sides(sides: Iterable[str]) -> None:
    """Refuse a side that is not one of train, val, test.

    Raises:
        ParameterError: names the side and the nearest one that exists, or says that there is none at all.
    """
    given = list(sides)
    if not given:
        raise ParameterError(f"a split without sides: give at least one of {', '.join(SPLITS)}")
    for side in given:
        if side not in SPLITS:
            raise ParameterError(f"unknown side {side!r} of a split: {nearest(str(side), SPLITS)}")


def read_split(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a split from a YAML or JSON file: side to ids and ranges, as :func:`assign_sides` takes it.

    Raises:
        DataError: the file is missing or does not hold a mapping of sides.
    """
    source = Path(path)
    try:
        value = yaml.safe_load(source.read_text(encoding="utf-8"))  # JSON is YAML
    except FileNotFoundError as error:
        raise DataError(f"{source}: no such split file") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{source}: not a YAML or JSON file ({' '.join(str(error).split())})") from error
    if not isinstance(value, dict):
        raise DataError(f"{source}: a split file maps train, val and test to patients, e.g. 'train: 1-300'")
    return value


def expand_ids(entry: Any) -> set[str]:
    """Ids out of a human's list: ``"1-300, 305, patient0400"``, a number, or a list of such.

    Returns:
        Names as given and numbers as decimal strings without leading zeros.

    Raises:
        ParameterError: an entry that is neither, or a range that runs backwards.
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


def assign_sides(patients: Iterable[str], sides: Mapping[str, Any]) -> dict[str, str]:
    """Put patients on the sides that a mapping names.

    Args:
        patients: ids of the patients that exist, with repeats. A number in the mapping means the patient whose
            id is that number after an optional word (``7`` is ``patient0007``, but not ``test-patient0007``).
        sides: side to ids and ranges, see :func:`expand_ids`. Ids that do not exist are passed over: an archive
            may be a part of the release.

    Returns:
        Patient to side; ``""`` for patients that the mapping does not name.

    Raises:
        ParameterError: unknown side.
        DataError: a side without any patient.
        SplitLeakError: a patient named on two sides.
    """
    check_sides(sides)
    assigned = dict.fromkeys(patients, "")
    for side, entry in sides.items():
        ids = expand_ids(entry)
        members = [name for name in assigned if name in ids or _number(name) in ids]
        if not members:
            raise DataError(
                f"side {side!r} of the split is empty: none of the {len(assigned)} patients is in {entry!r}"
            )
        for name in members:
            if assigned[name]:
                raise SplitLeakError(
                    f"patient {name!r} is on two sides of the split, {assigned[name]!r} and {side!r}"
                )
            assigned[name] = side
    return assigned


def resolve_sides(
    patients: Iterable[str], split: Mapping[str, Any] | str | os.PathLike[str], seed: int = 0
) -> dict[str, str]:
    """Put patients on sides, as a reader's option ``split`` says.

    Args:
        patients: ids of the patients that exist, with repeats.
        split: side to patients as :func:`assign_sides` takes it, side to a fraction of the patients (floats that
            add up to 1, drawn by :func:`split_patients`), or the path of a YAML or JSON file of either.
        seed: of the draw; without fractions it has no effect.

    Returns:
        Patient to side; ``""`` for patients on no side.

    Raises:
        ParameterError: as the two functions.
        DataError: the file is missing or malformed, or a side is without any patient.
        SplitLeakError: a patient named on two sides.
    """
    sides = split if isinstance(split, Mapping) else read_split(split)
    if all(isinstance(share, float) for share in sides.values()):
        return split_patients(patients, sides, seed)
    return assign_sides(patients, sides)


def _number(patient: str) -> str:
    match = re.fullmatch(r"[A-Za-z_]*?0*(\d+)", patient)
    return match[1] if match else ""
