"""COCO: an instances file of polygons and its pictures."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon2mask

from alan.data.io.pictures import find_file, read_picture
from alan.data.readers.base import EchoDataset
from alan.data.readers.classes import category_names
from alan.data.readers.folder import still
from alan.data.readers.patients import identify, picture_id
from alan.data.sample import BoolArray, Sample
from alan.errors import DataError
from alan.files import read_json

Polygon = NDArray[np.float64]


@dataclass(frozen=True)
class _Picture:
    """A picture and its polygons (class and outline (P, 2) of x and y), in the order of the file."""

    path: Path
    shape: tuple[int, int]
    polygons: tuple[tuple[str, Polygon], ...]


class Coco(EchoDataset):
    """Pictures and polygons of a COCO instances file; its categories are the structures.

    Pictures lie in ``root`` or ``root/images``, under the file's names. A pixel belongs to a polygon that holds
    its centre, (x + 0.5, y + 0.5) in COCO's coordinates; where annotations overlap, the later one in the file
    covers the earlier. Run-length masks (crowds among them) are refused.

    Args:
        root: folder of the data set.
        annotations: the instances file, absolute or relative to ``root``. Default: the only JSON file in ``root``
            or ``root/annotations``.
        unlabelled: pictures may be without an annotation; otherwise they are an error.
        patient: rule that reads the patient out of a name; without it and without ``patients.csv`` that is what
            stands before the first ``_`` (:func:`alan.data.readers.patients.identify`).
        split: side to patients or to a fraction of them, or a YAML or JSON file of that.
        seed: of the draw where ``split`` gives fractions.

    Raises:
        ParameterError: a malformed rule or split.
        DataError: a malformed file, an unknown class id, a run-length mask, or a picture without annotation.
        SplitLeakError: a patient on two sides.
    """

    name: ClassVar[str] = "COCO"

    def __init__(
        self,
        root: str | os.PathLike[str],
        annotations: str | os.PathLike[str] | None = None,
        *,
        unlabelled: bool = False,
        patient: str | None = None,
        split: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(root, "the pictures and their instances file (JSON)")
        path = self.root / annotations if annotations is not None else only_json(self.root, "annotations")
        content = read_json(path)
        categories = category_names(entries(content, "categories", path), path)
        self.structures = tuple(categories.values())
        self._pictures: list[_Picture] = []
        ids, lost = [], []
        outlines = _outlines(content, categories, path)
        for entry in entries(content, "images", path):
            try:
                key, name = entry["id"], str(entry["file_name"])
                shape = (int(entry["height"]), int(entry["width"]))
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{path}: an image without id, file_name, height or width ({entry})") from error
            polygons = outlines.pop(key, [])
            picture = find_file(self.root, ("", "images"), [name], path)
            if picture is None:
                lost.append(name)
                continue
            if not polygons and not unlabelled:
                raise DataError(
                    f"{path}: image {name!r} has no annotation: annotate it, or set unlabelled to true"
                )
            ids.append(picture_id(name))
            self._pictures.append(_Picture(picture, shape, tuple(polygons)))
        if outlines:
            raise DataError(
                f"{path}: an annotation belongs to image {next(iter(outlines))!r}, which is not listed"
            )
        self._skip("images without a file", lost)
        records = identify(self.root, ids, patient=patient, split=split, seed=seed)
        options = {
            "structures": self.structures,
            "polygons": [[[name, p.tolist()] for name, p in picture.polygons] for picture in self._pictures],
        }
        self._set_records(records, [[picture.path] for picture in self._pictures], options)

    def _load(self, index: int) -> Sample:
        picture = self._pictures[index]
        frame = read_picture(picture.path)
        if frame.shape != picture.shape:
            raise DataError(
                f"{picture.path} is {frame.shape} pixels but its entry says {picture.shape}: "
                "check that picture and annotations belong together"
            )
        masks = None
        if picture.polygons:
            top = np.full(frame.shape, -1)
            for name, outline in picture.polygons:
                top[fill_polygon(outline, picture.shape)] = self.structures.index(name)
            masks = {name: top == index for index, name in enumerate(self.structures)}
        return still(self.records[index], frame, masks, self.structures)


def fill_polygon(outline: Polygon, shape: tuple[int, int]) -> BoolArray:
    """Pixels whose centres lie in a polygon.

    Args:
        outline: (P, 2) of x and y, where pixel (row i, column j) covers x from j to j + 1 and y from i to i + 1.
        shape: (H, W).

    Returns:
        (H, W) bool; what lies outside the picture is cut off.
    """
    mask: BoolArray = polygon2mask(shape, outline[:, ::-1] - 0.5)  # type: ignore[no-untyped-call]
    return mask


def only_json(root: Path, folder: str) -> Path:
    """The only JSON file in a data set's folder or in ``folder`` in it.

    Raises:
        DataError: there is none, or more than one to choose from.
    """
    found = sorted([*root.glob("*.json"), *root.glob(f"{folder}/*.json")])
    if len(found) != 1:
        names = ", ".join(path.relative_to(root).as_posix() for path in found[:6]) or "none"
        raise DataError(f"{root}: one JSON file is needed, found {names}; give its path as {folder!r}")
    return found[0]


def entries(content: Any, key: str, path: Path) -> list[dict[str, Any]]:
    """A list of mappings under a key of a JSON file.

    Raises:
        DataError: it is not there, or something else.
    """
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise DataError(f"{path}: has no list {key!r}; is it a file of this kind?")
    return value


def _outlines(
    content: Any, categories: Mapping[int, str], path: Path
) -> dict[Any, list[tuple[str, NDArray[np.float64]]]]:
    """Image id to (class, outline), in the order of the file."""
    outlines: dict[Any, list[tuple[str, Polygon]]] = defaultdict(list)
    for entry in entries(content, "annotations", path):
        where = f"{path}: annotation {entry.get('id')!r}"
        image, category = entry.get("image_id"), entry.get("category_id")
        if not isinstance(image, (int, str)):
            raise DataError(f"{where}: has no image_id")
        if not isinstance(category, int) or category not in categories:
            listed = ", ".join(f"{key} {name}" for key, name in categories.items())
            raise DataError(f"{where}: unknown class id {category!r}; the categories are {listed}")
        parts = entry.get("segmentation")
        if isinstance(parts, dict):
            raise DataError(
                f"{where}: is a run-length mask, which is not read; export the annotations as polygons"
            )
        if not isinstance(parts, list) or not parts:
            raise DataError(f"{where}: has no polygon")
        for part in parts:
            outlines[image].append((categories[category], _outline(part, where)))
    return dict(outlines)


def _outline(part: Sequence[Any], where: str) -> Polygon:
    try:
        outline = np.array(part, np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: a polygon is a list of x1, y1, x2, y2, ... ({error})") from error
    if len(outline) < 3 or not np.isfinite(outline).all():
        raise DataError(f"{where}: a polygon of {len(outline)} points; it needs at least 3, all finite")
    return outline
