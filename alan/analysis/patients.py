"""Summarise the loops of each patient, biplane where both apical views were measured."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alan.analysis.measures import PARASTERNAL_MEASURES, median
from alan.analysis.quality import PLANES_DIFFER, serious
from alan.analysis.results import PARASTERNAL_METHOD, BeatResult, Flag, LoopResult, Measure, PatientResult
from alan.cardiac import biplane_volume, ejection_fraction, long_axis_cm, shared_length_ejection_fraction
from alan.data.sample import APICAL, PARASTERNAL

#: Largest difference between the long axes of the two apical views, as a fraction of the shorter one.
_AXES_DIFFER = 0.2
#: Correlation of the errors of the two planes of a patient (docs/results/loops.md).
_CORRELATION = 0.5
#: Largest number of loops whose reasons for a flag are listed for a patient.
_NAMED = 2


class KeyMasks(NamedTuple):
    """Left ventricle of the median beat of a loop.

    Attributes:
        ed: (H, W) bool at end-diastole.
        es: (H, W) bool at end-systole.
        spacing: (row, column) size of a pixel of the masks, in mm or in pixels of the file.
    """

    ed: NDArray[np.bool_]
    es: NDArray[np.bool_]
    spacing: tuple[float, float]


def summarise_patients(
    loops: Sequence[LoopResult], masks: Mapping[str, KeyMasks], unclear: Mapping[str, str] = {}
) -> list[PatientResult]:
    """Summarise the loops of each patient.

    The best loop of each apical view is used: that with the fewest doubts, then the fewest notes, then the most
    beats. With both views, volumes are biplane, from the median beat of each loop; otherwise they are those of the
    single plane.
    Diameters and areas are those of the best loop of each parasternal view. Its doubts are listed, but decide the
    quality only of a patient without an apical view.
    Loops of different studies are not combined: one study is used, and a flag reports it. Neither are those of
    different stages of a stress test, whose first stage is used.

    Args:
        loops: Results of all loops.
        masks: Mapping from the name of a loop to its masks; loops without a beat are missing.
        unclear: Mapping from the key of a patient who may be several people, or one of several, to the reason.

    Returns:
        One summary per patient, sorted by key.
    """
    groups: dict[str, list[LoopResult]] = defaultdict(list)
    for loop in loops:
        groups[loop.patient].append(loop)
    found = [_summary(patient, groups[patient], masks) for patient in sorted(groups)]
    return [add_doubt(result, unclear.get(result.patient, "")) for result in found]


def add_doubt(result: PatientResult, reason: str) -> PatientResult:
    """Add the doubt about who the patient is, unless the reason is empty."""
    if not reason:
        return result
    quality = "doubtful" if result.method else result.quality
    return replace(result, quality=quality, flags=_unique([*result.flags, Flag("patient_unclear", reason)]))


def _summary(patient: str, loops: Sequence[LoopResult], masks: Mapping[str, KeyMasks]) -> PatientResult:
    known = [x for x in loops if x.view and x.beats and x.loop in masks]
    apical, parasternal = ([x for x in known if _view(x) in views] for views in (APICAL, PARASTERNAL))
    usable, stages = _first_stages(apical or parasternal)
    studies = sorted({loop.study for loop in usable})
    best = min((_best([x for x in usable if x.study == study]) for study in studies), key=_rank, default={})
    if not best:
        flags = _doubts({f"loop {loop.loop}": loop for loop in loops})
        return PatientResult(patient, "", (), len(loops), 0, flags=tuple(flags))
    used = list(best.values())
    beside = _best([x for x in _first_stages(parasternal)[0] if x.study == used[0].study]) if apical else {}
    flags = _doubts(best)
    if len(studies) > 1:
        reason = f"the patient has loops of {len(studies)} studies, and the result is that of one of them"
        flags.append(Flag("several_studies", reason))
    if stages > 1:
        which = "the first" if _is_numbered(used[0].stage) else "one of them"
        reason = f"the patient has loops of {stages} stages of a stress test, and the result is that of {which}"
        flags.append(Flag("several_stages", reason))
    common: dict[str, Any] = {
        "n_loops": len(loops),
        "n_beats": sum(len(_complete(loop.beats)) for loop in (*used, *beside.values())),
        "loops": tuple(loop.loop for loop in (*used, *beside.values())),
    }
    averaged: dict[str, Any] = {
        name: _mean([getattr(loop, name) for loop in used])
        for name in ("area_change_percent", "shortening_percent", "la_volume_ml")
    }
    if averaged["la_volume_ml"].known:  # from the other view: the doubt stays with its loop
        flags = [flag for flag in flags if flag.code != "atrium_cut"]
    by_ecg = [loop for loop in used if loop.rate_source in ("r waves", "drawn ecg")]
    averaged["heart_rate_bpm"] = _mean([loop.heart_rate_bpm for loop in by_ecg or used])
    averaged |= {
        name: getattr(loop, name)
        for view, loop in (beside if apical else best).items()
        for name in PARASTERNAL_MEASURES[view]
        if name not in averaged
    }
    mass = used[0].lv_mass_g
    volumes: dict[str, Any]
    if not apical:
        volumes, method = {}, PARASTERNAL_METHOD
    elif len(best) == 2:
        volumes, doubts = _biplane(best["A4C"], best["A2C"], masks)
        flags += doubts
        method = "biplane"
        four, two = (masks[best[view].loop] for view in APICAL)
        common["ef_shared_length_percent"] = shared_length_ejection_fraction(
            (four.ed, two.ed), (four.es, two.es), (four.spacing, two.spacing)
        )
    else:
        only = used[0]
        names = ("ef_percent", "edv_ml", "esv_ml", "stroke_volume_ml")
        volumes = {name: getattr(only, name) for name in names}
        method = f"single plane {next(iter(best))}"
    quality = "doubtful" if serious(flags) else "good"
    flags += [Flag(flag.code, f"{view}: {flag.reason}") for view, loop in beside.items() for flag in loop.flags]
    return PatientResult(
        patient, method, **common, **volumes, **averaged, lv_mass_g=mass, quality=quality, flags=_unique(flags)
    )


def _view(loop: LoopResult) -> str:
    return loop.view.view if loop.view else ""


def _first_stages(loops: Sequence[LoopResult]) -> tuple[list[LoopResult], int]:
    """Keep the loops of the first stage of each study, and count the stages of the study that has most."""
    stages: dict[str, set[str]] = defaultdict(set)
    for loop in loops:
        stages[loop.study].add(loop.stage)
    first = {study: min(found, key=_stage_order) for study, found in stages.items()}
    return [loop for loop in loops if loop.stage == first[loop.study]], max(map(len, stages.values()), default=0)


def _stage_order(stage: str) -> tuple[bool, float, str]:
    """Order no stage before numbers, and numbers before names."""
    return not _is_numbered(stage), int(stage or 0) if _is_numbered(stage) else 0, stage


def _is_numbered(stage: str) -> bool:
    return not stage or stage.isdecimal()


def _best(loops: Sequence[LoopResult]) -> dict[str, LoopResult]:
    """Choose the loop of each view with the fewest doubts, then the fewest notes, then the most beats."""
    found: dict[str, LoopResult] = {}
    for view in (*APICAL, *PARASTERNAL):
        known = [loop for loop in loops if _view(loop) == view]
        if known:
            found[view] = min(known, key=_order)
    return found


def _order(loop: LoopResult) -> tuple[int, int, int, str]:
    return len(serious(loop.flags)), len(loop.flags), -len(_complete(loop.beats)), loop.loop


def _rank(best: Mapping[str, LoopResult]) -> tuple[int, int, int, list[str]]:
    """Order the best loops of studies: those with both views first, then fewest doubts, then most beats."""
    loops = list(best.values())
    doubts, beats = sum(len(serious(x.flags)) for x in loops), sum(len(_complete(x.beats)) for x in loops)
    return -len(best), doubts, -beats, [loop.loop for loop in loops]


def _biplane(
    four: LoopResult, two: LoopResult, masks: Mapping[str, KeyMasks]
) -> tuple[dict[str, Measure], list[Flag]]:
    """Compute biplane volumes and the flags of the pair; intervals have the relative widths of the planes."""
    first, second = masks[four.loop], masks[two.loop]
    sized = four.pixel_mm is not None and two.pixel_mm is not None
    flags = []
    if not sized and (four.pixel_mm is None) != (two.pixel_mm is None):
        ed = es = math.nan
    else:
        spacings = (first.spacing, second.spacing)
        ed, es = (biplane_volume(a, b, spacings) for a, b in ((first.ed, second.ed), (first.es, second.es)))
        lengths = [long_axis_cm(mask.ed, mask.spacing) for mask in (first, second)]
        if sized and max(lengths) > (1 + _AXES_DIFFER) * min(lengths):
            ratio = max(lengths) / min(lengths) - 1
            flags.append(
                Flag(
                    "foreshortened",
                    f"the long axes of the two views differ by {ratio:.0%}, more than {_AXES_DIFFER:.0%}",
                )
            )
    apart = abs(four.ef_percent.value - two.ef_percent.value)
    if apart > PLANES_DIFFER:
        flags.append(
            Flag(
                "planes_differ",
                f"the ejection fractions of the two views differ by {apart:.0f} points, more than "
                f"{PLANES_DIFFER}: check both outlines, and take the view whose outline is right",
            )
        )
    fraction = ejection_fraction(ed, es)
    volumes = {"edv_ml": ed, "esv_ml": es, "stroke_volume_ml": ed - es} if sized else {}
    found = {"ef_percent": fraction, **volumes}
    return {
        name: _around(value, [getattr(four, name), getattr(two, name)]).possible(name)
        for name, value in found.items()
    }, flags


def _around(value: float, planes: Sequence[Measure]) -> Measure:
    """Add the interval of the mean of two planes, whose errors are correlated."""
    if not all(math.isfinite(plane.low) for plane in planes):
        return Measure(value)
    below, above = (
        math.sqrt(first**2 + second**2 + 2 * _CORRELATION * first * second) / 2
        for first, second in (
            [plane.value - plane.low for plane in planes],
            [plane.high - plane.value for plane in planes],
        )
    )
    return Measure(value, value - below, value + above)


def _mean(values: Sequence[Measure]) -> Measure:
    """Average the known values, with the interval of two planes."""
    known = [value for value in values if value.known]
    if len(known) < 2:
        return known[0] if known else Measure()
    return _around(median([value.value for value in known]), known)


def _complete(beats: Sequence[BeatResult]) -> list[BeatResult]:
    return [beat for beat in beats if beat.end is not None]


def _doubts(loops: Mapping[str, LoopResult]) -> list[Flag]:
    """Collect the flags of the loops of a patient, each code once.

    Args:
        loops: Name of a loop in the reasons, such as its view, to the loop. A reason that holds for all loops does
            not name them.
    """
    reasons: dict[str, dict[str, str]] = defaultdict(dict)
    for name, loop in loops.items():
        for flag in loop.flags:
            reasons[flag.code].setdefault(name, flag.reason)
    found = []
    for code, of_loops in reasons.items():
        texts = list(dict.fromkeys(of_loops.values()))
        if len(texts) > 1 or len(of_loops) < len(loops):
            texts = [f"{name}: {reason}" for name, reason in of_loops.items()]
        more = f" (and {len(texts) - _NAMED} more)" if len(texts) > _NAMED else ""
        found.append(Flag(code, ", ".join(texts[:_NAMED]) + more))
    return found


def _unique(flags: Sequence[Flag]) -> tuple[Flag, ...]:
    """Keep each code once, with its different reasons, in the order of first occurrence."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for flag in flags:
        found[flag.code][flag.reason] = None
    return tuple(Flag(code, ", ".join(reasons)) for code, reasons in found.items())
