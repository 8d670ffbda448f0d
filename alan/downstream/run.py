"""The run folder of ``alan segment``: label maps, areas and a contact sheet of pictures or stored frames."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from alan.bounds import NonNegativeInt, PositiveFloat, PositiveInt, bounded
from alan.cardiac.areas import pixel_sides
from alan.errors import ConfigError
from alan.extras import defer_imports
from alan.runs import FAILURES, open_run, report_failures, settings
from alan.shipped import PARCELS, WHITE_BOXES

_log = logging.getLogger(__name__)

#: File of the contact sheet.
SHEET = "contact_sheet.png"


@bounded
def run_segmentation(
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
    given = settings(locals(), "size", "keep_aspect", "sheet", "batch_size", "strict")
    sides = pixel_sides(spacing)
    boxes = choose_white_boxes(parcels, white_boxes, opinions, network)
    defer_imports("scipy.stats")  # half of the import time of scikit-learn, for one function
    from alan.data.stills import open_stills
    from alan.devices import choose_device
    from alan.downstream.segmentation import CONTENTS, TABLE, FrameSegmenter, NetworkLabeller, segment_frames
    from alan.downstream.sheet import write_sheet
    from alan.downstream.whitebox.several import load_white_boxes

    folder = Path(out)
    stills = open_stills(
        input,
        size,
        keep_aspect=keep_aspect,
        spacing=sides,
        split=split,
        views=views,
        frames=frames,
        leave_out=folder,
    )
    model: FrameSegmenter
    if network is not None:
        model = NetworkLabeller(network)
    else:
        model = load_white_boxes(parcels, boxes, temperature, opinions or ()).to(choose_device())
    config = {
        **given,
        "white_boxes": boxes,
        "preprocessing": stills.preprocessing,
        "structures": model.structures,
        "inputs": {"frames": stills.fingerprint, "model": model.fingerprint},
    }
    with open_run(folder, "segment", config, overwrite, (*CONTENTS, SHEET)):
        found = segment_frames(stills, model, folder, batch_size)
        if sheet:
            write_sheet(folder / SHEET, stills, found, folder, model.structures, sheet)
        for name in model.structures:
            _log.info("%s: %d of %d segments are empty", name, found.n_empty(name), len(found.rows))
        _log.info("%s: %d frames, look at %s", folder, len(found.rows), folder / (SHEET if sheet else TABLE))
        failures = [*stills.failures, *found.failures]
        report_failures(folder / FAILURES, failures, len(stills.names) + len(stills.failures), strict=strict)
    return folder


def choose_white_boxes(
    parcels: str, white_boxes: list[str] | None, opinions: list[str] | None, network: str | None
) -> list[str]:
    """Return the names of the white boxes: those given, or those shipped for the shipped parcels.

    Args:
        parcels: Path or name of the parcel model.
        white_boxes: Paths or names of white boxes; None for the shipped ones.
        opinions: Files of an expert's opinions.
        network: Network used in place of white boxes, which then are none; or None.

    Raises:
        ConfigError: White boxes and a network are both given, or white boxes are missing for other parcels.
    """
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
