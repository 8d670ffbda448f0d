"""Results of an analysis: measurements per frame, beat, loop and patient, and their JSON form."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from alan.errors import DataError, damaged
from alan.files import write_text
from alan.runs import plain

SCHEMA = "alan-loop-result/1"


@dataclass(frozen=True)
class Measure:
    """A number with its interval.

    Attributes:
        value: The measured value; NaN if it cannot be measured.
        low: Lower end of the interval; NaN if there is none.
        high: Upper end of the interval; NaN if there is none.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return math.isfinite(self.value)

    def possible(self, name: str) -> Measure:
        """Cut the interval to the values that a measure can have: from 0, percentages to 100; the value is kept.

        Args:
            name: Name of the measure.
        """
        most = 100.0 if name.endswith("_percent") else math.inf
        return replace(self, low=max(self.low, min(0.0, self.value)), high=min(self.high, max(most, self.value)))


#: Origin of a heart rate; empty if it is unknown.
RateSource = Literal["r waves", "drawn ecg", "area", "beats", ""]
#: The origins in words.
RATE_SOURCES = {
    "r waves": "R waves of the file",
    "drawn ecg": "R waves of the electrocardiogram on the screen",
    "area": "area of the left ventricle in all frames",
    "beats": "end-diastoles of the complete beats",
}


class Spread(NamedTuple):
    """Errors of a model that the draws of its white boxes do not show, and the weight of these draws.

    Attributes:
        below: Error below the measured value, in points or as a fraction of the value.
        above: Error above it.
        draws: Factor of the widths of the draws, 0 to 1; below 1 where draws vary more than the model errs.
    """

    below: float = 0.0
    above: float = 0.0
    draws: float = 1.0


@dataclass(frozen=True)
class Flag:
    """Quality flag: a reason to doubt a result.

    Attributes:
        code: Kind of flag, such as ``no_beat``; see :data:`alan.analysis.FLAGS`.
        reason: One sentence with the value that raised the flag.
    """

    code: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """Measurements of a beat; those of a loop or a patient are medians over the beats.

    Attributes:
        edv_ml: End-diastolic volume by the method of disks.
        esv_ml: End-systolic volume by the method of disks.
        ef_percent: Ejection fraction.
        area_change_percent: Fractional area change of the left ventricle; needs no pixel size.
        shortening_percent: Shortening of the outline of the left ventricle (experimental).
        stroke_volume_ml: End-diastolic minus end-systolic volume.
        heart_rate_bpm: Heart rate in beats per minute by R waves, or by the area of the left ventricle.
        la_volume_ml: Volume of the left atrium at end-systole by the area-length formula.
        lv_mass_g: Mass of the left-ventricular myocardium at end-diastole.
        lvidd_cm: Internal diameter of the left ventricle at end-diastole (PLAX).
        lvids_cm: Internal diameter of the left ventricle at end-systole (PLAX).
        fractional_shortening_percent: Relative change of the internal diameter (PLAX).
        ivsd_cm: Thickness of the interventricular septum at end-diastole (PLAX).
        lvpwd_cm: Thickness of the posterior wall at end-diastole (PLAX).
        lv_mass_linear_g: Mass of the left ventricle by the cube formula (PLAX).
        la_diameter_cm: Anteroposterior diameter of the left atrium at end-systole (PLAX).
        wall_thickness_cm: Mean thickness of the wall at end-diastole (PSAX).
    """

    edv_ml: Measure = Measure()
    esv_ml: Measure = Measure()
    ef_percent: Measure = Measure()
    area_change_percent: Measure = Measure()
    shortening_percent: Measure = Measure()
    stroke_volume_ml: Measure = Measure()
    heart_rate_bpm: Measure = Measure()
    la_volume_ml: Measure = Measure()
    lv_mass_g: Measure = Measure()
    lvidd_cm: Measure = Measure()
    lvids_cm: Measure = Measure()
    fractional_shortening_percent: Measure = Measure()
    ivsd_cm: Measure = Measure()
    lvpwd_cm: Measure = Measure()
    lv_mass_linear_g: Measure = Measure()
    la_diameter_cm: Measure = Measure()
    wall_thickness_cm: Measure = Measure()


