"""A folder of one's own: pictures, masks of the same name, and a list of one's own classes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from alan.data.io.pictures import MASKS, PICTURES, read_mask, read_picture
from alan.data.readers.base import EchoDataset
from alan.data.readers.classes import ClassList, read_classes
from alan.data.readers.patients import identify, read_rows
from alan.data.sample import BoolArray, ByteArray, Record, Sample
from alan.data.structures import label_names
from alan.errors import DataError

_LISTS = ("classes.yaml", "classes.yml", "classes.json", "classes.csv")
#: The table that ``alan frames`` writes beside ``images``.
MANIFEST = "manifest.csv"
_NUMBERS = ("frame", "time_s", "row_mm", "column_mm")


class FrameFolder(EchoDataset):
    """Pictures in ``images``, masks in ``masks`` and a class list.

    A mask has the name of its picture (``images/p1_03.jpg``, ``masks/p1_03.png``) and is a grey or palette picture
    of class ids, or an RGB picture of the list's colours. Each picture is a sample. Where the ``manifest.csv`` of
    ``alan frames`` is there, it gives pixel sizes, and source, frame and time as attributes.

    Args:
        root: the folder.
        classes: the class list (:func:`alan.data.readers.classes.read_classes`), absolute or relative to ``root``.
            Default: the file ``classes.yaml``, ``.yml``, ``.json`` or ``.csv`` in ``root``.
        unlabelled: pictures may be without a mask; otherwise they are an error.
        patient: rule that reads the patient out of a name; without it and without ``patients.csv`` that is what
            stands before the first ``_`` (:func:`alan.data.readers.patients.identify`).
        split: side to patients or to a fraction of them, or a YAML or JSON file of that. Default: the ``split`` of
            ``patients.csv`` or of the rule, if any.
        seed: of the draw where ``split`` gives fractions.

    Raises:
        ParameterError: a malformed rule or split.
        DataError: no picture, no class list, or a picture without a mask.
        SplitLeakError: a patient on two sides.
    """

    name: ClassVar[str] = "FrameFolder"

    def __init__(
        self,
        root: str | os.PathLike[str],
        classes: str | os.PathLike[str] | None = None,
        *,
        unlabelled: bool = False,
        patient: str | None = None,
        split: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(root, "images/, masks/ and classes.yaml")
        images = _files(self.root / "images", PICTURES)
        if not images:
            remedy = "take some out of cine loops with `alan frames`"
            if _files(self.root, PICTURES):
                remedy = "the pictures of the folder itself belong into a folder images in it"
            raise DataError(f"{self.root}: no picture in images/ (of {', '.join(PICTURES)}); {remedy}")
        masks = {path.stem: path for path in _files(self.root / "masks", MASKS)}
        missing = [path.stem for path in images if path.stem not in masks]
        if missing and not unlabelled:
            raise DataError(
                f"{self.root}: {len(missing)} of {len(images)} images have no mask, the first is "
                f"{missing[0]!r}: add masks/{missing[0]}.png, or set unlabelled to true"
            )
        self._classes = self._class_list(classes, needed=bool(masks))
        self.structures = self._classes.names
        self._skip("masks without an image", sorted(set(masks) - {path.stem for path in images}))
        facts = read_manifest(self.root / MANIFEST)
        ids = [path.stem for path in images]
        records = identify(self.root, ids, patient=patient, split=split, seed=seed, attributes=facts)
        self._pairs = [(path, masks.get(path.stem)) for path in images]
        files = [[path for path in pair if path is not None] for pair in self._pairs]
        options = {
            "ids": dict(self._classes.ids),
            "colours": dict(self._classes.colours),
            "order": self.structures,
        }
        self._set_records(records, files, options)

    def _class_list(self, classes: str | os.PathLike[str] | None, *, needed: bool) -> ClassList:
        if classes is not None:
            return read_classes(self.root / classes)
        found = [self.root / name for name in _LISTS if (self.root / name).is_file()]
        if not found and not needed:
            return ClassList((), {}, {})
        if len(found) != 1:
            raise DataError(
                f"{self.root}: {len(found)} class lists ({', '.join(path.name for path in found) or 'none'}); "
                "one is needed, such as classes.yaml with the entries '- {name: lv, id: 1}'"
            )
        return read_classes(found[0])

    def _load(self, index: int) -> Sample:
        path, mask = self._pairs[index]
        frame = read_picture(path)
        masks = None
        if mask is not None:
            picture = read_mask(mask)
            masks = self._classes.masks(picture.codes, picture.coloured, mask)
        record = self.records[index]
        size = record.attributes.get("row_mm"), record.attributes.get("column_mm")
        spacing = (float(size[0]), float(size[1])) if size[0] is not None and size[1] is not None else None
        return still(record, frame, masks, self.structures, spacing)


def still(
    record: Record,
    frame: ByteArray,
    masks: Mapping[str, BoolArray] | None,
    structures: tuple[str, ...],
    spacing: tuple[float, float] | None = None,
) -> Sample:
    """A sample of one picture (H, W) uint8 with classes of one's own.

    Args:
        record: identity.
        frame: the picture.
        masks: name to (H, W) bool, or None without a mask.
        structures: the classes of the data set, in order.
        spacing: (row, column) size of a pixel in mm, or None.

    Raises:
        DataError: picture and masks differ in shape.
    """
    annotated = np.zeros(0 if masks is None else 1, np.int64)
    named = {} if masks is None else {name: mask[None] for name, mask in masks.items()}
    names = label_names(structures)
    return Sample(record, frame[None], spacing, named, annotated, label_names=names)


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.name[0] != ".")


def read_manifest(path: Path) -> dict[str, dict[str, float | int | str]]:
    """Stem to what the manifest of ``alan frames`` says of the picture; empty without one."""
    if not path.is_file():
        return {}
    facts: dict[str, dict[str, float | int | str]] = {}
    for row in read_rows(path, ("image", "source", *_NUMBERS)):
        try:
            numbers = {name: float(row[name]) for name in _NUMBERS if row[name]}
        except ValueError as error:
            raise DataError(f"{path}: {row['image']}: {error}") from error
        facts[Path(row["image"]).stem] = {"source": row["source"], **numbers}
    return facts
