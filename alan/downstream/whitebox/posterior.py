"""The Beta posterior of each parcel's share in a target: labels, and what was known before, in one number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from alan.downstream.whitebox.counting import Counts
from alan.downstream.whitebox.prior import Evidence, ParcelPrior, effective_pixels
from alan.errors import ParameterError

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

#: Jeffreys' prior of a share: half an observation on each side (Gelman et al., Bayesian Data Analysis, 2.8).
JEFFREYS = 0.5


@dataclass(frozen=True)
class Posterior:
    """Beta distributions of the parcels' shares in a target.

    Attributes:
        alpha: (K,) float64, :data:`JEFFREYS` plus effective pixels inside.
        beta: (K,) float64, the same outside.
        known: (K,) bool, the parcel was seen in a label or in the prior.
    """

    alpha: FloatArray
    beta: FloatArray
    known: BoolArray

    @property
    def share(self) -> FloatArray:
        """(K,) posterior mean of the share, in [0, 1]; one half where nothing is known."""
        return self.alpha / (self.alpha + self.beta)

    def chance(self, share: float) -> FloatArray:
        """(K,) probability that the parcel's share in the target exceeds ``share``, in [0, 1]."""
        return np.asarray(special.betaincc(self.alpha, self.beta, share), np.float64)


def posterior(
    counts: Counts,
    groups: NDArray[np.generic],
    prior: ParcelPrior | None,
    *,
    correlation: float,
    prior_strength: float,
) -> Posterior:
    """Put labels and prior together.

    The prior counts as its own number of effective pixels, but for at most ``prior_strength``: what thousands of
    simulated frames say must not drown a real patient.

    Args:
        counts: counted over N labelled images; N may be 0.
        groups: (N,) the patient of each image.
        prior: what was known before, or None.
        correlation: of the pixels of a patient, see :func:`alan.downstream.whitebox.prior.effective_pixels`.
        prior_strength: effective pixels of a parcel that the prior may weigh.

    Returns:
        The posterior.

    Raises:
        ParameterError: the prior has more parcels than there are.
    """
    n_parcels = counts.area.shape[1]
    found = Evidence(np.zeros(n_parcels), np.zeros(n_parcels))
    if len(counts.area):
        found = effective_pixels(counts.area, counts.overlap, groups, correlation)
    alpha, beta = found.inside.copy(), found.outside.copy()
    if prior is not None:
        k = len(prior.inside)
        if k > n_parcels:
            raise ParameterError(
                f"the prior has {k} parcels, the maps {n_parcels}: count it on maps of the same parcel model"
            )
        seen = prior.inside + prior.outside
        weight = np.divide(np.minimum(seen, prior_strength), seen, out=np.zeros(k), where=seen > 0)
        alpha[:k] += weight * prior.inside
        beta[:k] += weight * prior.outside
    return Posterior(alpha + JEFFREYS, beta + JEFFREYS, alpha + beta > 0)
