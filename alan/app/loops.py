"""Frames of an uploaded file, decoded in bounded memory, or of a simulated example."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from alan.analysis.kinds import NotALoopError
from alan.analysis.loop import Loop, open_loops
from alan.analysis.sources import find_sources
from alan.app.state import ParcelLoop
from alan.arrays import ByteArray, evenly_spread
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


def read_frames(path: Path, size: int, progress: Progress = no_progress) -> tuple[ByteArray, tuple[int, int]]:
    """Read at most :data:`MAX_FRAMES` frames of an uploaded file.

    Args:
        path: The file.
        size: Side to which frames are resized.
        progress: Told the share that is done, up to one half, and what is done.

    Returns:
        (T, size, size) uint8, and (H, W) of the frames before they were resized, in square pixels.

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
    return np.concatenate(kept), (max(1, round(loop.shape[0] * loop.pixel_aspect)), loop.shape[1])


def upload(path: Path, model: ParcelModel, size: int, progress: Progress = no_progress) -> ParcelLoop:
    """Read an uploaded file as :func:`read_frames`, and find its parcels."""
    frames, shape = read_frames(path, size, progress)
    return ParcelLoop(frames, compute_parcels(model, frames, progress), shape)


def example(model: ParcelModel, view: str, size: int, progress: Progress = no_progress) -> ParcelLoop:
    """Simulate a loop of a view, with its true outlines as reference."""
    progress(0.0, "simulating")
    found = simulate_sequence(
        view, _PATIENT, n_frames=16, size=size, seed=_PATIENT, labels_outside=view in PARASTERNAL
    )
    return ParcelLoop(
        found.frames, compute_parcels(model, found.frames, progress), (size, size), found.labels, tuple(STRUCTURES)
    )


def compute_parcels(model: ParcelModel, frames: ByteArray, progress: Progress) -> ByteArray:
    """Compute the parcel maps of frames."""
    maps = []
    for start in range(0, len(frames), _PART):
        maps.append(model.maps(torch.from_numpy(frames[start : start + _PART])).numpy())
        progress(0.5 + 0.5 * min(start + _PART, len(frames)) / len(frames), "finding parcels")
    return np.concatenate(maps).astype(np.uint8)
