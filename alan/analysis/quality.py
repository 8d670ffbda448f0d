"""Quality flags of the measurements of a loop: each has a code and a reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from alan.analysis.measures import ATRIUM_CUT, PARASTERNAL_MEASURES, BeatMeasures, Curves, share_on_border
from alan.analysis.results import Flag, ViewEvidence
from alan.cardiac import Beat
from alan.cardiac.beats import IRREGULAR
from alan.data.io.base import mean_frame_rate
from alan.data.sample import APICAL, PARASTERNAL
from alan.words import plural

#: Mapping from the code of each flag to its meaning.
FLAGS = {
    "size_unknown": "The file does not state the size of a pixel: volumes in ml are not given.",
    "size_needed": "The file does not state the size of a pixel: in PLAX nothing but the heart rate is measured.",
    "times_unknown": "The file does not state the times of the frames: beats are not measured.",
    "still": "The file shows a single moment, so there is no beat.",
    "low_frame_rate": "End-systole can fall between two frames.",
    "time_gap": "Frames are missing within the loop: the beat and the heart rate there are less reliable.",
    "no_beat": "The area of the left ventricle does not show a contraction.",
    "partial_beat": "The loop does not show a complete beat.",
    "irregular_beats": "The durations of the beats differ.",
    "view_unsure": "The recognition of the view is not clear.",
    "apical_unsure": "The recognition does not tell the two apical views clearly apart.",
    "mirrored": "Left and right seem to be swapped.",
    "mask_empty": "The left ventricle is not found in some frames.",
    "jumping": "The outline jumps from frame to frame.",
    "fan_unknown": "The sector was not found: the whole picture was analyzed.",
    "fan_cut": "The outline touches the border of the sector: a part of the heart is not in the picture.",
    "ring_open": "In PSAX, the wall does not close around the ventricle, or is partly outside of the sector.",
    "atrium_cut": "The left atrium touches the border of the sector: its size is not given.",
    "diastole_unclear": "The outline at end-diastole is unclear: measures are less reliable.",
    "outline_unclear": "The parcels inside another outline of the ventricle differ little from those around it.",
    "foreshortened": "The left ventricle is short for its width: the plane may miss the apex.",
    "planes_differ": "The ejection fractions of the two apical views differ: that of both is less reliable.",
    "several_studies": "The loops of the patient are of several studies, of which one is used.",
    "several_stages": "The loops of the patient are of several stages of a stress test, of which one is used.",
    "patient_unclear": "Loops of one PatientID are of different people, or two patients share a loop.",
    "implausible": "A measure is outside the range of living hearts, or missing in a beat.",
}
#: Flags that are notes: with these alone, a result is good. Errors of patients with an unclear outline at
#: end-systole, a foreshortened ventricle or an apical view that may be the other one are hardly larger than those
#: of others; the other two concern single measures, which are not given then (docs/results/uncertainty.md).
NOTES = frozenset({"size_unknown", "atrium_cut", "apical_unsure", "outline_unclear", "foreshortened"})
_LOW_RATE_HZ = 20.0
#: Smallest gap between two frames, as a multiple of the median step and in s.
_GAP, _GAP_S = 3.0, 0.1
_JUMPING = 0.1
_EMPTY = 0.02
_TOUCHING = 0.25
#: Share of the highest two rows of the ventricle on the border of the sector, above which its apex may be cut off.
#: None of the outlines of CAMUS patients 0001-0350 is above it, and 3 of 1,396 manual ones.
_TOP_TOUCHING = 0.5
#: Share of the directions from the middle of a short-axis view without any wall, and share of its wall outside of
#: the sector, above which its measures are doubtful; number of directions. Chosen on 147 simulated loops, of which
#: 13 are above a bound (docs/results/parasternal.md).
_OPEN, _OUTSIDE, _DIRECTIONS = 0.05, 0.2, 36
#: Contrast of the parcels across an outline below which it is doubtful; 5.5% of the outlines of CAMUS patients
#: 0301-0350 are below it (tests/benchmarks/bench_doubt.py).
UNCLEAR = 0.7
#: Contrast of the outline at end-diastole of an apical view below which the result is doubtful, and largest
#: difference of the ejection fractions of the two apical views in points. Both were chosen on CAMUS patients
#: 0001-0300 so that about a quarter of them has a doubt (tests/benchmarks/bench_doubt.py).
DIASTOLE_UNCLEAR, PLANES_DIFFER = 0.735, 20
#: Width of the ring around an outline whose parcels are compared with those inside, as a share of the frame.
_RING = 1 / 14
_SHORT = 1.35
#: Smallest and largest ejection fraction in percent, and end-diastolic volume in ml, of a living heart.
_PLAUSIBLE, _VOLUMES_ML = (5.0, 85.0), (5.0, 1000.0)
#: Smallest and largest internal diameter in cm in PLAX of a living heart at end-diastole, a child's included.
_DIAMETERS_CM = (1.0, 12.0)


class Evidence(NamedTuple):
    """Data from which the flags of a loop are computed.

    Attributes:
        n_frames: Number of frames.
        sized: Whether the size of a pixel is known.
        times: (T,) times in s; None if unknown.
        timed: Whether beats are found by the times; otherwise the phases of the frames are known.
        view: The recognised view and its votes.
        has_fan: Whether the sector was found.
        inside: (H, W) bool, the sector on the grid of the model.
        cavity: (T, H, W) bool, the left ventricle; None in a view without it.
        wall: (T, H, W) bool, the myocardium; None in a view without it.
        atrium: (T, H, W) bool, the left atrium; None in a view without it.
        curves: Measurements of the left ventricle; None in a view without it.
        beats: All beats.
        numbers: Measurements of the beats.
        contrasts: Mapping from phase to the mean contrast of the outlines that were measured, see
            :func:`outline_contrast`; NaN if unknown.
        jump_share: Share of the frames whose outline jumped.
    """

    n_frames: int
    sized: bool
    times: NDArray[np.float64] | None
    timed: bool
    view: ViewEvidence
    has_fan: bool
    inside: NDArray[np.bool_]
    cavity: NDArray[np.bool_] | None
    wall: NDArray[np.bool_] | None
    atrium: NDArray[np.bool_] | None
    curves: Curves | None
    beats: Sequence[Beat]
    numbers: Sequence[BeatMeasures]
    contrasts: Mapping[str, float]
    jump_share: float


def outline_contrast(shares: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Compute how much the parcels inside an outline differ from those around it.

    Args:
        shares: (H, W) share of the parcel of each pixel that belongs to the structure.
        mask: (H, W) bool, the structure.

    Returns:
        Mean share inside less the mean share in a ring of a fourteenth of the height around it, at most 1; NaN for
        an empty mask.
    """
    if not mask.any():
        return float("nan")
    ring = (distance_transform_edt(~mask) <= _RING * len(mask)) & ~mask
    return float(shares[mask].mean() - (shares[ring].mean() if ring.any() else 0.0))


