"""Base of all readers of archives: records, samples, failures, a fingerprint and a plot."""

from __future__ import annotations

import os
import unicodedata
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from alan.data.readers.clinical import IMPOSSIBLE, remove_impossible
from alan.data.sample import Record, Sample
from alan.data.splits import check_split
from alan.errors import AlanWarning, DataError
from alan.files import digest_if_readable, fingerprint, read_json, unreachable_below

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The file that marks a simulated archive.
SIMULATION = "simulation.json"


class Failure(NamedTuple):
    """A part of an archive that could not be used.

    Attributes:
        file: The file, or the id of the sample; relative to the root of the archive if it lies in it.
        reason: Problem and remedy, in one line.
        kind: Kind of failure, for counts, such as ``rows of FileList.csv without a video``.
    """

    file: str
    reason: str
    kind: str


class EchoDataset(ABC):
    """An archive on disk as a sequence of samples, each of which is decoded when it is asked for.

    A subclass scans the archive in its constructor, calls :meth:`_set_records` once and implements :meth:`_load`.

    Attributes:
        name: Name of the archive, such as ``CAMUS``; ``simulated CAMUS`` for a simulated one.
        structures: Structures that the archive may hold masks of.
        root: The folder that was opened.
        simulated: Whether `alan simulate` made the archive; its patients do not exist.
        records: Metadata of each sample, in a fixed order.
        failures: Samples that were listed or found but cannot be used.
        leaks: How the split leaks, in words; empty if it does not.
    """

    name: str
    structures: tuple[str, ...]

    def __init__(self, root: str | os.PathLike[str], contents: str) -> None:
        """Check the root.

        Args:
            root: Folder of the archive.
            contents: Expected contents of the folder, for the error message.

        Raises:
            DataError: ``root`` is not a folder, or a simulated archive that is not complete.
        """
        self.root = Path(root)
        if not self.root.is_dir():
            what = "is a file" if self.root.exists() else "no such folder"
            raise DataError(f"{self.root}: {what}; {self.name} needs the folder that holds {contents}")
        self.simulated = is_simulated(self.root)
        if self.simulated:
            self.name = f"simulated {self.name}"
        self.records: Sequence[Record] = ()
        self.failures: list[Failure] = []
        self.leaks = ""
        self._files: list[list[Path]] = []
        self._options: dict[str, Any] = {}
        self._shared: list[Path] = []

    @property
    def skipped(self) -> dict[str, int]:
        """Number of failures of each kind."""
        return dict(Counter(failure.kind for failure in self.failures))

    def _set_records(
        self,
        records: Sequence[Record],
        files: Sequence[Sequence[Path]],
        options: Mapping[str, Any],
        shared: Sequence[Path] = (),
    ) -> None:
        """Set the records of the dataset, and check them.

        Args:
            records: One record per sample.
            files: Files of each sample, the main one first; their content is part of the fingerprint.
            options: Options that decide what a sample looks like, JSON-able and without absolute paths.
            shared: Tables that belong to all samples; their content is part of the fingerprint.

        Raises:
            DataError: There is no sample, or an id is used twice.
            SplitLeakError: A patient or study is in two splits, unless the reader names its leak in ``leaks``.
        """
        unreachable = unreachable_below(self.root)  # not before: a wrong folder may hold millions of files
        for reason in dict.fromkeys(reason for _, reason in unreachable):
            self._skip(
                "places that cannot be read",
                [self._relative(path) for path, why in unreachable if why == reason],
                reason,
            )
        if not records:
            skipped = ", ".join(f"{n} {kind}" for kind, n in self.skipped.items())
            raise DataError(f"{self.root}: no {self.name} sample found ({skipped or 'nothing skipped'})")
        twice = [name for name, count in Counter(record.id for record in records).items() if count > 1]
        if twice:
            raise DataError(f"{self.root}: id {twice[0]!r} is used more than once; keep one sample of this id")
        if not self.leaks:
            check_split(
                [record.patient for record in records],
                [record.split for record in records],
                [record.study for record in records],
            )
        self.records = tuple(records)
        self._files = [list(paths) for paths in files]
        self._options, self._shared = dict(options), list(shared)

    def _skip(self, kind: str, files: Sequence[str], reason: str) -> None:
        """Record samples that are skipped for one reason, and warn once; do nothing if ``files`` is empty."""
        if files:
            self.failures += [Failure(file, reason, kind) for file in files]
            shown = ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
            warnings.warn(
                f"{self.name}: skipped {len(files)} {kind} ({shown}): {reason}", AlanWarning, stacklevel=3
            )

    def _note(self, kind: str, file: str, reason: str) -> None:
        """Record a problem of a sample that is being decoded; warn of the first of each kind."""
        failure = Failure(file, reason, kind)
        if failure not in self.failures:
            first = kind not in self.skipped
            self.failures.append(failure)
            if first:
                warnings.warn(f"{self.name}: {kind}, the first in {file}: {reason}", AlanWarning, stacklevel=4)

    def _keep_possible(self, who: str, table: str, attributes: dict[str, Any]) -> dict[str, Any]:
        """Remove attributes outside their physiological bounds, and record each.

        Args:
            who: The sample, for the list of failures.
            table: The file that states them.
            attributes: Attributes of the sample.

        Returns:
            The others.
        """
        kept = dict(attributes)
        for reason in remove_impossible(kept):
            self._note(IMPOSSIBLE, who, f"{table}: {reason}; it counts as unknown")
        return kept

    @abstractmethod
    def _load(self, index: int) -> Sample:
        """Decode the sample of ``records[index]``, or raise a DataError."""

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """Decode one sample.

        Args:
            index: 0 to ``len(self) - 1``, or negative from the end.

        Raises:
            IndexError: The index is out of range.
            DataError: The files of the sample cannot be decoded or do not belong together.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name}: sample {index} of {len(self)}")
        return self._load(index % len(self))

    def __iter__(self) -> Iterator[Sample]:
        """Decode all samples in order."""
        return (self[index] for index in range(len(self)))

    def failure(self, index: int, error: DataError, kind: str) -> Failure:
        """Make a failure of an error that decoding a sample raised.

        Args:
            index: The sample.
            error: The error.
            kind: Kind of failure.

        Returns:
            The failure. Its file is the one that the message begins with, otherwise the main file of the sample,
            otherwise the id of the sample.
        """
        files, identity = self._files[index], self.records[index].id
        named = {f"{path}: ": self._relative(path) for path in files} | {f"{identity}: ": identity}
        for prefix, file in named.items():
            if str(error).startswith(prefix):
                return Failure(file, str(error).removeprefix(prefix), kind)
        return Failure(self._relative(files[0]) if files else identity, str(error), kind)

    def plot(self, index: int, frame: int | None = None) -> Figure:
        """Draw a sample with the outlines of its masks.

        Args:
            index: The sample.
            frame: Index of a frame; None draws end-diastole and end-systole, or else the first annotated frame, or
                else the middle frame.

        Raises:
            IndexError: The sample or the frame is out of range.
            DataError: The sample cannot be decoded.
        """
        from alan.data.readers.plot import plot_sample

        return plot_sample(self[index], frame)

    def fingerprint(self) -> str:
        """Compute the SHA-256 (hex) of options, records, and names and contents of all files that are read.

        Neither absolute paths nor times are part of it, so that a copy of an archive has the same fingerprint.
        """
        paths = sorted({*self._shared, *(path for files in self._files for path in files)})
        with ThreadPoolExecutor(4) as pool:  # hashing releases the lock of the interpreter
            contents = dict(zip(paths, pool.map(digest_if_readable, paths), strict=True))
        return fingerprint(
            {
                "name": self.name,
                "options": self._options,
                "records": [[r.id, r.patient, r.study, r.view, r.split, dict(r.attributes)] for r in self.records],
                "files": [
                    [[self._relative(path), contents[path]] for path in files]
                    for files in (*self._files, self._shared)
                ],
            }
        )

    def _relative(self, path: Path) -> str:
        """Return the path below the root, or the name of a file that lies elsewhere."""
        inside = path.relative_to(self.root) if path.is_relative_to(self.root) else Path(path.name)
        return unicodedata.normalize("NFC", inside.as_posix())


def is_simulated(root: Path) -> bool:
    """Return whether a folder lies in an archive that `alan simulate` made.

    Raises:
        DataError: The archive is not complete.
    """
    folders = (root, *root.absolute().parents)
    marker = next((folder / SIMULATION for folder in folders if (folder / SIMULATION).is_file()), None)
    if marker is None:
        return False
    content = read_json(marker)
    if not isinstance(content, dict) or not content.get("complete"):
        raise DataError(f"{marker.parent}: a simulated archive that is not complete; run `alan simulate` again")
    return True
