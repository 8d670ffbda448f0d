"""Which parcels make up a target: K booleans learnt by counting over labelled frames (paper, section 3.2)."""

from __future__ import annotations

import hashlib
import os
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from alan.downstream.whitebox.counting import Counts, check_groups, check_maps, check_masks, count
from alan.downstream.whitebox.explain import COLUMNS, ROLES, build_table, nothing_chosen
from alan.downstream.whitebox.jsonfile import check_schema, dump, load
from alan.downstream.whitebox.prior import ParcelPrior
from alan.downstream.whitebox.roles import choose
from alan.downstream.whitebox.rules import GUARDS, RULES, Thresholds
from alan.errors import ParameterError, SelectionError, nearest
from alan.files import fingerprint

BoolArray = NDArray[np.bool_]
IdArray = NDArray[np.int64]

SCHEMA = "alan-parcel-selector/1"
_SHARES = (
    "overlap",
    "consistency",
    "presence",
    "min_share_of_target",
    "exterior_overlap",
    "exterior_consistency",
    "exterior_presence",
    "valve_consistency",
    "valve_presence",
    "min_gain",
    "correlation",
    "share_above",
    "level",
)
_LEAST = {
    "min_pixels": 0,
    "min_parcels": 0,
    "n_folds": 2,
    "n_parcels": 1,
    "guard_errors": 0,
    "prior_strength": 0,
}


