"""Frames to be segmented, one after the other: a folder of pictures of any size, or a frame store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from alan.data.io.pictures import PICTURES, read_picture
from alan.data.preprocessing import Preprocessing
from alan.data.readers.manifest import MANIFEST, read_manifest, still_spacing
from alan.data.readers.patients import picture_id
from alan.data.sample import ByteArray, IntArray, Record, Sample
from alan.data.store.reader import FrameStore
from alan.errors import DataError
from alan.files import digest, files_below, fingerprint

Spacing = tuple[float, float]


class Still(NamedTuple):
    """A frame as a network sees it, and what brings it back.

    Attributes:
        frame: (S, S) uint8.
        shape: (H, W) of the original.
        spacing: (row, column) size of a pixel of the original in mm, or None.
    """

    frame: ByteArray
    shape: tuple[int, int]
    spacing: Spacing | None


class Stills(Protocol):
    """What can be segmented frame by frame.

    Attributes:
        names: of the frames, each once; fit for a file's name.
        preprocessing: how the frames were brought to one size.
        fingerprint: of the frames, or empty where more may come later.
    """

    names: Sequence[str]
    preprocessing: Preprocessing
    fingerprint: str

    def read(self, index: int) -> Still:
        """The frame with this index, decoded and resized.

        Raises:
            DataError: it cannot be decoded.
        """

    def stamp(self, index: int) -> str:
        """Fingerprint of everything that :meth:`read` reads for this frame."""

    def picture(self, index: int) -> ByteArray:
        """The frame (H, W) uint8 to be shown: the original where that is at hand.

        Raises:
            DataError: it cannot be decoded.
        """


class PictureStills:
    """All pictures of a folder and of the folders in it; where there is a folder ``images``, those in that alone.

    Args:
        root: the folder.
        preprocessing: to what size pictures are brought.
        spacing: (row, column) size of a pixel in mm of all pictures. None takes it from the ``manifest.csv`` of
            ``alan frames``, scaled with stills that were resized, or leaves it unknown.
        leave_out: a folder in which nothing is looked for.

    Raises:
        DataError: no such folder, no picture in it, or two of the same name.
    """

    fingerprint = ""

    def __init__(
        self,
        root: Path,
        preprocessing: Preprocessing,
        spacing: Spacing | None = None,
        leave_out: Path | None = None,
    ) -> None:
        if not root.is_dir():
            what = "is a file" if root.exists() else "no such folder"
            raise DataError(f"{root}: {what}; give a folder of pictures or a frame store (.h5)")
        folder = root / "images" if (root / "images").is_dir() else root
        barred = None if leave_out is None else leave_out.resolve()
        self.preprocessing = preprocessing
        self._paths: list[Path] = []
        names: dict[str, Path] = {}
        for path in files_below(folder):
            if path.suffix.lower() not in PICTURES or (barred is not None and barred in path.resolve().parents):
                continue
            name = picture_id(path.relative_to(folder).as_posix())
            if name in names:
                raise DataError(f"{names[name]} and {path} would both be written as {name!r}: rename one")
            names[name] = path
            self._paths.append(path)
        if not names and barred is not None and (folder.resolve() == barred or barred in folder.resolve().parents):
            raise DataError(f"{leave_out}: holds the pictures themselves; give out another folder")
        if not names:
            raise DataError(
                f"{folder}: holds no picture ({', '.join(PICTURES)}); take some out of cine loops with "
                "`alan frames`"
            )
        self.names: Sequence[str] = tuple(names)
        self._facts = read_manifest(root / MANIFEST)
        self._spacing = spacing

    def read(self, index: int) -> Still:
        """See :meth:`Stills.read`."""
        frame = self.picture(index)
        name = self.names[index]
        sized = self.preprocessing.apply(Sample(Record(name, name), frame[None]))
        shape = (frame.shape[0], frame.shape[1])
        spacing = self._spacing or still_spacing(self._facts.get(name, {}), shape)
        return Still(sized.frames[0], shape, spacing)

    def stamp(self, index: int) -> str:
        """See :meth:`Stills.stamp`."""
        return fingerprint([digest(self._paths[index]), self._spacing, self._facts.get(self.names[index])])

    def picture(self, index: int) -> ByteArray:
        """See :meth:`Stills.picture`."""
        return read_picture(self._paths[index])


class StoreStills:
    """Frames of a store, named ``<sequence>_<number in the sequence, from 1>``.

    Args:
        store: the frame store.
        index: (n,) global indices of the frames.
        spacing: (row, column) size of a pixel of the originals in mm, for all; None: what the store says.
    """

    def __init__(self, store: FrameStore, index: IntArray, spacing: Spacing | None = None) -> None:
        self.preprocessing, self.fingerprint = store.preprocessing, store.fingerprint
        self._store, self._index, self._spacing = store, index, spacing
        starts = np.array([sequence.start for sequence in store.sequences])
        self._sequence = np.searchsorted(starts, index, side="right") - 1
        self.names: Sequence[str] = tuple(
            f"{store.sequences[s].id}_{frame - starts[s] + 1:04d}".replace("/", "_")
            for s, frame in zip(self._sequence, index, strict=True)
        )

    def read(self, index: int) -> Still:
        """See :meth:`Stills.read`."""
        sequence = self._store.sequences[self._sequence[index]]
        return Still(self.picture(index), sequence.original_shape, self._spacing or sequence.spacing)

    def stamp(self, index: int) -> str:
        """See :meth:`Stills.stamp`; the fingerprint of the store covers its frames."""
        return self.fingerprint

    def picture(self, index: int) -> ByteArray:
        """See :meth:`Stills.picture`."""
        picture: ByteArray = self._store.frames([self._index[index]])[0]
        return picture
