"""Selection of the parcels that make up a target, learnt by counting over labelled frames (paper, section 3.2)."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Annotated, Any, Literal, Self

import numpy as np
from annotated_types import Ge
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from alan.arrays import BoolArray
from alan.bounds import NonNegativeFloat, NonNegativeInt, PositiveInt, Share, check_parameters
from alan.downstream.whitebox.choice import Choice, RuleEvidence, Thresholds
from alan.downstream.whitebox.counting import Counts, check_groups, check_maps, check_masks, count, count_ids
from alan.downstream.whitebox.greedy import Guard
from alan.downstream.whitebox.jsonfile import JsonModel, check_model, parsing
from alan.downstream.whitebox.opinion import ExpertOpinion, read_opinion
from alan.downstream.whitebox.prior import EffectivePixels, ParcelPrior, Posterior, posterior, read_prior
from alan.downstream.whitebox.rules import RULES, RuleName, meets, rank
from alan.downstream.whitebox.table import (
    ROLES,
    assign_roles,
    build_table,
    read_evidence,
    read_table,
    revise_table,
)
from alan.errors import ParameterError, SelectionError, nearest
from alan.files import fingerprint

SCHEMA = "alan-parcel-selector/1"


def selection_to_dict(selector: Any, thresholds: Thresholds) -> dict[str, Any]:
    """Return a fitted selector as plain values.

    Args:
        selector: A fitted :class:`alan.downstream.ParcelSelector`.
        thresholds: The thresholds that it used.
    """
    held = {
        "prior": read_prior(selector.prior, selector.provenance),
        "opinion": read_opinion(selector.opinion, selector.provenance),
    }
    parameters: dict[str, Any] = selector.get_params() | thresholds._asdict()
    parameters |= {name: None if one is None else one.to_dict() for name, one in held.items()}
    rows = selector.table_.reset_index().rename(columns={"parcel": "id"}).to_dict("records")
    return {
        "schema": SCHEMA,
        "n_parcels": selector.n_parcels_,
        "images": selector.n_images_,
        **{role: [int(k) for k in getattr(selector, f"{role}_")] for role in ROLES},
        "cv_dice": None if np.isnan(selector.cv_dice_) else selector.cv_dice_,
        "provenance": selector.provenance_,
        "parameters": parameters,
        "parcels": [{k: None if isinstance(v, float) and np.isnan(v) else v for k, v in r.items()} for r in rows],
    }


def read_parameters(known: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a file, with prior and opinion built from their dictionaries.

    Args:
        known: Parameters that exist.
        values: Parameters of the file.

    Raises:
        ParameterError: A parameter does not exist.
    """
    for name in values:
        if name not in known:
            raise ParameterError(f"unknown parameter {name!r}: {nearest(name, known)}")
    parameters = dict(values)
    for name, kind in (("prior", ParcelPrior), ("opinion", ExpertOpinion)):
        if isinstance(parameters.get(name), dict):
            parameters[name] = kind.from_dict(parameters[name])
    return parameters