@dataclass(frozen=True)
class BeatResult(Measurements):
    """Measurements of one beat.

    Attributes:
        ed: Index of the end-diastolic frame.
        es: Index of the end-systolic frame.
        end: Index of the next end-diastolic frame; None if the loop ends before it.
        regular: Whether the duration is within 20% of the median.
    """

    ed: int
    es: int
    end: int | None
    regular: bool


@dataclass(frozen=True)
class FrameResult:
    """Measurements of one frame.

    Attributes:
        frame: Index of the frame.
        time_s: Time of the frame in s; None if unknown.
        area_px: Mapping from structure to its area in pixels of the file.
        area_cm2: Mapping from structure to its area in cm2; empty without a pixel size.
        length_cm: Length of the long axis of the left ventricle in cm; None if unknown.
        volume_ml: Volume of the left ventricle by the method of disks in ml; None if unknown.
        phase: 1 at end-diastole, 0 at end-systole, between them according to the area of the left ventricle.
        repaired: Whether the outline was an outlier in time and was interpolated from neighbouring frames.
        lvid_cm: Internal diameter of the left ventricle in PLAX in cm; None in other views or if unknown.
    """

    frame: int
    time_s: float | None
    area_px: Mapping[str, float]
    area_cm2: Mapping[str, float]
    length_cm: float | None
    volume_ml: float | None
    phase: float
    repaired: bool
    lvid_cm: float | None = None


@dataclass(frozen=True)
class ViewEvidence:
    """View of a loop and the votes for it.

    Attributes:
        view: ``A4C``, ``A2C``, ``PLAX``, ``PSAX`` or ``other``.
        share: Weighted share of the votes of the neighbours, 0 to 1; 1 if the view was given.
        votes: Mapping from view to its share of the votes.
        neighbours: Names of the nearest labelled frames, nearest first.
        given: Whether the view was given by the user or the frame store.
        unsure: Whether the share is below ``sure_from`` of the bank.
        mirrored: Whether left and right of a four-chamber view seem to be swapped.
        contradicted: Whether the view is that of a further model, and the network of the first model finds its
            structures nearly as certainly as that model does.
    """

    view: str
    share: float
    votes: Mapping[str, float] = field(default_factory=dict)
    neighbours: tuple[str, ...] = ()
    given: bool = False
    unsure: bool = False
    mirrored: bool = False
    contradicted: bool = False


