"""segments.ai: a release file of segmentation bitmaps, with pictures and bitmaps on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

import numpy as np

from alan.arrays import BoolArray
from alan.bounds import Seed, bounded
from alan.data.io.pictures import read_mask
from alan.data.readers.classes import category_name, category_names
from alan.data.readers.patients import picture_id
from alan.data.readers.pictures import PictureDataset, PictureFile, entries, only_json
from alan.errors import DataError, nearest
from alan.files import read_json

_TASKS = ("segmentation-bitmap", "segmentation-bitmap-highres")
_FINISHED = ("LABELED", "REVIEWED", "VERIFIED")
#: Id in a bitmap to the class.
Classes = Mapping[int, str]


@bounded
class SegmentsAi(PictureDataset[Classes]):
    """A release of the segmentation-bitmap kind; its categories are the structures.

    **Format:** a release file (JSON). It names pictures and bitmaps by web addresses; here they are files in
    ``root``, ``root/images`` or ``root/labels``, under the names by which segments.ai's own client stores them
    (``NAME.png``, ``NAME_label_ground-truth.png``) or the last part of their addresses. The pixels of a bitmap are
    ids (red + 256 green + 65536 blue of a colour picture, whatever its opacity; 0 is background), which the
    annotations of the release assign to categories.

    **Size, licence and citation:** those of the data in it; the format is described at https://docs.segments.ai.

    Args:
        root: Folder of the dataset.
        release: The release file, absolute or relative to ``root``. Default: the only JSON file in ``root`` or
            ``root/release``.
        labelset: Name of the labels to take.
        unlabelled: Whether pictures may be without a finished label; otherwise they are an error.
        patient: Rule that reads the patient from a name, as :class:`alan.data.FrameFolder` takes it.
        split: Mapping from split to patients or to a fraction of them, or a YAML or JSON file of that.
        seed: Seed of the draw if ``split`` gives fractions.

    Raises:
        ParameterError: A malformed rule or split.
        DataError: A malformed file, another kind of task, an unknown labelset or class id, a picture without a
            label, or a bitmap that is not on disk.
        SplitLeakError: A patient in two splits.
    """

    name = "segments.ai"

    def __init__(
        self,
        root: str | os.PathLike[str],
        release: str | os.PathLike[str] | None = None,
        *,
        labelset: str = "ground-truth",
        unlabelled: bool = False,
        patient: str | None = None,
        split: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        seed: Seed = 0,
    ) -> None:
        super().__init__(root, "a release file (JSON), its pictures and its bitmaps")
        path = self.root / release if release is not None else only_json(self.root, "release")
        content = read_json(path)
        dataset = content.get("dataset") if isinstance(content, dict) else None
        if not isinstance(dataset, dict) or dataset.get("task_type") not in _TASKS:
            kind = dataset.get("task_type") if isinstance(dataset, dict) else None
            raise DataError(f"{path}: not a release of the task {' or '.join(_TASKS)}, but {kind!r}")
        known = [str(entry.get("name")) for entry in entries(dataset, "labelsets", path)]
        if labelset not in known:
            raise DataError(f"{path}: no labelset {labelset!r}: {nearest(labelset, known)}")
        categories = category_names(entries(dataset.get("task_attributes"), "categories", path), path)
        self.structures = tuple(categories.values())
        pictures: list[PictureFile[Classes]] = []
        lost = []
        for entry in entries(dataset, "samples", path):
            name = str(entry.get("name"))
            if not PurePosixPath(name).name:
                raise DataError(f"{path}: a sample has the name {name!r}; give it one")
            file = self._find_picture(name, entry, path)
            if file is None:
                lost.append(name)
                continue
            label = _label(entry, labelset)
            classes = None if label is None else _classes(label, categories, f"{path}: {name!r}")
            bitmap = None if label is None else self._find_bitmap(name, labelset, label, path)
            pictures.append(PictureFile(picture_id(name), file, classes, bitmap))
        self._skip("samples whose picture is not on disk", lost, f"put the pictures into {self.root / 'images'}")
        self._set_pictures(
            pictures,
            {"classes": [picture.mask for picture in pictures]},
            unlabelled=unlabelled,
            remedy=f"label it in {labelset!r} and export a new release",
            patient=patient,
            split=split,
            seed=seed,
        )

    def _find_picture(self, name: str, entry: Mapping[str, Any], path: Path) -> Path | None:
        address = PurePosixPath(_address(entry.get("attributes"), "image"))
        stored = PurePosixPath(name).with_suffix(address.suffix).as_posix() if address.suffix else name
        names = [name, stored, *([address.name] if address.name else [])]
        return self._find(("", "images"), names, path)

    def _find_bitmap(self, name: str, labelset: str, label: Mapping[str, Any], path: Path) -> Path:
        address = PurePosixPath(_address(label.get("attributes"), "segmentation_bitmap"))
        stem = PurePosixPath(name).with_suffix("").as_posix()
        names = [f"{stem}_label_{labelset}{address.suffix or '.png'}", *([address.name] if address.name else [])]
        bitmap = self._find(("", "labels", "images"), names, path)
        if bitmap is None:
            raise DataError(
                f"{path}: the bitmap of {name!r} is not on disk: put it into {self.root} as {names[0]!r}"
            )
        return bitmap

    def _masks(
        self, picture: PictureFile[Classes], mask: Classes, shape: tuple[int, int]
    ) -> Mapping[str, BoolArray]:
        bitmap = picture.mask_file
        assert bitmap is not None
        codes = read_mask(bitmap, opaque=True).codes
        unknown = np.setdiff1d(codes, [0, *mask])
        if len(unknown):
            raise DataError(
                f"{bitmap}: id {unknown[0]} is not among the {len(mask)} annotations of the release: "
                "check that bitmap and release belong together"
            )
        return {
            name: np.isin(codes, [key for key, value in mask.items() if value == name]) for name in self.structures
        }


def _label(entry: Mapping[str, Any], labelset: str) -> dict[str, Any] | None:
    """Return the finished label of a sample, or None."""
    labels = entry.get("labels")
    label = labels.get(labelset) if isinstance(labels, dict) else None
    finished = isinstance(label, dict) and label.get("label_status", _FINISHED[0]) in _FINISHED
    return label if finished else None


def _address(attributes: Any, key: str) -> str:
    """Return the path part of the web address of a picture; empty if there is none."""
    value = attributes.get(key) if isinstance(attributes, dict) else None
    return urlparse(str(value.get("url") or "")).path if isinstance(value, dict) else ""


def _classes(label: Mapping[str, Any], categories: Mapping[int, str], where: str) -> Classes:
    """Map ids in the bitmap to classes."""
    classes: dict[int, str] = {}
    attributes = label.get("attributes")
    annotations = attributes.get("annotations") if isinstance(attributes, dict) else None
    if not isinstance(annotations, list) or not all(isinstance(entry, dict) for entry in annotations):
        raise DataError(f"{where}: its label has no list of annotations")
    for entry in annotations:
        key, name = entry.get("id"), category_name(entry.get("category_id"), categories, where)
        if not isinstance(key, int) or key < 1 or key in classes:
            raise DataError(
                f"{where}: {key!r} is not the id of an annotation; ids are different whole numbers from 1"
            )
        classes[key] = name
    return classes
