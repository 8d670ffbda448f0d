"""Why a parcel was or was not chosen, in plain English: the table of a selector and its one error."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alan.downstream.whitebox.counting import Counts
from alan.downstream.whitebox.posterior import JEFFREYS, Posterior
from alan.downstream.whitebox.rules import Greedy, Thresholds, shares

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

ROLES = ("interior", "valve", "exterior")
#: Columns of the table after the parcel's id, which is its index.
COLUMNS = (
    "present",
    "inside",
    "outside",
    "valve",
    "presence",
    "consistency",
    "mean_overlap",
    "share",
    "role",
    "why",
)


def build_table(counts: Counts, roles: dict[str, BoolArray], why: list[str], share: FloatArray) -> pd.DataFrame:
    """One row per parcel.

    Args:
        counts: what was counted.
        roles: (K,) flags by the name of the role; of several the first in :data:`ROLES` stands.
        why: K sentences.
        share: (K,) posterior mean of the share in the target.

    Returns:
        The columns of :data:`COLUMNS`: images in which the parcel is present, inside, outside, valve (int);
        presence = present / N, consistency = inside / present, mean_overlap (float in [0, 1]; NaN where the parcel
        is never present); share (float in [0, 1], see :mod:`alan.downstream.whitebox.posterior`); role (one of
        :data:`ROLES`, or empty); why. The index is the parcel's id.
    """
    present = counts.present.sum(0)
    consistency, presence = shares(counts.inside.sum(0), present, len(counts.target), "present")
    role = np.full(len(present), "", dtype=object)
    for name in reversed(ROLES):
        role[roles[name]] = name
    columns = {
        "present": present,
        "inside": counts.inside.sum(0),
        "outside": counts.outside.sum(0),
        "valve": counts.valve.sum(0),
        "presence": presence,
        "consistency": consistency,
        "mean_overlap": counts.mean_overlap,
        "share": share,
        "role": role,
        "why": why,
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(len(present), name="parcel"))


def shortfall(consistency: FloatArray, presence: FloatArray, thresholds: Thresholds) -> FloatArray:
    """What each parcel lacks of both thresholds together; infinite where it is never present."""
    lack = np.maximum(thresholds.consistency - consistency, 0) + np.maximum(thresholds.presence - presence, 0)
    return np.where(np.isnan(consistency), np.inf, lack)


def threshold_sentence(
    parcel: int, counts: Counts, thresholds: Thresholds, presence_of: str, background_id: int | None
) -> str:
    """Say how a parcel stands to the thresholds of an interior parcel.

    Args:
        parcel: its id.
        counts: what was counted.
        thresholds: what the rule asks.
        presence_of: ``"present"`` or ``"inside"``.
        background_id: the id that is no parcel.

    Returns:
        For example ``inside in 41% of the 120 images where present, 50% asked; present in 80% of all, 30% asked``.
    """
    if parcel == background_id:
        return "background, no parcel"
    n_images = len(counts.target)
    present, inside = int(counts.present[:, parcel].sum()), int(counts.inside[:, parcel].sum())
    if present == 0:
        return f"present in none of the {n_images} images"
    share = (present if presence_of == "present" else inside) / n_images
    text = (
        f"inside in {inside / present:.0%} of the {present} images where present, "
        f"{thresholds.consistency:.0%} asked; "
        f"{presence_of} in {share:.0%} of all {n_images}, {thresholds.presence:.0%} asked"
    )
    if inside == 0:
        overlap = counts.mean_overlap[parcel]
        text += f"; mean overlap with the target {overlap:.0%}, {thresholds.overlap:.0%} asked of a region"
    return text


def greedy_sentence(parcel: int, counts: Counts, greedy: Greedy, background_id: int | None) -> str:
    """Say when a parcel joined the greedy union and what it added, or that it was left out."""
    if parcel == background_id:
        return "background, no parcel"
    if parcel in greedy.order:
        step = greedy.order.index(parcel)
        before = greedy.dice[step - 1] if step else 0.0
        return f"added as number {step + 1}: mean Dice from {before:.3f} to {greedy.dice[step]:.3f}"
    if not counts.present[:, parcel].any():
        return f"present in none of the {len(counts.target)} images"
    return (
        f"left out: mean overlap with the target {counts.mean_overlap[parcel]:.0%}, no lasting gain in mean Dice"
    )


def beta_sentence(
    parcel: int, known: Posterior, chance: float, asked: tuple[float, float], background_id: int | None
) -> str:
    """Say what is known of a parcel's share and how likely it is to be large enough.

    Args:
        parcel: its id.
        known: the posterior.
        chance: that its share exceeds the share asked.
        asked: the share that it must exceed, and how probable that must be.
        background_id: the id that is no parcel.

    Returns:
        For example ``share in the target 83% (12.3 effective pixels in labels and prior): above 40% with a chance
        of 97%, 50% asked``.
    """
    if parcel == background_id:
        return "background, no parcel"
    if not known.known[parcel]:
        return "seen in no label and not in the prior"
    weight = known.alpha[parcel] + known.beta[parcel] - 2 * JEFFREYS
    return (
        f"share in the target {known.share[parcel]:.0%} ({weight:.1f} effective pixels in labels and prior): "
        f"above {asked[0]:.0%} with a chance of {chance:.0%}, {asked[1]:.0%} asked"
    )


def nothing_likely(ranking: list[int], why: list[str]) -> str:
    """Say which parcel came closest under the rule ``beta``, with the remedy, in one line."""
    if not ranking:
        return "rule 'beta' chose no parcel: none was seen in a label or in the prior; check masks and parcel maps"
    return (
        f"rule 'beta' chose no parcel; parcel {ranking[0]} came closest: {why[ranking[0]]}; lower share_above or "
        "level, or set min_parcels=1 to take the best"
    )


def nothing_chosen(
    rule: str, table: pd.DataFrame, ranking: list[int], thresholds: Thresholds, presence_of: str
) -> str:
    """Say which threshold excluded the best candidate, and by how much.

    Args:
        rule: the rule's name.
        table: the selector's table.
        ranking: candidates, best first; may be empty.
        thresholds: what the rule asks.
        presence_of: ``"present"`` or ``"inside"``.

    Returns:
        One line, with the remedy.
    """
    if not ranking:
        return f"rule {rule!r} chose no parcel: none overlaps the target in any image; check masks and parcel maps"
    row = table.loc[ranking[0]]
    reached = {"consistency": row["consistency"], "presence": row["presence"]}
    if presence_of == "inside":
        reached["presence"] = row["presence"] * row["consistency"]
    lacks = [
        f"{name} {value:.0%} is {100 * (asked - value):.0f} points below the {asked:.0%} asked"
        for name, value in reached.items()
        if value < (asked := getattr(thresholds, name))
    ]
    return (
        f"rule {rule!r} chose no parcel; parcel {ranking[0]} came closest: {', '.join(lacks)} ({row['why']}); "
        "lower that threshold, take rule='relaxed' or 'greedy', or set min_parcels=1 to take the best"
    )