def open_share(cavity: NDArray[np.bool_], wall: NDArray[np.bool_]) -> float:
    """Compute the share of the directions from the middle of a cavity in which there is no wall.

    Args:
        cavity: (H, W) bool, the left ventricle in a short-axis view.
        wall: (H, W) bool, its myocardium.

    Returns:
        Share of 36 sectors of 10 degrees without a pixel of the wall; NaN for an empty cavity.
    """
    if not cavity.any():
        return float("nan")
    rows, columns = (np.argwhere(wall) - np.argwhere(cavity).mean(0)).T
    turns = np.arctan2(rows, columns) / (2 * np.pi) % 1
    return 1 - len(np.unique((turns * _DIRECTIONS).astype(int) % _DIRECTIONS)) / _DIRECTIONS


def ring_doubt(cavity: NDArray[np.bool_], wall: NDArray[np.bool_], inside: NDArray[np.bool_]) -> str:
    """Return the reason to doubt a short-axis outline (H, W) whose wall is open or cut off; empty without one."""
    missing = open_share(cavity, wall)
    if missing > _OPEN:
        return f"there is no wall in {missing:.0%} of the directions around the ventricle, more than {_OPEN:.0%}"
    outside = float((wall & ~inside).sum() / max(1, wall.sum()))
    if outside > _OUTSIDE:
        return f"{outside:.0%} of the wall lies outside of the sector, more than {_OUTSIDE:.0%}"
    return ""


def find_unclear(contrasts: Mapping[str, float]) -> str:
    """Return the first phase whose outline has a contrast below the bound; empty if there is none."""
    return next((phase for phase, contrast in contrasts.items() if contrast < UNCLEAR), "")


def serious(flags: Sequence[Flag]) -> list[Flag]:
    """Keep the flags that make a result doubtful, and leave out notes."""
    return [flag for flag in flags if flag.code not in NOTES]


