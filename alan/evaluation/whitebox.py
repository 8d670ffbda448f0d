"""White boxes of the segmentation protocol: their fit to labelled frames, and their files."""

from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alan.downstream.whitebox.fitting import FittedWhiteBox, LabelledMaps, fit_white_box
from alan.downstream.whitebox.opinion import ExpertOpinion, read_opinions
from alan.downstream.whitebox.rules import RuleName
from alan.downstream.whitebox.selection import ParcelSelector
from alan.errors import ParameterError
from alan.evaluation.metrics import dice
from alan.evaluation.protocols import SegmentationProtocol
from alan.evaluation.sources import MappedSource

_log = logging.getLogger(__name__)


class WhiteBoxFit(NamedTuple):
    """White box of one structure on one source of parcels, selected by one rule.

    Attributes:
        source: Source of the parcels.
        rule: Selection rule.
        box: The white box, with the reason of each phase in which no parcel was selected.
        label_dice: Mapping from phase to the mean Dice score on its labelled frames.
    """

    source: MappedSource
    rule: str
    box: FittedWhiteBox
    label_dice: dict[str, float]

    @property
    def names(self) -> dict[str, str]:
        """Columns that name the method and the structure."""
        structure = self.box.structure
        return {"method": self.source.name, "kind": self.source.kind, "rule": self.rule, "structure": structure}

    @property
    def mean_label_dice(self) -> float:
        """Mean over the phases of the mean Dice score on labelled frames; NaN if nothing was selected."""
        return float(np.mean(list(self.label_dice.values()))) if self.label_dice else float("nan")

    def phases(self, names: Sequence[str]) -> list[str]:
        """Return the phases, out of those given, that the white box can segment."""
        return [name for name in names if {"", name} & set(self.box.segmenters)]


def fit_source(
    protocol: SegmentationProtocol,
    source: MappedSource,
    rule: RuleName,
    structure: str,
    *,
    masks: NDArray[np.bool_],
    table: pd.DataFrame,
    opinions: Sequence[ExpertOpinion],
) -> WhiteBoxFit:
    """Fit a white box on one source of parcels.

    Args:
        protocol: Protocol with the phases of the lists and the post-processing.
        source: Source of the parcels.
        rule: Selection rule.
        structure: Structure to segment.
        masks: (n, S, S) masks of the structure in the labelled frames.
        table: Rows of the labelled frames.
        opinions: Opinions of an expert; rule beta uses the one on this structure and these parcels.
    """
    labels = LabelledMaps(source.label, masks, table["patient"].to_numpy(), table["phase"].to_numpy())
    phases, beta, priors, opinion = protocol.lists, rule == "beta", None, None
    if beta and source.priors:
        priors = {phase: source.priors[structure, phase] for phase in phases}
    if beta:
        about = (structure, source.model.fingerprint)
        opinion = next((one for one in opinions if (one.structure, one.provenance) == about), None)
    steps = protocol.postprocessing.with_params(opinion.steps if opinion else {})
    selector = ParcelSelector(rule, opinion=opinion)
    box = fit_white_box(source.model, structure, labels, selector, steps=steps, phases=phases, priors=priors)
    for phase, reason in box.reasons.items():
        where = f"{structure} {phase}".strip()
        _log.info("%s, rule %s, %s: no parcel was selected (%s)", source.name, rule, where, reason)
    label_dice = {}
    for phase in box.segmenters:
        given = labels.of_phase(phase)
        scores = dice(box.predict(given.maps, given.phases), given.masks)
        label_dice[phase] = float(np.nanmean(scores)) if not np.isnan(scores).all() else float("nan")
    return WhiteBoxFit(source, rule, box, label_dice)


def source_opinions(
    files: Sequence[str], structures: Sequence[str], sources: Sequence[MappedSource]
) -> list[ExpertOpinion]:
    """Read opinions on the structures of sources.

    Args:
        files: Files of an expert's opinions.
        structures: Structures that are segmented.
        sources: Sources of parcels.

    Raises:
        ParameterError: An opinion is about none of the sources, about another structure, or is the second one.
    """
    found: list[ExpertOpinion] = []
    for source in sources:
        own = [file for file in files if ExpertOpinion.from_json(file).provenance == source.model.fingerprint]
        found += read_opinions(own, structures, source.model.fingerprint).values()
    if len(found) < len(files):
        known = {opinion.provenance for opinion in found}
        other = next(file for file in files if ExpertOpinion.from_json(file).provenance not in known)
        raise ParameterError(f"{other}: the opinion is about none of the parcels that are evaluated: leave it out")
    return found


def describe_white_boxes(fits: Sequence[WhiteBoxFit]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Describe fitted white boxes for the run folder.

    Returns:
        Mapping from file name to the content of ``models/``, and one row per white box and list of parcels:
        ``method``, ``kind``, ``rule``, ``structure``, ``phase`` (empty if one list serves all phases), ``reason``
        (why nothing was selected, otherwise empty) and ``label_dice``; for a list also ``file``, ``n_parcels``,
        ``in_use`` (number of parcels that appear in a labelled frame), ``interior``, ``exterior`` and ``valve``.
    """
    files: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for fit in fits:
        rows += [
            {**fit.names, "phase": phase, "reason": reason, "label_dice": None}
            for phase, reason in fit.box.reasons.items()
        ]
        for phase, segmenter in fit.box.segmenters.items():
            suffix = f"-{phase.lower()}" if phase else ""
            method = re.sub(r"[^a-z0-9]+", "-", fit.source.name.lower()).strip("-")
            stem = f"{fit.box.structure}-{method}-{fit.rule}{suffix}"
            names = (f"{stem}-{n}.json" if n > 1 else f"{stem}.json" for n in itertools.count(1))
            file = next(name for name in names if name not in files)  # sources such as "k-means" and "k means"
            files[file] = json.loads(segmenter.to_json())
            selector = segmenter.selector_
            rows.append(
                {
                    **fit.names,
                    "phase": phase,
                    "reason": "",
                    "label_dice": fit.label_dice[phase],
                    "file": file,
                    "n_parcels": selector.n_parcels_ - (selector.background_id is not None),
                    "in_use": int((selector.table_["present"] > 0).sum()),
                    "interior": selector.interior_.tolist(),
                    "exterior": selector.exterior_.tolist(),
                    "valve": selector.valve_.tolist(),
                }
            )
    return files, rows
