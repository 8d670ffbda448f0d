"""Stills at end-diastole and end-systole of one beat, told apart by their names as in CAMUS, and their frames."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from alan.data.io.base import Header
from alan.data.io.frames import DecodedFrame, FrameSource, GreyMapping
from alan.data.io.grey import GreyRange
from alan.data.io.medical import MEDICAL, medical_layout
from alan.data.io.pictures import PICTURES, read_picture
from alan.errors import DataError

#: The phase as a word of the name of a file.
_PHASE = re.compile(r"(?<![^\W_])E([DS])(?![^\W_])", re.IGNORECASE)


def find_key_frames(paths: Iterable[Path]) -> dict[Path, Path]:
    """Find pairs of stills of one folder whose names differ in the word ED or ES alone.

    Both are NIfTI or MetaImage files, or pictures, of one frame and of the same size:
    ``patient0001_2CH_ED.nii.gz`` and ``patient0001_2CH_ES.nii.gz``.

    Args:
        paths: The files.

    Returns:
        Mapping from the file at end-diastole to that at end-systole.
    """
    groups = defaultdict[tuple[Path, str], dict[str, Path]](dict)
    for path in paths:
        words = list(_PHASE.finditer(path.name))
        if len(words) == 1 and path.name.lower().endswith((*MEDICAL, *PICTURES)):
            start, stop = words[0].span()
            groups[path.parent, f"{path.name[:start]}/{path.name[stop:]}"][words[0][1].upper()] = path
    pairs = ((group["D"], group["S"]) for group in groups.values() if len(group) == 2)
    return {ed: es for ed, es in pairs if _still_shape(ed) == _still_shape(es) is not None}


def _still_shape(path: Path) -> tuple[int, int] | None:
    """Return the (H, W) of a file of one frame; None for others and for damaged ones, which are reported later."""
    try:
        if path.name.lower().endswith(MEDICAL):
            count, height, width = medical_layout(path).shape
        else:
            count, (height, width) = 1, read_picture(path).shape
        return (height, width) if count == 1 else None
    except (DataError, OSError):
        return None


class KeyFrames:
    """The frames at end-diastole and end-systole of one beat, in two files.

    Args:
        diastole: The file at end-diastole.
        systole: The file at end-systole.
    """

    kind = "image"

    def __init__(self, diastole: FrameSource, systole: FrameSource) -> None:
        self.path = diastole.path
        self._parts = (diastole, systole)

    def __iter__(self) -> Iterator[DecodedFrame]:
        """Decode both frames."""
        for part in self._parts:
            yield from part

    def header(self, count: int, found: GreyRange) -> tuple[Header, GreyMapping]:
        """Return the pixel size and the conversion of grey values, which both files share; no times.

        Raises:
            DataError: The files state different pixel sizes.
        """
        (first, mapping), (second, _) = (part.header(1, found) for part in self._parts)
        if first.spacing != second.spacing:
            sizes = " and ".join("none" if one.spacing is None else f"{one.spacing} mm" for one in (first, second))
            raise DataError(f"{self.path}: the pixel sizes at end-diastole and end-systole are {sizes}: give one")
        notes = tuple(dict.fromkeys((*first.notes, *second.notes)))
        return replace(first, fps=None, times=None, notes=notes), mapping
