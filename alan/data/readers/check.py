"""Check of an archive: read everything, write nothing, and report problems with their remedies."""

from __future__ import annotations

import os
import warnings
from typing import Any, NamedTuple

from tqdm import tqdm

from alan.data.readers.base import EchoDataset
from alan.data.readers.registry import open_dataset
from alan.errors import AlanWarning, DataError
from alan.progress import quiet

_AGAIN = "get the file again from its source, or remove it"


class Problem(NamedTuple):
    """A problem of an archive.

    Attributes:
        file: The file or sample, relative to the root; ``""`` for the archive as a whole.
        reason: Description of the problem.
        remedy: Remedy.
    """

    file: str
    reason: str
    remedy: str


def check_archive(
    kind: str, root: str | os.PathLike[str], *, progress: bool = True, **options: Any
) -> tuple[list[Problem], int]:
    """Read every sample of an archive.

    Args:
        kind: Kind of the archive, as :func:`alan.data.open_dataset` takes it.
        root: Folder of the archive.
        progress: Whether to show a progress bar.
        **options: Options of the reader.

    Returns:
        problems: Distinct problems in the order of detection.
        samples: Number of samples that were read.

    Raises:
        ParameterError: The kind or an option is unknown.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AlanWarning)
        try:
            dataset = open_dataset(kind, root, **options)
        except DataError as error:
            notes = [note.partition("\t") for note in getattr(error, "__notes__", ())]
            listed = [Problem(file, "not usable", remedy) for file, _, remedy in notes]
            return [_problem("", str(error)), *listed], 0
        problems = _samples(dataset, progress)
    failures = dataset.failures
    problems = [*(Problem(failure.file, failure.kind, failure.reason) for failure in failures), *problems]
    for text in (str(warning.message) for warning in caught if issubclass(warning.category, AlanWarning)):
        if not any(failure.reason in text for failure in failures):
            problems.append(_problem("", text))
    return list(dict.fromkeys(problems)), len(dataset)


def _samples(dataset: EchoDataset, progress: bool) -> list[Problem]:
    """Decode all samples."""
    problems = []
    for index in tqdm(
        range(len(dataset)), desc=f"check {dataset.name}", unit="sample", disable=not progress or quiet()
    ):
        try:
            dataset[index]
        except DataError as error:
            failure = dataset.failure(index, error, "")
            problems.append(_problem(failure.file, failure.reason))
    return problems


def _problem(file: str, text: str) -> Problem:
    """Split a message into the problem and the remedy, which all messages end with."""
    reason, separator, remedy = text.rpartition("; ")
    if not separator:
        reason, separator, remedy = text.rpartition(": ")
        if not separator or "/" in remedy or remedy[:1].isupper():
            reason, remedy = text, ""
    return Problem(file, reason, remedy or _AGAIN)