@dataclass(frozen=True)
class LoopResult(Measurements):
    """Result of one loop, the content of ``loops/<loop>/result.json``.

    Attributes:
        loop: Pseudonymous name of the loop.
        patient: Pseudonymous key of the patient.
        status: ``measured``, or ``left out`` with the reason in ``reason``.
        reason: Why the loop was left out; empty otherwise.
        view: The recognised view; None if the loop was left out before its view was recognised.
        structures: Names in the order of the labels.
        n_frames: Number of frames.
        screen_shape: (H, W) of the frames of the file.
        box: (top, left, height, width) of the sector on the screen.
        pixel_mm: (row, column) size of a pixel of the file in mm; None if unknown.
        pixel_aspect: Height of a pixel of the file divided by its width, also where its size is unknown.
        frame_rate_hz: Frames per second; None if unknown.
        frames: One entry per frame.
        beats: One entry per beat.
        jump_share: Share of the frames whose outline jumped, 0 to 1; they were repaired unless it exceeds 0.5.
        parcels: Mapping from structure to phase to the ids of its parcels.
        flags: Quality flags.
        notes: Conversions and assumptions of the reader, in words.
        provenance: Names and fingerprints of the model, the settings and the version of the program.
        simulated: Whether the loop is known to be simulated, so that its patient does not exist.
        study: Pseudonym of the study of a DICOM file; empty for other files.
        stage: Number of the stage of a stress test, or pseudonym of its name; empty for other loops.
        rate_source: Origin of the heart rate, one of :data:`RATE_SOURCES`; empty if it is unknown.
    """

    loop: str
    patient: str
    status: str
    reason: str = ""
    view: ViewEvidence | None = None
    structures: tuple[str, ...] = ()
    n_frames: int = 0
    screen_shape: tuple[int, int] = (0, 0)
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    pixel_mm: tuple[float, float] | None = None
    frame_rate_hz: float | None = None
    frames: tuple[FrameResult, ...] = field(default=(), repr=False)
    beats: tuple[BeatResult, ...] = ()
    jump_share: float = 0.0
    parcels: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    flags: tuple[Flag, ...] = ()
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    simulated: bool = False
    study: str = ""
    stage: str = ""
    pixel_aspect: float = 1.0
    rate_source: RateSource = ""

    @property
    def pixel_shape(self) -> tuple[float, float]:
        """(row, column) size of a pixel of the file, in mm or in widths of a pixel."""
        return self.pixel_mm or (self.pixel_aspect, 1.0)

    def to_json(self, path: Path) -> None:
        """Write the result, atomically; NaN is written as null."""
        write_text(path, json.dumps(plain({"schema": SCHEMA, **asdict(self)}), indent=1, allow_nan=False) + "\n")

    @classmethod
    def from_json(cls, path: Path) -> Self:
        """Read a result.

        Raises:
            DataError: The file is missing or damaged.
        """
        with damaged(DataError, f"{path}: the result cannot be read", "delete its folder and run again"):
            value = json.loads(path.read_text(encoding="utf-8"))
            if value.pop("schema") != SCHEMA:
                raise ValueError(f"its schema is not {SCHEMA}")
            value = _rebuild(value)
            for name, kind in {"frames": FrameResult, "beats": BeatResult, "flags": Flag}.items():
                value[name] = tuple(kind(**item) for item in value[name])
            if value["view"] is not None:
                value["view"] = ViewEvidence(**value["view"])
            return cls(**value)


#: Note of a loop in a parasternal view, of which no labelled patients are at hand.
SIMULATED_ONLY = "parasternal outlines were checked on simulated loops only"
#: Method of a patient without an apical view.
PARASTERNAL_METHOD = "parasternal"


@dataclass(frozen=True)
class PatientResult(Measurements):
    """Summary of the loops of one patient.

    Attributes:
        patient: Pseudonymous key.
        method: ``biplane``, ``single plane A4C``, ``single plane A2C``, ``parasternal`` (no apical view), or empty
            if nothing was measured.
        loops: Names of the loops that contributed.
        n_loops: Number of loops of the patient, including those left out.
        n_beats: Number of complete beats that were measured.
        ef_shared_length_percent: Biplane ejection fraction with one length of the long axis in both phases, as
            that of the CAMUS release; NaN without both apical views.
        quality: ``good``, ``doubtful`` (a flag is more than a note) or ``none`` (nothing was measured).
        flags: Quality flags.
    """

    patient: str
    method: str
    loops: tuple[str, ...]
    n_loops: int
    n_beats: int
    ef_shared_length_percent: float = math.nan
    quality: str = "none"
    flags: tuple[Flag, ...] = ()


def _rebuild(value: Any) -> Any:
    """Turn lists and measures of a JSON value back into tuples and :class:`Measure`."""
    if isinstance(value, list):
        return tuple(map(_rebuild, value))
    if not isinstance(value, dict):
        return value
    if value.keys() == {"value", "low", "high"}:
        return Measure(**{name: math.nan if number is None else float(number) for name, number in value.items()})
    return {name: _rebuild(item) for name, item in value.items()}
