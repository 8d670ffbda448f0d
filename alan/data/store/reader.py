"""Reader of frame stores: one HDF5 file with everything that training and evaluation need from an archive."""

from __future__ import annotations

import contextlib
import json
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np
from numpy.typing import ArrayLike

from alan.arrays import BoolArray, ByteArray, IntArray, evenly_spread
from alan.bounds import PositiveInt, bounded
from alan.data.preprocessing import Preprocessing
from alan.data.sample import SPLITS, VIEWS
from alan.data.store.layout import (
    FRAMES,
    MAPS,
    ORIGINALS,
    REMEDY,
    SCHEMA,
    TABLES_CHECK,
    StoredSequence,
    find_places,
    parse_sequences,
    read_tables,
    tables_checksum,
)
from alan.data.structures import label_names, label_value, parts
from alan.errors import DataError, ParameterError, damaged, nearest
from alan.files import check_schema
from alan.rows import CheckedRows, check_name, check_rows

if TYPE_CHECKING:
    import pandas as pd

#: Largest number of pixels of a mask at the resolution of the archive.
_MOST = 2**28


class FrameStore:
    """Reader of a frame store.

    The table of sequences is read at once. The frames stay on disk: the file is mapped into memory on the first
    read, at the offsets that HDF5 reports, so that reading is copying. No HDF5 handle is kept open, so
    a store can be forked or pickled into the workers of a loader. The tables, and each frame and mask when it is
    first read, are compared with their checksums.

    Args:
        path: A file written by :func:`alan.data.prepare`.

    Attributes:
        path: The file.
        name: Name of the dataset, such as ``CAMUS``; ``simulated CAMUS`` for a simulated archive.
        simulated: Whether the archive was simulated; its patients do not exist.
        fingerprint: SHA-256 of archive, preprocessing, chosen frames and the list of sequences.
        source: Origin of the store: dataset and its fingerprint, preprocessing, frames.
        preprocessing: How the frames were resized; its ``restore`` inverts the resizing of masks.
        structures: Names of the annotated structures.
        skipped: Mapping from the kind of failure to the number of samples or files that were skipped for it.
        leaks: How the split leaks, in words; ``""`` if it does not.
        size: Side S of the square frames, in pixels.
        sequences: All sequences, in the order of their frames.
        label_frames: (M,) int64, the global frame index of each label map, ascending.

    Raises:
        DataError: The file is missing, truncated, not a frame store, or of another schema.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._rows: dict[str, CheckedRows] = {}
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such frame store; write it with `alan prepare`")
        with self._file() as file:
            self._read_tables(file)

    def _read_tables(self, file: Any) -> None:
        stated = {name: x.decode() if isinstance(x, bytes) else x for name, x in file.attrs.items()}
        attributes = check_schema(stated, SCHEMA, f"{self.path}: ", REMEDY, DataError)
        self._places = find_places(file, self.path.stat().st_size)
        tables = read_tables(file)
        if tables_checksum(file.attrs, tables) != attributes[TABLES_CHECK]:
            raise ValueError("the checksum of its tables is wrong")
        self._n_frames, self.size, _ = self._places[FRAMES][1]
        self.name, self.simulated = str(attributes["name"]), bool(attributes["simulated"])
        self.fingerprint = str(attributes["fingerprint"])
        self.source: dict[str, Any] = json.loads(attributes["source"])
        self.preprocessing = Preprocessing(**json.loads(attributes["preprocessing"]))
        self.structures: tuple[str, ...] = tuple(json.loads(attributes["structures"]))
        self.skipped: dict[str, int] = json.loads(attributes["skipped"])
        self.leaks = str(attributes["leaks"])
        self.label_frames: IntArray = tables["labels/frame"]
        self.sequences = parse_sequences(tables)
        ends = np.cumsum([sequence.length for sequence in self.sequences]).tolist()
        starts = [sequence.start for sequence in self.sequences]
        marks = [frame for s in self.sequences for frame in (s.ed, s.es) if frame is not None]
        marks += self.label_frames.tolist()
        outside = min(marks, default=0) < 0 or max(marks, default=0) >= self._n_frames
        if starts != [0, *ends[:-1]] or ends[-1:] != [self._n_frames] or outside:
            raise ValueError("sequences and frames do not agree")

    def __len__(self) -> int:
        """Number of frames."""
        return self._n_frames

    def __repr__(self) -> str:
        return (
            f"FrameStore({str(self.path)!r}: {len(self.sequences)} sequences, {len(self)} frames, {self.size} px)"
        )

    def __reduce__(self) -> tuple[type[FrameStore], tuple[Path]]:
        return FrameStore, (self.path,)

    def select(self, split: str | None = None, views: Sequence[str] | None = None) -> tuple[StoredSequence, ...]:
        """Select the sequences of a split and of some views.

        Args:
            split: ``train``, ``val``, ``test``, ``""`` for sequences without a split, or None for all.
            views: Names from :data:`alan.data.sample.VIEWS`, or None for all.

        Returns:
            The sequences, at least one.

        Raises:
            ParameterError: The name of the split or of a view is unknown.
            DataError: No sequence is left; the message states what the store contains.
        """
        if split is not None and split not in ("", *SPLITS):
            raise ParameterError(f"unknown split {split!r}: {nearest(split, SPLITS)}")
        for view in views or ():
            if view not in VIEWS:
                raise ParameterError(f"unknown view {view!r}: {nearest(view, VIEWS)}")
        chosen = tuple(s for s in self.sequences if split is None or s.split == split)
        if not chosen:
            held = _counts(self.sequences, "split")
            raise DataError(
                f"{self.path}: split {split!r} is empty; it holds {held}; null takes the frames of every split"
            )
        wanted = tuple(s for s in chosen if views is None or s.view in views)
        if not wanted:
            raise DataError(
                f"{self.path}: no view {', '.join(views or ())}{'' if split is None else f' in split {split!r}'}; "
                f"it holds {_counts(chosen, 'view')}"
            )
        return wanted

    @bounded
    def choose_frames(
        self,
        split: str | None = None,
        views: Sequence[str] | None = None,
        frames: Literal["all", "annotated"] | PositiveInt = "all",
    ) -> IntArray:
        """Choose frames of the sequences of a split and of views.

        Args:
            split: As in :meth:`select`.
            views: As in :meth:`select`.
            frames: ``all``; ``annotated`` for the frames with masks and those at ED and ES; or n for n frames of
                each sequence, evenly spread from its first to its last (all of a shorter sequence; the middle one
                for 1).

        Returns:
            (n,) int64 global frame indices, ascending, each once.

        Raises:
            DataError: No frame is left.
        """
        chosen = self.select(split, views)
        if frames == "annotated":
            marked = {frame for s in chosen for frame in (s.ed, s.es) if frame is not None}
            every = np.union1d(self.label_frames, np.array(sorted(marked), np.int64))
            index = np.concatenate([every[(every >= s.start) & (every < s.start + s.length)] for s in chosen])
            if not len(index):
                raise DataError(
                    f"{self.path}: no annotated frame in split {split!r}: cache 'all' or a number instead"
                )
            return index
        if frames == "all":
            return np.concatenate([np.arange(s.start, s.start + s.length) for s in chosen])
        return np.concatenate([s.start + evenly_spread(s.length, frames) for s in chosen])

    def frames(self, indices: ArrayLike) -> ByteArray:
        """Read frames.

        Args:
            indices: (n,) global frame indices, in any order, with repeats.

        Returns:
            (n, S, S) uint8.

        Raises:
            ParameterError: An index is not an integer, or outside the store.
            DataError: The file is damaged.
        """
        return self._read(FRAMES, indices, len(self))

    def labelled(
        self,
        split: str | None = None,
        views: Sequence[str] | None = None,
        phases: Sequence[str] | None = ("ED", "ES"),
    ) -> pd.DataFrame:
        """List the annotated frames, one row per frame, in the order of the file.

        Args:
            split: As in :meth:`select`.
            views: As in :meth:`select`.
            phases: Phases to keep, or None for every annotated frame.

        Returns:
            Columns ``frame`` (global index), ``label`` (index of the label map), ``sequence``, ``id``,
            ``patient``, ``study``, ``view``, ``split`` and ``phase`` (``ED``, ``ES``, or ``""`` for any other
            frame).

        Raises:
            ParameterError: The name of the split, of a view or of a phase is unknown.
            DataError: No annotated frame is left.
        """
        import pandas as pd  # takes a third of a second, so verbs that read pictures do not import it

        for phase in phases or ():
            if phase not in ("", "ED", "ES"):
                raise ParameterError(f"unknown phase {phase!r}: {nearest(phase, ('ED', 'ES'))}")
        rows = []
        for s in self.select(split, views):
            first, last = np.searchsorted(self.label_frames, (s.start, s.start + s.length))
            for label in range(first, last):
                frame = int(self.label_frames[label])
                phase = "ED" if frame == s.ed else "ES" if frame == s.es else ""
                rows.append((frame, label, s.index, s.id, s.patient, s.study, s.view, s.split, phase))
        columns = ["frame", "label", "sequence", "id", "patient", "study", "view", "split", "phase"]
        table = pd.DataFrame(rows, columns=columns)
        if phases is not None:
            table = table[table["phase"].isin(list(phases))].reset_index(drop=True)
        if table.empty:
            wanted = "of any phase" if phases is None else f"of phase {' or '.join(phases)}"
            raise DataError(
                f"{self.path}: no annotated frame {wanted} in split {split!r}; "
                f"the store holds {len(self.label_frames)} annotated frames in all"
            )
        return table

    def masks(self, labels: ArrayLike, structure: str) -> BoolArray:
        """Read masks of a structure at the stored size.

        Args:
            labels: (n,) indices of label maps (column ``label`` of :meth:`labelled`).
            structure: One of :attr:`structures`.

        Returns:
            (n, S, S) bool.

        Raises:
            ParameterError: An index is outside the store.
            DataError: The archive does not annotate this structure.
        """
        value = self._value(structure)
        masks: BoolArray = self._read(MAPS, labels, len(self.label_frames)) == value
        return masks

    def check_structures(self, structures: Sequence[str]) -> None:
        """Refuse structures that the store does not annotate.

        Args:
            structures: Names or unions of names, such as ``lv+myo``.

        Raises:
            DataError: The archive does not annotate one of them; the message states what the store contains.
        """
        for structure in structures:
            for name in parts(structure):
                self._value(name)

    def label_maps(self, labels: ArrayLike, structures: Sequence[str]) -> ByteArray:
        """Read label maps with the structures in a given order.

        Args:
            labels: (n,) indices of label maps.
            structures: Names or unions of names, such as ``lv+myo``.

        Returns:
            (n, S, S) uint8: 0 is background, 1 is ``structures[0]`` and so on.

        Raises:
            ParameterError: An index is outside the store.
            DataError: The archive does not annotate one of the structures.
        """
        stored = self._read(MAPS, labels, len(self.label_frames))
        maps = np.zeros_like(stored)
        for value, structure in enumerate(structures, 1):
            maps[np.isin(stored, [self._value(name) for name in parts(structure)])] = value
        return maps

    def original_mask(self, label: int, structure: str) -> BoolArray:
        """Read the mask of a structure at the resolution of the archive.

        Args:
            label: Index of a label map.
            structure: One of :attr:`structures`.

        Returns:
            (H, W) bool.

        Raises:
            ParameterError: The index is outside the store.
            DataError: The archive does not annotate this structure.
        """
        stored: BoolArray = self.masks([label], structure)[0]
        sequence = self.sequences[
            bisect_right(self.sequences, self.label_frames[label], key=lambda one: one.start) - 1
        ]
        if sequence.original_shape == stored.shape:
            return stored
        with self._file() as file:
            data, crc = file[f"{ORIGINALS}/{label}"], file[check_name(ORIGINALS)]
            if data.shape != sequence.original_shape or data.size > _MOST:
                raise ValueError(f"original mask {label} of {data.shape} pixels")
            original, right = data[:], crc[[label]]
        check_rows(
            f"{self.path}: original mask", np.array([label]), original[None], right, kind=DataError, remedy=REMEDY
        )
        mask: BoolArray = original == self._value(structure)
        return mask

    def _value(self, structure: str) -> int:
        if structure not in self.structures:
            held = f"it holds {', '.join(self.structures)}" if self.structures else "it holds no masks"
            raise DataError(f"{self.path}: no masks of {structure!r}; {held}")
        return label_value(structure, label_names(self.structures))

    def _read(self, name: str, indices: ArrayLike, bound: int) -> ByteArray:
        index = np.asarray(indices)
        if index.size == 0:
            return np.zeros((0, self.size, self.size), np.uint8)
        if index.ndim != 1 or index.dtype.kind not in "iu":
            raise ParameterError(f"indices must be integers (n,), got {index.dtype} {index.shape}")
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= bound:
            wrong = low if low < 0 else high
            raise ParameterError(f"index {wrong} is outside 0..{bound - 1}, the range of {name} in {self.path}")
        if name not in self._rows:
            what = {FRAMES: "frame", MAPS: "label map"}[name]
            places = self._places[name], self._places[check_name(name)]
            self._rows[name] = CheckedRows(
                self.path, what, np.arange(bound), *places, kind=DataError, remedy=REMEDY
            )
        return self._rows[name].read(index)

    @contextlib.contextmanager
    def _file(self) -> Iterator[Any]:
        with (
            damaged(DataError, f"{self.path}: not a whole frame store", REMEDY),
            _opened(self.path) as file,
        ):
            yield file


def _opened(path: Path) -> Any:
    try:
        return h5py.File(path, "r")
    except BlockingIOError as error:
        raise DataError(f"{path}: another program has it open for writing; wait, or close it there") from error


def _counts(sequences: Iterable[StoredSequence], column: str) -> str:
    counts = Counter(getattr(sequence, column) or f"without {column}" for sequence in sequences)
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))
