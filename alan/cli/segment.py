"""The verb ``alan segment``: label maps, areas and a contact sheet of a folder of pictures or a frame store."""

from __future__ import annotations

import csv
import io
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from alan.cardiac.areas import area_cm2, check_spacing
from alan.data.preprocessing import Preprocessing
from alan.data.stills import PictureStills, Spacing, Still, Stills, StoreStills
from alan.data.store.choose import choose_frames
from alan.data.store.reader import FrameStore
from alan.downstream.members import load_network
from alan.downstream.whitebox.several import Labelled, load_white_boxes
from alan.errors import AlanWarning, ConfigError, DataError, ParameterError
from alan.files import atomic, write_text
from alan.report.figures import png
from alan.report.sheet import contact_sheet
from alan.runs import open_run
from alan.supervised.segmenter import to_labels

_log = logging.getLogger(__name__)

PARCELS = "alan-sim-small-parcels"
#: White boxes that are shipped for these parcels.
WHITE_BOXES = ("alan-sim-small-lv", "alan-sim-small-myo", "alan-sim-small-la")
_TABLE, _PART, _SHEET, _CLASSES, _MASKS = (
    "segments.csv",
    "segments.part.csv",
    "contact_sheet.png",
    "classes.csv",
    "masks",
)
_COLUMNS = ("frame", "structure", "area_px", "area_cm2", "parcels", "empty")
_STORES = (".h5", ".hdf5")
Row = dict[str, str]
Predict = Callable[[NDArray[np.uint8]], Labelled]


def segment(
    input: str,  # noqa: A002 (the option's name)
    out: str,
    *,
    parcels: str = PARCELS,
    whitebox: list[str] | None = None,
    network: str | None = None,
    temperature: float | None = None,
    split: str | None = None,
    views: list[str] | None = None,
    frames: Literal["all", "annotated"] | int = "all",
    size: int = 112,
    keep_aspect: bool = False,
    spacing: list[float] | None = None,
    sheet: int = 24,
    batch_size: int = 32,
    overwrite: bool = False,
) -> Path:
    """Segment a folder of pictures or a frame store by white boxes or by a network.

    The run folder holds ``config.yaml``; ``masks/<frame>.png``, grey label maps of the original size (0 is
    background, 1 the first structure and so on, listed in ``classes.csv``); ``segments.csv`` with a row a frame
    and structure: area in pixels of the original and, where the pixel's size is known, in cm2, number of chosen
    parcels in the segment (no number with a network), and whether the segment is empty; and
    ``contact_sheet.png``. The same command again goes on where it was, and takes pictures that came to the folder
    since. Pictures that cannot be decoded are skipped, counted and warned of.

    Args:
        input: a folder of pictures (PNG, JPEG, BMP, TIFF; grey or colour, of any size; in it or in its images
            folder), or a frame store (.h5).
        out: the run folder.
        parcels: path or name of the parcel model.
        whitebox: paths or names of white boxes on these parcels, in the order of the labels; null for the three
            that are shipped for the shipped parcels (LV, myocardium, LA of the apical four-chamber view).
        network: in place of white boxes: a segmenter.safetensors, or the JSON of an ensemble or of soft parcels.
        temperature: of soft white boxes on k-means parcels; null for none.
        split: side of a frame store, or null for all.
        views: views of a frame store, or null for all.
        frames: of a frame store: all, annotated, or a number: so many of each sequence.
        size: side in pixels to which pictures are resized; 112 is that of the shipped parcels.
        keep_aspect: pad the short side of pictures instead of stretching.
        spacing: row and column size of a pixel of the originals in mm; null: what manifest.csv or the store says.
        sheet: frames on the contact sheet, evenly spread; 0 for no sheet.
        batch_size: frames at a time.
        overwrite: replace a run with another configuration.

    Returns:
        The run folder.

    Raises:
        ConfigError: white boxes and a network, other parcels without white boxes, or the folder holds a run with
            another configuration or other inputs.
        DataError: nothing to segment, or no picture that can be decoded.
        AlanError: an input that is missing, or a parameter out of range; the folder is left as it was.
    """
    if batch_size < 1 or sheet < 0:
        raise ParameterError(f"batch_size is {batch_size}, sheet {sheet}: give 1 or more, and 0 or more")
    known = _check_spacing(spacing)
    boxes = _check_models(parcels, whitebox, network)
    folder = Path(out)
    if Path(input).suffix.lower() in _STORES:
        store = FrameStore(input)
        stills: Stills = StoreStills(store, choose_frames(store, split, views, frames), known)
    else:
        stills = PictureStills(Path(input), Preprocessing(size, keep_aspect), known, leave_out=folder)
    predict, structures, model = _model(parcels, boxes, network, temperature)
    read_by = {"parcels": parcels, "whitebox": boxes, "temperature": temperature}
    config = {
        "input": input,
        **(read_by if network is None else {"network": network}),
        "split": split,
        "views": views,
        "frames": frames,
        "preprocessing": stills.preprocessing,
        "spacing": spacing,
        "structures": structures,
        "inputs": {"frames": stills.fingerprint, "model": model},
    }
    with open_run(folder, config, overwrite, (_TABLE, _PART, _SHEET, _CLASSES, _MASKS)):
        classes = [f"{name},{value}" for value, name in enumerate(structures, 1)]
        write_text(folder / _CLASSES, "\n".join(["name,id", *classes]) + "\n")
        done = _run(stills, predict, structures, folder, batch_size)
        rows = [row for name in stills.names if name in done for row in done[name]]
        with atomic(folder / _TABLE) as temporary:
            pd.DataFrame(rows, columns=list(_COLUMNS)).to_csv(temporary, index=False)
        (folder / _PART).unlink(missing_ok=True)
        if sheet:
            shown = [n for n, name in enumerate(stills.names) if name in done]
            _draw(stills, [shown[i] for i in _spread(len(shown), sheet)], structures, folder)
    for name in structures:
        empty = sum(row["empty"] == "1" for row in rows if row["structure"] == name)
        _log.info("%s: %d of %d segments are empty", name, empty, len(done))
    _log.info("%s: %d frames, look at %s", folder, len(done), folder / (_SHEET if sheet else _TABLE))
    return folder


