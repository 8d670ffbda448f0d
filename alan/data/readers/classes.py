"""Class lists of one's own: names, the ids or colours that stand for them in a mask, and masks by name."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import ImageColor

from alan.data.io.pictures import colour_code
from alan.data.sample import BoolArray
from alan.errors import DataError

#: Most classes that a uint8 label map can tell apart, background aside.
MOST = 255
_BACKGROUND = "background"


@dataclass(frozen=True)
class ClassList:
    """The classes of a data set, and how a mask shows them.

    Attributes:
        names: the classes without background, in the order of the list.
        ids: name (and ``background``) to the value of its pixels in an index mask.
        colours: name (and ``background``) to the code (:func:`alan.data.io.pictures.colour_code`) of its colour
            in a colour mask; empty where the list has no colours.
    """

    names: tuple[str, ...]
    ids: Mapping[str, int]
    colours: Mapping[str, int]

    def masks(self, codes: NDArray[np.int64], coloured: bool, path: Path) -> dict[str, BoolArray]:
        """Take a mask apart.

        Args:
            codes: (H, W) ids or colour codes, as :func:`alan.data.io.pictures.read_mask` gives them.
            coloured: the codes are those of colours.
            path: the file, for messages.

        Returns:
            Name to (H, W) bool, every class of the list; they are disjoint.

        Raises:
            DataError: a value that is not in the list, or a colour mask where the list has no colours.
        """
        if coloured and not self.colours:
            raise DataError(
                f"{path}: is a colour picture but the class list has no colours: add a 'colour' to every class, "
                "or save the mask as a grey picture of class ids"
            )
        known = self.colours if coloured else self.ids
        unknown = np.setdiff1d(codes, list(known.values()))
        if len(unknown):
            what = "colour" if coloured else "class id"
            value = _hex(int(unknown[0])) if coloured else str(unknown[0])
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            listed = ", ".join(f"{_hex(code) if coloured else code} {name}" for name, code in known.items())
            raise DataError(f"{path}: unknown {what} {value}{more}; the class list has {listed}")
        return {name: codes == known[name] for name in self.names}


def read_classes(path: str | os.PathLike[str]) -> ClassList:
    """Read a class list.

    A YAML or JSON file holds a list of entries (or a mapping with that list as ``classes``), a CSV file a row an
    entry. An entry has a ``name``, an ``id`` (without one, the entries count from 1) and perhaps a ``colour``
    (``#rrggbb``, ``"r g b"`` or ``[r, g, b]``, 0 to 255). An entry named ``background`` says which id and colour
    mean nothing; without one they are 0 and black.

    Raises:
        DataError: missing or malformed; an id, name or colour that is used twice; more than 255 classes.
    """
    source = Path(path)
    entries = _read_entries(source)
    numbered = [
        {**entry, "id": 0 if entry.get("name") == _BACKGROUND else index} if _empty(entry.get("id")) else entry
        for index, entry in enumerate(_foreground_first(entries), start=1)
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
        raise DataError(f"{source}: lists no class but background")
    colours = {name: code for name, code in given.items() if code is not None}
    if colours:
        colours.setdefault(_BACKGROUND, 0)
        without = [name for name in ids if name not in colours]
        if without:
            raise DataError(f"{source}: class {without[0]!r} has no colour but others have: give all of them one")
        _refuse_repeats([_hex(code) for code in colours.values()], "colour", source)
    return ClassList(tuple(name for name in given if name != _BACKGROUND), ids, colours)


def category_names(categories: Any, path: Path) -> dict[int, str]:
    """Check the ``id`` and ``name`` of a list of categories.

    Args:
        categories: list of mappings, as JSON or YAML gives it.
        path: where it was read, for messages.

    Returns:
        Id to name, in the order of the list.

    Raises:
        DataError: not such a list, an id that is no whole number from 0, an id or a name that is used twice or is
            empty, or more than 255 classes.
    """
    if not isinstance(categories, list) or not all(isinstance(entry, Mapping) for entry in categories):
        raise DataError(f"{path}: the classes must be a list of entries with name and id")
    ids, names = [], []
    for entry in categories:
        name, identity = entry.get("name"), entry.get("id")
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{path}: {name!r} is no name of a class: give every class a name (in quotes)")
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


def _read_entries(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            value: Any = [
                {(key or "").strip().lower(): cell for key, cell in row.items()}
                for row in csv.DictReader(text.splitlines(), skipinitialspace=True)
            ]
        else:
            value = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such class list") from error
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError, csv.Error) as error:
        raise DataError(f"{path}: not a class list ({' '.join(str(error).split())})") from error
    if isinstance(value, Mapping):
        value = value.get("classes")
    if not isinstance(value, list) or not value or not all(isinstance(entry, dict) for entry in value):
        raise DataError(f"{path}: the class list must be a list of entries such as {{name: lv, id: 1}}")
    return value


def _foreground_first(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Background last, so that entries without ids count from 1."""
    return sorted(entries, key=lambda entry: entry.get("name") == _BACKGROUND)


def _empty(value: Any) -> bool:
    return value is None or value == ""


def _colour(value: Any, path: Path) -> int | None:
    """Code of a colour, None where none is given."""
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
                raise DataError(f"{path}: {value!r} is no colour: write '#rrggbb' or 'r g b'") from error
    good = isinstance(parts, (list, tuple)) and len(parts) == 3
    if not good or not all(type(part) is int and 0 <= part <= 255 for part in parts):
        raise DataError(f"{path}: {value!r} is no colour: give red, green and blue from 0 to 255")
    return int(colour_code(np.array(parts)))


def _hex(code: int) -> str:
    return f"#{code & 255:02x}{code >> 8 & 255:02x}{code >> 16 & 255:02x}"


def _refuse_repeats(values: list[Any], what: str, path: Path) -> None:
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise DataError(f"{path}: {what} {twice[0]!r} is used by two classes; each needs its own")
