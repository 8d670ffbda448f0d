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

from alan.downstream.counting import Counts, check_maps, check_masks, count
from alan.downstream.explain import (
    COLUMNS,
    ROLES,
    build_table,
    greedy_sentence,
    nothing_chosen,
    shortfall,
    threshold_sentence,
)
from alan.downstream.jsonfile import check_schema, dump, load
from alan.downstream.rules import RULES, Greedy, Thresholds, greedy_union, shares
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
)


class ParcelSelector(BaseEstimator):
    """Choose the parcels that make up a target.

    Per image, a parcel is *inside* when one of its connected regions lies in the target by at least
    ``overlap``, with at least ``min_pixels`` pixels and ``min_share_of_target`` of the target. Over all
    images it is *interior* when it is inside in at least ``consistency`` of the images where it is present,
    and present in at least ``presence`` of all images. *Exterior* and *valve* parcels are learnt likewise;
    they describe, the segment is made of interior parcels alone. Of several roles the first of interior,
    valve, exterior stands.

    Args:
        rule: ``"paper"`` (75 / 50 / 30%), ``"relaxed"`` (50 / 50 / 10%: not published, chooses more), or
            ``"greedy"`` (the union with the best mean Dice on the labelled images, no larger than held-out
            groups support).
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
        n_images_: labelled images.
        table_: one row per parcel, see :func:`alan.downstream.explain.build_table`.
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
        group = np.arange(len(maps)) if groups is None else np.asarray(groups)
        if group.shape != (len(maps),):
            raise ParameterError(f"groups must hold one entry per image ({len(maps)},), got {group.shape}")
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
        roles, why, ranking, cv_dice = self._choose(counts, thresholds, group)
        table = build_table(counts, roles, why)
        if not roles["interior"].any():
            raise SelectionError(nothing_chosen(self.rule, table, ranking, thresholds, self.presence_of))
        labels = hashlib.sha256(maps.astype(np.int64).tobytes() + targets.tobytes()).hexdigest()
        self.n_parcels_, self.n_images_ = n_parcels, len(maps)
        self.table_, self.cv_dice_ = table, cv_dice
        self.interior_, self.valve_, self.exterior_ = (np.flatnonzero(table["role"] == role) for role in ROLES)
        self.provenance_ = {"parcels": self.provenance, "labels": labels}
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

    def _background(self) -> int:
        return -1 if self.background_id is None else self.background_id

    def _thresholds(self) -> Thresholds:
        """Check the parameters; the rule's thresholds, overridden by those given."""
        if self.rule not in RULES:
            raise ParameterError(f"unknown rule {self.rule!r}: {nearest(self.rule, RULES)}")
        if self.presence_of not in ("present", "inside"):
            hint = nearest(self.presence_of, ("present", "inside"))
            raise ParameterError(f"unknown presence_of {self.presence_of!r}: {hint}")
        for name in _SHARES:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ParameterError(f"{name} is {value}; it is a share, give 0 to 1")
        for name, least in (("min_pixels", 0), ("min_parcels", 0), ("n_folds", 2), ("n_parcels", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ParameterError(f"{name} is {value}; give {least} or more")
        given = {name: getattr(self, name) for name in Thresholds._fields}
        return RULES[self.rule]._replace(**{name: value for name, value in given.items() if value is not None})

    def _choose(
        self, counts: Counts, thresholds: Thresholds, groups: NDArray[Any]
    ) -> tuple[dict[str, BoolArray], list[str], list[int], float]:
        """Flags by role, sentences, candidates from the best down, held-out Dice."""
        present, n_images = counts.present.sum(0), len(counts.target)
        asked = {
            "interior": (counts.inside.sum(0), thresholds.consistency, thresholds.presence),
            "valve": (counts.valve.sum(0), self.valve_consistency, self.valve_presence),
            "exterior": (counts.outside.sum(0), self.exterior_consistency, self.exterior_presence),
        }
        roles: dict[str, BoolArray] = {}
        for role, (times, consistent, often) in asked.items():
            consistency, presence = shares(times, present, n_images, self.presence_of)
            roles[role] = (present > 0) & (consistency >= consistent) & (presence >= often)
        consistency, presence = shares(counts.inside.sum(0), present, n_images, self.presence_of)
        lack = shortfall(consistency, presence, thresholds)
        order = np.lexsort((-np.nan_to_num(counts.mean_overlap), -counts.inside.sum(0), lack))
        ranking = [int(k) for k in order if counts.overlap[:, k].any()]
        greedy = Greedy([], np.zeros(0), float("nan"))
        if self.rule == "greedy":
            greedy = greedy_union(
                counts.area,
                counts.overlap,
                counts.target,
                groups,
                n_folds=self.n_folds,
                min_gain=self.min_gain,
            )
            roles["interior"] = np.isin(np.arange(len(present)), greedy.order)
            why = [greedy_sentence(k, counts, greedy, self.background_id) for k in range(len(present))]
        else:
            why = [
                threshold_sentence(k, counts, thresholds, self.presence_of, self.background_id)
                for k in range(len(present))
            ]
        for parcel in ranking:
            if roles["interior"].sum() >= self.min_parcels:
                break
            if not roles["interior"][parcel]:
                roles["interior"][parcel] = True
                why[parcel] += f"; taken because min_parcels is {self.min_parcels}"
        return roles, why, ranking, greedy.cv_dice

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
            "parameters": self.get_params() | self._thresholds()._asdict(),
            "parcels": [
                {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in r.items()} for r in rows
            ],
        }

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
            selector = cls(**value["parameters"])
            selector._thresholds()
            selector.n_parcels_, selector.n_images_ = int(value["n_parcels"]), int(value["images"])
            selector.cv_dice_ = float("nan") if value["cv_dice"] is None else float(value["cv_dice"])
            selector.provenance_ = dict(value["provenance"])
            table = pd.DataFrame(value["parcels"]).set_index("id").rename_axis("parcel")
            selector.table_ = table[list(COLUMNS)].astype({"consistency": float, "mean_overlap": float})
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