def _check_spacing(spacing: list[float] | None) -> Spacing | None:
    if spacing is None:
        return None
    if len(spacing) != 2:
        raise ParameterError(f"spacing is {spacing}: give two sizes in mm, [row, column]")
    return check_spacing((spacing[0], spacing[1]))


def _check_models(parcels: str, whitebox: list[str] | None, network: str | None) -> list[str]:
    """Names of the white boxes; empty with a network."""
    if network is not None:
        if whitebox or parcels != PARCELS:
            raise ConfigError("network and white boxes are both given: keep network, or parcels and whitebox")
        return []
    if whitebox is None and parcels != PARCELS:
        raise ConfigError(
            f"no white box is given for the parcels {parcels}: make some with `alan name --parcels {parcels}`, "
            "then --whitebox '[DIR/lv.json]'"
        )
    return list(WHITE_BOXES if whitebox is None else whitebox)


def _model(
    parcels: str, boxes: Sequence[str], network: str | None, temperature: float | None
) -> tuple[Predict, tuple[str, ...], str]:
    """What segments frames, its structures, and its fingerprint."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if network is None:
        white = load_white_boxes(parcels, boxes, temperature)
        white.model.to(device)
        return white.label, white.structures, white.fingerprint
    loaded = load_network(network).to(device)

    def predict(frames: NDArray[np.uint8]) -> Labelled:
        labels = to_labels(loaded.probabilities(torch.from_numpy(frames).to(device)))
        return Labelled(labels.cpu().numpy().astype(np.uint8), np.zeros((len(frames), 0), np.int64))

    return predict, tuple(loaded.structures), loaded.fingerprint


def _run(
    stills: Stills, predict: Predict, structures: Sequence[str], folder: Path, batch_size: int
) -> dict[str, list[Row]]:
    """Segment the frames that have no label map yet; name of a frame to its rows, those of earlier calls too."""
    kept = _read_rows(folder, structures)
    done = {name: kept[name] for name in stills.names if name in kept}
    todo = [n for n, name in enumerate(stills.names) if name not in done]
    if done:
        _log.info("%s: %d of %d frames are already done", folder, len(done), len(stills.names))
    failures = []
    _write_rows(folder / _PART, done)
    with (
        (folder / _PART).open("a", newline="", encoding="utf-8") as file,
        tqdm(total=len(stills.names), initial=len(done), desc="segment", unit="frame") as bar,
    ):
        writer = csv.DictWriter(file, _COLUMNS)
        for start in range(0, len(todo), batch_size):
            batch: dict[int, Still] = {}
            for n in todo[start : start + batch_size]:
                try:
                    batch[n] = stills.read(n)
                except DataError as error:
                    failures.append(str(error))
            if batch:
                found = predict(np.stack([still.frame for still in batch.values()]))
                for i, (n, still) in enumerate(batch.items()):
                    name = stills.names[n]
                    labels = stills.preprocessing.restore(found.labels[i : i + 1], still.shape)[0]
                    with atomic(folder / _MASKS / f"{name}.png") as temporary:
                        Image.fromarray(labels).save(temporary, format="PNG")
                    done[name] = _rows(name, labels, found.parcels[i], structures, still.spacing)
                    writer.writerows(done[name])
                file.flush()
            bar.update(min(batch_size, len(todo) - start))
    if failures and not done:
        raise DataError(f"none of {len(failures)} pictures can be decoded; the first: {failures[0]}")
    if failures:
        warnings.warn(
            f"skipped {len(failures)} of {len(stills.names)} pictures that cannot be decoded, the first: "
            f"{failures[0]}",
            AlanWarning,
            stacklevel=2,
        )
    return done


def _rows(
    name: str,
    labels: NDArray[np.uint8],
    parcels: NDArray[np.int64],
    structures: Sequence[str],
    spacing: Spacing | None,
) -> list[Row]:
    rows = []
    for value, structure in enumerate(structures, 1):
        mask = labels == value
        area = "" if spacing is None else f"{float(area_cm2(mask, spacing)):.4f}"
        count = str(parcels[value - 1]) if len(parcels) else ""
        cells = (name, structure, str(int(mask.sum())), area, count, str(int(not mask.any())))
        rows.append(dict(zip(_COLUMNS, cells, strict=True)))
    return rows


def _read_rows(folder: Path, structures: Sequence[str]) -> dict[str, list[Row]]:
    """Frames whose rows and label map are both there; a last line that was cut off does not count."""
    rows: dict[str, dict[str, Row]] = {}
    for path in (folder / _TABLE, folder / _PART):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]
            for row in csv.DictReader(io.StringIO(whole)):
                if None not in row and None not in row.values():
                    rows.setdefault(row["frame"], {})[row["structure"]] = row
    return {
        name: [found[structure] for structure in structures]
        for name, found in rows.items()
        if set(found) == set(structures) and (folder / _MASKS / f"{name}.png").is_file()
    }


def _write_rows(path: Path, done: Mapping[str, list[Row]]) -> None:
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        for rows in done.values():
            writer.writerows(rows)


def _spread(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` of ``count`` places, evenly spread, the first and the last among them."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, wanted)).round()})


def _draw(stills: Stills, shown: Sequence[int], structures: Sequence[str], folder: Path) -> None:
    pictures = [stills.picture(n) for n in shown]
    names = [stills.names[n] for n in shown]
    labels: list[NDArray[Any]] = []
    for name in names:
        with Image.open(folder / _MASKS / f"{name}.png") as image:
            labels.append(np.array(image))
    with atomic(folder / _SHEET) as temporary:
        temporary.write_bytes(png(contact_sheet(pictures, labels, names, structures)))
