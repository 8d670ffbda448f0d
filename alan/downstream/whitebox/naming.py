"""Name parcels by simulated frames: white boxes of structures without a human label."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.base import clone

from alan.data.splits import draw_patients
from alan.data.store.reader import FrameStore
from alan.downstream.whitebox.fitting import ALL_PHASES, LabelledMaps, count_prior, fit_white_box
from alan.downstream.whitebox.opinion import ExpertOpinion
from alan.downstream.whitebox.prior import ParcelPrior
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.selection import ParcelSelector
from alan.downstream.whitebox.steps import PostProcessing
from alan.errors import SelectionError
from alan.parcels.model import ParcelModel

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NamingFrames:
    """Labelled frames of a store.

    Attributes:
        store: The frame store.
        rows: Rows of :meth:`alan.data.FrameStore.labelled`.
    """

    store: FrameStore
    rows: pd.DataFrame

    @classmethod
    def choose(
        cls,
        store: FrameStore,
        split: str | None,
        views: Sequence[str] | None,
        *,
        phases: Sequence[str] | None = ("ED", "ES"),
        patients: int | None = None,
        seed: int = 0,
    ) -> NamingFrames:
        """Choose labelled frames.

        Args:
            store: The frame store.
            split: train, val or test; None takes all.
            views: Views to take; None takes all.
            phases: Phases to take; None takes every labelled frame.
            patients: Number of patients, drawn at random; None takes all.
            seed: Seed of the draw.

        Raises:
            DataError: No frame is left.
            ParameterError: An unknown split or view, or more patients than there are.
        """
        rows = store.labelled(split, views, phases=phases)
        drawn = draw_patients(rows["patient"], patients, seed)
        return cls(store, rows[rows["patient"].isin(drawn)].reset_index(drop=True))

    def describe(self) -> dict[str, Any]:
        """Return the origin and numbers, for the file of a white box."""
        return {
            "store": self.store.path.name,
            "fingerprint": self.store.fingerprint,
            "frames": len(self.rows),
            "patients": int(self.rows["patient"].nunique()),
            "splits": sorted(self.rows["split"].unique()),
        }


class NamedParcels(NamedTuple):
    """Parcels of one structure, in one phase or in all: the counts on simulated frames and the white box."""

    prior: ParcelPrior
    segmenter: ParcelSegmenter


def name_parcels(
    model: ParcelModel,
    structures: Sequence[str],
    simulated: NamingFrames,
    selector: ParcelSelector,
    *,
    steps: PostProcessing,
    phases: Sequence[str],
    human: NamingFrames | None,
    opinions: Mapping[str, ExpertOpinion],
    match_area: bool,
    batch_size: int,
) -> dict[str, NamedParcels]:
    """Name the parcels of structures by the labels of simulated frames.

    Args:
        model: The parcel model.
        structures: Structures that do not overlap; unions are written ``lv+myo``.
        simulated: Simulated frames; their labels are counted as priors.
        selector: Rule ``"beta"`` and its parameters.
        steps: Post-processing.
        phases: Phases that get a white box of their own, such as ``("ED", "ES")``; an empty name is one for all.
        human: Real frames whose labels update the priors; None uses the priors alone.
        opinions: Mapping from structure to an expert's opinion on its parcels, which counts beside the prior.
        match_area: Take :func:`share_of_equal_area` of each list in place of the selector's ``share_above``.
        batch_size: Frames that go through the backbone at a time.

    Returns:
        Name of each white box (see :func:`box_name`) to its prior and the white box, whose provenance states what
        it was learnt from.

    Raises:
        SelectionError: No parcel is probable enough for a structure; the message names the best candidate.
        ParameterError: A parameter is not as described.
    """
    learnt_from = {
        "simulated_labels": simulated.describe(),
        "human_labels": "none" if human is None else human.describe(),
    }
    simulated_maps = _labelled_maps(model, simulated, structures, batch_size)
    human_maps = None if human is None else _labelled_maps(model, human, structures, batch_size)
    found = {}
    for structure in structures:
        frames = simulated_maps[structure]
        priors = {phase: count_prior(model, structure, frames.of_phase(phase)) for phase in phases}
        labels = None if human_maps is None else human_maps[structure]
        opinion = opinions.get(structure)
        informed = clone(selector).set_params(opinion=opinion or selector.opinion)
        own_steps = steps.with_params(opinion.steps if opinion else {})
        for phase, prior in priors.items():
            name = box_name(structure, phase)
            if match_area:
                informed.set_params(share_above=share_of_equal_area(prior, frames.of_phase(phase)))
            box = fit_white_box(
                model, structure, labels, informed, steps=own_steps, phases=[phase], priors={phase: prior}
            )
            if phase in box.reasons:
                raise SelectionError(f"{name}: {box.reasons[phase]}")
            segmenter = box.segmenters[phase]
            segmenter.selector_.provenance_["learnt_from"] = learnt_from | ({"phase": phase} if phase else {})
            found[name] = NamedParcels(prior, segmenter)
            _log.info("%s: %d of %d parcels", name, len(segmenter.selector_.interior_), model.n_parcels)
    return found


def box_name(structure: str, phase: str = ALL_PHASES) -> str:
    """Return the name of a white box: the structure, and its phase if it is for one phase (``lv-ED``)."""
    return f"{structure}-{phase}" if phase else structure


def share_of_equal_area(prior: ParcelPrior, frames: LabelledMaps) -> float:
    """Return the share above which the parcels of a structure together have its area.

    Parcels are taken in the order of their share, until the pixels of all of them are as close as can be to those
    of the structure. A bound chosen in this way neither shrinks nor enlarges the structure on the frames on which
    it is counted, so that lists of two phases stay comparable.

    Args:
        prior: Shares of the parcels, counted on the frames.
        frames: The frames.

    Returns:
        A number between the share of the last parcel that is taken and that of the next one, 0 to 1.
    """
    share = prior.inside / np.maximum(prior.inside + prior.outside, 1e-12)
    order = np.argsort(-share, kind="stable")
    pixels = np.bincount(frames.maps.ravel(), minlength=len(share))[order]
    taken = int(np.argmin(np.abs(np.cumsum(pixels) - np.count_nonzero(frames.masks))))
    following = share[order[taken + 1]] if taken + 1 < len(order) else 0.0
    return float((share[order[taken]] + following) / 2)


def _labelled_maps(
    model: ParcelModel, frames: NamingFrames, structures: Sequence[str], batch_size: int
) -> dict[str, LabelledMaps]:
    """Collect parcel maps, masks, patients and phases of each structure."""
    maps = model.store_maps(frames.store, frames.rows["frame"].to_numpy(), batch_size)
    labels = frames.store.label_maps(frames.rows["label"], structures)
    patients, phases = (frames.rows[column].to_numpy() for column in ("patient", "phase"))
    return {
        structure: LabelledMaps(maps, np.asarray(labels == value), patients, phases)
        for value, structure in enumerate(structures, 1)
    }
