"""Pictures with masks of any classes: the common base of FrameFolder, COCO and segments.ai."""

from __future__ import annotations

import os
import unicodedata
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Generic, TypeVar

import numpy as np

from alan.arrays import BoolArray
from alan.data.io.pictures import read_picture
from alan.data.readers.base import EchoDataset
from alan.data.readers.manifest import MANIFEST, read_manifest, still_spacing
from alan.data.readers.patients import TABLE, identify, picture_id
from alan.data.sample import Sample
from alan.data.structures import label_names
from alan.errors import DataError

Mask = TypeVar("Mask")


@dataclass(frozen=True)
class PictureFile(Generic[Mask]):
    """A picture of a dataset.

    Attributes:
        id: Its id, see :func:`alan.data.readers.patients.picture_id`.
        path: Its file.
        mask: What its masks are made from; None if it is not annotated.
        mask_file: The file of its mask, if it has one of its own.
    """

    id: str
    path: Path
    mask: Mask | None
    mask_file: Path | None = None


class PictureDataset(EchoDataset, Generic[Mask]):
    """Pictures, each of which is a sample of one frame.

    A subclass lists its pictures, calls :meth:`_set_pictures` once and implements :meth:`_masks`.
    """

    _pictures: Sequence[PictureFile[Mask]] = ()

    def _set_pictures(
        self,
        pictures: Sequence[PictureFile[Mask]],
        options: Mapping[str, Any],
        *,
        unlabelled: bool,
        remedy: str,
        patient: str | None,
        split: str | os.PathLike[str] | Mapping[str, Any] | None,
        seed: int,
    ) -> None:
        """Set the records of the dataset, and check them.

        Args:
            pictures: The pictures, in a fixed order.
            options: Options that decide the masks, besides their files; JSON-able.
            unlabelled: Whether pictures may be without a mask.
            remedy: How to annotate the picture ``{}``, for the error message.
            patient: As :func:`alan.data.readers.patients.identify` takes it.
            split: As above.
            seed: As above.

        Raises:
            DataError: A picture without a mask, or two pictures of one name or one file.
        """
        for of in ("id", "path"):
            seen: dict[Any, PictureFile[Mask]] = {}
            for picture in pictures:
                first = seen.setdefault(getattr(picture, of), picture)
                if first is not picture:
                    raise DataError(
                        f"{first.path} and {picture.path} are listed as {first.id!r} and {picture.id!r}: give "
                        "each picture a name of its own, and list it once"
                    )
        missing = [picture for picture in pictures if picture.mask is None]
        if missing and not unlabelled:
            first = missing[0]
            error = DataError(
                f"{self.root}: {len(missing)} of {len(pictures)} images have no mask, the first is {first.id!r}: "
                f"{remedy.replace('{}', first.id)}, or set unlabelled to true"
            )
            for picture in missing:
                error.add_note(f"{self._relative(picture.path)}\t{remedy.replace('{}', picture.id)}")
            raise error
        self._pictures = tuple(pictures)
        facts = read_manifest(self.root / MANIFEST)
        ids = [picture.id for picture in pictures]
        records = identify(self.root, ids, patient=patient, split=split, seed=seed, attributes=facts)
        files = [[file for file in (picture.path, picture.mask_file) if file is not None] for picture in pictures]
        tables = [path for path in (self.root / MANIFEST, self.root / TABLE) if path.is_file()]
        self._set_records(records, files, {"structures": self.structures, **options}, tables)

    @abstractmethod
    def _masks(self, picture: PictureFile[Mask], mask: Mask, shape: tuple[int, int]) -> Mapping[str, BoolArray]:
        """Read the masks (H, W) by name, disjoint; ``shape`` is that of the picture."""

    def _load(self, index: int) -> Sample:
        picture, record = self._pictures[index], self.records[index]
        frame = read_picture(picture.path)
        shape = (frame.shape[0], frame.shape[1])
        masks = {} if picture.mask is None else self._masks(picture, picture.mask, shape)
        spacing = still_spacing(record.attributes, shape)
        if spacing is None and "row_mm" in record.attributes:
            reason = (
                f"is {shape[0]} x {shape[1]} pixels, another aspect than {MANIFEST} states; its pixel size is lost"
            )
            self._note("pixel sizes lost with cropped or stretched stills", self._relative(picture.path), reason)
        return Sample(
            record,
            frame[None],
            spacing,
            {name: mask[None] for name, mask in masks.items()},
            np.zeros(0 if picture.mask is None else 1, np.int64),
            label_names=label_names(self.structures),
        )

    def _find(self, folders: Sequence[str], names: Sequence[str], listed_in: Path) -> Path | None:
        """Look for a file that a list names.

        Args:
            folders: Folders to look in, relative to the root; ``""`` for the root itself.
            names: Names that the file may have, relative to these folders.
            listed_in: The list, for the message.

        Returns:
            The first file that exists, or None. It always lies below the root: a name that leads elsewhere,
            such as a path of the computer where the list was made, is looked for by its last part.

        Raises:
            DataError: A name leads out of the dataset and its last part does not exist.
        """
        for name in names:
            plain = name.replace("\\", "/")
            path = PurePosixPath(plain)
            outside = path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts or "://" in plain
            inside = path.name.rpartition("=")[2] if outside else plain
            for folder in folders:
                for form in ("NFC", "NFD"):
                    found = self.root / folder / unicodedata.normalize(form, inside)
                    if inside and found.is_file():
                        return found
            if outside:
                raise DataError(
                    f"{listed_in}: {name!r} lies outside the dataset, and there is no {path.name!r} in it: put "
                    "the file there, or give its name relative to the dataset"
                )
        return None

    def _id(self, path: Path) -> str:
        """Return the id of a picture by its place below ``images`` or the root."""
        base = self.root / "images" if path.is_relative_to(self.root / "images") else self.root
        return picture_id(path.relative_to(base).as_posix())


def only_json(root: Path, folder: str) -> Path:
    """Find the only JSON file in a dataset's folder, or in ``folder`` in it.

    Raises:
        DataError: There is none, or more than one to choose from.
    """
    found = sorted([*root.glob("*.json"), *root.glob(f"{folder}/*.json")])
    if len(found) != 1:
        names = ", ".join(path.relative_to(root).as_posix() for path in found[:6]) or "none"
        raise DataError(f"{root}: one JSON file is needed, found {names}; give its path as {folder!r}")
    return found[0]


def entries(content: Any, key: str, path: Path) -> list[dict[str, Any]]:
    """Get a list of mappings under a key of a JSON file.

    Raises:
        DataError: It is missing, or something else.
    """
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise DataError(f"{path}: has no list {key!r}; give a file of the kind that this reader reads")
    return value
