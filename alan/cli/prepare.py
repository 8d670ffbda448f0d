"""The verb ``alan prepare``: its signature is its options.

What it needs is imported when it runs, so that its help comes at once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

_log = logging.getLogger(__name__)


def prepare(
    kind: str,
    root: str,
    out: str,
    *,
    split: dict[str, Any] | str | None = None,
    views: list[str] | None = None,
    options: dict[str, Any] | None = None,
    size: int = 112,
    keep_aspect: bool = False,
    frames: Literal["all", "annotated"] = "all",
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Decode an archive once into a frame store.

    Args:
        kind: the reader: echonet, camus, tmed, acdc, folder, coco or segments.
        root: folder of the archive.
        out: the frame store (HDF5) to write.
        split: side to patients, such as {"train": "1-300", "test": "301-400"}, a YAML file of that, or a word of
            the reader (camus: official; tmed: study, published); null is the reader's default.
        views: views to read, where the archive has several; null for all.
        options: further options of the reader, by name.
        size: side in pixels to which frames and masks are resized.
        keep_aspect: pad the short side instead of stretching.
        frames: all, or annotated for the frames with masks and those at ED and ES only.
        workers: processes that decode; null for one a core, at most 4.
        overwrite: replace a store that was made with other settings.
    """
    from alan.data.preprocessing import Preprocessing
    from alan.data.readers.registry import open_dataset
    from alan.data.store.writer import prepare as prepare_store

    given: Mapping[str, Any] = {"split": split, "views": views, **(options or {})}
    dataset = open_dataset(kind, root, **{name: value for name, value in given.items() if value is not None})
    preprocessing = Preprocessing(size=size, keep_aspect=keep_aspect)
    store = prepare_store(dataset, out, preprocessing, frames, workers=workers, overwrite=overwrite)
    sides = {side: len([s for s in store.sequences if s.split == side]) for side in ("train", "val", "test", "")}
    counts = ", ".join(f"{n} {side or 'without side'}" for side, n in sides.items() if n)
    _log.info("%s: %d frames of %d sequences (%s)", out, len(store), len(store.sequences), counts)
