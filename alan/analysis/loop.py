"""Loops for the analysis: cropped to the fan, black outside it, in bounded memory."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from skimage.morphology import convex_hull_image

from alan.analysis.kinds import (
    DARK_VALUE,
    NotALoopError,
    Verdict,
    kind_by_colours,
    kind_by_header,
    kind_by_values,
    kind_of_object,
    kind_of_scenes,
    kind_of_strip,
    kind_without_fan,
)
from alan.analysis.pixels import PixelOrigin, panel_pixel
from alan.analysis.sources import Source
from alan.arrays import BoolArray, ByteArray, FloatArray
from alan.bounds import PositiveFloat, PositiveInt, bounded
from alan.data.blanking import FILLS, find_drawn, keep_sector
from alan.data.drawn_ecg import find_ecg_band, read_r_waves
from alan.data.fan import Fan, enclosing, enlarge
from alan.data.fan_search import find_panels
from alan.data.io.base import Spacing, mean_frame_rate, pixel_aspect
from alan.data.io.cine import frame_source
from alan.data.io.dicom import NoPicturesError
from alan.data.io.dicom_header import DicomReferences
from alan.data.io.frames import CineStream, FrameSource, open_stream
from alan.data.io.key_frames import KeyFrames
from alan.data.overlaid import paint_over
from alan.data.store.frames import StoredFrames
from alan.errors import ABOUT_CODE, DataError

#: Smallest number of rows and of columns of a frame.
_SMALLEST = 32
#: Smallest agreement of a rotated sector with the moving region for which the picture counts as rotated, and how
#: much it must exceed that of an upright one.
_TURNED, _CLEARLY = 0.9, 0.05
#: Longest side in pixels at which a turned sector is searched; margin around it in pixels; smallest fraction of
#: dark pixels farther out.
_SMALL, _AROUND, _BLACK = 320, 3.0, 0.8
#: Largest number of pixels that are decoded at once, which bounds the memory.
_PART_PIXELS = 2**25
#: Frame rate that no machine reaches in a loop of the heart.
_TOO_FAST = 1000
#: Frame rate below which end-systole may be missed.
_SLOW = 10


@dataclass(frozen=True)
class Loop:
    """A B-mode loop, or one panel of it.

    Attributes:
        name: Pseudonymous name; the panels of one loop end in ``_1``, ``_2``.
        patient: Pseudonymous key of the patient.
        n_frames: Number of frames T.
        shape: (H, W) of the frames that :meth:`chunks` gives.
        screen_shape: (H, W) of the frames in the file.
        box: Rows and columns of the file's frames that are kept.
        inside: (H, W) bool of ``shape``; the frames are 0 elsewhere.
        times_s: (T,) seconds from the first frame, or None if they are unknown.
        pixel_mm: (row, column) size of a pixel in mm, or None if it is unknown.
        pixel_origin: Where the size comes from: ``file``, ``region`` or ``option``.
        pixel_aspect: Height of a pixel divided by its width, also where its size is unknown.
        fan: The fan in the pixels of ``shape``, or None if none was found.
        text: (H, W) bool of ``shape``, text and coloured marks inside the fan, which are painted over.
        r_waves_s: (N,) times of the R waves in seconds, or None if the file has none.
        notes: Assumptions and conversions, in words.
        view: View that the frame store or the path of the file states, or None.
        key_frames: Positions of the end-diastolic and the end-systolic frame if the loop has only these two.
    """

    name: str
    patient: str
    n_frames: int
    shape: tuple[int, int]
    screen_shape: tuple[int, int]
    box: tuple[slice, slice]
    inside: BoolArray
    times_s: NDArray[np.float64] | None
    pixel_mm: Spacing | None
    pixel_origin: PixelOrigin | None
    pixel_aspect: float
    fan: Fan | None
    text: BoolArray
    r_waves_s: NDArray[np.float64] | None
    notes: tuple[str, ...]
    view: str | None
    key_frames: tuple[int, int] | None
    _source: Source = field(repr=False)
    _stream: CineStream = field(repr=False)

    @property
    def stage(self) -> str:
        """Number or pseudonym of the stage of a stress test; empty outside of such a test."""
        return str(self._stream.header.attributes.get("stage") or "")

    @property
    def simulated(self) -> bool:
        """Whether the loop is known to be simulated, so that its patient does not exist."""
        return self._source.simulated

    def drawn_r_waves(self) -> FloatArray:
        """Read the times of the R waves in s from an electrocardiogram on the screen; empty without a clear one.

        Raises:
            DataError: The file has changed or can no longer be decoded.
        """
        sector = np.zeros(self.screen_shape, bool)
        sector[self.box] = self.inside
        band = find_ecg_band(self._stream.samples, sector)
        if band is None or self.times_s is None:
            return np.empty(0)
        with _pseudonymous(self._source):
            return read_r_waves(self._stream, band, self.times_s)

    def references(self, *, keep: bool) -> DicomReferences | None:
        """Return the instance that DICOM objects refer to, see :meth:`alan.analysis.Source.references`."""
        return self._source.references(keep=keep)

    @bounded
    def chunks(self, n: PositiveInt) -> Iterator[ByteArray]:
        """Give the loop in parts.

        Args:
            n: Largest number of frames of a part; large frames come in smaller parts.

        Yields:
            (at most n, H, W) uint8, cropped to the box, 0 outside the fan, without text inside it.

        Raises:
            DataError: The file has changed or can no longer be decoded.
        """
        part: list[ByteArray] = []
        n = max(1, min(n, _PART_PIXELS // self.inside.size))
        with _pseudonymous(self._source):
            for frame in self._stream:
                part.append(frame[self.box] * self.inside)
                if len(part) == n:
                    yield paint_over(np.stack(part), self.text, self.inside)
                    part = []
            if part:
                yield paint_over(np.stack(part), self.text, self.inside)


@dataclass(frozen=True)
class _Panel:
    """A part of the screen: the fan in its pixels, the pixels that are kept, and notes about them."""

    fan: Fan | None
    kept: BoolArray
    notes: tuple[str, ...] = ()


@bounded
def open_loops(
    source: Source,
    *,
    spacing: PositiveFloat | tuple[PositiveFloat, PositiveFloat] | None = None,
    frame_rate: PositiveFloat | None = None,
    stills: bool = False,
) -> list[Loop]:
    """Open the B-mode loops of a file: one, or one for each panel of a screen.

    All frames are decoded once. Fan and kind are found on up to 24 frames. Messages and notes hold pseudonyms
    only.

    Args:
        source: The file.
        spacing: Size of a pixel in mm, or (row, column) sizes; None takes the size in the file.
        frame_rate: Frames per second; None takes the times in the file.
        stills: Whether a single frame, or frames that do not differ, are taken as well.

    Returns:
        The loops, from top to bottom and from left to right.

    Raises:
        NotALoopError: The file shows something other than a B-mode loop.
        DataError: The file cannot be decoded.
    """
    with _pseudonymous(source), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stream = open_stream(_frames(source))
        verdict = kind_by_header(stream.header) or kind_of_scenes(stream.samples.grey, stream.samples.places)
        if verdict is not None:
            raise NotALoopError(source.name, verdict)
        given = (spacing, spacing) if isinstance(spacing, (int, float)) else spacing
        aspect = pixel_aspect(stream.header, given)
        panels, more = _panels(stream, aspect)
        kept = [panel for panel in panels if isinstance(panel, _Panel)]
        left_out = [panel for panel in panels if isinstance(panel, Verdict)]
        still = None if stills else _kind_of_stills(stream)
        if not kept or still is not None:
            raise NotALoopError(source.name, still if kept and still else left_out[0])
        about = [warning for warning in caught if not issubclass(warning.category, ABOUT_CODE)]
        messages = dict.fromkeys(_unquoted(str(warning.message)) for warning in about)
        notes = [source.redact(note) for note in (*messages, *stream.header.notes)]
        notes += filter(None, [source.note])
        notes += [f"a panel is left out: {verdict.kind}, {verdict.reason}" for verdict in left_out]
        loops = [
            _loop(source, stream, panel, spacing=given, aspect=aspect, frame_rate=frame_rate) for panel in kept
        ]
        several = len(panels) > 1
        return [
            replace(
                loop,
                name=f"{source.name}_{number}" if several else source.name,
                notes=(*notes, *more, *loop.notes),
            )
            for number, loop in enumerate(loops, start=1)
        ]


def _frames(source: Source) -> FrameSource:
    if source.sequence is not None:
        return StoredFrames(source.path, source.sequence)
    if source.key_frames is not None:
        return KeyFrames(*map(frame_source, (source.path, *source.stills)))
    return frame_source(source.path, *source.stills)


@contextlib.contextmanager
def _pseudonymous(source: Source) -> Iterator[None]:
    """Report errors with the pseudonym of the loop in place of names."""
    try:
        yield
    except NotALoopError:
        raise
    except NoPicturesError as error:
        raise NotALoopError(source.name, kind_of_object(error.modality)) from None
    except DataError as error:
        raise DataError(f"{source.name}: {_unquoted(source.redact(str(error)))}") from None


def _unquoted(text: str) -> str:
    """Remove the values that a message of a decoder quotes, which may come from a header."""
    whole = re.sub(r"(?<!\w)b?(['\"]).*?\1(?!\w)", "...", text)  # the apostrophe of O'Neil ends no quotation
    return re.sub(r"'[^']*'|\"[^\"]*\"", "...", whole)


def _kind_of_stills(stream: CineStream) -> Verdict | None:
    """Decide whether there is motion."""
    if stream.n_frames == 1:
        return Verdict("b-mode still", "it holds one frame, and beats need a loop")
    if not stream.samples.span.any():
        return Verdict("b-mode still", f"its {stream.n_frames} frames do not differ, and beats need a loop")
    return None


def _kind_of_turned(grey: ByteArray, span: ByteArray, aspect: float, upright: float) -> Verdict | None:
    """Decide whether a sector lies upside down or on its side; ``upright`` is the agreement of an upright one."""
    thin = slice(None, None, -(-max(span.shape) // _SMALL))
    for quarters, how in ((2, "180"), (1, "90"), (3, "90")):
        turned = np.rot90(grey[:, thin, thin], quarters, (1, 2))
        found = find_panels(turned, np.rot90(span[thin, thin], quarters), aspect if quarters == 2 else 1 / aspect)
        if found.agreement < max(_TURNED, upright + _CLEARLY):
            continue
        outside = ~np.any([fan.mask(_AROUND) for fan in found.fans], axis=0)
        if float((turned[:, outside] < DARK_VALUE).mean()) >= _BLACK:
            return Verdict("not upright", f"its sector does not open downwards: turn or flip it by {how} degrees")
    return None


def _panels(stream: CineStream, aspect: float) -> tuple[list[_Panel | Verdict], tuple[str, ...]]:
    """Find the panels of the screen in order, or the reasons to leave them out, and notes for all."""
    grey, colours, step = stream.samples.grey, stream.samples.colours, stream.samples.step
    if min(stream.shape) < _SMALLEST:
        return [Verdict("not an echo", f"its frames have {stream.shape[1]} x {stream.shape[0]} pixels")], ()
    if (few := kind_by_values(grey)) is not None:
        return [few], ()
    span = stream.samples.span
    found = find_panels(grey, span, aspect)
    strip = kind_of_strip(grey, found.others)
    if strip is not None:
        return [strip], ()
    if found.agreement < _TURNED and span.any():
        turned = _kind_of_turned(grey, span, aspect, found.agreement)
        if turned is not None:
            return [turned], ()
    if not found.fans:
        region = found.others[0] if found.others else None
        verdict = kind_without_fan(grey, colours, region)
        if verdict is not None or region is None:
            return [verdict or Verdict("not an echo", "nothing in it moves")], ()
        hull: BoolArray = convex_hull_image(region)  # type: ignore[no-untyped-call]
        note = "no fan found: the part of the picture that moves is taken"
        return [_Panel(None, enlarge(hull, step, stream.shape), (note,))], ()
    panels: list[_Panel | Verdict] = []
    whole = found.scaled(step, stream.shape)
    for thin, fan, region in zip(found.fans, whole.fans, whole.regions, strict=True):
        verdict = None if colours is None else kind_by_colours(colours, thin.mask())
        panels.append(verdict or _Panel(fan, keep_sector(fan, region)))
    more = (f"one of {len(panels)} panels of the screen",) if len(panels) > 1 else ()
    return panels, more


def _loop(
    source: Source,
    stream: CineStream,
    panel: _Panel,
    *,
    spacing: Spacing | None,
    aspect: float,
    frame_rate: float | None,
) -> Loop:
    """Crop a panel from the screen."""
    header = stream.header
    box = enclosing(panel.kept)
    if all(part.stop - part.start >= FILLS * n for part, n in zip(box, stream.shape, strict=True)):
        box = (slice(0, stream.shape[0]), slice(0, stream.shape[1]))
    inside = panel.kept[box]
    text, found = find_drawn(stream.samples, panel.kept)
    pixel, origin, how = panel_pixel(header, enclosing(panel.kept), spacing)
    times = header.times if frame_rate is None else np.arange(stream.n_frames) / frame_rate
    fps = mean_frame_rate(times)
    rate: tuple[str, ...] = ()
    if fps and fps < _SLOW:
        rate = (f"{fps:.3g} frames per second: end-systole may lie between two frames",)
    elif fps and fps > _TOO_FAST:
        times, rate = (
            None,
            (f"the file states {fps:.3g} frames per second, which is impossible: its times are not used",),
        )
    if source.key_frames is not None:
        known = "the names of its files" if source.sequence is None else "the frame store"
        times, rate = None, (f"two frames, at end-diastole and at end-systole according to {known}",)
    waves = header.attributes.get("r_wave_times")
    return Loop(
        source.name,
        source.patient,
        stream.n_frames,
        (inside.shape[0], inside.shape[1]),
        stream.shape,
        box,
        inside,
        times,
        pixel,
        origin,
        aspect if pixel is None else pixel[0] / pixel[1],
        None if panel.fan is None else panel.fan.crop(box),
        text[box],
        np.array(waves) if isinstance(waves, tuple) else None,
        (*panel.notes, *found, *how, *rate),
        source.view,
        source.key_frames,
        source,
        stream,
    )