@dataclass(eq=False, repr=False)
class ParcelSelector(JsonModel, BaseEstimator):
    """Choose the parcels that make up a target.

    In an image, a parcel is *inside* if one of its connected regions lies in the target by at least ``overlap``,
    with at least ``min_pixels`` pixels and ``min_share_of_target`` of the target. Over all images it is *interior*
    if it is inside in at least ``consistency`` of the images that contain it, and present in at least ``presence``
    of all images. *Exterior* and *valve* parcels are learnt in the same way; they only describe, a segment
    consists of interior parcels. If a parcel qualifies for several roles, the first of interior, valve and
    exterior counts.

    Args:
        rule: ``"paper"`` (75 / 50 / 30%), ``"relaxed"`` (50 / 50 / 10%, not published, chooses more), ``"greedy"``
            (the union with the best mean Dice on the labelled images, guarded against over-fitting), or ``"beta"``
            (parcels whose share in the target probably exceeds ``share_above``, by labels and ``prior`` together).
        overlap: Share of a region that must lie inside the target; None uses the value of the rule.
        consistency: Share of the images with the parcel in which it must be inside; None uses the value of the
            rule.
        presence: Share of all images in which the parcel must be present; None uses the value of the rule.
        presence_of: What ``presence`` refers to: ``"present"`` (paper) or ``"inside"`` (published code: the parcel
            must be *inside* in that share of all images; for exterior and valve parcels accordingly).
        min_pixels: Number of pixels that a region must have inside the target.
        min_share_of_target: Share of the target that a region must cover.
        exterior_overlap: Share of an exterior parcel that must lie outside the target.
        exterior_consistency: Share of the images with the parcel in which it must be outside.
        exterior_presence: Share of all images in which an exterior parcel must be present.
        valve_consistency: Share of the images with the parcel in which it must cross the lower border of the
            target.
        valve_presence: Share of all images in which a valve parcel must be present.
        n_folds: Rule ``greedy``: largest number of folds of the held-out check.
        min_gain: Rule ``greedy``: mean Dice that another parcel must add.
        guard: Rule ``greedy``: ``"size"`` (as many parcels as held-out patients support) or ``"patients"`` (the
            gain of each parcel must hold over patients), see
            :func:`alan.downstream.whitebox.greedy.greedy_union`.
        guard_errors: Guard ``"patients"``: standard errors by which a gain must exceed ``min_gain``.
        prior: Prior of the posterior shares, which the rule ``beta`` and ``share_`` use: a
            :class:`~alan.downstream.ParcelPrior` or the path of its JSON. None uses labels alone.
        prior_strength: Largest weight of the prior of a parcel, in effective pixels.
        opinion: Opinion of an expert on parcels, which counts beside the prior: an
            :class:`~alan.downstream.ExpertOpinion` or the path of its JSON. None uses none.
        correlation: Correlation of the pixels of a parcel in one patient, 0 to 1: n pixels count as
            ``n / (1 + (n - 1) correlation)`` in the posterior.
        share_above: Rule ``beta``: share in the target that a parcel must exceed. The best value for the Dice is
            half of the Dice that is reached.
        level: Rule ``beta``: probability with which the share must be exceeded.
        n_parcels: Number of parcels K. None uses the highest id in ``fit`` plus 1, and lets later maps contain
            higher ids, which are never chosen.
        min_parcels: Take the best candidates until there are this many, even if they miss a threshold.
        background_id: Id of pixels outside the ultrasound sector, which is not a parcel.
        provenance: Fingerprint of the parcel model (backbone and head) that made the maps.

    Attributes:
        interior_: (n,) int64 ids, ascending; may be edited.
        exterior_: (n,) int64 ids, ascending.
        valve_: (n,) int64 ids, ascending.
        n_parcels_: Number of parcels K.
        n_images_: Number of labelled images; 0 after :meth:`fit_prior`.
        table_: One row per parcel, see :func:`alan.downstream.whitebox.table.build_table`.
        cv_dice_: Mean held-out Dice of the greedy union; NaN for the other rules and for a single group.
        provenance_: ``parcels`` (as given), ``labels`` (SHA-256 of maps and masks), ``hash`` (of both).

    Examples:
        >>> maps = np.zeros((4, 32, 32), np.uint8)
        >>> maps[:, 8:24, 8:24] = 3
        >>> selector = ParcelSelector("beta", share_above=0.5).fit(maps, maps == 3, groups=["a", "a", "b", "b"])
        >>> selector.interior_.tolist(), round(float(selector.share_[3]), 2)
        ([3], 0.98)
    """

    rule: RuleName = "paper"
    _: KW_ONLY
    overlap: Share | None = None
    consistency: Share | None = None
    presence: Share | None = None
    presence_of: Literal["present", "inside"] = "present"
    min_pixels: NonNegativeInt = 10
    min_share_of_target: Share = 0.02
    exterior_overlap: Share = 0.95
    exterior_consistency: Share = 0.98
    exterior_presence: Share = 0.1
    valve_consistency: Share = 0.2
    valve_presence: Share = 0.3
    n_folds: Annotated[int, Ge(2)] = 10
    min_gain: Share = 0.001
    guard: Guard = "size"
    guard_errors: NonNegativeFloat = 0.0
    prior: ParcelPrior | str | os.PathLike[str] | None = None
    prior_strength: NonNegativeFloat = 8.0
    opinion: ExpertOpinion | str | os.PathLike[str] | None = None
    correlation: Share = 0.1
    share_above: Share = 0.4
    level: Share = 0.5
    n_parcels: PositiveInt | None = None
    min_parcels: NonNegativeInt = 0
    background_id: NonNegativeInt | None = None
    provenance: str = ""

    def fit(self, parcel_maps: ArrayLike, masks: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Learn which parcels belong to a target.

        Args:
            parcel_maps: (N, H, W) integer ids.
            masks: (N, H, W) bool. An empty mask counts as an image in which nothing is inside.
            groups: (N,) patients, for rules that compare patients. None treats every image as a patient.

        Returns:
            The fitted selector.

        Raises:
            ParameterError: A parameter is out of bounds, or an array is not as described.
            SelectionError: No parcel is chosen; the message names the threshold that the best candidate missed.
        """
        check_parameters(self)
        maps = check_maps(parcel_maps, self.n_parcels, self.background_id)
        targets = check_masks(masks, maps.shape)
        group = check_groups(groups, len(maps))
        counts = count(
            maps,
            targets,
            n_parcels=self.n_parcels or count_ids(maps, self.background_id),
            background_id=self.background_id,
            overlap=self._thresholds().overlap,
            min_pixels=self.min_pixels,
            min_share_of_target=self.min_share_of_target,
            exterior_overlap=self.exterior_overlap,
        )
        labels = hashlib.sha256(maps.astype(np.int64).tobytes() + targets.tobytes()).hexdigest()
        return self._learn(counts, group, labels)

    def fit_prior(self) -> Self:
        """Choose parcels by the prior alone, without any label.

        Returns:
            The fitted selector.

        Raises:
            ParameterError: The rule is not ``beta``, there is not a prior, or a parameter is out of bounds.
            SelectionError: No parcel of the prior is probable enough.
        """
        check_parameters(self)
        prior = read_prior(self.prior, self.provenance)
        if self.rule != "beta" or (prior is None and (self.opinion is None or self.n_parcels is None)):
            raise ParameterError(
                f"rule is {self.rule!r}, prior {'missing' if prior is None else 'given'}: without labels only "
                "rule='beta' with a prior, or with an opinion and n_parcels, can choose; count a prior with "
                "ParcelPrior.count on simulated frames"
            )
        n_parcels = self.n_parcels or (0 if prior is None else len(prior.inside))
        return self._learn(Counts.none(n_parcels), np.zeros(0, np.int64), "none")

    def revise(self, opinion: ExpertOpinion | None) -> Self:
        """Choose parcels again with another opinion of an expert, from the evidence of this fitted selector.

        Args:
            opinion: The opinion, which takes the place of an earlier one; None withdraws it.

        Returns:
            A new fitted selector. Lists that were edited by hand are chosen again.

        Raises:
            ParameterError: The rule is not ``beta``, or the opinion is about other parcels.
            SelectionError: No parcel is probable enough.
        """
        if self.rule != "beta":
            raise ParameterError(
                f"rule is {self.rule!r}: an opinion changes the choice of rule='beta' only; fit that"
            )
        revised = copy.deepcopy(self)
        revised.opinion = opinion
        known = replace(self.posterior_, expert=revised._expert(self.n_parcels_))
        choice = revised._choose(Counts.none(self.n_parcels_), np.zeros(0, np.int64), known)
        revise_table(revised.table_, choice, known, revised._possible(known))
        revised._read_lists()
        return revised

    def predict(self, parcel_maps: ArrayLike) -> BoolArray:
        """Compute the union of the interior parcels, without post-processing.

        Args:
            parcel_maps: (N, H, W) integer ids.

        Returns:
            (N, H, W) bool.

        Raises:
            ParameterError: The maps are not as described, or contain ids of ``n_parcels`` and more if that was
                given.
        """
        check_is_fitted(self, "interior_")
        maps = check_maps(parcel_maps, self.n_parcels, self.background_id)
        chosen = np.zeros(max(self.n_parcels_, int(maps.max()) + 1), bool)
        chosen[self.interior_] = True
        union: BoolArray = chosen[maps]
        return union

    @property
    def share_(self) -> NDArray[np.float64]:
        """(K,) posterior mean of the share of each parcel in the target; 0 if the parcel is unknown."""
        check_is_fitted(self, "table_")
        share: NDArray[np.float64] = np.nan_to_num(self.table_["share"].to_numpy(np.float64))
        return share

    @property
    def posterior_(self) -> Posterior:
        """Beta distributions of the shares, by prior, opinion and labels."""
        check_is_fitted(self, "table_")
        return read_evidence(self.table_)

    def _learn(self, counts: Counts, groups: NDArray[Any], labels: str) -> Self:
        """Apply the rule to counts and keep the result."""
        known = self._posterior(counts, groups)
        choice = self._choose(counts, groups, known)
        roles = {
            "interior": choice.interior,
            "valve": meets(counts.valve, counts, self.valve_consistency, self.valve_presence, self.presence_of),
            "exterior": meets(
                counts.outside, counts, self.exterior_consistency, self.exterior_presence, self.presence_of
            ),
        }
        self.table_ = build_table(counts, roles, choice.why, known, self._possible(known))
        self.n_parcels_, self.n_images_ = len(self.table_), len(counts.target)
        self.cv_dice_ = choice.cv_dice
        self._read_lists()
        self.provenance_: dict[str, Any] = {"parcels": self.provenance, "labels": labels}
        self.provenance_["hash"] = fingerprint(self.provenance_)
        return self

    def _posterior(self, counts: Counts, groups: NDArray[Any]) -> Posterior:
        """Combine counts, prior and opinion."""
        return posterior(
            counts,
            groups,
            read_prior(self.prior, self.provenance),
            correlation=self.correlation,
            prior_strength=self.prior_strength,
            expert=self._expert(counts.area.shape[1]),
        )

    def _choose(self, counts: Counts, groups: NDArray[Any], known: Posterior) -> Choice:
        """Choose the interior parcels."""
        thresholds = self._thresholds()
        ranking = rank(counts, thresholds, self.presence_of)
        evidence = RuleEvidence(counts, groups, known, thresholds, ranking, self.get_params(deep=False))
        choice = RULES[self.rule].choose(evidence).filled_up(self.min_parcels)
        if not choice.interior.any():
            raise SelectionError(choice.nothing)
        return choice

    def _possible(self, known: Posterior) -> BoolArray:
        """Return (K,) bool, whether a parcel can have a share."""
        possible: BoolArray = known.known & (np.arange(len(known.alpha)) != self.background_id)
        return possible

    def _read_lists(self) -> None:
        """Take the lists of ids from the roles of the table."""
        self.interior_, self.valve_, self.exterior_ = (
            np.flatnonzero(self.table_["role"] == role) for role in ROLES
        )

    def _expert(self, n_parcels: int) -> EffectivePixels:
        """Return the effective pixels of the opinion."""
        opinion = read_opinion(self.opinion, self.provenance)
        if opinion is None:
            return EffectivePixels(np.zeros(n_parcels), np.zeros(n_parcels))
        return opinion.pixels(n_parcels, self.background_id)

    def _thresholds(self) -> Thresholds:
        """Return the thresholds of the rule, overridden by those given."""
        given = {name: getattr(self, name) for name in Thresholds._fields}
        return RULES[self.rule].thresholds._replace(**{k: v for k, v in given.items() if v is not None})

    def to_dict(self) -> dict[str, Any]:
        """Return the fitted model as plain values, for JSON."""
        check_is_fitted(self, "interior_")
        return selection_to_dict(self, self._thresholds())

    @classmethod
    def from_dict(cls, value: Any) -> Self:
        """Build from the result of :meth:`to_dict`; roles in the table follow the lists.

        Raises:
            ParameterError: Another schema, a missing or misspelt field, or an id out of range or in two lists.
        """
        value = check_model(value, SCHEMA)
        with parsing("parcel selection"):
            selector = cls(**read_parameters(cls().get_params(), value["parameters"]))
            check_parameters(selector)
            selector.n_parcels_, selector.n_images_ = int(value["n_parcels"]), int(value["images"])
            selector.cv_dice_ = float("nan") if value["cv_dice"] is None else float(value["cv_dice"])
            selector.provenance_ = dict(value["provenance"])
            selector.table_ = read_table(value["parcels"], selector.n_parcels_)
            selector._set_lists({role: value[role] for role in ROLES})
        return selector

    def _set_lists(self, lists: Mapping[str, list[int]]) -> None:
        """Take the lists of ids, which may have been edited by hand, and let the table follow."""
        assign_roles(self.table_, lists, self.background_id)
        self.interior_, self.valve_, self.exterior_ = (np.array(sorted(lists[r]), np.int64) for r in ROLES)
