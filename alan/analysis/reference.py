"""Agreement of the ejection fractions of an analysis with those of a reference, such as a hospital's reports."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
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
        Number of patients in the file. A warning counts the patients of the reference without a measurement.

    Raises:
        DataError: The reference cannot be read.
    """
    known = read_reference(reference)
    by_key = {patient_key(name): value for name, value in known.items()} | known
    rows = [
        (p.patient, p.ef_percent.value, by_key[p.patient], p.ef_percent.value - by_key[p.patient], p.quality)
        for p in patients
        if p.patient in by_key and p.ef_percent.known
    ]
    if len(rows) < len(known):
        measured = {row[0] for row in rows}
        lost = [name for name in known if name not in measured and patient_key(name) not in measured]
        warnings.warn(
            f"{reference}: {len(lost)} of {len(known)} patients have no measured ejection fraction here "
            f"({', '.join(lost[:_NAMED])}{', ...' if len(lost) > _NAMED else ''}); patients.csv lists the keys",
            AlanWarning,
            stacklevel=2,
        )
    write_table(folder / AGREEMENT, pd.DataFrame(rows, columns=[entry.column for entry in COLUMNS[AGREEMENT]]))
    lines = [
        (quality, count, name, one["value"], one["low"], one["high"])
        for quality, (count, statistics) in _statistics(folder).items()
        for name, one in statistics.items()
        if name in EF_STATISTICS
    ]
    names = [entry.column for entry in COLUMNS[STATISTICS]]
    write_table(folder / STATISTICS, pd.DataFrame(lines, columns=names))
    return len(rows)


def read_agreement(folder: Path) -> tuple[pd.DataFrame, dict[str, tuple[int, dict[str, Any]]]] | None:
    """Read ``agreement.csv`` and compute its statistics.

    Args:
        folder: Folder of the results.

    Returns:
        The table, and for ``all`` patients and those of ``good`` quality, if there are two or more of them, their
        number and the :data:`alan.evaluation.summary.EF_STATISTICS` with intervals over patients; None if there is
        no such file, or no patient in it.
    """
    if not (folder / AGREEMENT).is_file():
        return None
    table = _read(folder)
    return (table, _statistics(folder)) if len(table) else None


def _read(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / AGREEMENT, dtype={"patient": str, "quality": str})


def _statistics(folder: Path) -> dict[str, tuple[int, dict[str, Any]]]:
    """Compute the statistics of all patients and of those of good quality, from the values in the table."""
    table = _read(folder)
    groups = {"all": table} if len(table) else {}
    good = table[table["quality"] == "good"]
    if _FEWEST <= len(good) < len(table):
        groups["good"] = good
    return {
        quality: (len(part), agreement(part["ef_percent"], part["reference_ef_percent"], part["patient"]))
        for quality, part in groups.items()
    }
