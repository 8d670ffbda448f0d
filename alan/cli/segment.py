"""The verb ``alan segment``: label maps, areas and a contact sheet for a folder of pictures or a frame store."""

from __future__ import annotations

import importlib.abc
import importlib.util
import logging
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Literal

from alan.bounds import NonNegativeInt, PositiveFloat, PositiveInt, bounded
from alan.cli.inputs import pixel_sides
from alan.errors import ConfigError, ParameterError
from alan.runs import FAILURES, open_run, report_failures, settings
from alan.shipped import PARCELS, WHITE_BOXES

_log = logging.getLogger(__name__)

_SHEET = "contact_sheet.png"
_STORES = (".h5", ".hdf5")


@bounded
def segment(
    input: str,  # noqa: A002 (the option's name)
    out: str,
    *,
    parcels: str = PARCELS,
    white_boxes: list[str] | None = None,
    network: str | None = None,
    temperature: PositiveFloat | None = None,
    opinions: list[str] | None = None,
    split: str | None = None,
    views: list[str] | None = None,
    frames: Literal["all", "annotated"] | int = "all",
    size: PositiveInt = 112,
    keep_aspect: bool = False,
    spacing: float | list[float] | None = None,
    sheet: NonNegativeInt = 24,
    batch_size: PositiveInt = 32,
    strict: bool = False,
    overwrite: bool = False,
) -> Path:
    """Segment a folder of pictures or a frame store with white boxes or with a network.

    The run folder contains ``config.yaml``; ``masks/<frame>.png``, label maps of the original size with a palette
    of colours (0 is background, 1 is the first structure and so on, see ``classes.csv``); ``segments.csv`` with
    one row per frame and structure: area in pixels of the original and, if the pixel size is known, in cm2, number
    of chosen parcels in the segment (not for a network), and whether the segment is empty; and
    ``contact_sheet.png``. The same command continues an interrupted run, and segments pictures that were added to
    the folder or changed since. Pictures that cannot be decoded are skipped and listed in ``failures.csv``.

    Args:
        input: A folder of pictures (PNG, JPEG, BMP, TIFF; grey or colour, any size; in the folder or in its
            subfolder images), or a frame store (.h5).
        out: The run folder.
        parcels: Path or name of the parcel model.
        white_boxes: Paths or names of white boxes on these parcels, in the order of the labels; null for the three
            white boxes shipped for the shipped parcels (LV, myocardium, LA of the apical views).
        network: Network used in place of white boxes: segmenter.safetensors, or the JSON of an ensemble or of soft
            parcels.
        temperature: Temperature of the softmax over k-means distances, for soft white boxes; null if no white box
            is soft.
        opinions: JSON files of an expert's opinions on the parcels of a structure. They revise the choice of
            parcels of the white boxes; null uses none.
        split: Split of the frame store (train, val or test); null for all.
        views: Views taken from the frame store; null for all.
        frames: Frames taken from the frame store: all, annotated, or N frames per sequence.
        size: Side in pixels to which pictures are resized; the shipped parcels expect 112.
        keep_aspect: Pad the short side of pictures instead of stretching it.
        spacing: Size of a pixel of the originals in mm, or [row, column] if they differ; null takes it from
            manifest.csv or from the store.
        sheet: Number of frames on the contact sheet, evenly spread; 0 for no sheet.
        batch_size: Number of frames that go through the model at a time.
        strict: Exit with code 1 if a picture was skipped.
        overwrite: Replace a run with another configuration.

    Returns:
        The run folder.

    Raises:
        ConfigError: White boxes and a network are both given, white boxes are missing for other parcels, or the
            folder contains a run with another configuration or other inputs.
        DataError: There is nothing to segment, or no picture can be decoded.
        SkippedError: A picture was skipped and ``strict`` is True.
        AlanError: An input is missing, or a parameter is out of bounds; the folder is left as it was.
    """
    sides = pixel_sides(spacing)
    given = settings(locals(), "size", "keep_aspect", "sheet", "batch_size", "strict")
    boxes = _check_models(parcels, white_boxes, opinions, network)
    defer_imports("scipy.stats")  # half of the time of importing scikit-learn, for one function of it
    import torch

    from alan.cardiac.areas import check_spacing
    from alan.data.preprocessing import Preprocessing
    from alan.data.stills import PictureStills, Stills, StoreStills
    from alan.data.store.reader import FrameStore
    from alan.downstream.segmentation import CONTENTS, TABLE, FrameSegmenter, NetworkLabeller, segment_frames
    from alan.downstream.whitebox.several import load_white_boxes
    from alan.report.sheet import write_sheet

    known = None if sides is None else check_spacing(sides)
    folder = Path(out)
    is_store = Path(input).suffix.lower() in _STORES
    if is_store and keep_aspect:
        raise ParameterError("keep_aspect is true: the frames of a store have their size already; leave it out")
    for name, value in {"split": split, "views": views, "frames": None if frames == "all" else frames}.items():
        if value is not None and not is_store:
            raise ParameterError(f"{name} is {value!r}: it chooses frames of a store; leave it out for pictures")
    if is_store:
        store = FrameStore(input)
        stills: Stills = StoreStills(store, store.choose_frames(split, views, frames), known)
    else:
        stills = PictureStills(Path(input), Preprocessing(size, keep_aspect), known, leave_out=folder)
    model: FrameSegmenter
    if network is not None:
        model = NetworkLabeller(network)
    else:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load_white_boxes(parcels, boxes, temperature, opinions or ()).to(device)
    config = {
        **given,
        "white_boxes": boxes,
        "preprocessing": stills.preprocessing,
        "structures": model.structures,
        "inputs": {"frames": stills.fingerprint, "model": model.fingerprint},
    }
    with open_run(folder, config, overwrite, (*CONTENTS, _SHEET)):
        found = segment_frames(stills, model, folder, batch_size)
        if sheet:
            write_sheet(folder / _SHEET, stills, found, folder, model.structures, sheet)
        for name in model.structures:
            _log.info("%s: %d of %d segments are empty", name, found.n_empty(name), len(found.rows))
        _log.info("%s: %d frames, look at %s", folder, len(found.rows), folder / (_SHEET if sheet else TABLE))
        failures = [*stills.failures, *found.failures]
        report_failures(folder / FAILURES, failures, len(stills.names) + len(stills.failures), strict=strict)
    return folder


def _check_models(
    parcels: str, white_boxes: list[str] | None, opinions: list[str] | None, network: str | None
) -> list[str]:
    """Return the names of the white boxes; an empty list with a network."""
    if network is not None:
        if white_boxes or opinions or parcels != PARCELS:
            raise ConfigError("network and white boxes are both given: keep network, or parcels and white_boxes")
        return []
    if white_boxes is None and parcels != PARCELS:
        raise ConfigError(
            f"no white box is given for the parcels {parcels}: make some with `alan name --parcels {parcels}`, "
            "then --white_boxes '[DIR/lv.json]'"
        )
    return list(WHITE_BOXES if white_boxes is None else white_boxes)


def defer_imports(*names: str) -> None:
    """Let modules be executed when one of their attributes is first used, rather than when they are imported.

    Args:
        *names: Full names of the modules. Those that are imported already stay as they are.
    """
    if missing := {*names} - sys.modules.keys():
        sys.meta_path.insert(0, _Finder(missing))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, names: set[str]) -> None:
        self._names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._names:
            return None
        self._names.discard(fullname)  # the next line asks every finder, this one included
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec
