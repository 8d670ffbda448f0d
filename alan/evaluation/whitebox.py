"""Fitting the white boxes on labelled frames; a rule that chooses nothing gives its reason instead."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.selection import ParcelSelector
from alan.downstream.whitebox.steps import PostProcessing
from alan.errors import AlanWarning, SelectionError
from alan.evaluation.metrics import dice
from alan.evaluation.sources import Source
from alan.evaluation.splits import in_phase

_log = logging.getLogger(__name__)


class Fitted(NamedTuple):
    """A white box on one source of parcels, for one structure.

    Attributes:
        method: the source's name.
        kind: the source's kind.
        rule: the selection rule.
        structure: what it segments.
        segmenter: the fitted white box; None where the rule chose nothing.
        label_dice: its mean Dice on the labelled frames; NaN where nothing was chosen.
        reason: why nothing was chosen, else empty.
        phase: the phase that it learnt from and segments; empty for all of them together.
    """

    method: str
    kind: str
    rule: str
    structure: str
    segmenter: ParcelSegmenter | None
    label_dice: float
    reason: str
    phase: str = ""


def fit_white_box(
    source: Source,
    rule: str,
    structure: str,
    *,
    masks: NDArray[np.bool_],
    patients: NDArray[Any],
    phases: NDArray[Any],
    phase: str,
    postprocessing: PostProcessing,
) -> Fitted:
    """Fit one white box.

    Args:
        source: parcels of the labelled frames.
        rule: selection rule.
        structure: what the masks show.
        masks: (n, S, S) bool, the manual masks of the labelled frames.
        patients: (n,) the patient of each.
        phases: (n,) the phase of each.
        phase: learn from frames of this phase alone; empty for all.
        postprocessing: the steps from parcels to segment.
    """
    rows = in_phase(phases, phase)
    label, masks, patients = source.label[rows], masks[rows], patients[rows]
    selector = ParcelSelector(
        rule=rule,
        n_parcels=source.n_parcels + (source.background_id is not None),
        background_id=source.background_id,
        provenance=source.fingerprint,
    )
    segmenter = ParcelSegmenter(selector, postprocessing)
    try:
        segmenter.fit(label, masks, groups=patients)
    except SelectionError as error:
        _log.info("%s, rule %s, %s: nothing chosen (%s)", source.name, rule, structure, error)
        return Fitted(source.name, source.kind, rule, structure, None, float("nan"), str(error), phase)
    scores = dice(segment(segmenter, label), masks)
    known = scores[~np.isnan(scores)]
    mean = float(known.mean()) if len(known) else float("nan")
    return Fitted(source.name, source.kind, rule, structure, segmenter, mean, "", phase)


def segment_phases(
    fitted: Sequence[Fitted], maps: NDArray[np.uint8], phases: NDArray[Any]
) -> NDArray[np.bool_] | None:
    """Predict masks of frames, each by the white box of its phase.

    Args:
        fitted: one white box for all phases, or one for each.
        maps: (n, S, S) uint8 parcel maps.
        phases: (n,) the phase of each.

    Returns:
        (n, S, S) bool; None where one of them chose nothing.
    """
    masks = np.zeros(maps.shape, bool)
    for one in fitted:
        if one.segmenter is None:
            return None
        rows = in_phase(phases, one.phase)
        if rows.any():
            masks[rows] = segment(one.segmenter, maps[rows])
    return masks


def segment(segmenter: ParcelSegmenter, maps: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Predict masks; empty ones are counted in the results, so the segmenter's own warning of them is muted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AlanWarning)
        return segmenter.predict(maps)


def describe_white_boxes(fitted: Sequence[Fitted]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Fitted white boxes as files, and their short descriptions.

    Returns:
        File name to the segmenter's dictionary, and one row for each: ``method``, ``kind``, ``rule``,
        ``structure``, ``phase``, ``reason``, ``label_dice``, and where something was chosen ``file``,
        ``n_parcels``, ``in_use`` (parcels that appear in a labelled frame), ``interior``, ``exterior`` and
        ``valve``.
    """
    files: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for one in fitted:
        row: dict[str, Any] = {
            name: getattr(one, name) for name in ("method", "kind", "rule", "structure", "phase", "reason")
        }
        row["label_dice"] = one.label_dice
        if one.segmenter is not None:
            phase = f"-{one.phase.lower()}" if one.phase else ""
            name = f"{one.structure}-{_slug(one.method)}-{one.rule}{phase}.json"
            files[name] = json.loads(one.segmenter.to_json())
            selector = one.segmenter.selector_
            row |= {
                "file": name,
                "n_parcels": selector.n_parcels_ - (selector.background_id is not None),
                "in_use": int((selector.table_["present"] > 0).sum()),
                "interior": selector.interior_.tolist(),
                "exterior": selector.exterior_.tolist(),
                "valve": selector.valve_.tolist(),
            }
        rows.append(row)
    return files, rows


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
