"""The table that ``alan frames`` writes with the stills of cine loops: their source, time, size and patient."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

from alan.data.io.base import MAX_PIXELS, SIDES
from alan.data.readers.patients import picture_id
from alan.data.readers.tables import read_number, read_rows
from alan.errors import DataError

_log = logging.getLogger(__name__)

#: Name of the table, in the folder that holds ``images``.
MANIFEST = "manifest.csv"
#: Columns that every manifest has. The last two are the size of a pixel.
REQUIRED = ("image", "source", "frame", "time_s", "row_mm", "column_mm")
#: Size (height, width) of the still in pixels to which its pixel size applies, and the pseudonym of the patient.
OPTIONAL = ("height", "width", "patient")
COLUMNS = (*REQUIRED, *OPTIONAL)
_WORDS = ("source", "patient")
#: Mapping from column to its smallest and largest value.
_BOUNDS = {"row_mm": SIDES, "column_mm": SIDES, "height": (1, MAX_PIXELS), "width": (1, MAX_PIXELS)}

Facts = Mapping[str, float | int | str]


def read_manifest(path: Path) -> dict[str, dict[str, float | int | str]]:
    """Read a manifest.

    Args:
        path: The file.

    Returns:
        Mapping from the id of each still to its cells by column, without empty ones; empty if there is no file.

    Raises:
        DataError: The table lacks a column, or a cell is not a number, or a size that no picture has.
    """
    if not path.is_file():
        return {}
    facts: dict[str, dict[str, float | int | str]] = {}
    for row in read_rows(path, REQUIRED, OPTIONAL):
        fact: dict[str, float | int | str] = {name: row[name] for name in _WORDS if row.get(name)}
        for name in (*REQUIRED[2:], "height", "width"):
            value = read_number(row, name, path, row["image"])
            if value is None:
                continue
            low, high = _BOUNDS.get(name, (-math.inf, math.inf))
            if not low <= value <= high:
                raise DataError(
                    f"{path}: {row['image']}: {name} is {value:g}: give {low:g} to {high:g}, or nothing"
                )
            fact[name] = value
        facts[picture_id(row["image"])] = fact
    return facts


def manifest_row(
    image: str,
    source: str,
    frame: int,
    shape: tuple[int, ...],
    *,
    time: float | None,
    spacing: tuple[float, float] | None,
    patient: str | None,
) -> list[str | int | float]:
    """Make one row of a manifest, in the order of :data:`COLUMNS`; unknown values are empty.

    Args:
        image: File name of the still.
        source: The loop that it was extracted from.
        frame: Number of the frame in the loop, from 1.
        shape: (H, W) of the still.
        time: Seconds from the first frame.
        spacing: (row, column) size of a pixel in mm.
        patient: Pseudonym of the patient.
    """
    row_mm, column_mm = spacing or ("", "")
    seconds = "" if time is None else f"{time:.6g}"
    return [image, source, frame, seconds, row_mm, column_mm, *shape, patient or ""]


def still_spacing(facts: Facts, shape: tuple[int, int]) -> tuple[float, float] | None:
    """Return the size of a pixel of a still that may have been resized since it was extracted.

    Args:
        facts: Entry of the still in the manifest.
        shape: (H, W) of the still now.

    Returns:
        (row, column) in mm, scaled with the still if its aspect is the same; None if it is unknown, or if the
        aspect has changed (the still was cropped or stretched, which cannot be distinguished).
    """
    row, column = facts.get("row_mm"), facts.get("column_mm")
    if row is None or column is None:
        return None
    height, width = (int(facts.get(name, size)) for name, size in zip(("height", "width"), shape, strict=True))
    # sizes are whole pixels, so that the aspect is known to half a pixel
    if abs(height * shape[1] - width * shape[0]) > max(height, width):
        return None
    return float(row) * height / shape[0], float(column) * width / shape[1]