def find_flags(evidence: Evidence) -> tuple[Flag, ...]:
    """List the quality flags of a loop."""
    return tuple(Flag(code, reason) for code, reason in _doubts(evidence))


def _doubts(e: Evidence) -> Iterator[tuple[str, str]]:
    if not e.has_fan:
        yield "fan_unknown", "no sector was found, and the whole picture was analyzed"
    if e.view.unsure:
        votes = sorted(e.view.votes.items(), key=lambda vote: -vote[1])
        apical = {view for view, _ in votes[:2]} == {*APICAL}
        yield (
            "apical_unsure" if apical else "view_unsure",
            "the votes are " + ", ".join(f"{view} {share:.0%}" for view, share in votes[:2]),
        )
    elif e.view.contradicted:
        yield (
            "view_unsure",
            f"the network for other views finds its structures nearly as surely as that for {e.view.view}",
        )
    if e.view.mirrored:
        yield "mirrored", "left and right seem to be swapped: compare with the other value of --mirror"
    if not e.sized and e.view.view == "PLAX":
        yield "size_needed", "the size of a pixel is unknown, which diameters need: give --spacing"
    elif not e.sized:
        what = "thicknesses in cm" if e.view.view == "PSAX" else "volumes in ml"
        yield "size_unknown", f"the size of a pixel is unknown: give --spacing for {what}"
    if e.cavity is None or e.curves is None:
        return
    empty = 1 - float(np.mean(e.cavity.any((1, 2))))
    if empty > _EMPTY:
        yield "mask_empty", f"the left ventricle is empty in {empty:.0%} of the frames"
    if e.jump_share > _JUMPING:
        yield "jumping", f"{e.jump_share:.0%} of the outlines jumped, more than {_JUMPING:.0%}"
    long_axis = e.view.view == "PLAX"  # its apex is often out of the picture
    touching = 0.0 if long_axis else _touching(e.cavity, e.inside)
    if touching > _TOUCHING:
        yield "fan_cut", f"{touching:.0%} of the outline lies on the border of the sector"
    elif e.view.view not in PARASTERNAL and _touching(_tops(e.cavity), e.inside) > _TOP_TOUCHING:
        yield (
            "fan_cut",
            "the top of the ventricle lies on the border of the sector: its apex may be out of the picture",
        )
    cut = [share_on_border(e.atrium[beat.es], e.inside) for beat in e.beats] if e.atrium is not None else []
    if cut and max(cut) > ATRIUM_CUT:
        yield (
            "atrium_cut",
            f"{max(cut):.0%} of the outline of the left atrium lies on the border of the sector: "
            "its size is not given",
        )
    if e.timed:
        yield from _doubts_about_time(e)
    yield from _doubts_about_shape(e)


def _doubts_about_time(e: Evidence) -> Iterator[tuple[str, str]]:
    """Check frame times and beats."""
    if e.n_frames < 3:
        yield "still", f"{plural(e.n_frames, 'frame')}: give a loop of a whole beat"
        return
    if e.times is None:
        yield "times_unknown", "the times of the frames are unknown: give --frame_rate"
        return
    steps = np.diff(e.times)
    step, widest = float(np.median(steps)), int(steps.argmax())
    gap = steps[widest] > max(_GAP * step, _GAP_S)
    fps = 1 / step if gap else mean_frame_rate(e.times)
    if gap:
        yield (
            "time_gap",
            f"{steps[widest]:.2g} s pass between frames {widest} and {widest + 1}, elsewhere {step:.2g} s: check "
            "the heart rate and the beat there",
        )
    if fps is not None and fps < _LOW_RATE_HZ:
        yield "low_frame_rate", f"{fps:.1f} frames per second, less than {_LOW_RATE_HZ:g}"
    complete = [beat for beat in e.beats if beat.complete]
    if not e.beats:
        yield "no_beat", f"no contraction in {e.times[-1] - e.times[0]:.1f} s"
    elif not complete:
        yield "partial_beat", f"the loop of {e.times[-1] - e.times[0]:.1f} s shows no complete beat"
    odd = sum(not beat.regular for beat in complete)
    if odd:
        share = f"more than {IRREGULAR:.0%} from the median duration"
        yield "irregular_beats", f"{odd} of {len(complete)} beats differ by {share}"


