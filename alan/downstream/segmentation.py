"""Segment pictures or stored frames: label maps at the original size and a table, resumable frame by frame."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from tqdm import tqdm

from alan.cardiac.areas import area_cm2
from alan.data.io.base import Spacing
from alan.data.stills import Still, Stills
from alan.data.structures import label_colour, label_palette
from alan.devices import choose_device
from alan.downstream.members import load_network
from alan.downstream.whitebox.several import Segmentation
from alan.errors import DataError
from alan.files import atomic, write_text
from alan.supervised.segmenter import to_labels

_log = logging.getLogger(__name__)

TABLE, PART, CLASSES, MASKS = "segments.csv", "segments.part.csv", "classes.csv", "masks"
#: Everything that :func:`segment_frames` writes into its folder.
CONTENTS = (TABLE, PART, CLASSES, MASKS)
COLUMNS = ("frame", "structure", "area_px", "area_cm2", "parcels", "empty")
#: Text entry of a mask that identifies the picture it was made from.
_SOURCE = "alan source"
SegmentRow = dict[str, str]


class FrameSegmenter(Protocol):
    """Model that turns frames into label maps: :class:`alan.downstream.WhiteBoxes` or a network.

    Attributes:
        structures: Names in the order of the labels.
        fingerprint: SHA-256 of everything that decides the labels.
    """

    structures: tuple[str, ...]
    fingerprint: str

    def label(self, frames: NDArray[np.uint8]) -> Segmentation:
        """Segment frames (B, H, W) uint8."""


class NetworkLabeller:
    """A segmentation network, an ensemble or soft parcels as a :class:`FrameSegmenter`.

    Args:
        path: ``segmenter.safetensors``, or the JSON of an ensemble or of soft parcels.
        device: Device that runs it, see :func:`alan.devices.choose_device`.

    Raises:
        CheckpointError: The file cannot be loaded.
        DataError: A JSON file is missing or damaged.
    """

    def __init__(self, path: str | os.PathLike[str], device: str = "auto") -> None:
        self.device = choose_device(device)
        self.network = load_network(path).to(self.device)
        self.structures, self.fingerprint = tuple(self.network.structures), self.network.fingerprint

    def label(self, frames: NDArray[np.uint8]) -> Segmentation:
        """Segment frames (B, H, W) uint8; the number of parcels is left out."""
        labels = to_labels(self.network.probabilities(torch.from_numpy(frames).to(self.device)))
        return Segmentation(labels.cpu().numpy().astype(np.uint8), np.zeros((len(frames), 0), np.int64))


class SegmentedFrames:
    """Frames that were segmented and frames that were skipped.

    Attributes:
        rows: Name of each segmented frame to its rows, one per structure, in the order of the frames.
        failures: Name and reason of each frame that cannot be decoded.
    """

    def __init__(self, rows: Mapping[str, list[SegmentRow]], failures: Sequence[tuple[str, str]]) -> None:
        self.rows, self.failures = rows, failures

    def n_empty(self, structure: str) -> int:
        """Return the number of frames in which the segment of a structure is empty."""
        rows = [row for rows in self.rows.values() for row in rows if row["structure"] == structure]
        return sum(row["empty"] == "1" for row in rows)


def segment_frames(stills: Stills, segmenter: FrameSegmenter, folder: Path, batch_size: int) -> SegmentedFrames:
    """Segment the frames that have no label map yet.

    Writes ``masks/<frame>.png``, ``segments.csv`` and ``classes.csv``. Killed anywhere, the same call continues
    with the remaining frames. A picture that changed since is segmented again.

    Args:
        stills: The frames.
        segmenter: The model.
        folder: Folder of the results.
        batch_size: Number of frames that go through the model at a time.

    Returns:
        Rows of all frames, including those of earlier calls, and the frames that were skipped.

    Raises:
        DataError: No frame can be decoded.
    """
    classes = [f"{name},{value},{label_colour(value)}" for value, name in enumerate(segmenter.structures, 1)]
    write_text(folder / CLASSES, "\n".join(["name,id,colour", *classes]) + "\n")
    done = _finished_frames(stills, folder, segmenter.structures)
    todo = [n for n, name in enumerate(stills.names) if name not in done]
    if done:
        _log.info("%s: %d of %d frames are already done", folder, len(done), len(stills.names))
    failures: list[tuple[str, str]] = []
    _write_rows(folder / PART, done.values())
    with (
        (folder / PART).open("a", newline="", encoding="utf-8") as file,
        tqdm(total=len(stills.names), initial=len(done), desc="segment", unit="frame") as bar,
    ):
        writer = csv.DictWriter(file, COLUMNS)
        for start in range(0, len(todo), batch_size):
            batch: dict[int, Still] = {}
            for n in todo[start : start + batch_size]:
                try:
                    batch[n] = stills.read(n)
                except DataError as error:
                    failures.append((stills.names[n], str(error)))
            if batch:
                found = segmenter.label(np.stack([still.frame for still in batch.values()]))
                for i, (n, still) in enumerate(batch.items()):
                    name = stills.names[n]
                    restore = stills.preprocessing.restore
                    labels = restore(found.labels[i : i + 1], still.shape, still.spacing)[0]
                    done[name] = _rows(name, labels, found.parcels[i], segmenter.structures, still.spacing)
                    writer.writerows(done[name])
                    file.flush()  # before the mask, whose stamp makes the rows count
                    write_label_map(folder / MASKS / f"{name}.png", labels, stills.stamp(n))
            bar.update(min(batch_size, len(todo) - start))
    if failures and not done:
        raise DataError(f"none of {len(failures)} pictures can be decoded; the first: {failures[0][1]}")
    ordered = {name: done[name] for name in stills.names if name in done}
    _write_rows(folder / TABLE, ordered.values())
    (folder / PART).unlink(missing_ok=True)
    return SegmentedFrames(ordered, failures)


def read_label_map(folder: Path, name: str) -> NDArray[np.uint8]:
    """Read the label map (H, W) uint8 of a segmented frame."""
    with Image.open(folder / MASKS / f"{name}.png") as image:
        return np.array(image)


def write_label_map(path: Path, labels: NDArray[np.uint8], stamp: str | None = None) -> None:
    """Write a label map as a palette PNG, atomically; its pixels are the values, its palette their colours.

    Args:
        path: The file.
        labels: (H, W) uint8 label map.
        stamp: Identification of the picture that it was made from; None leaves it out.
    """
    info = PngImagePlugin.PngInfo()
    if stamp is not None:
        info.add_text(_SOURCE, stamp)
    image = Image.fromarray(labels)
    image.putpalette(label_palette())
    with atomic(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)


def _rows(
    name: str,
    labels: NDArray[np.uint8],
    parcels: NDArray[np.int64],
    structures: Sequence[str],
    spacing: Spacing | None,
) -> list[SegmentRow]:
    rows = []
    for value, structure in enumerate(structures, 1):
        mask = labels == value
        area = "" if spacing is None else f"{float(area_cm2(mask, spacing)):.4f}"
        count = str(parcels[value - 1]) if len(parcels) else ""
        cells = (name, structure, str(int(mask.sum())), area, count, str(int(not mask.any())))
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def _finished_frames(stills: Stills, folder: Path, structures: Sequence[str]) -> dict[str, list[SegmentRow]]:
    """Find frames with rows, a label map and an unchanged picture; a truncated last line is ignored."""
    rows: dict[str, dict[str, SegmentRow]] = {}
    for path in (folder / TABLE, folder / PART):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]
            for row in csv.DictReader(io.StringIO(whole)):
                if None not in row and None not in row.values():
                    rows.setdefault(row["frame"], {})[row["structure"]] = row
    return {
        name: [rows[name][structure] for structure in structures]
        for n, name in enumerate(stills.names)
        if set(rows.get(name, ())) == set(structures) and _source(folder, name) == stills.stamp(n)
    }


def _source(folder: Path, name: str) -> str | None:
    """Return the stamp of the picture that a mask was made from; None if the mask is missing or damaged."""
    try:
        with Image.open(folder / MASKS / f"{name}.png") as image:
            image.load()
            return image.info.get(_SOURCE)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
        return None


def _write_rows(path: Path, rows: Iterable[list[SegmentRow]]) -> None:
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for part in rows:
            writer.writerows(part)
