"""Write the files of one loop: video and pictures with outlines, label maps, DICOM objects and parcel tables."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from alan.analysis import dicom
from alan.analysis.dicom_report import write_measurements
from alan.analysis.evidence import ParcelEvidence
from alan.analysis.nifti import write_label_maps
from alan.analysis.overlay import Painter, curve_strip, display_shape, write_mp4
from alan.analysis.results import BeatResult, LoopResult
from alan.analysis.tables import COLUMNS, LOOP_FOLDER, PARCELS, cells
from alan.arrays import ByteArray
from alan.data.io.base import variable_rate
from alan.data.io.dicom_header import DicomReferences
from alan.data.preprocessing import Preprocessing
from alan.downstream.segmentation import write_label_map
from alan.errors import DataError
from alan.extras import third_party
from alan.files import atomic, write_rows

if TYPE_CHECKING:
    from alan.analysis.loop import Loop

#: Kind of output: ``overlay`` (video and pictures with outlines, parcels), ``png`` (label maps at end-diastole and
#: end-systole), ``nifti`` (label maps of all frames) or ``dicom`` (segmentation and measurements).
Output = Literal["overlay", "png", "nifti", "dicom"]
#: Reference of DICOM objects: ``pseudonymous`` UIDs, or those of the file with its patient and study (``keep``).
References = Literal["pseudonymous", "keep"]
OVERLAY, NIFTI, SEGMENTATION, MEASUREMENTS = "overlay.mp4", "labels.nii.gz", "segmentation.dcm", "measurements.dcm"
MASKS, NEIGHBOURS = "masks", "neighbours.png"
#: Largest number of pixels of a DICOM segmentation, which bounds the memory; for a longer loop, only the frames of
#: the beats are stored.
_MOST_PIXELS = 2**27
_CHUNK = 16


def key_frames(result: LoopResult) -> dict[str, int]:
    """Choose the frames of a loop that are written as pictures.

    Args:
        result: The loop.

    Returns:
        ``ed`` and ``es`` of the median beat (the beat whose ejection fraction, area change or fractional
        shortening, the first of them that is measured, is nearest to the median); without a beat ``frame``, in
        which the first structure is largest.
    """
    beat = median_beat(result)
    if beat is not None:
        return {"ed": beat.ed, "es": beat.es}
    if not result.n_frames:
        return {}
    name = result.structures[0] if result.structures else "lv"
    areas = [frame.area_px.get(name, 0.0) for frame in result.frames] or [0.0]
    return {"frame": int(np.argmax(areas))}


def median_beat(result: LoopResult) -> BeatResult | None:
    """Choose the beat that represents a loop, a complete and regular one if possible; None without a beat."""
    beats = [beat for beat in result.beats if beat.end is not None and beat.regular] or list(result.beats)
    for name in ("ef_percent", "area_change_percent", "fractional_shortening_percent"):
        known = [beat for beat in beats if getattr(beat, name).known]
        if known:
            typical = float(np.median([getattr(beat, name).value for beat in known]))
            return min(known, key=lambda beat: abs(getattr(beat, name).value - typical))
    return beats[0] if beats else None


@dataclass
class _Job:
    """Data of one loop and the folder of its files."""

    out: Path
    loop: Loop
    labels: ByteArray
    result: LoopResult
    evidence: ParcelEvidence | None
    references: DicomReferences | None

    def __post_init__(self) -> None:
        self.painter = Painter(display_shape(self.loop.shape, self.loop.pixel_aspect), self.labels.shape[1])
        self.restore = Preprocessing(self.labels.shape[1]).restore
        self.names = {frame: name for name, frame in key_frames(self.result).items()}
        self.digest = dicom.content_digest(self.labels, self.result, self.references)


@dataclass
class _Chunk:
    """Consecutive frames of a loop and their label maps at several sizes, which are computed when needed."""

    job: _Job
    first: int
    frames: ByteArray

    @cached_property
    def labels(self) -> ByteArray:
        """Label maps on the grid of the model."""
        return self.job.labels[self.first : self.first + len(self.frames)]

    @cached_property
    def crop_labels(self) -> ByteArray:
        """Label maps at the size of the crop."""
        return self.job.restore(self.labels, self.job.loop.shape)

    @cached_property
    def picture_labels(self) -> ByteArray:
        """Label maps at the size of the pictures."""
        painter = self.job.painter
        return self.crop_labels if painter.shape == self.job.loop.shape else painter.labels(self.labels)

    @cached_property
    def screen_labels(self) -> ByteArray:
        """Label maps in the pixels of the file; 0 outside the crop."""
        screen = np.zeros((len(self.frames), *self.job.loop.screen_shape), np.uint8)
        screen[:, self.job.loop.box[0], self.job.loop.box[1]] = self.crop_labels
        return screen

    def places(self) -> Iterator[tuple[int, int]]:
        """Enumerate the frames: position in the chunk and index in the loop."""
        return enumerate(range(self.first, self.first + len(self.frames)))


_Sink = Callable[[_Chunk], None]


def export_loop(
    folder: Path,
    loop: Loop,
    labels: ByteArray,
    result: LoopResult,
    kinds: Collection[Output],
    *,
    evidence: ParcelEvidence | None = None,
    references: DicomReferences | None = None,
) -> None:
    """Write the files of a loop atomically into ``loops/<name>/``.

    The loop is read once, a few frames at a time, so that memory does not grow with its length.

    Args:
        folder: Folder of the results.
        loop: The frames.
        labels: (T, size, size) uint8 label maps on the grid of the model, on which the crop is stretched.
        result: The measurements; the structures are in the order of the labels.
        kinds: Kinds of output.
        evidence: Parcels of the loop; with it, ``overlay`` writes pictures of the parcels and ``parcels.csv``.
        references: Instance that the DICOM objects refer to; None derives one from the labels.

    Raises:
        DataError: The labels, the result and the frames differ in number.
        ConfigError: ``kinds`` contains ``dicom`` and highdicom is not installed.
    """
    if len(labels) != loop.n_frames or loop.n_frames != result.n_frames:
        raise DataError(
            f"{loop.name}: has {loop.n_frames} frames, {len(labels)} label maps, a result of {result.n_frames}: "
            "give those of one loop"
        )
    job = _Job(folder / LOOP_FOLDER / loop.name, loop, labels, result, evidence, references)
    with contextlib.ExitStack() as stack:
        sinks = [stack.enter_context(sink(job)) for kind, sink in _SINKS.items() if kind in kinds]
        first = 0
        for frames in loop.chunks(_CHUNK) if sinks else ():
            if first + len(frames) > loop.n_frames:
                raise DataError(f"{loop.name}: yields more than its {loop.n_frames} frames; get the file again")
            chunk = _Chunk(job, first, frames)
            for sink in sinks:
                sink(chunk)
            first += len(frames)
        if sinks and first < loop.n_frames:
            raise DataError(f"{loop.name}: ends after {first} of {loop.n_frames} frames; get the file again")


@contextlib.contextmanager
def _overlay(job: _Job) -> Iterator[_Sink]:
    """Write the video, the pictures of the key frames, and their parcels."""
    painter, result = job.painter, job.result
    strip, columns = curve_strip(result, painter.shape[1])
    shape = (painter.shape[0] + len(strip), painter.shape[1])
    times = [frame.time_s for frame in result.frames if frame.time_s is not None]
    uneven = bool(variable_rate(np.array(times)))
    with write_mp4(job.out / OVERLAY, shape, result.frame_rate_hz, times if uneven else ()) as video:

        def take(chunk: _Chunk) -> None:
            for n, frame in chunk.places():
                picture = painter.paint(chunk.frames[n], chunk.picture_labels[n])
                below = strip.copy()
                below[:, columns[frame] - 1 : columns[frame] + 1] = 255
                video(np.concatenate([picture, below]))
                if (name := job.names.get(frame)) is not None:
                    _write_png(job.out / f"{name}.png", picture)
                    if job.evidence is not None:
                        chosen = job.evidence.chosen(result.structures, _phase(name))
                        parcels = job.evidence.maps[frame]
                        labels = chunk.picture_labels[n]
                        picture = painter.paint_parcels(chunk.frames[n], parcels, labels, chosen)
                        _write_png(job.out / f"{name}_parcels.png", picture)

        yield take
    if job.evidence is not None:
        rows = (
            cells(row)
            for frame, name in job.names.items()
            for row in job.evidence.rows(result.structures, job.labels[frame], _phase(name), frame)
        )
        write_rows(job.out / PARCELS, (entry.column for entry in COLUMNS[f"{LOOP_FOLDER}/*/{PARCELS}"]), rows)


@contextlib.contextmanager
def _masks(job: _Job) -> Iterator[_Sink]:
    """Write the label maps of the key frames as palette PNG."""

    def take(chunk: _Chunk) -> None:
        for n, frame in chunk.places():
            if frame in job.names:
                write_label_map(job.out / MASKS / f"{job.names[frame]}.png", chunk.screen_labels[n])

    yield take


@contextlib.contextmanager
def _nifti(job: _Job) -> Iterator[_Sink]:
    """Write the label maps of all frames as NIfTI."""
    shape = (job.loop.n_frames, *job.loop.screen_shape)
    interval = 1 / job.result.frame_rate_hz if job.result.frame_rate_hz else None
    with write_label_maps(job.out / NIFTI, shape, job.loop.pixel_mm, interval, job.loop.pixel_aspect) as write:
        yield lambda chunk: write(chunk.screen_labels)


@contextlib.contextmanager
def _dicom(job: _Job) -> Iterator[_Sink]:
    """Write the DICOM Segmentation and the Structured Report."""
    third_party("highdicom", "dicom")  # fails before anything is computed
    frames = _stored_frames(job)
    places = {frame: n for n, frame in enumerate(frames)}
    stored = np.zeros((len(frames), *job.loop.screen_shape), np.uint8)

    def take(chunk: _Chunk) -> None:
        for n, frame in chunk.places():
            if frame in places:
                stored[places[frame]] = chunk.screen_labels[n]

    yield take
    dicom.write_segmentation(
        job.out / SEGMENTATION, job.result, stored, frames, job.digest, references=job.references
    )
    write_measurements(job.out / MEASUREMENTS, job.result, job.digest, job.references)


_SINKS: dict[str, Callable[[_Job], contextlib.AbstractContextManager[_Sink]]] = {
    "overlay": _overlay,
    "png": _masks,
    "nifti": _nifti,
    "dicom": _dicom,
}


def _phase(name: str) -> str:
    """Return the phase of a picture."""
    return "ES" if name == "es" else "ED"


def _stored_frames(job: _Job) -> list[int]:
    """Choose the frames of the DICOM segmentation: all of them, or those of the beats if the loop is long."""
    height, width = job.loop.screen_shape
    most = max(2, _MOST_PIXELS // (height * width))
    if job.loop.n_frames <= most:
        return list(range(job.loop.n_frames))
    beats = {frame for beat in job.result.beats for frame in (beat.ed, beat.es)}
    return sorted(beats if 0 < len(beats) <= most else job.names)


def _write_png(path: Path, picture: ByteArray) -> None:
    with atomic(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