class ParcelSelector(BaseEstimator):
    """Choose the parcels that make up a target.

    Per image, a parcel is *inside* when one of its connected regions lies in the target by at least
    ``overlap``, with at least ``min_pixels`` pixels and ``min_share_of_target`` of the target. Over all
    images it is *interior* when it is inside in at least ``consistency`` of the images where it is present,
    and present in at least ``presence`` of all images. *Exterior* and *valve* parcels are learnt likewise;
    they describe, the segment is made of interior parcels alone. Of several roles the first of interior,
    valve, exterior stands.

    Args:
        rule: ``"paper"`` (75 / 50 / 30%), ``"relaxed"`` (50 / 50 / 10%: not published, chooses more),
            ``"greedy"`` (the union with the best mean Dice on the labelled images, guarded against over-fitting),
            or ``"beta"`` (parcels whose share in the target is likely to exceed ``share_above``, by labels and
            ``prior`` together).
        overlap: share of a region inside the target; None takes the rule's own.
        consistency: share of the images where present; None takes the rule's own.
        presence: share of all images; None takes the rule's own.
        presence_of: what ``presence`` is asked of: ``"present"`` (the paper) or ``"inside"`` (the published code:
            the parcel must be *inside* in so many of all images; read likewise for exterior and valve).
        min_pixels: pixels that a region must have inside the target.
        min_share_of_target: share of the target that a region must cover.
        exterior_overlap: share of an exterior parcel outside the target.
        exterior_consistency: of the images where it is present.
        exterior_presence: of all images.
        valve_consistency: share of the images where present in which it crosses the target's lower border.
        valve_presence: of all images.
        n_folds: rule ``greedy``: folds at most of the held-out check.
        min_gain: rule ``greedy``: mean Dice that a further parcel must add.
        guard: rule ``greedy``: ``"size"`` (as many parcels as held-out patients support) or ``"patients"`` (each
            parcel's gain must hold over patients), see :func:`alan.downstream.whitebox.rules.greedy_union`.
        guard_errors: guard ``"patients"``: standard errors by which a gain must exceed ``min_gain``.
        prior: for the posterior shares, by which the rule ``beta`` chooses and ``share_`` is filled: a
            :class:`~alan.downstream.ParcelPrior` or the path of its JSON; None: labels alone.
        prior_strength: effective pixels of a parcel that the prior may weigh at most.
        correlation: how alike the pixels of a parcel in one patient are, 0 to 1: n of them weigh as
            ``n / (1 + (n - 1) correlation)`` in the posterior.
        share_above: rule ``beta``: share in the target that a parcel must exceed. The best for Dice is half the
            Dice that is reached.
        level: rule ``beta``: how probable that must be.
        n_parcels: K. None takes the highest id in ``fit``, plus 1, and lets later maps hold higher ids (never
            chosen).
        min_parcels: take the best candidates until there are so many, though they miss a threshold.
        background_id: the id of pixels outside the sector, which is no parcel.
        provenance: fingerprint of the parcel model (backbone and head) that made the maps.

    Attributes:
        interior_: (n,) int64 ids, ascending; may be edited.
        exterior_: (n,) int64 ids, ascending.
        valve_: (n,) int64 ids, ascending.
        n_parcels_: K.
        n_images_: labelled images; 0 after :meth:`fit_prior`.
        table_: one row per parcel, see :func:`alan.downstream.whitebox.explain.build_table`.
        cv_dice_: mean held-out Dice of the greedy union; NaN for the other rules and for a single group.
        provenance_: ``parcels`` (as given), ``labels`` (SHA-256 of maps and masks), ``hash`` (of both).
    """

    def __init__(
        self,
        rule: str = "paper",
        *,
        overlap: float | None = None,
        consistency: float | None = None,
        presence: float | None = None,
        presence_of: str = "present",
        min_pixels: int = 10,
        min_share_of_target: float = 0.02,
        exterior_overlap: float = 0.95,
        exterior_consistency: float = 0.98,
        exterior_presence: float = 0.1,
        valve_consistency: float = 0.2,
        valve_presence: float = 0.3,
        n_folds: int = 10,
        min_gain: float = 0.001,
        guard: str = "size",
        guard_errors: float = 0.0,
        prior: ParcelPrior | str | os.PathLike[str] | None = None,
        prior_strength: float = 8.0,
        correlation: float = 0.1,
        share_above: float = 0.4,
        level: float = 0.5,
        n_parcels: int | None = None,
        min_parcels: int = 0,
        background_id: int | None = None,
        provenance: str = "",
    ) -> None:
        self.rule = rule
        self.overlap = overlap
        self.consistency = consistency
        self.presence = presence
        self.presence_of = presence_of
        self.min_pixels = min_pixels
        self.min_share_of_target = min_share_of_target
        self.exterior_overlap = exterior_overlap
        self.exterior_consistency = exterior_consistency
        self.exterior_presence = exterior_presence
        self.valve_consistency = valve_consistency
        self.valve_presence = valve_presence
        self.n_folds = n_folds
        self.min_gain = min_gain
        self.guard = guard
        self.guard_errors = guard_errors
        self.prior = prior
        self.prior_strength = prior_strength
        self.correlation = correlation
        self.share_above = share_above
        self.level = level
        self.n_parcels = n_parcels
        self.min_parcels = min_parcels
        self.background_id = background_id
        self.provenance = provenance

    def fit(self, parcel_maps: ArrayLike, masks: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Learn the parcels of a target.

        Args:
            parcel_maps: (N, H, W) integer ids.
            masks: (N, H, W) bool. An empty mask counts as an image in which nothing is inside.
            groups: (N,) patients, for the held-out check of the greedy rule; None: every image for itself.

        Returns:
            The selector.

        Raises:
            ParameterError: a parameter or an array is not as described.
            SelectionError: nothing is chosen; the message names the threshold that the best candidate missed.
        """
        thresholds = self._thresholds()
        maps = check_maps(parcel_maps, self.n_parcels, self.background_id)
        targets = check_masks(masks, maps.shape)
        group = check_groups(groups, len(maps))
        n_parcels = self.n_parcels or 1 + int(np.max(maps, where=maps != self._background(), initial=0))
        counts = count(
            maps,
            targets,
            n_parcels=n_parcels,
            background_id=self.background_id,
            overlap=thresholds.overlap,
            min_pixels=self.min_pixels,
            min_share_of_target=self.min_share_of_target,
            exterior_overlap=self.exterior_overlap,
        )
        labels = hashlib.sha256(maps.astype(np.int64).tobytes() + targets.tobytes()).hexdigest()
        return self._learn(counts, thresholds, group, labels)

    @property
    def share_(self) -> NDArray[np.float64]:
        """(K,) posterior mean of each parcel's share in the target; 0 where nothing is known of it."""
        check_is_fitted(self, "table_")
        share: NDArray[np.float64] = np.nan_to_num(self.table_["share"].to_numpy(np.float64))
        return share

    def fit_prior(self) -> Self:
        """Choose by the prior alone, without any label: the simulator's own names for the parcels.

        Returns:
            The selector.

        Raises:
            ParameterError: the rule is not ``beta``, there is no prior, or a parameter is not as described.
            SelectionError: no parcel of the prior is likely enough.
        """
        thresholds, prior = self._thresholds(), self._prior()
        if self.rule != "beta" or prior is None:
            raise ParameterError(
                f"rule is {self.rule!r}, prior {'missing' if prior is None else 'given'}: without labels only "
                "rule='beta' with a prior can choose; count one with ParcelPrior.count on simulated frames"
            )
        nothing = Counts.none(self.n_parcels or len(prior.inside))
        return self._learn(nothing, thresholds, np.zeros(0, np.int64), "none")

    def _learn(self, counts: Counts, thresholds: Thresholds, groups: NDArray[Any], labels: str) -> Self:
        """Choose by what was counted and keep it."""
        settings = self.get_params(deep=False) | {"prior": self._prior()}
        choice = choose(counts, thresholds, groups, settings)
        table = build_table(counts, choice.roles, choice.why, choice.share)
        if not choice.roles["interior"].any():
            reason = choice.reason or nothing_chosen(
                self.rule, table, choice.ranking, thresholds, self.presence_of
            )
            raise SelectionError(reason)
        self.n_parcels_, self.n_images_ = len(table), len(counts.target)
        self.table_, self.cv_dice_ = table, choice.cv_dice
        self.interior_, self.valve_, self.exterior_ = (np.flatnonzero(table["role"] == role) for role in ROLES)
        self.provenance_: dict[str, Any] = {"parcels": self.provenance, "labels": labels}
        self.provenance_["hash"] = fingerprint(self.provenance_)
        return self

    def predict(self, parcel_maps: ArrayLike) -> BoolArray:
        """Union of the interior parcels, without post-processing.

        Args:
            parcel_maps: (N, H, W) integer ids.

        Returns:
            (N, H, W) bool.

        Raises:
            ParameterError: the maps are not as described, or hold ids of ``n_parcels`` and more where that
            was given.
        """
        check_is_fitted(self, "interior_")
        maps = check_maps(parcel_maps, self.n_parcels, self.background_id)
        chosen = np.zeros(max(self.n_parcels_, int(maps.max()) + 1), bool)
        chosen[self.interior_] = True
        union: BoolArray = chosen[maps]
        return union

    def _prior(self) -> ParcelPrior | None:
        """The prior as given, read where it is a path, checked against the parcel model."""
        prior = self.prior
        if prior is not None and not isinstance(prior, ParcelPrior):
            prior = ParcelPrior.from_json(prior)
        if prior is not None and self.provenance and prior.provenance not in ("", self.provenance):
            raise ParameterError(
                f"the prior was counted on parcels {prior.provenance[:12]}, the maps are of "
                f"{self.provenance[:12]}: count it on maps of the same parcel model"
            )
        return prior

    def _background(self) -> int:
        return -1 if self.background_id is None else self.background_id

    def _thresholds(self) -> Thresholds:
        """Check the parameters; the rule's thresholds, overridden by those given."""
        if self.rule not in RULES:
            raise ParameterError(f"unknown rule {self.rule!r}: {nearest(self.rule, RULES)}")
        if self.presence_of not in ("present", "inside"):
            hint = nearest(self.presence_of, ("present", "inside"))
            raise ParameterError(f"unknown presence_of {self.presence_of!r}: {hint}")
        if self.guard not in GUARDS:
            raise ParameterError(f"unknown guard {self.guard!r}: {nearest(self.guard, GUARDS)}")
        for name in _SHARES:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ParameterError(f"{name} is {value}; it is a share, give 0 to 1")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ParameterError(f"{name} is {value}; give {least} or more")
        given = {name: getattr(self, name) for name in Thresholds._fields}
        return RULES[self.rule]._replace(**{name: value for name, value in given.items() if value is not None})

    def to_dict(self) -> dict[str, Any]:
        """The fitted model as plain values, for JSON."""
        check_is_fitted(self, "interior_")
        rows = self.table_.reset_index().rename(columns={"parcel": "id"}).to_dict("records")
        return {
            "schema": SCHEMA,
            "n_parcels": self.n_parcels_,
            "images": self.n_images_,
            **{role: [int(k) for k in getattr(self, f"{role}_")] for role in ROLES},
            "cv_dice": None if np.isnan(self.cv_dice_) else self.cv_dice_,
            "provenance": self.provenance_,
            "parameters": self._plain_parameters(),
            "parcels": [
                {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in r.items()} for r in rows
            ],
        }

    def _plain_parameters(self) -> dict[str, Any]:
        prior = self._prior()
        parameters: dict[str, Any] = self.get_params() | self._thresholds()._asdict()
        return parameters | {"prior": None if prior is None else prior.to_dict()}

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The fitted model as JSON for people to read and edit: the lists may be changed by hand.

        Args:
            path: also write it there.

        Returns:
            The text.
        """
        return dump(self.to_dict(), path)

    @classmethod
    def from_dict(cls, value: Any) -> Self:
        """The inverse of :meth:`to_dict`; roles in the table follow the lists.

        Raises:
            ParameterError: another schema, a field missing or misspelt, or an id out of range or in two lists.
        """
        value = check_schema(value, SCHEMA)
        try:
            unknown = sorted(set(value["parameters"]) - set(cls().get_params()))
            if unknown:
                raise ParameterError(
                    f"unknown parameter {unknown[0]!r}: {nearest(unknown[0], cls().get_params())}"
                )
            parameters = dict(value["parameters"])
            if isinstance(parameters.get("prior"), dict):
                parameters["prior"] = ParcelPrior.from_dict(parameters["prior"])
            selector = cls(**parameters)
            selector._thresholds()
            selector.n_parcels_, selector.n_images_ = int(value["n_parcels"]), int(value["images"])
            selector.cv_dice_ = float("nan") if value["cv_dice"] is None else float(value["cv_dice"])
            selector.provenance_ = dict(value["provenance"])
            table = pd.DataFrame(value["parcels"]).set_index("id").rename_axis("parcel")
            table["share"] = table.get("share", table["mean_overlap"])  # files from before there were shares
            numbers = dict.fromkeys(("consistency", "mean_overlap", "share"), float)
            selector.table_ = table[list(COLUMNS)].astype(numbers)
            selector._set_lists({role: value[role] for role in ROLES})
        except ParameterError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ParameterError(
                f"parcel selection is incomplete or malformed ({error}): compare a fresh one"
            ) from error
        return selector

    @classmethod
    def from_json(cls, source: str | os.PathLike[str]) -> Self:
        """Read a fitted model.

        Args:
            source: a path, or the text itself (which starts with a brace).

        Returns:
            The fitted selector.

        Raises:
            DataError: the file is missing or is not JSON.
            ParameterError: the content is not a parcel selection, see :meth:`from_dict`.
        """
        return cls.from_dict(load(source))

    def _set_lists(self, lists: dict[str, list[int]]) -> None:
        """Take the lists of ids, perhaps edited by hand; the table follows and says where it had to."""
        if sorted(self.table_.index) != list(range(self.n_parcels_)):
            raise ParameterError(f"parcels must have one row for each id from 0 to {self.n_parcels_ - 1}")
        role_of: dict[int, str] = {}
        for role, ids in lists.items():
            for k in ids:
                if type(k) is not int or not 0 <= k < self.n_parcels_ or k == self.background_id:
                    last = self.n_parcels_ - 1
                    raise ParameterError(
                        f"{role} holds {k!r}: give ids of parcels, whole numbers from 0 to {last}"
                    )
                if k in role_of:
                    raise ParameterError(f"parcel {k} is listed as {role_of[k]} and as {role}: keep one")
                role_of[k] = role
        self.interior_, self.valve_, self.exterior_ = (np.array(sorted(lists[r]), np.int64) for r in ROLES)
        for parcel in range(self.n_parcels_):
            old, new = str(self.table_.loc[parcel, "role"]), role_of.get(parcel, "")
            if new != old:
                why = f"set by hand to {new or 'no role'} (was {old or 'no role'})"
                self.table_.loc[parcel, ["role", "why"]] = [new, why]
