"""Frames of an uploaded file, decoded in bounded memory, or of a simulated example, and their parcels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from alan.analysis.kinds import NotALoopError
from alan.analysis.loop import Loop, open_loops
from alan.analysis.measures import Grid
from alan.analysis.sources import find_sources
from alan.arrays import BoolArray, ByteArray, evenly_spread
from alan.data.preprocessing import Preprocessing
from alan.data.sample import PARASTERNAL, Record, Sample
from alan.data.simulator.sequence import simulate_sequence
from alan.data.structures import STRUCTURES
from alan.errors import DataError
from alan.parcels.model import ParcelModel
from alan.progress import Progress, no_progress

#: Largest number of frames of a loop that the page keeps; longer loops are subsampled evenly.
MAX_FRAMES = 48
#: Number of frames to decode at a time.
_PART = 16
#: Seed of the patient of the example, whose left ventricle is large, so that its parcels are easy to click.
_PATIENT = 25


class UploadedFrames(NamedTuple):
    """Frames of an uploaded file.

    Attributes:
        frames: (T, size, size) uint8.
        shape: (H, W) of the frames before they were resized, in square pixels.
        pixel_mm: Size of such a pixel in mm; None if the file does not state it.
    """

    frames: ByteArray
    shape: tuple[int, int]
    pixel_mm: float | None


@dataclass(frozen=True)
class ParcelLoop:
    """Frames with their parcels.

    Attributes:
        frames: (T, S, S) uint8, resized for the model.
        maps: (T, S, S) uint8, ids of parcels.
        shape: (H, W) of the frames before they were resized, in square pixels.
        reference: (T, S, S) uint8 label maps to compare with, values in the order of ``structures``; None if
            there is none.
        structures: Names of the values of the reference.
        pixel_mm: Size of a pixel of ``shape`` in mm; None if it is unknown.
    """

    frames: ByteArray
    maps: ByteArray
    shape: tuple[int, int]
    reference: ByteArray | None = None
    structures: tuple[str, ...] = ()
    pixel_mm: float | None = None

    def reference_mask(self, structure: str, frame: int) -> BoolArray | None:
        """Return the mask of the reference; None without a reference."""
        if self.reference is None or structure not in self.structures:
            return None
        mask: BoolArray = self.reference[frame] == self.structures.index(structure) + 1
        return mask

    def grid(self, view: str) -> Grid:
        """Return the geometry of the maps, in a view."""
        pixels = (self.shape[0] / self.maps.shape[1], self.shape[1] / self.maps.shape[2])
        return Grid(pixels, None if self.pixel_mm is None else (self.pixel_mm, self.pixel_mm), view=view)


def read_loop(path: Path) -> Loop:
    """Open the first B-mode loop, or the still, of an uploaded file.

    Raises:
        DataError: The file cannot be decoded, or shows no B-mode picture.
    """
    sources, left_out = find_sources([path])
    if not sources:
        reason = left_out[0][1] if left_out else "it is not a picture, video or DICOM file"
        raise DataError(f"the file cannot be read: {reason}")
    name = sources[0].name
    try:
        return open_loops(sources[0], stills=True)[0]
    except NotALoopError as error:
        raise DataError(f"the file shows something else: {error.kind}, {error.reason}") from error
    except DataError as error:
        raise DataError(f"the file {str(error).removeprefix(f'{name}: ')}") from error


def read_frames(path: Path, size: int, progress: Progress = no_progress) -> UploadedFrames:
    """Read at most :data:`MAX_FRAMES` frames of an uploaded file.

    Args:
        path: The file.
        size: Side to which frames are resized.
        progress: Told the share that is done, up to one half, and what is done.

    Raises:
        DataError: The file cannot be decoded, or shows no B-mode picture.
    """
    progress(0.0, "decoding")
    loop = read_loop(path)
    wanted = evenly_spread(loop.n_frames, MAX_FRAMES)
    preprocessing, kept, first = Preprocessing(size), [], 0
    for part in loop.chunks(_PART):
        rows = wanted[(wanted >= first) & (wanted < first + len(part))] - first
        if len(rows):
            kept.append(preprocessing.apply(Sample(Record("upload", "upload"), part[rows])).frames)
        first += len(part)
        progress(0.5 * first / loop.n_frames, "decoding")
    shape = max(1, round(loop.shape[0] * loop.pixel_aspect)), loop.shape[1]
    return UploadedFrames(np.concatenate(kept), shape, None if loop.pixel_mm is None else loop.pixel_mm[1])


def example(model: ParcelModel, view: str, size: int, progress: Progress = no_progress) -> ParcelLoop:
    """Simulate a loop of a view, with its true outlines as reference."""
    progress(0.0, "simulating")
    found = simulate_sequence(
        view, _PATIENT, n_frames=16, size=size, seed=_PATIENT, labels_outside=view in PARASTERNAL
    )
    maps = compute_parcels(model, found.frames, progress)
    height, width = found.spacing_mm
    shape = max(1, round(size * height / width)), size
    return ParcelLoop(found.frames, maps, shape, found.labels, tuple(STRUCTURES), width)


def compute_parcels(model: ParcelModel, frames: ByteArray, progress: Progress) -> ByteArray:
    """Compute the parcel maps of frames."""
    maps = []
    for start in range(0, len(frames), _PART):
        maps.append(model.maps(torch.from_numpy(frames[start : start + _PART])).numpy())
        progress(0.5 + 0.5 * min(start + _PART, len(frames)) / len(frames), "finding parcels")
    return np.concatenate(maps).astype(np.uint8)
