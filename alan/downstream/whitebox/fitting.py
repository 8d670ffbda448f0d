"""Fit the white box of one structure: one list of parcels for all phases, or one for each phase."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from alan.arrays import BoolArray
from alan.downstream.whitebox.prior import ParcelPrior
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.selection import ParcelSelector
from alan.downstream.whitebox.steps import PostProcessing
from alan.errors import AlanWarning, ParameterError, SelectionError

#: The phase of a list that serves all phases.
ALL_PHASES = ""


class ParcelSource(Protocol):
    """Model that made parcel maps, such as :class:`alan.parcels.ParcelModel`.

    Attributes:
        n_parcels: Number of parcels K.
        background_id: Id of pixels outside the ultrasound sector, or None.
        fingerprint: SHA-256 of the model.
    """

    @property
    def n_parcels(self) -> int: ...  # noqa: D102
    @property
    def background_id(self) -> int | None: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102


class LabelledMaps(NamedTuple):
    """Parcel maps of labelled frames.

    Attributes:
        maps: (N, H, W) integer ids.
        masks: (N, H, W) bool, masks of one structure.
        patients: (N,) patient of each frame.
        phases: (N,) phase of each frame; None is allowed only if one list serves all phases.
    """

    maps: NDArray[np.integer]
    masks: BoolArray
    patients: NDArray[Any]
    phases: NDArray[Any] | None = None

    def of_phase(self, phase: str) -> LabelledMaps:
        """Return the frames of one phase; all frames for an empty name."""
        rows = _rows(self.phases, phase, len(self.maps))
        phases = None if self.phases is None else np.asarray(self.phases)[rows]
        return LabelledMaps(self.maps[rows], self.masks[rows], np.asarray(self.patients)[rows], phases)


@dataclass(frozen=True)
class FittedWhiteBox:
    """White box of one structure.

    Attributes:
        structure: Name of the structure.
        segmenters: Fitted segmenter of each phase; the key is empty if one list serves all phases. Phases for
            which no parcel was chosen are missing.
        reasons: For each missing phase, why no parcel was chosen.
    """

    structure: str
    segmenters: Mapping[str, ParcelSegmenter]
    reasons: Mapping[str, str]

    @property
    def complete(self) -> bool:
        """Whether parcels were chosen for every phase."""
        return not self.reasons

    def predict(self, maps: NDArray[np.integer], phases: ArrayLike | None = None) -> BoolArray:
        """Segment frames, each with the list of its phase.

        Args:
            maps: (N, H, W) integer ids.
            phases: (N,) phase of each frame; may be None if one list serves all phases.

        Returns:
            (N, H, W) bool. A frame is empty if it contains no chosen parcel or if its phase has no list; no
            warning is issued.

        Raises:
            ParameterError: An array is not as described.
        """
        masks = np.zeros(maps.shape, bool)
        for phase, segmenter in self.segmenters.items():
            rows = _rows(phases, phase, len(maps))
            if rows.any():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", AlanWarning)
                    masks[rows] = segmenter.predict(maps[rows])
        return masks


def fit_white_box(
    parcels: ParcelSource,
    structure: str,
    labels: LabelledMaps | None,
    selector: ParcelSelector,
    *,
    steps: PostProcessing,
    phases: Sequence[str] = (ALL_PHASES,),
    priors: Mapping[str, ParcelPrior] | None = None,
) -> FittedWhiteBox:
    """Fit the white box of one structure.

    Args:
        parcels: Model that made the maps; it sets the number of parcels, the background and the provenance.
        structure: Name of the structure.
        labels: Labelled frames; None chooses parcels by the priors alone.
        selector: Rule and its parameters; a copy is fitted for each phase.
        steps: Post-processing.
        phases: Phases that get a list of their own, such as ``("ED", "ES")``, fitted to the frames of that phase
            alone. By default one list serves all phases.
        priors: Prior of each phase, with the keys of ``phases``; None if there is none.

    Returns:
        The white box. A phase without a chosen parcel, or without a labelled frame, does not end the fit: its
        reason is in ``reasons``.

    Raises:
        ParameterError: A parameter or an array is not as described.
    """
    segmenters: dict[str, ParcelSegmenter] = {}
    reasons: dict[str, str] = {}
    for phase in phases:
        chosen = clone(selector).set_params(
            n_parcels=parcels.n_parcels + (parcels.background_id is not None),
            background_id=parcels.background_id,
            provenance=parcels.fingerprint,
            prior=selector.prior if priors is None else priors.get(phase),
        )
        segmenter = ParcelSegmenter(chosen, steps)
        try:
            if labels is None:
                segmenters[phase] = segmenter.fit_prior()
                continue
            given = labels.of_phase(phase)
            if not len(given.maps):
                raise SelectionError(
                    f"no labelled frame has the phase {phase!r}: label some, or use one list for all"
                )
            segmenters[phase] = segmenter.fit(given.maps, given.masks, groups=given.patients)
        except SelectionError as error:
            reasons[phase] = str(error)
    return FittedWhiteBox(structure, segmenters, reasons)


def count_prior(parcels: ParcelSource, structure: str, labels: LabelledMaps) -> ParcelPrior:
    """Count the prior of a structure over labelled (usually simulated) frames.

    Args:
        parcels: Model that made the maps.
        structure: Name of the structure.
        labels: The labelled frames.

    Returns:
        The prior, in which every patient counts as one observation.
    """
    return ParcelPrior.count(
        labels.maps,
        labels.masks,
        groups=labels.patients,
        n_parcels=parcels.n_parcels + (parcels.background_id is not None),
        background_id=parcels.background_id,
        structure=structure,
        provenance=parcels.fingerprint,
    )


def _rows(phases: ArrayLike | None, phase: str, count: int) -> BoolArray:
    """Return flags (N,) of the frames of a phase; all of them for an empty name."""
    if phase == ALL_PHASES:
        return np.ones(count, bool)
    if phases is None:
        raise ParameterError(f"phases are missing: the list is for {phase}, give the phase of each frame")
    return np.asarray(np.asarray(phases) == phase)
