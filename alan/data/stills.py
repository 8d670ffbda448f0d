"""Sources of frames for segmentation: a folder of pictures of any size, or a frame store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np

from alan.arrays import ByteArray, IntArray
from alan.data.io.base import Spacing
from alan.data.io.pictures import PICTURES, read_picture
from alan.data.preprocessing import Preprocessing
from alan.data.readers.manifest import MANIFEST, read_manifest, still_spacing
from alan.data.readers.patients import picture_id
from alan.data.sample import Record, Sample
from alan.data.store.reader import FrameStore
from alan.errors import DataError, ParameterError
from alan.files import HDF5, digest_if_readable, files_below, fingerprint, short_name, unreachable_below


class Still(NamedTuple):
    """A resized frame, with the facts that are needed to resize its segmentation back.

    Attributes:
        frame: (S, S) uint8, the input of the network.
        shape: (H, W) of the original.
        spacing: (row, column) size of a pixel of the original in mm, or None.
    """

    frame: ByteArray
    shape: tuple[int, int]
    spacing: Spacing | None


class Stills(Protocol):
    """A source of frames for segmentation.

    Attributes:
        names: Unique names of the frames, which are valid file names.
        preprocessing: The resizing of the frames.
        fingerprint: Fingerprint of all frames, or empty if frames may be added later.
        failures: Name and reason of what is not among the frames because it cannot be reached.
    """

    names: Sequence[str]
    failures: Sequence[tuple[str, str]]
    preprocessing: Preprocessing
    fingerprint: str

    def read(self, index: int) -> Still:
        """Decode and resize a frame.

        Args:
            index: Position of the frame in ``names``.

        Raises:
            DataError: The frame cannot be decoded.
        """

    def stamp(self, index: int) -> str:
        """Return the fingerprint of everything that :meth:`read` reads for a frame."""

    def picture(self, index: int) -> ByteArray:
        """Decode the frame (H, W) uint8 for display: the original if it is available, else the resized frame.

        Raises:
            DataError: The frame cannot be decoded.
        """


class PictureStills:
    """Pictures in a folder and its subfolders; if it has a subfolder ``images``, only the pictures in there.

    Args:
        root: The folder.
        preprocessing: The resizing of the pictures.
        spacing: (row, column) size of a pixel in mm of all pictures. None takes it from the ``manifest.csv`` of
            ``alan frames``, scaled with stills that were resized, or leaves it unknown.
        leave_out: A folder whose pictures are ignored, such as the output folder.

    Raises:
        DataError: The folder is missing, holds no picture, or two pictures have the same name.
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
            raise DataError(
                f"{root}: {what}; give a folder of pictures or a frame store (.h5), or measure loops with "
                "`alan analyze`"
            )
        folder = root / "images" if (root / "images").is_dir() else root
        barred = None if leave_out is None else leave_out.resolve()
        self.preprocessing = preprocessing
        self._paths: list[Path] = []
        self._ids: list[str] = []
        names: dict[str, Path] = {}
        for path in files_below(folder):
            if path.suffix.lower() not in PICTURES or (barred is not None and barred in path.resolve().parents):
                continue
            identity = picture_id(path.relative_to(folder).as_posix())
            name = short_name(identity, 220)  # stills of `alan frames` have up to 209 bytes
            if name in names:
                raise DataError(f"{names[name]} and {path} would both be written as {name!r}: rename one")
            names[name] = path
            self._paths.append(path)
            self._ids.append(identity)
        if not names and barred is not None and (folder.resolve() == barred or barred in folder.resolve().parents):
            raise DataError(f"{leave_out}: is the folder of the pictures; give another folder for the output")
        if not names:
            raise DataError(
                f"{folder}: holds no picture ({', '.join(PICTURES)}); extract some from cine loops with "
                "`alan frames`"
            )
        self.names: Sequence[str] = tuple(names)
        self.failures: Sequence[tuple[str, str]] = [
            (path.relative_to(folder).as_posix(), reason)
            for path, reason in unreachable_below(folder)
            if path.is_dir() or path.suffix.lower() in PICTURES
        ]
        self._facts = read_manifest(root / MANIFEST)
        self._spacing = spacing

    def read(self, index: int) -> Still:
        """See :meth:`Stills.read`."""
        frame = self.picture(index)
        name = self._ids[index]
        sized = self.preprocessing.apply(Sample(Record(name, name), frame[None]))
        shape = (frame.shape[0], frame.shape[1])
        spacing = self._spacing or still_spacing(self._facts.get(name, {}), shape)
        return Still(sized.frames[0], shape, spacing)

    def stamp(self, index: int) -> str:
        """See :meth:`Stills.stamp`."""
        return fingerprint(
            [digest_if_readable(self._paths[index]), self._spacing, self._facts.get(self._ids[index])]
        )

    def picture(self, index: int) -> ByteArray:
        """See :meth:`Stills.picture`."""
        return read_picture(self._paths[index])


class StoreStills:
    """Frames of a store, named ``<sequence>_<number in the sequence, from 1>``.

    Args:
        store: The frame store.
        index: (n,) global indices of the frames.
        spacing: (row, column) size of a pixel of all originals in mm. None takes the sizes from the store.

    Raises:
        ParameterError: ``spacing`` is given for a store of one pixel size.
    """

    failures: Sequence[tuple[str, str]] = ()

    def __init__(self, store: FrameStore, index: IntArray, spacing: Spacing | None) -> None:
        self.preprocessing, self.fingerprint = store.preprocessing, store.fingerprint
        if spacing is not None and self.preprocessing.pixel_mm is not None:
            raise ParameterError(
                f"spacing is {spacing}: leave it out, {store.path} was resampled by its pixel sizes"
            )
        self._store, self._index, self._spacing = store, index, spacing
        starts = np.array([sequence.start for sequence in store.sequences])
        self._sequence = np.searchsorted(starts, index, side="right") - 1
        self.names: Sequence[str] = tuple(
            f"{short_name(store.sequences[s].id.replace('/', '_'))}_{frame - starts[s] + 1:04d}"
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


def open_stills(
    path: str | os.PathLike[str],
    size: int,
    *,
    keep_aspect: bool,
    spacing: Spacing | None,
    split: str | None,
    views: Sequence[str] | None,
    frames: Literal["all", "annotated"] | int,
    leave_out: Path | None,
) -> Stills:
    """Open a folder of pictures, or choose frames of a frame store.

    Args:
        path: The folder, or the store (.h5).
        size: Side in pixels to which pictures are resized; the frames of a store have their size.
        keep_aspect: Pad the short side of pictures instead of stretching it.
        spacing: (row, column) size of a pixel of the originals in mm; None takes it from the manifest or store.
        split: Split of the store; None takes all.
        views: Views of the store; None takes all.
        frames: Frames of the store: all, annotated, or N frames per sequence.
        leave_out: Folder below that of the pictures that is not searched; None searches all.

    Raises:
        ParameterError: An option of pictures is given for a store, or one of stores for pictures.
        DataError: There are no frames, or the store cannot be read.
    """
    if Path(path).suffix.lower() in HDF5:
        if keep_aspect:
            raise ParameterError(
                "keep_aspect is true: the frames of a store have their size already; leave it out"
            )
        store = FrameStore(path)
        return StoreStills(store, store.choose_frames(split, views, frames), spacing)
    for name, value in {"split": split, "views": views, "frames": None if frames == "all" else frames}.items():
        if value is not None:
            raise ParameterError(f"{name} is {value!r}: it chooses frames of a store; leave it out for pictures")
    return PictureStills(Path(path), Preprocessing(size, keep_aspect), spacing, leave_out=leave_out)
