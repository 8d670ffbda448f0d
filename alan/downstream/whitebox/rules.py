"""Rules that select parcels by thresholds or by the posterior share, and the registry of all rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from alan.arrays import BoolArray, FloatArray, IntArray
from alan.downstream.whitebox.choice import BACKGROUND, Choice, RuleEvidence, Thresholds
from alan.downstream.whitebox.counting import Counts
from alan.downstream.whitebox.greedy import choose_greedily
from alan.downstream.whitebox.prior import JEFFREYS
from alan.words import plural

RuleName = Literal["paper", "relaxed", "greedy", "beta"]
_PAPER = Thresholds(0.75, 0.5, 0.3)


def choose_by_share(evidence: RuleEvidence) -> Choice:
    """Choose the parcels whose share exceeds ``share_above`` with a probability above ``level``."""
    settings, posterior = evidence.settings, evidence.posterior
    possible = posterior.known & (np.arange(evidence.n_parcels) != evidence.background_id)
    probability = np.where(possible, posterior.exceeds(settings["share_above"]), 0)
    why = [_share_sentence(k, evidence, float(probability[k])) for k in range(evidence.n_parcels)]
    ranking = [int(k) for k in np.lexsort((-posterior.share, -probability)) if probability[k] > 0]
    return Choice(probability > settings["level"], why, ranking, _no_share(ranking, why))


def _share_sentence(parcel: int, evidence: RuleEvidence, probability: float) -> str:
    """Describe the share of a parcel and the probability that it is large enough."""
    settings, posterior = evidence.settings, evidence.posterior
    if parcel == evidence.background_id:
        return BACKGROUND
    if not posterior.known[parcel]:
        return "absent from the labelled images and from the prior"
    opinion = posterior.expert.inside[parcel] + posterior.expert.outside[parcel]
    expert = f", {opinion:.1f} of them an expert's opinion" if opinion else ""
    weight = posterior.alpha[parcel] + posterior.beta[parcel] - 2 * JEFFREYS
    return (
        f"share in the target {posterior.share[parcel]:.0%} ({weight:.1f} effective pixels of evidence{expert}); "
        f"probability of more than {settings['share_above']:.0%}: {probability:.0%} "
        f"({settings['level']:.0%} required)"
    )


def _no_share(ranking: list[int], why: list[str]) -> str:
    """Name the parcel that came closest, in one line with the remedy."""
    if not ranking:
        return (
            "rule 'beta' chose no parcel: none occurs in a labelled image or in the prior; "
            "check masks and parcel maps"
        )
    return (
        f"rule 'beta' chose no parcel; parcel {ranking[0]} came closest: {why[ranking[0]]}; lower share_above or "
        "level, or set min_parcels=1 to take the best"
    )


def shares(counts: IntArray, present: IntArray, n_images: int, presence_of: str) -> tuple[FloatArray, FloatArray]:
    """Compute the consistency and presence of every parcel in one role.

    Args:
        counts: (K,) number of images in which the parcel has the role.
        present: (K,) number of images in which it is present.
        n_images: Number of images.
        presence_of: ``"present"`` (paper) or ``"inside"`` (published code: images in which it has the role).

    Returns:
        Two (K,) arrays in [0, 1]; the consistency of a parcel that is never present is NaN.
    """
    consistency = np.divide(counts, present, out=np.full(len(counts), np.nan), where=present > 0)
    return consistency, (present if presence_of == "present" else counts) / max(n_images, 1)


def meets(flags: BoolArray, counts: Counts, consistency: float, presence: float, presence_of: str) -> BoolArray:
    """Return the parcels that have a role often enough.

    Args:
        flags: (N, K) bool, the parcel has the role in the image.
        counts: Counts over the N images.
        consistency: Share of the images with the parcel in which it must have the role.
        presence: Share of all images in which it must be present (or have the role).
        presence_of: As in :func:`shares`.

    Returns:
        (K,) bool.
    """
    present = counts.present.sum(0)
    consistent, often = shares(flags.sum(0), present, len(counts.target), presence_of)
    enough: BoolArray = (present > 0) & (consistent >= consistency) & (often >= presence)
    return enough


def rank(counts: Counts, thresholds: Thresholds, presence_of: str) -> list[int]:
    """Return the parcels that overlap the target, from the one closest to the thresholds downwards."""
    inside = counts.inside.sum(0)
    consistency, presence = shares(inside, counts.present.sum(0), len(counts.target), presence_of)
    lack = np.maximum(thresholds.consistency - consistency, 0) + np.maximum(thresholds.presence - presence, 0)
    lack = np.where(np.isnan(consistency), np.inf, lack)
    order = np.lexsort((-np.nan_to_num(counts.mean_overlap), -inside, lack))
    return [int(k) for k in order if counts.overlap[:, k].any()]


def choose_by_thresholds(evidence: RuleEvidence) -> Choice:
    """Choose the parcels that meet the thresholds (paper, section 3.2)."""
    counts, thresholds, presence_of = evidence.counts, evidence.thresholds, evidence.settings["presence_of"]
    interior = meets(counts.inside, counts, thresholds.consistency, thresholds.presence, presence_of)
    why = [_threshold_sentence(k, evidence) for k in range(evidence.n_parcels)]
    return Choice(interior, why, evidence.ranking, nothing_chosen(evidence, why))


def _threshold_sentence(parcel: int, evidence: RuleEvidence) -> str:
    """Describe how a parcel compares with the thresholds."""
    counts, thresholds, presence_of = evidence.counts, evidence.thresholds, evidence.settings["presence_of"]
    if parcel == evidence.background_id:
        return BACKGROUND
    n_images = len(counts.target)
    present, inside = int(counts.present[:, parcel].sum()), int(counts.inside[:, parcel].sum())
    if present == 0:
        return f"absent from all {n_images} images"
    share = (present if presence_of == "present" else inside) / n_images
    text = (
        f"inside in {inside / present:.0%} of the {present} images with this parcel "
        f"({thresholds.consistency:.0%} required); "
        f"{presence_of} in {share:.0%} of all {n_images} images ({thresholds.presence:.0%} required)"
    )
    if inside == 0:
        text += (
            f"; mean overlap with the target {counts.mean_overlap[parcel]:.0%} "
            f"({thresholds.overlap:.0%} required of a region)"
        )
    return text


def nothing_chosen(evidence: RuleEvidence, why: list[str]) -> str:
    """Name the threshold that the best candidate missed, and by how much, in one line with the remedy."""
    rule, thresholds = evidence.settings["rule"], evidence.thresholds
    if not evidence.ranking:
        return f"rule {rule!r} chose no parcel: none overlaps the target in any image; check masks and parcel maps"
    best, counts = evidence.ranking[0], evidence.counts
    consistency, presence = shares(
        counts.inside.sum(0), counts.present.sum(0), len(counts.target), evidence.settings["presence_of"]
    )
    reached = {"consistency": consistency[best], "presence": presence[best]}
    lacks = [
        f"{name} {value:.0%} is {plural(round(100 * (required - value)), 'point')} below the {required:.0%} "
        "required"
        for name, value in reached.items()
        if value < (required := getattr(thresholds, name))
    ]
    return (
        f"rule {rule!r} chose no parcel; parcel {best} came closest: {', '.join(lacks)} ({why[best]}); "
        "lower that threshold, take rule='relaxed' or 'greedy', or set min_parcels=1 to take the best"
    )


class Rule(NamedTuple):
    """A selection rule.

    Attributes:
        choose: Function that chooses interior parcels.
        thresholds: Default thresholds. Rules that do not choose by them use them only for the table.
    """

    choose: Callable[[RuleEvidence], Choice]
    thresholds: Thresholds


RULES: dict[RuleName, Rule] = {
    "paper": Rule(choose_by_thresholds, _PAPER),
    "relaxed": Rule(choose_by_thresholds, Thresholds(0.5, 0.5, 0.1)),
    "greedy": Rule(choose_greedily, _PAPER),
    "beta": Rule(choose_by_share, _PAPER),
}
