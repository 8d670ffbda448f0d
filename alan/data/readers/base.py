"""What every archive reader offers."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from alan.data.sample import Record, Sample
from alan.data.splits import check_split
from alan.errors import AlanWarning, DataError, nearest
from alan.files import fingerprint


class EchoDataset(ABC):
    """An archive on disk as a sequence of samples, decoded one at a time when asked for.

    A subclass scans the archive in its constructor, calls :meth:`_set_records` once and implements
    :meth:`_load`.

    Attributes:
        name: name of the archive, e.g. ``CAMUS``.
        structures: structures that the archive may hold masks of.
        root: the folder that was opened.
        records: what is known of each sample before decoding, in a fixed order.
        skipped: reason to count, of everything that was listed but could not be used.
        leaks: how the split leaks, in words; empty for every honest split.
    """

    name: ClassVar[str]
    structures: tuple[str, ...]

    def __init__(self, root: str | os.PathLike[str], contents: str) -> None:
        """Check the root.

        Args:
            root: folder of the archive.
            contents: what should lie in it, for the error message.

        Raises:
            DataError: ``root`` is not a folder.
        """
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; {self.name} asks for the folder that holds {contents}")
        self.records: Sequence[Record] = ()
        self.skipped: dict[str, int] = {}
        self.leaks = ""
        self._files: list[list[Path]] = []
        self._options: dict[str, Any] = {}

    def _set_records(
        self, records: Sequence[Record], files: Sequence[Sequence[Path]], options: Mapping[str, Any]
    ) -> None:
        """Fix what the data set consists of, and check it.

        Args:
            records: one a sample.
            files: the files of each sample, for the fingerprint.
            options: the options that decide what a sample looks like, JSON-able and without absolute paths.

        Raises:
            DataError: nothing to read, or an id that is used twice.
            SplitLeakError: a patient or study on two sides (unless the reader has named its leak in ``leaks``).
        """
        if not records:
            raise DataError(
                f"{self.root}: no {self.name} sample found ({dict(self.skipped) or 'nothing skipped'})"
            )
        twice = [name for name, count in Counter(record.id for record in records).items() if count > 1]
        if twice:
            raise DataError(f"{self.root}: id {twice[0]!r} is used more than once; ids must be unique")
        if not self.leaks:
            check_split(
                [record.patient for record in records],
                [record.split for record in records],
                [record.study for record in records],
            )
        self.records = tuple(records)
        self._files = [sorted(paths) for paths in files]
        self._options = dict(options)

    def _skip(self, reason: str, names: Sequence[str]) -> None:
        """Count what is skipped and warn once for the whole group; an empty group is no news."""
        if names:
            self.skipped[reason] = self.skipped.get(reason, 0) + len(names)
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            warnings.warn(f"{self.name}: skipped {len(names)} {reason} ({shown})", AlanWarning, stacklevel=3)

    @abstractmethod
    def _load(self, index: int) -> Sample:
        """Decode the sample of ``records[index]``; raise DataError where that is impossible."""

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """Decode one sample.

        Args:
            index: 0 to ``len(self) - 1``, or negative from the end.

        Raises:
            IndexError: the index is out of range.
            DataError: the files of the sample cannot be decoded or do not belong together.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name}: sample {index} of {len(self)}")
        return self._load(index % len(self))

    def __iter__(self) -> Iterator[Sample]:
        """Decode all samples in order."""
        return (self[index] for index in range(len(self)))

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the names and sizes of the files, the records and the options.

        Neither absolute paths nor times enter, so the same archive has the same fingerprint on every machine;
        file contents do not enter either, so that it stays cheap.
        """
        return fingerprint(
            {
                "name": self.name,
                "options": self._options,
                "records": [[r.id, r.patient, r.study, r.view, r.split, dict(r.attributes)] for r in self.records],
                "files": [
                    [[path.relative_to(self.root).as_posix(), path.stat().st_size] for path in paths]
                    for paths in self._files
                ],
            }
        )


def check_columns(columns: Sequence[str], required: Sequence[str], path: Path) -> None:
    """Refuse a table that lacks a column.

    Raises:
        DataError: names the file, the first missing column, and the nearest column that is there.
    """
    for name in required:
        if name not in columns:
            raise DataError(f"{path}: column {name!r} is missing; {nearest(name, columns)}")
