"""Beta posterior of the share of each parcel in a target, from labels, a prior and an expert's opinion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from alan.arrays import BoolArray, FloatArray
from alan.downstream.whitebox.counting import Counts
from alan.downstream.whitebox.prior import EffectivePixels, ParcelPrior, effective_pixels
from alan.errors import ParameterError

#: Jeffreys' prior of a share: half an observation inside and outside (Gelman et al., Bayesian Data Analysis, 2.8).
JEFFREYS = 0.5


@dataclass(frozen=True)
class Posterior:
    """Beta distributions of the shares of the parcels in a target, by source of the evidence.

    Attributes:
        prior: (K,) effective pixels of the prior, after the cap of its weight.
        expert: (K,) effective pixels of an expert's opinion.
        labels: (K,) effective pixels of the labelled images.
    """

    prior: EffectivePixels
    expert: EffectivePixels
    labels: EffectivePixels

    @property
    def alpha(self) -> FloatArray:
        """(K,) float64, :data:`JEFFREYS` plus effective pixels inside the target."""
        return self.prior.inside + self.expert.inside + self.labels.inside + JEFFREYS

    @property
    def beta(self) -> FloatArray:
        """(K,) float64, :data:`JEFFREYS` plus effective pixels outside."""
        return self.prior.outside + self.expert.outside + self.labels.outside + JEFFREYS

    @property
    def known(self) -> BoolArray:
        """(K,) bool, there is some evidence on the parcel."""
        return self.alpha + self.beta > 2 * JEFFREYS

    @property
    def share(self) -> FloatArray:
        """(K,) posterior mean of the share, in [0, 1]; one half if the parcel is unknown."""
        return self.alpha / (self.alpha + self.beta)

    def exceeds(self, share: float) -> FloatArray:
        """Compute the (K,) probability in [0, 1] that the share of a parcel exceeds ``share``."""
        return np.asarray(special.betaincc(self.alpha, self.beta, share), np.float64)

    def interval(self, probability: float) -> tuple[FloatArray, FloatArray]:
        """Compute the central credible interval of the share of each parcel.

        Args:
            probability: Probability that the share lies in the interval, 0 to 1.

        Returns:
            (K,) lower and (K,) upper ends, in [0, 1].
        """
        tail = (1 - probability) / 2
        low, high = special.betaincinv(self.alpha, self.beta, np.array([[tail], [1 - tail]]))
        return np.asarray(low, np.float64), np.asarray(high, np.float64)


def posterior(
    counts: Counts,
    groups: NDArray[np.generic],
    prior: ParcelPrior | None,
    *,
    correlation: float,
    prior_strength: float,
    expert: EffectivePixels | None = None,
) -> Posterior:
    """Combine labels, prior and an expert's opinion.

    The prior counts as its number of effective pixels, but as no more than ``prior_strength``, so that thousands
    of simulated frames do not outweigh a real patient.

    Args:
        counts: Counts over N labelled images; N may be 0.
        groups: (N,) patient of each image.
        prior: Prior of the parcels, or None.
        correlation: Correlation of the pixels of a patient, see
            :func:`alan.downstream.whitebox.prior.effective_pixels`.
        prior_strength: Largest weight of the prior of a parcel, in effective pixels.
        expert: (K,) effective pixels of an expert's opinion, or None.

    Returns:
        The posterior.

    Raises:
        ParameterError: The prior has more parcels than the maps.
    """
    n_parcels = counts.area.shape[1]
    nothing = EffectivePixels(np.zeros(n_parcels), np.zeros(n_parcels))
    labels = nothing
    if len(counts.area):
        labels = effective_pixels(counts.area, counts.overlap, groups, correlation)
    capped = nothing
    if prior is not None:
        k = len(prior.inside)
        if k > n_parcels:
            raise ParameterError(
                f"the prior has {k} parcels, the maps {n_parcels}: count it on maps of the same parcel model"
            )
        total = prior.inside + prior.outside
        weight = np.divide(np.minimum(total, prior_strength), total, out=np.zeros(k), where=total > 0)
        rest = np.zeros(n_parcels - k)
        capped = EffectivePixels(*(np.append(weight * pixels, rest) for pixels in (prior.inside, prior.outside)))
    return Posterior(capped, expert or nothing, labels)
