"""Layout of a frame store: its datasets, the checksum of its tables, and one row of the table of sequences."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alan.rows import Place, check_name, place_of

#: Name and version of the file format; a reader refuses any other.
SCHEMA = "alan-frames/3"
#: End of the message on a store that cannot be read.
REMEDY = "write it again with `alan prepare --overwrite true`"
#: Attribute with the CRC-32 of the tables.
TABLES_CHECK = "crc_tables"
#: Frames, and label maps at the stored size.
FRAMES, MAPS = "frames", "labels/maps"
#: Group of the label maps at the resolution of the archive, each a dataset named by its number.
ORIGINALS = "labels/originals"
#: Datasets of rows, with the group of originals.
ROWS = (FRAMES, MAPS, ORIGINALS)


@dataclass(frozen=True)
class StoredSequence:
    """One sequence of a frame store: its identity and the place of its frames.

    Attributes:
        index: Position among the sequences of the store.
        id: Id of the sequence, unique in the archive.
        patient: Id of the patient.
        study: Id of the study, or ``""``.
        view: One of :data:`alan.data.sample.VIEWS`, or ``""``.
        split: One of :data:`alan.data.sample.SPLITS`, or ``""``.
        start: Global index of the first frame.
        length: Number of frames.
        ed: Global index of the end-diastolic frame, or None.
        es: Global index of the end-systolic frame, or None.
        spacing: (row, column) size of a pixel in mm at the original resolution, or None.
        original_shape: (H, W) of the frames before preprocessing.
        attributes: Numbers and words of the archive, such as ``EF``.
    """

    index: int
    id: str
    patient: str
    study: str
    view: str
    split: str
    start: int
    length: int
    ed: int | None
    es: int | None
    spacing: tuple[float, float] | None
    original_shape: tuple[int, int]
    attributes: Mapping[str, float | int | str]


#: Columns of the group ``sequences``: every field of a sequence except its index.
COLUMNS = tuple(field.name for field in fields(StoredSequence) if field.name != "index")
#: Datasets that are read whole when a store is opened.
TABLES = (*(f"sequences/{name}" for name in COLUMNS), "labels/frame")


def find_places(file: Any, size: int) -> dict[str, Place]:
    """Find the places of the datasets of an open store.

    Args:
        file: The open file.
        size: Its size in bytes.

    Raises:
        KeyError: A dataset is missing.
        ValueError: A dataset claims more than the file holds, or does not fit the others.
    """
    names = (FRAMES, MAPS, *map(check_name, ROWS), *TABLES)
    found = {name: place_of(file[name], size) for name in names}
    shapes = {name: shape for name, (_, shape, _) in found.items()}
    kinds = {name: dtype for name, (_, _, dtype) in found.items()}
    (count, side, width), (maps, *sides) = shapes[FRAMES], shapes[MAPS]
    rows = dict(zip(map(check_name, ROWS), (count, maps, maps), strict=True))
    right = (
        side == width
        and sides == [side, side]
        and shapes["labels/frame"] == (maps,)
        and kinds[FRAMES] == kinds[MAPS] == np.uint8
        and all(shapes[name] == (n,) and kinds[name] == np.uint32 for name, n in rows.items())
    )
    if not right:
        raise ValueError("its arrays do not agree")
    return found


def read_tables(file: Any) -> dict[str, NDArray[Any]]:
    """Read the tables of an open store."""
    return {name: file[name][()] for name in TABLES}


def tables_checksum(attributes: Mapping[str, Any], tables: Mapping[str, NDArray[Any]]) -> int:
    """Compute the CRC-32 of the attributes (without their checksum) and tables of a store."""
    crc = 0
    for name, value in [*sorted(attributes.items()), *tables.items()]:
        if name != TABLES_CHECK:
            array = np.asarray(value)
            crc = zlib.crc32(repr((name, array.dtype.str, array.shape)).encode(), crc)
            crc = zlib.crc32(array.tobytes(), crc)
    return crc


def parse_sequences(tables: Mapping[str, NDArray[Any]]) -> tuple[StoredSequence, ...]:
    """Build the sequences from the columns of their table."""
    columns = []
    for name in COLUMNS:
        values = tables[f"sequences/{name}"].tolist()
        columns.append([value.decode() if isinstance(value, bytes) else value for value in values])
    rows = zip(*columns, strict=True)
    return tuple(_sequence(index, dict(zip(COLUMNS, row, strict=True))) for index, row in enumerate(rows))


def _sequence(index: int, row: dict[str, Any]) -> StoredSequence:
    row["ed"] = row["ed"] if row["ed"] >= 0 else None
    row["es"] = row["es"] if row["es"] >= 0 else None
    row["spacing"] = None if np.isnan(row["spacing"]).any() else tuple(row["spacing"])
    row["original_shape"] = tuple(row["original_shape"])
    row["attributes"] = json.loads(row["attributes"])
    return StoredSequence(index=index, **row)
