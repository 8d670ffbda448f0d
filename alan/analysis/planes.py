"""Measures of a model and of masks at labelled end-diastole and end-systole, and how often intervals hold."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from skimage.morphology import convex_hull_image

from alan.analysis.measures import BeatMeasures, Grid, measure_beat, summarise_beats
from alan.analysis.model import AnalysisModel
from alan.analysis.quality import find_unclear, outline_contrast
from alan.analysis.results import Measure, Spread
from alan.analysis.tables import MEASURES
from alan.analysis.timeline import segment_loop
from alan.analysis.uncertainty import COVERAGE, calibrate_spread, sample_beats, widen_intervals, with_intervals
from alan.arrays import BoolArray, ByteArray
from alan.cardiac import Beat
from alan.data.store.layout import StoredSequence
from alan.data.store.reader import FrameStore
from alan.errors import AlanWarning, DataError
from alan.words import plural

#: Measures that follow from masks of end-diastole and end-systole.
MEASURED = tuple(name for name in MEASURES if name != "heart_rate_bpm")
#: Fewest loops by which a measure is calibrated; split conformal prediction needs 90% of one more than there are.
FEWEST = 10
#: Columns of the table of a calibration.
COLUMNS = (
    *("measure", "patients", "loops", "held_before", "held_after", "median_width_before", "median_width_after"),
    *("spread_below", "spread_above", "weight_of_draws"),
)
#: Number of groups of patients of the cross-validation.
_FOLDS = 5
_log = logging.getLogger(__name__)
_PHASES = ("ED", "ES")
_STRUCTURES = ("lv", "myo", "la")
#: An end-diastolic and an end-systolic frame.
_BEAT = Beat(0, 1, None, regular=False)


@dataclass(frozen=True)
class Plane:
    """Measures of a loop at its labelled end-diastole and end-systole.

    Attributes:
        patient: The patient.
        ours: Measures of the outlines of the model.
        draws: The same by draws of its white boxes, see :func:`alan.analysis.uncertainty.sample_beats`.
        true: Measures of the masks.
        unclear: Whether an outline is unclear, which widens the intervals.
        sized: Whether the pixel size is known.
    """

    patient: str
    ours: BeatMeasures
    draws: Sequence[Mapping[str, Measure]]
    true: BeatMeasures
    unclear: bool
    sized: bool = True

    def summary(
        self, spread: Mapping[str, Spread], *, widen: bool = True, names: Sequence[str] = MEASURED
    ) -> dict[str, Measure]:
        """Return the measures with their intervals, as in ``alan analyze``.

        Args:
            spread: Spread of the model.
            widen: Whether the intervals of an unclear outline are wider.
            names: Names of the measures; volumes without a pixel size are left out.
        """
        known = summarise_beats([self.ours], sized=self.sized)
        measured = {name: known[name] for name in names if name in known}
        found = with_intervals(measured, self.draws, [self.ours], spread)
        return widen_intervals(found) if widen and self.unclear else found


class Held(NamedTuple):
    """How often intervals hold.

    Attributes:
        share: Share of the intervals that contain the true value; NaN without any.
        number: Number of intervals.
        width: Median width.
    """

    share: float
    number: int
    width: float


def measure_planes(
    store: FrameStore, model: AnalysisModel, split: str | None = None, *, samples: int = 40, seed: int = 0
) -> Iterator[Plane]:
    """Measure each loop of a store with masks of the left ventricle at end-diastole and end-systole.

    Args:
        store: Frame store; frames must fill the square, as `alan prepare` writes them by default.
        model: The model.
        split: Split of the loops; None takes all.
        samples: Number of draws of white boxes.
        seed: Seed of the draws.

    Raises:
        DataError: The store keeps the aspect of frames, or has no such loop in a view of the model.
    """
    if store.preprocessing.keep_aspect or store.preprocessing.pixel_mm is not None:
        raise DataError(
            f"{store.path}: its frames were not stretched: prepare it without keep_aspect and pixel_mm"
        )
    store.check_structures(["lv"])
    views = [view for view, boxes in model.views.items() if "lv" in boxes]
    if not views:
        raise DataError("the model has no white box of the left ventricle, and its measures cannot be calibrated")
    rows = store.labelled(split, views, phases=_PHASES)
    known = [name for name in _STRUCTURES if name in store.structures]
    place = {key: n for n, key in enumerate(zip(rows["sequence"], rows["phase"], strict=True))}
    pairs = {
        sequence: [place[sequence, phase] for phase in _PHASES]
        for sequence in dict.fromkeys(rows["sequence"])
        if all((sequence, phase) in place for phase in _PHASES)
    }
    for sequence, pair in pairs.items():
        chosen, stored = rows.iloc[pair], store.sequences[sequence]
        labels = chosen["label"].to_numpy()
        masks = {name: store.masks(labels, name) for name in known}
        if masks["lv"].any((1, 2)).all():
            frames = store.frames(chosen["frame"].to_numpy())
            yield _measure_plane(model, stored, frames, masks, samples=samples, seed=seed)


def _measure_plane(
    model: AnalysisModel,
    stored: StoredSequence,
    frames: ByteArray,
    masks: Mapping[str, BoolArray],
    *,
    samples: int,
    seed: int,
) -> Plane:
    """Measure an end-diastolic and an end-systolic frame (2, S, S) by the model and by their masks."""
    view, pixel_mm = stored.view, stored.spacing

    def grid(of: ByteArray) -> Grid:
        scale = (stored.original_shape[0] / of.shape[1], stored.original_shape[1] / of.shape[2])
        inside: BoolArray = convex_hull_image(of.max(0) > 0)  # type: ignore[no-untyped-call]
        return Grid(scale, pixel_mm, inside=inside, view=view)

    resized = model.resize(frames)
    maps, own, phases = model.maps(resized), grid(resized), np.array([1.0, 0.0])
    labels = np.concatenate(
        [segment_loop(model, maps[[n]], view, None, phase=phase).labels for n, phase in enumerate(phases)]
    )
    found = {name: labels == value for value, name in enumerate(model.structures(view), 1)}
    boxes = model.views[view]
    shares = [boxes["lv"].shares(maps[n], phase) for n, phase in enumerate(phases)]
    contrasts = {p: outline_contrast(*one) for p, *one in zip(_PHASES, shares, found["lv"], strict=True)}
    return Plane(
        stored.patient,
        measure_beat(_BEAT, found, own),
        sample_beats(boxes, maps, phases, own, [_BEAT], n=samples, seed=seed),
        measure_beat(_BEAT, masks, grid(frames)),
        bool(find_unclear(contrasts)),
        pixel_mm is not None,
    )


def needed_spread(name: str, planes: Sequence[Plane], confidence: float | None = None) -> Spread:
    """Return the spread with which the intervals of a measure hold, see :func:`calibrate_spread`.

    Args:
        name: Name of the measure.
        planes: Measured loops.
        confidence: Probability that the intervals hold in 90% of new loops; None requires it on average.
    """
    pairs = with_truth(name, planes, {}, widen=False)
    measured, truth, patients = zip(*pairs, strict=True) if pairs else ((), (), ())
    return calibrate_spread(name, measured, truth, confidence, patients)


def held(name: str, planes: Sequence[Plane], spread: Mapping[str, Spread]) -> Held:
    """Count how often the intervals of a measure hold.

    Args:
        name: Name of the measure.
        planes: Measured loops.
        spread: Spread of the model.
    """
    pairs = with_truth(name, planes, spread)
    if not pairs:
        return Held(math.nan, 0, math.nan)
    inside = [one.low <= value <= one.high for one, value, _ in pairs]
    return Held(float(np.mean(inside)), len(pairs), float(np.median([one.high - one.low for one, *_ in pairs])))


def with_truth(
    name: str, planes: Sequence[Plane], spread: Mapping[str, Spread], *, widen: bool = True
) -> list[tuple[Measure, float, str]]:
    """Return measure, true value and patient of the loops where both values are known."""
    found = (
        (
            plane.summary(spread, widen=widen, names=[name]).get(name, Measure()),
            getattr(plane.true, name),
            plane.patient,
        )
        for plane in planes
    )
    return [one for one in found if one[0].known and math.isfinite(one[1])]


def cross_validate(name: str, planes: Sequence[Plane], confidence: float | None = None) -> Held:
    """Count how often intervals hold that were calibrated by other patients.

    Args:
        name: Name of the measure.
        planes: Measured loops; every fifth patient is measured by the spread of the others.
        confidence: See :func:`needed_spread`.
    """
    patients = list(dict.fromkeys(plane.patient for plane in planes))
    parts = []
    for fold in range(_FOLDS):
        out = set(patients[fold::_FOLDS])
        kept = [plane for plane in planes if plane.patient not in out]
        spread = {name: needed_spread(name, kept, confidence)}
        parts.append(held(name, [plane for plane in planes if plane.patient in out], spread))
    known = [part for part in parts if part.number]
    total = sum(part.number for part in known)
    if not total:
        return Held(math.nan, 0, math.nan)
    return Held(
        sum(part.share * part.number for part in known) / total, total, float(np.median([p.width for p in known]))
    )


def calibrate_measures(
    planes: Sequence[Plane], before: Mapping[str, Spread], confidence: float | None = None
) -> tuple[dict[str, Spread], list[tuple[Any, ...]]]:
    """Calibrate each measure that is known for at least ten loops; others keep their spread.

    Args:
        planes: Measured loops.
        before: Spread of the model.
        confidence: See :func:`needed_spread`.

    Returns:
        spread: Spread with which the intervals hold on these loops.
        rows: A row of :data:`COLUMNS` for each calibrated measure.
    """
    spread, rows = dict(before), list[tuple[Any, ...]]()
    for name in MEASURED:
        known = [patient for *_, patient in with_truth(name, planes, {})]
        if len(known) < FEWEST:
            _log.info("%s: known for %s, its interval stays", name, plural(len(known), "loop"))
            continue
        spread[name] = Spread(*(round(float(part), 4) for part in needed_spread(name, planes, confidence)))
        earlier, later = held(name, planes, before), cross_validate(name, planes, confidence)
        shares = (round(part, 4) for part in (earlier.share, later.share, earlier.width, later.width))
        rows.append((name, len(set(known)), earlier.number, *shares, *spread[name]))
        _log.info(
            "%s: %.0f%% intervals held in %.0f%% of %s, calibrated by other patients in %.0f%%",
            name,
            100 * COVERAGE,
            100 * earlier.share,
            plural(earlier.number, "loop"),
            100 * later.share,
        )
    return spread, rows


def warn_of_labels(model: AnalysisModel, stores: Sequence[FrameStore], split: str | None) -> None:
    """Warn if labels of these frames took part in the choice of parcels.

    Args:
        model: The model, whose white boxes state from which frames they learnt.
        stores: Frame stores of labelled patients.
        split: Split of their frames; None for all.
    """
    boxes = [box for pair in model.boxes.values() for box in (pair.ed, pair.es)]
    origins = [box.selector_.provenance_.get("learnt_from", {}).get("human_labels") for box in boxes]
    for origin in filter(lambda one: isinstance(one, dict), origins):
        splits = origin.get("splits", [split])
        if origin["fingerprint"] in {store.fingerprint for store in stores} and (split is None or split in splits):
            warnings.warn(
                f"the white boxes of the model learnt from {plural(origin['patients'], 'patient')} of the same "
                "store and split: intervals become too narrow; give a split of other patients",
                AlanWarning,
                stacklevel=4,
            )
            return
