"""From counts to roles: which parcels a rule takes, with a sentence on each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alan.downstream.whitebox.counting import Counts
from alan.downstream.whitebox.explain import (
    beta_sentence,
    greedy_sentence,
    nothing_likely,
    shortfall,
    threshold_sentence,
)
from alan.downstream.whitebox.posterior import posterior
from alan.downstream.whitebox.rules import Thresholds, greedy_union, shares

BoolArray = NDArray[np.bool_]


class Choice(NamedTuple):
    """What a rule makes of the counts.

    Attributes:
        roles: (K,) flags by the name of the role.
        why: K sentences.
        ranking: candidates for the interior, best first.
        cv_dice: held-out Dice of a greedy union; NaN otherwise.
        reason: rule ``beta``: why nothing is chosen, to be said if so; else empty.
        share: (K,) posterior mean of each parcel's share in the target; 0 where nothing is known of it.
    """

    roles: dict[str, BoolArray]
    why: list[str]
    ranking: list[int]
    cv_dice: float
    reason: str
    share: NDArray[np.float64]


def choose(counts: Counts, thresholds: Thresholds, groups: NDArray[Any], settings: Mapping[str, Any]) -> Choice:
    """Apply a rule.

    Args:
        counts: counted over the labelled images.
        thresholds: of interior parcels.
        groups: (N,) the patient of each image.
        settings: parameters of :class:`alan.downstream.ParcelSelector` by name, checked.

    Returns:
        Roles, sentences, ranking and held-out Dice.
    """
    roles = _roles_by_thresholds(counts, thresholds, settings)
    ranking = _ranking(counts, thresholds, settings["presence_of"])
    parcels, background = range(counts.area.shape[1]), settings["background_id"]
    cv_dice, reason = float("nan"), ""
    options = {name: settings[name] for name in ("correlation", "prior_strength")}
    known = posterior(counts, groups, settings["prior"], **options)
    possible = known.known & (np.array(parcels) != background)
    if settings["rule"] == "greedy":
        names = ("n_folds", "min_gain", "guard", "guard_errors")
        options = {name: settings[name] for name in names}
        greedy = greedy_union(counts.area, counts.overlap, counts.target, groups, **options)
        roles["interior"] = np.isin(parcels, greedy.order)
        why = [greedy_sentence(k, counts, greedy, background) for k in parcels]
        cv_dice = greedy.cv_dice
    elif settings["rule"] == "beta":
        chance = np.where(possible, known.chance(settings["share_above"]), 0)
        roles["interior"] = chance > settings["level"]
        ranking = [int(k) for k in np.lexsort((-known.share, -chance)) if chance[k] > 0]
        asked = (settings["share_above"], settings["level"])
        why = [beta_sentence(k, known, chance[k], asked, background) for k in parcels]
        reason = nothing_likely(ranking, why)
    else:
        why = [threshold_sentence(k, counts, thresholds, settings["presence_of"], background) for k in parcels]
    for parcel in ranking:
        if roles["interior"].sum() >= settings["min_parcels"]:
            break
        if not roles["interior"][parcel]:
            roles["interior"][parcel] = True
            why[parcel] += f"; taken because min_parcels is {settings['min_parcels']}"
    return Choice(roles, why, ranking, cv_dice, reason, np.where(possible, known.share, 0.0))


def _roles_by_thresholds(
    counts: Counts, thresholds: Thresholds, settings: Mapping[str, Any]
) -> dict[str, BoolArray]:
    present = counts.present.sum(0)
    asked = {
        "interior": (counts.inside, thresholds.consistency, thresholds.presence),
        "valve": (counts.valve, settings["valve_consistency"], settings["valve_presence"]),
        "exterior": (counts.outside, settings["exterior_consistency"], settings["exterior_presence"]),
    }
    roles: dict[str, BoolArray] = {}
    for role, (flags, consistent, often) in asked.items():
        consistency, presence = shares(flags.sum(0), present, len(counts.target), settings["presence_of"])
        roles[role] = (present > 0) & (consistency >= consistent) & (presence >= often)
    return roles


def _ranking(counts: Counts, thresholds: Thresholds, presence_of: str) -> list[int]:
    """Parcels that meet the target, from the one that lacks least of the thresholds down."""
    inside = counts.inside.sum(0)
    consistency, presence = shares(inside, counts.present.sum(0), len(counts.target), presence_of)
    lack = shortfall(consistency, presence, thresholds)
    order = np.lexsort((-np.nan_to_num(counts.mean_overlap), -inside, lack))
    return [int(k) for k in order if counts.overlap[:, k].any()]
