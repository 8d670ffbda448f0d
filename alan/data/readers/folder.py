"""A folder of pictures, masks of the same names, and a list of classes."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from alan.arrays import BoolArray
from alan.bounds import Seed, bounded
from alan.data.io.pictures import MASKS, PICTURES, read_mask
from alan.data.readers.classes import ClassList, read_classes
from alan.data.readers.patients import picture_id
from alan.data.readers.pictures import PictureDataset, PictureFile
from alan.errors import DataError
from alan.files import files_below

_LISTS = ("classes.yaml", "classes.yml", "classes.json", "classes.csv")
#: Suffixes that the name of a mask may add to that of its picture.
_ENDS = re.compile(r"[_-](gt|masks?|labels?|seg|segmentation)$", re.IGNORECASE)
_SYSTEM = ("thumbs.db", "desktop.ini")
#: Common names of the two folders.
_OTHER_NAMES = {
    "images": ("images", "image", "imgs", "img", "frames", "pictures"),
    "masks": ("masks", "mask", "labels", "label", "annotations", "segmentations", "gt", "ground_truth"),
}


def picture_of_mask(name: str, pictures: Container[str]) -> str:
    """Return the name of the picture that a mask belongs to, without suffixes of files: ``a`` for ``a_mask``."""
    return name if name in pictures else _ENDS.sub("", name)


@bounded
class FrameFolder(PictureDataset[Path]):
    """A folder of pictures with masks.

    **Format:** pictures in ``images``, masks in ``masks``, a class list ``classes.yaml``; ``patients.csv``
    and the ``manifest.csv`` of ``alan frames`` are optional. Pictures may lie in folders in ``images``, and
    linked folders are followed; the names of folders become a part of the id. A mask has the name of its picture
    (``images/p1_03.jpg``, ``masks/p1_03.png`` or ``masks/p1_03_mask.png``). It is a grey or palette picture of
    class ids, or a picture in the colours of the list; if the list has colours, palettes are read by colour too.

    **Size, licence and citation:** those of the data in it.

    Each picture is a sample. The manifest gives the pixel size (scaled with a still that was resized), the
    patient, and source, frame and time as attributes.

    Args:
        root: The folder.
        classes: The class list (:func:`alan.data.readers.classes.read_classes`), absolute or relative to ``root``.
            Default: the file ``classes.yaml``, ``.yml``, ``.json`` or ``.csv`` in ``root``.
        unlabelled: Whether pictures without a mask are allowed; otherwise they are an error.
        patient: Rule that reads the patient from a name; without it and without ``patients.csv`` and pseudonyms in
            the manifest, the part before the first ``_`` is the patient
            (:func:`alan.data.readers.patients.identify`).
        split: Mapping from split to patients or to a fraction of them, or a YAML or JSON file of that. Default:
            the ``split`` of ``patients.csv`` or of the rule, if any.
        seed: Seed of the draw if ``split`` gives fractions.

    Raises:
        ParameterError: A malformed rule or split.
        DataError: No picture, no class list, a picture without a mask, or a mask among the pictures.
        SplitLeakError: A patient in two splits.
    """

    name = "FrameFolder"

    def __init__(
        self,
        root: str | os.PathLike[str],
        classes: str | os.PathLike[str] | None = None,
        *,
        unlabelled: bool = False,
        patient: str | None = None,
        split: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        seed: Seed = 0,
    ) -> None:
        super().__init__(root, "images/, masks/ and classes.yaml")
        images, strangers = self._list("images", PICTURES)
        self._skip("files in images/ that are not pictures", strangers, f"pictures are {', '.join(PICTURES)}")
        if not images:
            remedy = "extract some from cine loops with `alan frames`"
            if any(path.suffix.lower() in PICTURES for path in self.root.iterdir()):
                remedy = "move the pictures of the folder itself into a folder images in it"
            remedy = self._rename("images") or remedy
            raise DataError(f"{self.root}: no picture in images/ (of {', '.join(PICTURES)}); {remedy}")
        for name, path in images.items():
            picture = images.get(_ENDS.sub("", name), path)
            if picture is not path:
                raise DataError(f"{path}: looks like the mask of {picture.name}: move it to masks/, or rename it")
        found, strangers = self._list("masks", MASKS)
        reason = f"masks are {', '.join(MASKS)}; JPEG changes the ids of classes: save masks as PNG"
        self._skip("files in masks/ that are not masks", strangers, reason)
        masks = self._by_picture(images, found)
        self._classes = self._class_list(classes, needed=bool(masks))
        self.structures = self._classes.names
        self._set_pictures(
            [PictureFile(name, path, masks.get(name), masks.get(name)) for name, path in images.items()],
            {
                "ids": dict(self._classes.ids),
                "colours": dict(self._classes.colours),
                "order": self.structures,
            },
            unlabelled=unlabelled,
            remedy=(self._rename("masks") or "add masks/{}.png")
            + (f" ({', '.join(strangers[:3])}: {reason})" if strangers else ""),
            patient=patient,
            split=split,
            seed=seed,
        )

    def _list(self, part: str, suffixes: tuple[str, ...]) -> tuple[dict[str, Path], list[str]]:
        """Map ids to the pictures in a folder, and list the names of its other files."""
        folder = self.root / part
        if (folder / part).is_dir() and not any(path.is_file() for path in folder.iterdir()):
            folder /= part  # an archive packed together with its folder
        found: dict[str, Path] = {}
        strangers = []
        for path in files_below(folder):
            name = picture_id(path.relative_to(folder).as_posix())
            if path.suffix.lower() not in suffixes:
                if path.name.lower() not in _SYSTEM:
                    strangers.append(self._relative(path))
            elif name in found:
                raise DataError(f"{found[name]} and {path} have the same name: keep one, or rename one")
            else:
                found[name] = path
        return found, strangers

    def _rename(self, part: str) -> str:
        """Return the remedy for a folder of another name than ``images`` or ``masks``; empty if there is none."""
        names = [path.name for path in self.root.iterdir() if path.is_dir() and path.name != part]
        other = next((name for name in names if name.lower() in _OTHER_NAMES[part]), "")
        return f"rename the folder {other} to {part}" if other and not (self.root / part).is_dir() else ""

    def _by_picture(self, images: Mapping[str, Path], found: Mapping[str, Path]) -> dict[str, Path]:
        """Map ids of pictures to masks; the name of a mask may end with ``_mask``, ``_gt`` or similar."""
        masks: dict[str, Path] = {}
        alone = []
        for name, path in found.items():
            of = picture_of_mask(name, images)
            if of in masks:
                raise DataError(f"{masks[of]} and {path} are masks of the same picture: keep one")
            if of in images:
                masks[of] = path
            else:
                alone.append(self._relative(path))
        self._skip("masks without an image", alone, "name a mask like its picture, with or without _mask")
        return masks

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

    def _masks(self, picture: PictureFile[Path], mask: Path, shape: tuple[int, int]) -> Mapping[str, BoolArray]:
        return self._classes.masks(read_mask(mask), mask)
