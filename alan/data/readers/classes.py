"""User-defined class lists: names of classes, their ids or colours in a mask, and masks by name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from alan.arrays import BoolArray
from alan.data.io.pictures import MaskPicture, colour_code
from alan.data.readers.tables import read_rows, read_structured
from alan.errors import DataError

#: Largest number of classes of a uint8 label map, without the background.
MOST = 255
_BACKGROUND = "background"


@dataclass(frozen=True)
class ClassList:
    """Classes of a dataset, and their ids or colours in a mask.

    Attributes:
        names: The classes without background, in the order of the list.
        ids: Mapping from name (and ``background``) to the value of its pixels in a grey mask.
        colours: Mapping from name (and ``background``) to the code (:func:`alan.data.io.pictures.colour_code`) of
            its colour in a colour mask; empty if the list has no colours.
    """

    names: tuple[str, ...]
    ids: Mapping[str, int]
    colours: Mapping[str, int]

    def masks(self, picture: MaskPicture, path: Path) -> dict[str, BoolArray]:
        """Split a mask into its classes.

        A grey picture is read by the ids of the list, a colour picture by its colours; a palette picture by the
        colours if the list has some, otherwise by its indices. A colour picture that is grey throughout is read by
        ids if the list has no colours.

        Args:
            picture: The mask.
            path: Its file, for messages.

        Returns:
            Mapping from name to (H, W) bool, every class of the list; the masks are disjoint.

        Raises:
            DataError: A value is not in the list, a colour mask is read with a list without colours, or the
                indices of a palette contradict its colours: both are ids of the list and differ, or a class is
                black and the background is not.
        """
        codes, coloured = self._codes(picture, path)
        known = self.colours if coloured else self.ids
        unknown = np.setdiff1d(codes, list(known.values()))
        if len(unknown):
            what = "colour" if coloured else "class id"
            value = _hex(int(unknown[0])) if coloured else str(unknown[0])
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            listed = ", ".join(f"{_hex(code) if coloured else code} {name}" for name, code in known.items())
            remedy = self._remedy(codes, coloured, palette=picture.palette is not None)
            raise DataError(f"{path}: unknown {what} {value}{more}; the class list has {listed}{remedy}")
        return {name: codes == known[name] for name in self.names}

    def _codes(self, picture: MaskPicture, path: Path) -> tuple[NDArray[np.int64], bool]:
        """Return ids or colour codes of the pixels, and whether they are colour codes."""
        if picture.palette is not None and self.colours:
            return picture.palette, True
        if picture.palette is not None:
            grey = _grey(picture.palette)
            ids = list(self.ids.values())
            if grey is not None and (grey != picture.codes).any() and np.isin([grey, picture.codes], ids).all():
                raise DataError(
                    f"{path}: the indices of its palette and its grey values are both class ids, and they differ: "
                    "save the mask as a grey picture of class ids"
                )
            background = picture.codes == self.ids[_BACKGROUND]
            if picture.palette[background].any() and not picture.palette[~background].all():
                raise DataError(
                    f"{path}: its palette shows a class as black and the background in colour: add a 'colour' to "
                    "every class, or save the mask as a grey picture of class ids"
                )
        elif picture.coloured and not self.colours:
            grey = _grey(picture.codes)
            if grey is not None:
                return grey, False
            raise DataError(
                f"{path}: is a colour picture but the class list has no colours: add a 'colour' to every class, "
                "or save the mask as a grey picture of class ids"
            )
        return picture.codes, picture.coloured

    def _remedy(self, codes: NDArray[np.int64], coloured: bool, *, palette: bool) -> str:
        """Return the remedy for unknown values, if there is one."""
        if palette and coloured:
            return "; to read the indices of palettes as ids, remove the colours from the class list"
        if not coloured and len(self.names) == 1 and set(np.unique(codes)) == {0, 255}:
            return f"; for masks of 0 and 255, give {self.names[0]} the id 255"
        if coloured and len(np.unique(codes)) > len(self.colours):
            return "; save masks without smoothing, in a format without loss"
        return ""


def read_classes(path: str | os.PathLike[str]) -> ClassList:
    """Read a class list.

    A YAML or JSON file holds a list of entries (or a mapping with that list as ``classes``), a CSV file one entry
    per row. An entry has a ``name``, an ``id`` (without one, the entries count from 1) and may have a ``colour``
    (``#rrggbb``, ``"r g b"`` or ``[r, g, b]``, 0 to 255). An entry named ``background`` gives the id and the
    colour of the background; without one they are 0 and black.

    Args:
        path: The file.

    Raises:
        DataError: The file is missing or malformed; an id, name or colour is used twice; there are more than 255
            classes.
    """
    source = Path(path)
    entries = sorted(_read_entries(source), key=lambda entry: entry.get("name") == _BACKGROUND)  # background last
    numbered = [
        {**entry, "id": 0 if entry.get("name") == _BACKGROUND else index} if _empty(entry.get("id")) else entry
        for index, entry in enumerate(entries, start=1)
    ]
    names = category_names(numbered, source)
    ids = {name: identity for identity, name in names.items()}
    shown = [_colour(entry.get("colour", entry.get("color")), source) for entry in numbered]
    given = dict(zip(names.values(), shown, strict=True))
    if _BACKGROUND not in ids:
        if 0 in names:
            raise DataError(
                f"{source}: id 0 is background but {names[0]!r} has it: number the classes from 1, or add an "
                "entry named 'background' with an id of its own"
            )
        ids[_BACKGROUND] = 0
    if len(ids) == 1:
        raise DataError(f"{source}: lists no class except background")
    colours = {name: code for name, code in given.items() if code is not None}
    if colours:
        colours.setdefault(_BACKGROUND, 0)
        without = [name for name in ids if name not in colours]
        if without:
            raise DataError(
                f"{source}: class {without[0]!r} has no colour, but others have one: give every class a colour"
            )
        _refuse_repeats([_hex(code) for code in colours.values()], "colour", source)
    return ClassList(tuple(name for name in given if name != _BACKGROUND), ids, colours)


def category_names(categories: Any, path: Path) -> dict[int, str]:
    """Check the ``id`` and ``name`` of a list of categories.

    Args:
        categories: List of mappings, as JSON or YAML gives it.
        path: The file that it was read from, for messages.

    Returns:
        Mapping from id to name, in the order of the list.

    Raises:
        DataError: It is not such a list, an id is not a whole number from 0, an id or a name is used twice or
            empty, or there are more than 255 classes.
    """
    if not isinstance(categories, list) or not all(isinstance(entry, Mapping) for entry in categories):
        raise DataError(f"{path}: the classes must be a list of entries with name and id")
    ids, names = [], []
    for entry in categories:
        name, identity = entry.get("name"), entry.get("id")
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{path}: {name!r} is not the name of a class: give every class a name (in quotes)")
        if not name.strip().isprintable() or {"/", "\\"} & set(name):  # names of structures become parts of paths
            raise DataError(f"{path}: class {name!r} has a slash or a control character; rename it")
        text = str(identity).strip()
        if isinstance(identity, bool) or not re.fullmatch(r"\d+", text):
            raise DataError(f"{path}: class {name!r} has the id {identity!r}; ids are whole numbers from 0")
        ids.append(int(text))
        names.append(name.strip())
    _refuse_repeats(ids, "id", path)
    _refuse_repeats(names, "name", path)
    if len(names) - (_BACKGROUND in names) > MOST:
        raise DataError(f"{path}: {len(names)} classes; a label map can hold {MOST}")
    return dict(zip(ids, names, strict=True))


def category_name(category: Any, categories: Mapping[int, str], where: str) -> str:
    """Return the name of the category of an annotation.

    Args:
        category: Its id, as the file has it.
        categories: Mapping from id to name, see :func:`category_names`.
        where: File and annotation, for messages.

    Raises:
        DataError: There is no category of this id.
    """
    if not isinstance(category, int) or category not in categories:
        listed = ", ".join(f"{number} {name}" for number, name in categories.items())
        raise DataError(f"{where}: unknown class id {category!r}; the categories are {listed}")
    return categories[category]


def _read_entries(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise DataError(f"{path}: no such class list; check the spelling")
    if path.suffix.lower() == ".csv":
        return [*read_rows(path, ("name",), ("id", "colour", "color"))]
    value = read_structured(path, "a class list")
    if isinstance(value, Mapping):
        value = value.get("classes")
    if not isinstance(value, list) or not value or not all(isinstance(entry, dict) for entry in value):
        raise DataError(f"{path}: the class list must be a list of entries such as {{name: lv, id: 1}}")
    return value


def _empty(value: Any) -> bool:
    return value is None or value == ""


def _colour(value: Any, path: Path) -> int | None:
    """Return the code of a colour; None if no colour is given."""
    if _empty(value):
        return None
    parts: Any = value
    if isinstance(value, str):
        if re.fullmatch(r"\s*\d+[\s,;]+\d+[\s,;]+\d+\s*", value):
            parts = [int(part) for part in re.findall(r"\d+", value)]
        else:
            try:
                parts = ImageColor.getrgb(value.strip())[:3]
            except ValueError as error:
                raise DataError(f"{path}: {value!r} is not a colour: write '#rrggbb' or 'r g b'") from error
    good = isinstance(parts, (list, tuple)) and len(parts) == 3
    if not good or not all(type(part) is int and 0 <= part <= 255 for part in parts):
        raise DataError(f"{path}: {value!r} is not a colour: give red, green and blue from 0 to 255")
    return int(colour_code(np.array(parts)))


def _grey(colours: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Return the grey values of colour codes; None if a colour is not grey."""
    values = colours & 255
    return values if np.array_equal(colours, values * 0x010101) else None


def _hex(code: int) -> str:
    return f"#{code & 255:02x}{code >> 8 & 255:02x}{code >> 16 & 255:02x}"


def _refuse_repeats(values: list[Any], what: str, path: Path) -> None:
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise DataError(f"{path}: {what} {twice[0]!r} is used by two classes; each needs its own")
