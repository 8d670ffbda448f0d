"""Agreement of the ejection fractions of an analysis with those of a reference, such as a hospital's reports."""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from alan.analysis.results import PatientResult
from alan.analysis.tables import AGREEMENT, COLUMNS, STATISTICS
from alan.data.pseudonyms import patient_key
from alan.data.readers.clinical import BOUNDS
from alan.data.readers.tables import read_number, read_rows
from alan.errors import AlanWarning, DataError
from alan.evaluation.summary import EF_STATISTICS, agreement
from alan.files import write_table

#: Smallest number of patients of good quality whose statistics are given on their own.
_FEWEST = 2
#: Number of patients without a measurement that a warning names.
_NAMED = 3
#: A name that ends in a number; frequent beginnings of such names, and their largest number of digits.
_NUMBER = re.compile(r"(\D*)(\d{1,9})(\D*)")
_PREFIXES, _DIGITS = ("patient", "Patient", "p", "P", "pat", "sub-"), 6


def read_reference(path: str | os.PathLike[str]) -> dict[str, float]:
    """Read the ejection fractions of a reference.

    Args:
        path: CSV file with the columns ``patient`` and ``ef_percent``. A patient is named by the pseudonymous key
            of the analysis, or by the identifier from which the key was derived.

    Returns:
        Patient, as written in the file, to ejection fraction in percent.

    Raises:
        DataError: The file is missing or not such a table, a patient occurs twice, or a value is not a percentage
            from 1 to 100.
    """
    found: dict[str, float] = {}
    low, high, unit = BOUNDS["EF"]
    for row in read_rows(Path(path), ("patient", "ef_percent")):
        name = row["patient"]
        value = read_number(row, "ef_percent", Path(path), f"patient {name!r}")
        if not name or value is None:
            continue
        if not low <= value <= high:
            raise DataError(
                f"{path}: patient {name!r}: ef_percent is {row['ef_percent']}: give {low:g} to {high:g} {unit}"
            )
        if name in found:
            raise DataError(f"{path}: patient {name!r} occurs twice; give one row per patient")
        found[name] = value
    return found


def write_agreement(folder: Path, patients: Iterable[PatientResult], reference: str | os.PathLike[str]) -> int:
    """Write the agreement of the patients that have an ejection fraction in both, without their identifiers.

    ``agreement.csv`` has a row for each patient, ``agreement_statistics.csv`` one for each statistic.

    Args:
        folder: Folder of the results.
        patients: The patients.
        reference: See :func:`read_reference`.

    Returns:
        Number of patients in the file. Warnings name patients of the reference that are not among these results,
        with another spelling or the nearest key, and those without a measurement.

    Raises:
        DataError: The reference cannot be read.
    """
    known, patients = read_reference(reference), list(patients)
    by_key = {patient_key(name): value for name, value in known.items()} | known
    rows = [
        (
            p.patient,
            p.ef_percent.value,
            by_key[p.patient],
            p.ef_percent.value - by_key[p.patient],
            p.ef_shared_length_percent,
            p.quality,
        )
        for p in patients
        if p.patient in by_key and p.ef_percent.known
    ]
    lost = [name for name in known if not {name, patient_key(name)} & {p.patient for p in patients}]
    unmeasured = len(known) - len(lost) - len(rows)
    if lost:
        hints = [f"{name}{_hint(name, [p.patient for p in patients])}" for name in lost[:_NAMED]]
        warnings.warn(
            f"{reference}: {len(lost)} of {len(known)} patients are not among these results ({', '.join(hints)}"
            f"{', ...' if len(lost) > _NAMED else ''}); patients.csv lists the keys",
            AlanWarning,
            stacklevel=2,
        )
    if unmeasured:
        measured = {row[0] for row in rows}
        names = [one for one in known if one not in lost and not {one, patient_key(one)} & measured]
        warnings.warn(
            f"{reference}: {unmeasured} of {len(known)} patients have no measured ejection fraction here "
            f"({', '.join(names[:_NAMED])}{', ...' if unmeasured > _NAMED else ''}); patients.csv has the reasons",
            AlanWarning,
            stacklevel=2,
        )
    write_table(folder / AGREEMENT, pd.DataFrame(rows, columns=[entry.column for entry in COLUMNS[AGREEMENT]]))
    lines = [
        (*group, count, name, one["value"], one["low"], one["high"])
        for group, (count, statistics) in _statistics(folder).items()
        for name, one in statistics.items()
        if name in EF_STATISTICS
    ]
    names = [entry.column for entry in COLUMNS[STATISTICS]]
    write_table(folder / STATISTICS, pd.DataFrame(lines, columns=names))
    return len(rows)


def _hint(name: str, keys: Sequence[str]) -> str:
    """Propose another spelling of a number, such as 39 for patient0039, or else the nearest key."""
    found = _NUMBER.fullmatch(name)
    if found:
        prefixes = dict.fromkeys((found[1], "", *_PREFIXES, found[1].lower(), found[1].upper()))
        numbers = [f"{int(found[2]):0{digits}}" for digits in range(1, _DIGITS + 1)]
        for spelling in (prefix + number + found[3] for prefix in prefixes for number in dict.fromkeys(numbers)):
            if patient_key(spelling) in keys:
                return f": did you mean {spelling}?"
    close = difflib.get_close_matches(name, keys, n=1, cutoff=0.8)
    return f": did you mean {close[0]}?" if close else ""


def read_agreement(folder: Path) -> tuple[pd.DataFrame, dict[tuple[str, str], tuple[int, dict[str, Any]]]] | None:
    """Read ``agreement.csv`` and compute its statistics.

    Args:
        folder: Folder of the results.

    Returns:
        The table, and for a measure and a group of patients their number and the
        :data:`alan.evaluation.summary.EF_STATISTICS` with intervals over patients: ``ef_percent`` of ``all``
        patients and of those of ``good`` quality, if there are two or more of them, and
        ``ef_shared_length_percent`` of all that have it. None if there is no such file, or no patient in it.
    """
    if not (folder / AGREEMENT).is_file():
        return None
    table = _read(folder)
    return (table, _statistics(folder)) if len(table) else None


def _read(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / AGREEMENT, dtype={"patient": str, "quality": str})


def _statistics(folder: Path) -> dict[tuple[str, str], tuple[int, dict[str, Any]]]:
    """Compute the statistics of each measure and group of patients from the values in the table."""
    table = _read(folder)
    groups = {("ef_percent", "all"): table} if len(table) else {}
    good = table[table["quality"] == "good"]
    if _FEWEST <= len(good) < len(table):
        groups["ef_percent", "good"] = good
    biplane = table.dropna(subset="ef_shared_length_percent")
    if len(biplane):
        groups["ef_shared_length_percent", "all"] = biplane
    return {
        (measure, quality): (len(part), agreement(part[measure], part["reference_ef_percent"], part["patient"]))
        for (measure, quality), part in groups.items()
    }