def _doubts_about_shape(e: Evidence) -> Iterator[tuple[str, str]]:
    """Check the outline and the shape of the ventricle, and its measurements."""
    if e.curves is None:
        return
    diastole = e.contrasts.get("end-diastole", 1.0)
    least = UNCLEAR if e.view.view in PARASTERNAL else DIASTOLE_UNCLEAR
    if diastole < least:
        yield (
            "diastole_unclear",
            "the parcels inside the outline of the ventricle at end-diastole differ too little from those around "
            f"it (a contrast of {diastole:.3f}, less than {least}): check the outline",
        )
    phase = find_unclear({name: contrast for name, contrast in e.contrasts.items() if name != "end-diastole"})
    if phase:
        yield (
            "outline_unclear",
            f"the parcels inside the outline of the ventricle differ little from those around it ({phase}: "
            f"a contrast of {e.contrasts[phase]:.2f}, less than {UNCLEAR}): check the outline",
        )
    if e.view.view in PARASTERNAL:
        yield from _doubts_about_parasternal(e)
        return
    for beat in e.beats:
        length, area = e.curves.length[beat.ed], e.curves.area[beat.ed]
        ratio = float(length**2 / area * np.pi / 4) if area > 0 else float("nan")  # length / width of an ellipse
        if ratio < _SHORT:
            yield (
                "foreshortened",
                f"the plane may miss the apex: the ventricle is {ratio:.2f} times as long as wide at end-diastole "
                f"(frame {beat.ed}), less than {_SHORT}",
            )
            break
    for numbers in e.numbers:
        low, high = _PLAUSIBLE
        if np.isnan(numbers.ef_percent):
            yield "implausible", "a beat has no ejection fraction: its outline at end-diastole is empty"
            break
        if not low <= numbers.ef_percent <= high:
            reason = f"an ejection fraction of {numbers.ef_percent:.0f}% is outside {low:g} to {high:g}%"
            yield "implausible", reason
            break
    low, high = _VOLUMES_ML
    volumes = [numbers.edv_ml for numbers in e.numbers if e.sized and numbers.edv_ml > 0]
    volume = next((ml for ml in volumes if not low <= ml <= high), None)
    if volume is not None:
        yield (
            "implausible",
            f"an end-diastolic volume of {volume:.0f} ml is outside {low:g} to {high:g} ml: "
            "check the size of a pixel, and give --spacing if it is wrong",
        )


def _doubts_about_parasternal(e: Evidence) -> Iterator[tuple[str, str]]:
    """Check that the ventricle has a size in all beats and contracts, and its diameter in PLAX."""
    view = e.view.view
    sizes = [getattr(numbers, PARASTERNAL_MEASURES[view][0]) for numbers in e.numbers]
    if view == "PLAX" and not e.sized:
        return
    if np.isnan(sizes).any():
        missing = {"PLAX": "diameter: its outline is empty or cut off", "PSAX": "area: its outline is empty"}
        yield "implausible", f"the ventricle has no {missing[view]}"
        return
    low, high = _DIAMETERS_CM
    odd = next((size for size in sizes if view == "PLAX" and not low <= size <= high), None)
    if odd is not None:
        yield (
            "implausible",
            f"an end-diastolic diameter of {odd:.1f} cm is outside {low:g} to {high:g} cm: check the size of a "
            "pixel, and give --spacing if it is wrong",
        )
    if view == "PSAX" and e.cavity is not None and e.wall is not None:
        reasons = (ring_doubt(e.cavity[beat.ed], e.wall[beat.ed], e.inside) for beat in e.beats)
        if reason := next(filter(None, reasons), ""):
            yield "ring_open", f"{reason}: check the outline at end-diastole"
    change = "fractional_shortening_percent" if view == "PLAX" else "area_change_percent"
    least = min((getattr(numbers, change) for numbers in e.numbers), default=1.0)
    if least <= 0:
        yield "implausible", f"the ventricle is not smaller at end-systole than at end-diastole ({least:.0f}%)"


def _tops(cavity: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the highest two rows of each mask (T, H, W)."""
    lit = cavity.any(2)
    return cavity & ((np.cumsum(lit, 1) <= 2) & lit)[:, :, None]


def _touching(cavity: NDArray[np.bool_], inside: NDArray[np.bool_]) -> float:
    """Compute the median share of the border of the cavity that lies on the border of the sector."""
    shares = [share_on_border(mask, inside) for mask in cavity[:: max(1, len(cavity) // 16)] if mask.any()]
    return float(np.median(shares)) if shares else 0.0
