"""COCO: an instances file of polygons and its pictures."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alan.arrays import BoolArray
from alan.bounds import Seed, bounded
from alan.data.readers.classes import category_name, category_names
from alan.data.readers.pictures import PictureDataset, PictureFile, entries, only_json
from alan.errors import DataError
from alan.files import read_json
from alan.polygons import fill_polygon

Polygon = NDArray[np.float64]
#: Class and outlines (P, 2) of x and y of each annotation of a picture, in file order.
Annotations = Sequence[tuple[str, Sequence[Polygon]]]
_FILLED = "COCO joins the polygons of an annotation, so a hole is filled: annotate it as a class of its own"
_OUTSIDE = "coordinates are pixels of the picture, from its upper left corner: export them again"
_ORDER = "later annotations cover earlier ones: list outer outlines before inner ones"


@bounded
class Coco(PictureDataset[Annotations]):
    """Pictures and polygons of a COCO instances file; its categories are the structures.

    **Format:** a JSON file with ``images``, ``annotations`` and ``categories``; pictures in ``root`` or
    ``root/images`` under the names of the file. Of a path on another computer, as annotation tools write it, the
    last part is used.

    **Size and licence:** those of the data in it.

    **Citation:** Lin et al., "Microsoft COCO: common objects in context", ECCV 2014 (the format).

    A pixel belongs to a polygon that contains its centre, (x + 0.5, y + 0.5) in COCO's coordinates; where
    annotations overlap, the later one in the file covers the earlier one. If that hides an annotation
    completely, or a smaller one lies beneath a larger one that contains it, the dataset warns: outlines of a
    cavity have to follow those of its wall. Run-length masks (crowds among them) are refused.

    Args:
        root: Folder of the dataset.
        annotations: The instances file, absolute or relative to ``root``. Default: the only JSON file in
            ``root`` or ``root/annotations``.
        unlabelled: Whether pictures without an annotation are allowed; otherwise they are an error.
        patient: Rule that reads the patient from a name, as :class:`alan.data.FrameFolder` takes it.
        split: Mapping from split to patients or to a fraction of them, or a YAML or JSON file of that.
        seed: Seed of the draw if ``split`` gives fractions.

    Raises:
        ParameterError: A malformed rule or split.
        DataError: A malformed file, an unknown class id, a run-length mask, or a picture without annotation.
        SplitLeakError: A patient in two splits.
    """

    name = "COCO"

    def __init__(
        self,
        root: str | os.PathLike[str],
        annotations: str | os.PathLike[str] | None = None,
        *,
        unlabelled: bool = False,
        patient: str | None = None,
        split: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        seed: Seed = 0,
    ) -> None:
        super().__init__(root, "the pictures and their instances file (JSON)")
        path = self.root / annotations if annotations is not None else only_json(self.root, "annotations")
        content = read_json(path)
        categories = category_names(entries(content, "categories", path), path)
        self.structures = tuple(categories.values())
        self._shapes: dict[str, tuple[int, int]] = {}
        pictures: list[PictureFile[Annotations]] = []
        lost: list[str] = []
        outlines = _outlines(content, categories, path)
        for entry in entries(content, "images", path):
            try:
                key, name = entry["id"], str(entry["file_name"])
                hash(key)
                shape = (int(entry["height"]), int(entry["width"]))
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{path}: an image without id, file_name, height or width ({entry})") from error
            annotated = outlines.pop(key, None)
            file = self._find(("", "images"), [name], path)
            if file is None:
                lost.append(name)
                continue
            identity = self._id(file)
            self._shapes[identity] = shape
            pictures.append(PictureFile(identity, file, annotated))
        if outlines:
            raise DataError(
                f"{path}: an annotation belongs to image {next(iter(outlines))!r}, which is not listed"
            )
        self._skip("images without a file", lost, f"put them into {self.root / 'images'}")
        polygons = [
            [[name, [part.tolist() for part in parts]] for name, parts in picture.mask or ()]
            for picture in pictures
        ]
        self._set_pictures(
            pictures,
            {"polygons": polygons},
            unlabelled=unlabelled,
            remedy=f"annotate it in {path.name}",
            patient=patient,
            split=split,
            seed=seed,
        )

    def _masks(
        self, picture: PictureFile[Annotations], mask: Annotations, shape: tuple[int, int]
    ) -> Mapping[str, BoolArray]:
        if shape != self._shapes[picture.id]:
            raise DataError(
                f"{picture.path} is {shape} pixels but its entry states {self._shapes[picture.id]}: "
                "check that picture and annotations belong together"
            )
        masks = []
        for name, parts in mask:
            filled = [polygon_mask(part, shape) for part in parts]
            masks.append(np.logical_or.reduce(filled))
            if any(one.any() and not (one & ~other).any() for one, other in permutations(filled, 2)):
                self._note("polygons inside another one of their annotation", f"{picture.id}: {name}", _FILLED)
        top = np.full(shape, -1)
        for place, area in enumerate(masks):
            top[area] = place
        for place, ((name, _), area) in enumerate(zip(mask, masks, strict=True)):
            later = masks[place + 1 :]
            if not area.any():
                self._note("annotations without a pixel in the picture", f"{picture.id}: {name}", _OUTSIDE)
            if area.any() and not (top == place).any():
                self._note("annotations hidden by later ones", f"{picture.id}: {name}", _ORDER)
            elif any(2 * (area & other).sum() > area.sum() < other.sum() for other in later):
                self._note("annotations covered by larger ones", f"{picture.id}: {name}", _ORDER)
        classes = np.array([-1, *(self.structures.index(name) for name, _ in mask)])[top + 1]
        return {name: classes == index for index, name in enumerate(self.structures)}


def polygon_mask(outline: Polygon, shape: tuple[int, int]) -> BoolArray:
    """Find the pixels whose centres lie in a polygon.

    Args:
        outline: (P, 2) of x and y, where pixel (row i, column j) covers x from j to j + 1 and y from i to i + 1.
        shape: (H, W).

    Returns:
        (H, W) bool; parts outside the picture are cut off.
    """
    return fill_polygon(shape, outline[:, ::-1] - 0.5)


def _outlines(content: Any, categories: Mapping[int, str], path: Path) -> dict[Any, Annotations]:
    """Map image ids to their annotations, in file order."""
    outlines: dict[Any, list[tuple[str, Sequence[Polygon]]]] = defaultdict(list)
    for entry in entries(content, "annotations", path):
        where = f"{path}: annotation {entry.get('id')!r}"
        image = entry.get("image_id")
        if not isinstance(image, (int, str)):
            raise DataError(f"{where}: has no image_id")
        name = category_name(entry.get("category_id"), categories, where)
        parts = entry.get("segmentation")
        if isinstance(parts, dict):
            raise DataError(
                f"{where}: is a run-length mask, which is not read; export the annotations as polygons"
            )
        if not isinstance(parts, list) or not parts:
            raise DataError(f"{where}: has no polygon; export outlines as polygons, or remove the annotation")
        outlines[image].append((name, [_outline(part, where) for part in parts]))
    return dict(outlines)


def _outline(part: Sequence[Any], where: str) -> Polygon:
    try:
        outline = np.array(part, np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: a polygon is a list of x1, y1, x2, y2, ... ({error})") from error
    if len(outline) < 3 or not np.isfinite(outline).all():
        raise DataError(f"{where}: a polygon of {len(outline)} points; it needs at least 3, all finite")
    if outline.min() >= 0 and outline.max() <= 1:
        raise DataError(f"{where}: all coordinates lie between 0 and 1; give them in pixels, not as fractions")
    return outline
