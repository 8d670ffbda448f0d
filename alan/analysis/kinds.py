"""Kind of a recording: a B-mode loop, or one that the analysis leaves out, with the reason."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from alan.arrays import BoolArray, ByteArray
from alan.data.fan import enclosing
from alan.data.io.base import Header
from alan.data.overlaid import brightest_and_chroma
from alan.errors import DataError

LoopKind = Literal[
    "b-mode loop",
    "b-mode still",
    "colour Doppler",
    "tissue Doppler",
    "M-mode",
    "spectral Doppler",
    "contrast",
    "volume",
    "several scenes",
    "not upright",
    "label map",
    "not an echo",
]
_MODALITIES = ("CR", "CT", "DX", "ECG", "ES", "IVUS", "MG", "MR", "NM", "OCT", "PT", "RF", "SC", "SR", "XA")
#: Modalities of DICOM objects that hold no pictures and lie beside them.
_OBJECTS = {
    "SR": "a report",
    "PR": "a presentation state",
    "KO": "a list of key objects",
    "DOC": "a document",
    "ECG": "an ECG",
}
#: Velocity in cm/s below which a Doppler spectrum shows tissue; blood is faster.
_TISSUE_VELOCITY = 30.0
#: Largest difference of the colour channels of a grey pixel, and largest grey values of unlit and of dim pixels.
_CHROMA, _LIT, _BRIGHT = 40, 48, 100
#: Smallest share of coloured pixels: among the lit pixels of colour Doppler, among the bright pixels of tissue
#: Doppler and of B-mode in a colour map; smallest share of the main hue in a colour map.
_FLOW, _MAP, _TINT, _ONE_HUE = 0.01, 0.5, 0.9, 0.97
#: Smallest width of a strip as a fraction of the screen, and smallest fraction of its box that it fills.
_STRIP, _FILLED = 0.45, 0.6
#: Smallest ratio of width to height of a strip.
_WIDE = 1.3
#: Smallest number of grey values of a picture of tissue; label maps have fewer.
_FEWEST_GREYS = 8
#: Correlation of two neighbouring frames below which a new scene begins, if it deviates from 1 by this factor more
#: than that of most neighbours; distance in pixels of the pixels that are compared.
_CUT, _FARTHER, _THIN = 0.75, 8, 4
#: Ratio of changes along and across time below which a strip shows lines that continue in time.
_LINES = 0.6
#: Smallest fraction of dark pixels in an echo without a sector, and the grey value below which a pixel is dark.
_DARK, DARK_VALUE = 0.15, 40


class Verdict(NamedTuple):
    """Kind of a recording and the reason for it."""

    kind: LoopKind
    reason: str


class NotALoopError(DataError):
    """A file that can be decoded shows something other than a B-mode loop.

    Attributes:
        kind: Kind of the recording.
        reason: Reason for this kind.
    """

    def __init__(self, name: str, verdict: Verdict) -> None:
        super().__init__(f"{name}: {verdict.kind}, {verdict.reason}")
        self.kind, self.reason = verdict


def kind_of_object(modality: str) -> Verdict:
    """Name a DICOM object whose class has no pictures."""
    return Verdict("not an echo", f"{_OBJECTS.get(modality, 'a DICOM object')} without pictures")


def kind_by_header(header: Header) -> Verdict | None:
    """Decide by the modality, the regions and the contrast agent of a DICOM header; None if they do not decide."""
    modality = header.attributes.get("modality")
    if modality is not None:
        known = modality if modality in _MODALITIES else "that is not ultrasound"  # a header may contain any value
        return Verdict(
            "not an echo", f"its header states modality {known}; if it shows an echo, export it as a video"
        )
    regions = [region for region in header.regions if not region.beyond]
    for region in regions:
        if region.kind == "spectrum":
            limit = None if region.velocity is None else region.velocity * (region.box[2] - region.box[0])
            if region.content != "cw doppler" and limit is not None and limit < 2 * _TISSUE_VELOCITY:
                return Verdict(
                    "tissue Doppler",
                    f"its header has a spectrum that spans {limit:.0f} cm/s, which is typical of tissue",
                )
            waves = {"cw doppler": "continuous-wave ", "pw doppler": "pulsed-wave "}.get(region.content, "")
            return Verdict("spectral Doppler", f"its header has a region of a {waves}Doppler spectrum")
        if region.kind == "m-mode":
            return Verdict("M-mode", "its header has a region whose columns are times")
    if any(region.content == "colour flow" for region in regions):
        return Verdict("colour Doppler", "its header has a region of colour flow")
    if header.attributes.get("volume"):
        return Verdict("volume", "its frames are slices of a volume: export a plane as a loop")
    if header.attributes.get("contrast"):
        return Verdict("contrast", "its header names a contrast agent")
    return None


def kind_by_values(frames: ByteArray) -> Verdict | None:
    """Decide by the number of different grey values, which are few in a label map.

    Args:
        frames: (S, H, W) uint8, some frames.
    """
    counts, n = np.zeros(256, np.int64), 0
    for frame in frames:
        counts += np.bincount(frame.ravel(), minlength=256)
        n = int(np.count_nonzero(counts))
        if n >= _FEWEST_GREYS:
            return None
    if n < 2:
        return None
    remedy = "if it shows an echo, export it with 256 grey values"
    return Verdict("label map", f"its pixels have only {n} different values; {remedy}")


def kind_by_colours(colours: ByteArray, inside: BoolArray) -> Verdict | None:
    """Decide by the colours inside a sector; None for grey pixels and for a colour map, which has one hue.

    Args:
        colours: (S, H, W, 3) uint8, some frames.
        inside: (H, W) bool, the sector.
    """
    warm = cold = bright = 0
    most = 0.0
    for frame in colours:
        value, chroma = brightest_and_chroma(frame)
        vivid = (chroma > _CHROMA) & inside
        lit = (value > _LIT) & inside
        flow = ndimage.binary_opening(vivid & lit, np.ones((3, 3), bool))  # without thin lines
        most = max(most, float(flow.sum() / max(1, lit.sum())))
        strong = (value > _BRIGHT) & inside
        bright += int(strong.sum())
        red = frame[..., 0] >= frame[..., 2]
        warm += int((strong & vivid & red).sum())
        cold += int((strong & vivid & ~red).sum())
    if most < _FLOW:
        return None
    whole = (warm + cold) / max(1, bright)
    if whole > _TINT and max(warm, cold) >= _ONE_HUE * (warm + cold):
        return None
    if whole > _MAP:
        return Verdict(
            "tissue Doppler", f"{whole:.0%} of the bright pixels of its sector are coloured, in two hues"
        )
    return Verdict("colour Doppler", f"up to {most:.1%} of the lit pixels of its sector are coloured")


def kind_of_strip(frames: ByteArray, others: tuple[BoolArray, ...]) -> Verdict | None:
    """Decide whether a region that is not a sector is the strip of an M-mode or of a Doppler spectrum.

    Args:
        frames: (S, H, W) uint8, some frames.
        others: (H, W) bool for each region that is not a sector.
    """
    for region in others:
        rows, columns = enclosing(region)
        part, width = region[rows, columns], columns.stop - columns.start
        if width < _STRIP * region.shape[1] or part.mean() < _FILLED or part.shape[0] > 0.8 * region.shape[0]:
            continue
        if width < _WIDE * part.shape[0]:  # a rectangle, such as that of a linear probe
            continue
        strip = ndimage.uniform_filter(frames[-1][rows, columns].astype(np.float32), 3)
        along, across = np.abs(np.diff(strip, axis=1)).mean(), np.abs(np.diff(strip, axis=0)).mean()
        size = f"{width} of {region.shape[1]} columns are a strip"
        if along < _LINES * across:
            return Verdict("M-mode", f"{size} of lines that continue in time")
        return Verdict("spectral Doppler", f"{size} without such lines")
    return None


def kind_of_scenes(frames: ByteArray, places: NDArray[np.int64]) -> Verdict | None:
    """Decide whether a loop changes to something else, such as another depth or a page with a title.

    Args:
        frames: (S, H, W) uint8, some frames in the order of time.
        places: (S,) their positions in the loop.
    """
    thin = frames[:, ::_THIN, ::_THIN]
    lit = [n for n, frame in enumerate(thin) if np.ptp(frame) >= _LIT]  # a black frame hides nothing
    alike = likeness(thin[lit].astype(np.float32))
    if len(alike) < 3 or alike.min() >= _CUT or 1 - alike.min() < _FARTHER * (1 - np.median(alike)):
        return None
    cut = int(alike.argmin())
    first, second = (int(places[lit[cut + more]]) for more in (0, 1))
    return Verdict(
        "several scenes", f"its frames {first} and {second} do not resemble each other: cut the loop there"
    )


def likeness(frames: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the correlation of each frame with the next one; NaN where one of them is flat."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.array([np.corrcoef(first.ravel(), second.ravel())[0, 1] for first, second in pairwise(frames)])


def kind_without_fan(frames: ByteArray, colours: ByteArray | None, region: BoolArray | None) -> Verdict | None:
    """Decide whether a picture without a sector is an echo at all; None if it may be one.

    Args:
        frames: (S, H, W) uint8, some frames.
        colours: (S, H, W, 3) uint8, or None.
        region: (H, W) bool, the largest region that moves or is lit, or None.
    """
    if region is None or np.ptp(frames) < _LIT:
        return Verdict("not an echo", f"its grey values span {int(np.ptp(frames))} of 255")
    if colours is not None:
        vivid = float(np.mean([brightest_and_chroma(frame)[1] > _CHROMA for frame in colours]))
        if vivid > _FLOW:
            return Verdict("not an echo", f"it has no sector, and {vivid:.0%} of its pixels are coloured")
    inside = frames[:, region]
    dark = float((inside < DARK_VALUE).mean())
    if dark < _DARK:
        return Verdict("not an echo", f"it has no sector, and {dark:.0%} of its pixels are dark")
    grain = [np.abs(np.diff(frame.astype(np.float32), axis=0))[region[1:]].mean() for frame in frames]
    spread = float(inside.std()) + 1e-6
    if np.mean(grain) > 0.9 * spread:
        return Verdict("not an echo", "it has no sector, and its pixels are noise")
    return None
