"""Selection by the posterior share: parcels whose share in the target probably exceeds a bound."""

from __future__ import annotations

import numpy as np

from alan.downstream.whitebox.choice import BACKGROUND, Choice, RuleEvidence
from alan.downstream.whitebox.posterior import JEFFREYS


def choose_by_share(evidence: RuleEvidence) -> Choice:
    """Choose the parcels whose share exceeds ``share_above`` with a probability above ``level``."""
    settings, posterior = evidence.settings, evidence.posterior
    possible = posterior.known & (np.arange(evidence.n_parcels) != evidence.background_id)
    probability = np.where(possible, posterior.exceeds(settings["share_above"]), 0)
    why = [_sentence(k, evidence, float(probability[k])) for k in range(evidence.n_parcels)]
    ranking = [int(k) for k in np.lexsort((-posterior.share, -probability)) if probability[k] > 0]
    return Choice(probability > settings["level"], why, ranking, _nothing(ranking, why))


def _sentence(parcel: int, evidence: RuleEvidence, probability: float) -> str:
    """The share of a parcel and the probability that it is large enough."""
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


def _nothing(ranking: list[int], why: list[str]) -> str:
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
