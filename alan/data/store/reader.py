"""Reader of frame stores: one HDF5 file with everything that training and evaluation need from an archive."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import ArrayLike

from alan.arrays import BoolArray, ByteArray, IntArray
from alan.data.preprocessing import Preprocessing
from alan.data.sample import SPLITS, VIEWS
from alan.data.structures import label_names, label_value, parts
from alan.errors import DataError, ParameterError, damaged, nearest
from alan.files import check_schema

if TYPE_CHECKING:
    import pandas as pd

#: Name and version of the file format; a reader refuses any other.
SCHEMA = "alan-frames/2"
#: Largest number of pixels of a mask at the resolution of the archive.
_MOST = 2**28


@dataclass(frozen=True)
class StoredSequence:
    """One sequence of a frame store: its identity and the place of its frames.

    Attributes:
        index: Position among the sequences of the store.
        id: Id of the sequence, unique in the archive.
        patient: Id of the patient.
        study: Id of the study, or ``""``.
        view: One of :data:`alan.data.sample.VIEWS`, or ``""``.
        split: One of :data:`alan.data.sample.SPLITS`, or ``""``.
        start: Global index of the first frame.
        length: Number of frames.
        ed: Global index of the end-diastolic frame, or None.
        es: Global index of the end-systolic frame, or None.
        spacing: (row, column) size of a pixel in mm at the original resolution, or None.
        original_shape: (H, W) of the frames before preprocessing.
        attributes: Numbers and words of the archive, such as ``EF``.
    """

    index: int
    id: str
    patient: str
    study: str
    view: str
    split: str
    start: int
    length: int
    ed: int | None
    es: int | None
    spacing: tuple[float, float] | None
    original_shape: tuple[int, int]
    attributes: Mapping[str, float | int | str]


#: Columns of the group ``sequences``: every field of a sequence except its index.
COLUMNS = tuple(field.name for field in fields(StoredSequence) if field.name != "index")


class FrameStore:
    """Reader of a frame store.

    The table of sequences is read at once. The frames stay on disk: the file is mapped into memory on the first
    read, at the offsets that HDF5 reports, so that reading is copying. No HDF5 handle is kept open, so
    a store can be forked or pickled into the workers of a loader.

    Args:
        path: A file written by :func:`alan.data.prepare`.

    Attributes:
        path: The file.
        name: Name of the data set, such as ``CAMUS``; ``simulated CAMUS`` for a simulated archive.
        simulated: Whether the archive was simulated; its patients do not exist.
        fingerprint: SHA-256 of archive, preprocessing, chosen frames and the list of sequences.
        source: Origin of the store: data set and its fingerprint, preprocessing, frames.
        preprocessing: How the frames were resized; its ``restore`` inverts the resizing of masks.
        structures: Names of the annotated structures.
        skipped: Kind of failure to the number of samples or files that were skipped for it.
        leaks: How the split leaks, in words; ``""`` if it does not.
        size: Side S of the square frames, in pixels.
        sequences: All sequences, in the order of their frames.
        label_frames: (M,) int64, the global frame index of each label map, ascending.

    Raises:
        DataError: The file is missing, truncated, not a frame store, or of another schema.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._maps: dict[str, tuple[ByteArray, IntArray]] = {}
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such frame store; write it with `alan prepare`")
        with self._file() as file:
            self._read_tables(file)

    def _read_tables(self, file: Any) -> None:
        stated = {name: x.decode() if isinstance(x, bytes) else x for name, x in file.attrs.items()}
        attributes = check_schema(
            stated, SCHEMA, f"{self.path}: ", "write it again with `alan prepare`", DataError
        )
        self.name, self.simulated = str(attributes["name"]), bool(attributes["simulated"])
        self.fingerprint = str(attributes["fingerprint"])
        self.source: dict[str, Any] = json.loads(attributes["source"])
        self.preprocessing = Preprocessing(**json.loads(attributes["preprocessing"]))
        self.structures: tuple[str, ...] = tuple(json.loads(attributes["structures"]))
        self.skipped: dict[str, int] = json.loads(attributes["skipped"])
        self.leaks = str(attributes["leaks"])
        table = {name: file[f"sequences/{name}"] for name in COLUMNS}
        self._n_frames, self.size = self._check_sizes(file, table)
        self.label_frames: IntArray = file["labels/frame"][:]
        columns = {
            name: list(data.asstr("utf-8")[:]) if h5py.check_string_dtype(data.dtype) else data[:].tolist()
            for name, data in table.items()
        }
        self.sequences = tuple(
            _sequence(index, dict(zip(COLUMNS, row, strict=True)))
            for index, row in enumerate(zip(*(columns[name] for name in COLUMNS), strict=True))
        )
        ends = np.cumsum([sequence.length for sequence in self.sequences]).tolist()
        starts = [sequence.start for sequence in self.sequences]
        marks = [frame for s in self.sequences for frame in (s.ed, s.es) if frame is not None]
        marks += self.label_frames.tolist()
        outside = min(marks, default=0) < 0 or max(marks, default=0) >= self._n_frames
        if starts != [0, *ends[:-1]] or ends[-1:] != [self._n_frames] or outside:
            raise ValueError("sequences and frames do not agree")

    def _check_sizes(self, file: Any, table: Mapping[str, Any]) -> tuple[int, int]:
        """Return the number of frames and their side, after all sizes were compared with that of the file."""
        frames, maps, bound = file["frames"], file["labels/maps"], self.path.stat().st_size
        count, size, width = (int(n) for n in frames.shape)
        tables = [*table.values(), file["labels/frame"]]
        pictures = [data.dtype == np.uint8 and data.chunks == (1, size, size) for data in (frames, maps)]
        claimed = [count * size * width, len(maps) * size * width, *(len(data) for data in tables)]
        if width != size or not all(pictures) or len(maps) != len(file["labels/frame"]) or max(claimed) > bound:
            raise ValueError("its arrays do not agree")
        return count, size

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
        return self._read("frames", indices, len(self))

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
        masks: BoolArray = self._read("labels/maps", labels, len(self.label_frames)) == value
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
        stored = self._read("labels/maps", labels, len(self.label_frames))
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
        value = self._value(structure)
        with self._file() as file:
            original = file.get(f"originals/{label}")
            if original is not None and original.size > _MOST:
                raise ValueError(f"original mask of {original.shape} pixels")
            mask: BoolArray | None = None if original is None else original[:] == value
        if mask is None:
            mask = self.masks([label], structure)[0]
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
        memory, places = self._map(name)
        length = self.size * self.size
        out = np.empty((len(index), self.size, self.size), np.uint8)
        flat = out.reshape(len(index), length)
        for row, place in enumerate(places[index].tolist()):
            flat[row] = memory[place : place + length]
        return out

    def _map(self, name: str) -> tuple[ByteArray, IntArray]:
        """Map the file as an array of bytes, with the place of each image: one uncompressed chunk per image."""
        if name not in self._maps:
            with self._file() as file:
                data = file[name]
                places = np.zeros(len(data), np.int64)
                data.id.chunk_iter(lambda chunk: places.__setitem__(chunk.chunk_offset[0], chunk.byte_offset))
            if not places.all() or places.max(initial=0) > self.path.stat().st_size - self.size**2:
                raise DataError(f"{self.path}: {name} has gaps; write it again with `alan prepare`")
            self._maps[name] = np.memmap(self.path, np.uint8, "r").view(np.ndarray), places
        return self._maps[name]

    @contextlib.contextmanager
    def _file(self) -> Iterator[Any]:
        with (
            damaged(DataError, f"{self.path}: not a whole frame store", "write it again with `alan prepare`"),
            _opened(self.path) as file,
        ):
            yield file


def _opened(path: Path) -> Any:
    try:
        return h5py.File(path, "r")
    except BlockingIOError as error:
        raise DataError(f"{path}: another program has it open for writing; wait, or close it there") from error


def _sequence(index: int, row: dict[str, Any]) -> StoredSequence:
    row["ed"] = row["ed"] if row["ed"] >= 0 else None
    row["es"] = row["es"] if row["es"] >= 0 else None
    row["spacing"] = None if np.isnan(row["spacing"]).any() else tuple(row["spacing"])
    row["original_shape"] = tuple(row["original_shape"])
    row["attributes"] = json.loads(row["attributes"])
    return StoredSequence(index=index, **row)


def _counts(sequences: Iterable[StoredSequence], column: str) -> str:
    counts = Counter(getattr(sequence, column) or f"without {column}" for sequence in sequences)
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))
