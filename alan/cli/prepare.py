"""The verb ``alan prepare``: its signature is its options.

Heavy libraries are imported when it runs, so that its help appears at once.
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from alan.bounds import NonNegativeInt, PositiveFloat, PositiveInt
from alan.cli.parsing import typed_values
from alan.errors import ConfigError
from alan.files import HDF5

_log = logging.getLogger(__name__)


def prepare(
    kind: str,
    root: str,
    out: str,
    *,
    split: dict[str, Any] | str | None = None,
    views: list[str] | None = None,
    options: dict[str, Any] | None = None,
    size: PositiveInt = 112,
    keep_aspect: bool = False,
    pixel_mm: PositiveFloat | None = None,
    frames: Literal["all", "annotated"] = "all",
    sector: bool = False,
    workers: NonNegativeInt | None = None,
    overwrite: bool = False,
    strict: bool = False,
) -> None:
    """Decode an archive once into a frame store.

    Args:
        kind: Kind of the archive, such as echonet, camus, tmed, acdc, folder, coco or segments, or the class of a
            reader of your own (module.Class).
        root: Folder of the archive.
        out: The frame store (HDF5) to write. Skipped samples are listed in failures.csv in the same folder.
        split: Mapping from split to patients, such as {"train": "1-300", "test": "301-400"}, a YAML file of that,
            or a word of the reader (camus: official; tmed: study, published); null takes the default of the
            reader.
        views: Views to read, for archives with several; null reads all of them.
        options: Further options of the reader, by name.
        size: Side in pixels to which frames and masks are resized.
        keep_aspect: Pad the short side instead of stretching it.
        pixel_mm: Resample to this pixel size in mm, then crop or pad centrally; null fits the whole frame.
        frames: all, or annotated for the frames with masks and those at ED and ES only.
        sector: Blank everything outside the ultrasound sector and paint over text inside it, as alan analyze does;
            samples without a sector are skipped. Only archives of whole screens need it.
        workers: Number of processes that decode; 0 decodes in this one, null takes one per core, at most 4.
        overwrite: Replace a store that was made with other settings.
        strict: Exit with code 1 if anything was skipped; the store is written nevertheless.
    """
    from alan.data.readers.registry import open_dataset

    if not Path(out).is_dir() and Path(out).suffix.lower() not in HDF5:
        raise ConfigError(
            f"out is {out}: give a name that ends in .h5, by which other commands know a frame store"
        )
    dataset = open_dataset(kind, root, **reader_options(kind, split, views, options))

    from alan.data.preprocessing import Preprocessing
    from alan.data.store.writer import prepare as prepare_store

    preprocessing = Preprocessing(size=size, keep_aspect=keep_aspect, pixel_mm=pixel_mm)
    store = prepare_store(
        dataset,
        out,
        preprocessing,
        frames,
        sector=sector,
        workers=workers,
        overwrite=overwrite,
        strict=strict,
    )
    splits = Counter(sequence.split or "in no split" for sequence in store.sequences)
    counts = ", ".join(f"{n} {name}" for name, n in splits.items())
    _log.info("%s: %d frames of %d sequences (%s)", out, len(store), len(store.sequences), counts)


def reader_options(
    kind: str, split: dict[str, Any] | str | None, views: list[str] | None, options: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the given options of a reader, checked against the annotations of its constructor."""
    from alan.data.readers.registry import find_reader

    reader, given = find_reader(kind), {"split": split, "views": views, **(options or {})}
    given = {name: value for name, value in given.items() if value is not None}
    names = set(inspect.signature(reader).parameters) - {"split"}  # checked by the verb; parsing makes it a string
    known = {name: value for name, value in given.items() if name in names}
    checked = typed_values(reader, known, "root", "split")
    return given | {name: checked[name] for name in known}
