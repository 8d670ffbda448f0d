"""Analysis of one loop: view, outlines over time, beats, measurements with intervals, and doubts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from alan.analysis import measures
from alan.analysis.evidence import ParcelEvidence
from alan.analysis.loop import Loop
from alan.analysis.measures import Grid
from alan.analysis.model import AnalysisModel
from alan.analysis.quality import Evidence, find_flags, find_unclear, outline_contrast
from alan.analysis.results import (
    SIMULATED_ONLY,
    BeatResult,
    LoopResult,
    Measure,
    RateSource,
    Spread,
    ViewEvidence,
)
from alan.analysis.timeline import Rhythm, Timeline, TimeSettings, find_rhythm, segment_loop, settle_beats
from alan.analysis.uncertainty import rate_with_interval, sample_beats, widen_intervals, with_intervals
from alan.arrays import FloatArray, evenly_spread
from alan.bounds import bounded
from alan.cardiac import Beat, HeartRate
from alan.data.io.base import mean_frame_rate
from alan.data.sample import APICAL, PARASTERNAL, View
from alan.errors import ConfigError
from alan.progress import Progress, batches, no_progress

#: Number of frames to decode at a time.
_BATCH = 32
#: Smallest gain in certainty of the network of a further model over that of the first one, in frames of its views,
#: and number of frames that are compared: 6 to 7% of simulated parasternal loops have less, and all of the apical
#: loops of CAMUS patients 0001-0300 that are taken for parasternal ones (docs/results/parasternal.md).
CERTAINTY_GAIN, _FEW = 0.13, 4
#: Finished shares of the work when the frames are read and when their parcels are found.
_READ, _FOUND = 0.2, 0.7
#: Note of a loop whose left and right were swapped.
_MIRRORED = "left and right are swapped for the analysis (mirror)"


@bounded
@dataclass(frozen=True)
class LoopSettings:
    """Settings of the analysis of a loop.

    Attributes:
        view: View of all loops; null recognises the view of each loop.
        time: Temporal consistency of the outlines.
        samples: Number of white boxes to draw from the posterior for the intervals; 0 gives no intervals.
        seed: Seed of the draws.
        mirror: Whether left and right of the loops are swapped for the analysis, as for laboratories that show the
            left ventricle on the left side; outlines and pictures keep the orientation of the file.
    """

    view: View | None = None
    time: TimeSettings = field(default_factory=TimeSettings)
    samples: Annotated[int, Interval(ge=0, le=1000)] = 40
    seed: int = 0
    mirror: bool = False


@dataclass(frozen=True)
class LoopAnalysis:
    """Result of a loop, with its labels and the evidence behind them.

    Attributes:
        result: The measurements.
        labels: (T, size, size) uint8 on the grid of the model; None if the loop was left out.
        evidence: Parcels and white boxes; None if the loop was left out.
        thumbnails: (n, h, w) uint8, the labelled frames that voted for the view; None if the view was given.
    """

    result: LoopResult
    labels: NDArray[np.uint8] | None = None
    evidence: ParcelEvidence | None = None
    thumbnails: NDArray[np.uint8] | None = None


def analyze_loop(
    loop: Loop,
    model: AnalysisModel,
    settings: LoopSettings,
    provenance: Mapping[str, str],
    progress: Progress = no_progress,
) -> LoopAnalysis:
    """Analyze one loop.

    Args:
        loop: The loop.
        model: Parcels and white boxes.
        settings: Settings of the analysis.
        provenance: Names and fingerprints of the model and the settings, which become part of the result.
        progress: Receives the finished share, 0 to 1, and the name of the present step.

    Returns:
        Its measurements; the status is ``left out`` if the model does not know the view.

    Raises:
        ConfigError: No view is given and the model has no bank of views.
        DataError: The file can no longer be decoded.
    """
    parts: list[NDArray[np.uint8]] = []
    done = 0
    for part in loop.chunks(_BATCH):
        parts.append(model.resize(part))
        done += len(part)
        progress(_READ * done / loop.n_frames, "reading frames")
    frames = np.concatenate(parts)
    if settings.mirror:
        frames = np.ascontiguousarray(frames[..., ::-1])
    view, thumbnails = _view(model, frames, settings.view or loop.view)
    rows, columns = loop.box
    base = LoopResult(
        loop=loop.name,
        patient=loop.patient,
        status="measured",
        view=view,
        n_frames=len(frames),
        screen_shape=loop.screen_shape,
        box=(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start),
        pixel_mm=loop.pixel_mm,
        pixel_aspect=loop.pixel_aspect,
        frame_rate_hz=mean_frame_rate(loop.times_s),
        notes=(
            *loop.notes,
            *((_MIRRORED,) if settings.mirror else ()),
            *((SIMULATED_ONLY,) if view.view in PARASTERNAL else ()),
        ),
        provenance=provenance,
    )
    if view.view not in model.all_views():
        doubt = f", by {view.share:.0%} of the votes only" if view.unsure else ""
        reason = f"the view is {view.view}{doubt}: the model measures {', '.join(model.all_views())}"
        return LoopAnalysis(replace(base, status="left out", reason=reason), thumbnails=thumbnails)
    model = model.of(view.view)
    maps = np.empty_like(frames)
    for rows_of in batches(len(frames), _BATCH):
        progress(_READ + (_FOUND - _READ) * rows_of.start / len(frames), "finding structures")
        maps[rows_of] = model.maps(frames[rows_of])
    progress(_FOUND, "measuring")
    phase = None if loop.key_frames is None else np.array([float(t == loop.key_frames[0]) for t in range(2)])
    timeline = segment_loop(model, maps, view.view, loop.times_s, settings.time, phase=phase)
    result, timeline = _measure(base, loop, model, timeline=timeline, maps=maps, settings=settings)
    boxes = {name: (pair.ed, pair.es) for name, pair in model.views[view.view].items()}
    labels = timeline.labels
    if settings.mirror:
        labels, maps = np.ascontiguousarray(labels[..., ::-1]), np.ascontiguousarray(maps[..., ::-1])
    return LoopAnalysis(result, labels, ParcelEvidence(maps, boxes), thumbnails)


class MeasuredBeats(NamedTuple):
    """Measurements of the beats of a loop.

    Attributes:
        timeline: Outlines of the loop, of which those of end-diastole and end-systole are new.
        beats: The beats.
        numbers: Measures of each beat.
        results: The same with their intervals; volumes only where the pixel size is known.
        summary: Mapping from the name of a measure to its value of the loop with its interval.
        contrasts: Mapping from phase to the mean contrast of the outlines of the left ventricle that are measured.
        rate_source: Origin of the heart rate; empty if it is unknown.
    """

    timeline: Timeline
    beats: list[Beat]
    numbers: list[measures.BeatMeasures]
    results: tuple[BeatResult, ...]
    summary: dict[str, Any]
    contrasts: dict[str, float]
    rate_source: RateSource = ""


def measure_beats(
    model: AnalysisModel,
    maps: NDArray[np.uint8],
    view: str,
    times: FloatArray | None,
    *,
    timeline: Timeline,
    grid: Grid,
    r_waves: Sequence[float] | None = None,
    drawn_r_waves: Sequence[float] = (),
    key_frames: tuple[int, int] | None = None,
    samples: int,
    seed: int = 0,
) -> MeasuredBeats:
    """Find and measure the beats of a loop; intervals are wider where the outline is unclear.

    Args:
        model: Parcels and white boxes.
        maps: (T, size, size) parcel maps.
        view: The view of the loop.
        times: (T,) time of each frame in s; None if unknown.
        timeline: Outlines of the loop.
        grid: Geometry of the maps.
        r_waves: Times of the R waves of the ECG in s.
        drawn_r_waves: Times of the R waves of an ECG on the screen in s, see :func:`find_rhythm`.
        key_frames: Known positions of the end-diastolic and the end-systolic frame, which are measured as they
            are; None finds the beats by the times of the frames.
        samples: Number of white boxes to draw from the posterior for the intervals; 0 gives no intervals.
        seed: Seed of the draws.
    """
    if key_frames is not None and "lv" in model.structures(view):
        beats = [Beat(*key_frames, end=None, regular=True)]
        found = Rhythm(beats, of_beats=[HeartRate()])
    else:
        found = find_rhythm(model, maps, view, times, r_waves, drawn_r_waves=drawn_r_waves)
        if times is None or not found.beats:
            return MeasuredBeats(timeline, [], [], (), {}, _contrasts(model, maps, view, timeline, ()))
        timeline, beats = settle_beats(model, maps, view, times, timeline, beats=found.beats, spacing=grid.spacing)
    masks = {name: timeline.labels == value for value, name in enumerate(model.structures(view), 1)}
    numbers = [
        measures.measure_beat(beat, masks, grid, rate.bpm)
        for beat, rate in zip(beats, found.of_beats, strict=True)
    ]
    used = measures.select_beats(beats)
    counted = [number for beat, number in zip(beats, numbers, strict=True) if beat in used]
    sized = grid.pixel_mm is not None
    summary = measures.summarise_beats(counted, sized=sized)
    of_beats = [measures.summarise_beats([number], sized=sized) for number in numbers]
    rate = Measure(found.rate.bpm)  # irregular beats count here
    if samples:
        boxes = model.views[view]
        draws = sample_beats(boxes, maps, timeline.phase, grid, used, n=samples, seed=seed)
        summary = with_intervals(summary, draws, counted, model.spread)
        spread = model.spread.get("heart_rate_bpm", Spread()) if found.source == "area" else Spread()
        rate = rate_with_interval(found.rate, spread)
        of_beats = [
            with_intervals(one, draws, (), model.spread) | {"heart_rate_bpm": rate_with_interval(own, spread)}
            for one, own in zip(of_beats, found.of_beats, strict=True)
        ]
    contrasts = _contrasts(model, maps, view, timeline, beats)
    if find_unclear(contrasts):
        summary, of_beats = widen_intervals(summary), [widen_intervals(one) for one in of_beats]
    results = tuple(
        BeatResult(beat.ed, beat.es, beat.end, beat.regular, **one)
        for beat, one in zip(beats, of_beats, strict=True)
    )
    summary |= {"heart_rate_bpm": rate}
    return MeasuredBeats(timeline, beats, numbers, results, summary, contrasts, found.source)


def _measure(
    base: LoopResult,
    loop: Loop,
    model: AnalysisModel,
    *,
    timeline: Timeline,
    maps: NDArray[np.uint8],
    settings: LoopSettings,
) -> tuple[LoopResult, Timeline]:
    """Measure a loop.

    Returns:
        The result, and the outlines that were measured: end-diastole and end-systole are segmented again.
    """
    assert base.view is not None
    view, structures = base.view, model.structures(base.view.view)
    sector = loop.inside[:, ::-1] if settings.mirror else loop.inside
    inside = model.resize(sector[None].astype(np.uint8) * 255)[0] > 127
    pixels = loop.shape[0] / model.size, loop.shape[1] / model.size
    grid = Grid(pixels, loop.pixel_mm, loop.pixel_aspect, inside, view.view)
    r_waves = None if loop.r_waves_s is None else loop.r_waves_s.tolist()
    drawn = loop.drawn_r_waves().tolist() if r_waves is None and "lv" in structures else []
    found = measure_beats(
        model,
        maps,
        view.view,
        loop.times_s,
        timeline=timeline,
        grid=grid,
        r_waves=r_waves,
        drawn_r_waves=drawn,
        key_frames=loop.key_frames,
        samples=settings.samples,
        seed=settings.seed,
    )
    timeline = found.timeline
    cavity, wall, atrium = (
        timeline.labels == structures.index(name) + 1 if name in structures else None
        for name in ("lv", "myo", "la")
    )
    curves = None if cavity is None else measures.measure_curves(cavity, grid)
    boxes = model.views[view.view]
    flags = find_flags(
        Evidence(
            n_frames=len(maps),
            sized=loop.pixel_mm is not None,
            times=loop.times_s,
            timed=loop.key_frames is None,
            view=view,
            has_fan=loop.fan is not None,
            inside=inside,
            cavity=cavity,
            wall=wall,
            atrium=atrium,
            curves=curves,
            beats=found.beats,
            numbers=found.numbers,
            contrasts=found.contrasts,
            jump_share=timeline.jump_share,
        )
    )
    result = replace(
        base,
        structures=structures,
        frames=measures.frame_results(timeline, structures, curves, grid, loop.times_s),
        beats=found.results,
        jump_share=timeline.jump_share,
        parcels={
            name: {
                "ED": tuple(int(k) for k in pair.ed.selector_.interior_),
                "ES": tuple(int(k) for k in pair.es.selector_.interior_),
            }
            for name, pair in boxes.items()
        },
        flags=flags,
        rate_source=found.rate_source,
        **found.summary,
    )
    return result, timeline


def _contrasts(
    model: AnalysisModel, maps: NDArray[np.uint8], view: str, timeline: Timeline, beats: Sequence[Beat]
) -> dict[str, float]:
    """Compute the contrast of the outlines of the left ventricle at each phase, as means over the beats."""
    if "lv" not in model.views[view]:
        return {}
    boxes, cavity = model.views[view]["lv"], timeline.labels == model.structures(view).index("lv") + 1
    frames = {"end-diastole": [beat.ed for beat in beats], "end-systole": [beat.es for beat in beats]}
    if not beats:
        frames = {"all frames": list(range(0, len(maps), max(1, len(maps) // 16)))}
    return {
        phase: float(
            np.mean([outline_contrast(boxes.shares(maps[t], float(timeline.phase[t])), cavity[t]) for t in rows])
        )
        for phase, rows in frames.items()
    }


def _view(
    model: AnalysisModel, frames: NDArray[np.uint8], given: str | None
) -> tuple[ViewEvidence, NDArray[np.uint8] | None]:
    """Recognise the view of a loop, with the labelled frames that voted for it; a given view is kept."""
    if given is not None:
        mirrored = given in APICAL and model.bank is not None and model.bank.looks_mirrored(frames)
        return ViewEvidence(given, 1.0, given=True, mirrored=mirrored), None
    if model.bank is None:
        raise ConfigError("the model has no bank of views: give the view of the loops")
    found = model.bank.classify(frames)
    names = tuple(f"{model.bank.views[row]} {row}" for row in found.neighbours)
    mirrored = found.view not in PARASTERNAL and model.bank.looks_mirrored(frames, found)
    view = ViewEvidence(
        found.view,
        found.share,
        found.votes,
        names,
        unsure=found.unsure,
        mirrored=mirrored,
        contradicted=_is_contradicted(model, found.view, frames),
    )
    return view, found.thumbnails


def _is_contradicted(model: AnalysisModel, view: str, frames: NDArray[np.uint8]) -> bool:
    """Check whether the network of a further model is hardly more certain of its view than that of the model."""
    if view in model.views or view not in model.all_views():
        return False
    few, certain = frames[evenly_spread(len(frames), _FEW)], []
    for network in (model.parcels.backbone, model.of(view).parcels.backbone):
        if not network.spec.structures:
            return False
        certain.append(network.certainty(few))
    return certain[1] - certain[0] < CERTAINTY_GAIN
