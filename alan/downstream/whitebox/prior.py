"""Prior of parcels: how much of each parcel lies in a structure, counted on labelled (often simulated) frames."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from alan.arrays import BoolArray, FloatArray, IntArray
from alan.bounds import PositiveInt, Share, bounded
from alan.downstream.whitebox.counting import Counts, check_groups, check_maps, check_masks, count_ids
from alan.downstream.whitebox.jsonfile import JsonModel, check_model, parsing
from alan.errors import ParameterError
from alan.parcels.regions import parcel_pixels

SCHEMA = "alan-parcel-prior/1"
#: Jeffreys' prior of a share: half an observation inside and outside (Gelman et al., Bayesian Data Analysis, 2.8).
JEFFREYS = 0.5


class EffectivePixels(NamedTuple):
    """Effective pixels of each parcel inside and outside the target.

    Attributes:
        inside: (K,) float64, at least 0.
        outside: (K,) float64, at least 0.
    """

    inside: FloatArray
    outside: FloatArray


def effective_pixels(
    area: IntArray, overlap: IntArray, groups: NDArray[np.generic], correlation: float
) -> EffectivePixels:
    """Count effective pixels: pixels of one patient are correlated and count for less than their number.

    The n pixels of a parcel in all frames of one patient are a cluster with an intraclass correlation rho. They
    count as ``n / (1 + (n - 1) rho)`` independent pixels (design effect: Kish 1965, Survey Sampling, section 8.2).
    With rho 0 every pixel counts; with rho 1 every patient is one observation, the share of the parcel.

    Args:
        area: (N, K) pixels of each parcel in each image.
        overlap: (N, K) pixels inside the target.
        groups: (N,) patient of each image.
        correlation: rho in [0, 1].

    Returns:
        The effective pixels.
    """
    group = np.unique(groups, return_inverse=True)[1]
    shape = (int(group.max()) + 1, area.shape[1])
    total, inner = np.zeros(shape), np.zeros(shape)
    np.add.at(total, group, area)
    np.add.at(inner, group, overlap)
    weight = 1 / (1 + np.maximum(total - 1, 0) * correlation)
    return EffectivePixels((inner * weight).sum(0), ((total - inner) * weight).sum(0))


@dataclass(frozen=True, eq=False)
class ParcelPrior(JsonModel):
    """Share of each parcel in a structure, known before any label.

    Counted on simulated frames, whose labels cost nothing, a prior names the parcels of a structure without a
    human label (``ParcelSelector(rule="beta", prior=prior).fit_prior()``), and supports the choice if labels are
    few.

    Attributes:
        inside: (K,) float64, effective pixels of each parcel inside the structure.
        outside: (K,) float64, effective pixels outside.
        n_images: Number of labelled images.
        structure: Name of the structure, for the reader.
        provenance: Fingerprint of the parcel model that made the maps, or empty.
    """

    inside: FloatArray
    outside: FloatArray
    n_images: int
    structure: str = ""
    provenance: str = ""

    @classmethod
    @bounded
    def count(
        cls,
        parcel_maps: ArrayLike,
        masks: ArrayLike,
        *,
        groups: ArrayLike | None = None,
        n_parcels: PositiveInt | None = None,
        background_id: int | None = None,
        correlation: Share = 1.0,
        structure: str = "",
        provenance: str = "",
    ) -> Self:
        """Count a prior over labelled frames.

        Args:
            parcel_maps: (N, H, W) integer ids.
            masks: (N, H, W) bool, masks of the structure.
            groups: (N,) patients. None treats every image as a patient.
            n_parcels: Number of parcels K; None uses the highest id plus 1.
            background_id: Id of pixels outside the ultrasound sector, which are not counted.
            correlation: Correlation of the pixels of one patient, see :func:`effective_pixels`.
            structure: Name of the structure, for the reader.
            provenance: Fingerprint of the parcel model.

        Returns:
            The prior.

        Raises:
            ParameterError: An argument is not as described.
        """
        maps = check_maps(parcel_maps, n_parcels, background_id)
        targets = check_masks(masks, maps.shape)
        group = check_groups(groups, len(maps))
        n_ids = n_parcels or count_ids(maps, background_id)
        area, overlap = parcel_pixels(maps, targets, n_ids, background_id)
        found = effective_pixels(area, overlap, group, correlation)
        return cls(found.inside, found.outside, len(maps), structure, provenance)

    @property
    def share(self) -> FloatArray:
        """(K,) float64 in [0, 1], share of each parcel in the structure; NaN if the parcel never occurred."""
        total = self.inside + self.outside
        share: FloatArray = np.divide(self.inside, total, out=np.full(len(total), np.nan), where=total > 0)
        return share

    def to_dict(self) -> dict[str, Any]:
        """Return the prior as plain values, for JSON."""
        rows = [
            {"id": k, "inside": round(float(i), 4), "outside": round(float(o), 4)}
            for k, (i, o) in enumerate(zip(self.inside, self.outside, strict=True))
        ]
        return {
            "schema": SCHEMA,
            "structure": self.structure,
            "images": self.n_images,
            "provenance": self.provenance,
            "parcels": rows,
        }

    @classmethod
    def from_dict(cls, value: Any) -> Self:
        """Build from the result of :meth:`to_dict`.

        Raises:
            ParameterError: Another schema, a missing field, ids that are not 0 to K - 1, or a negative count.
        """
        value = check_model(value, SCHEMA)
        with parsing("parcel prior"):
            rows = value["parcels"]
            inside = np.array([row["inside"] for row in rows], np.float64)
            outside = np.array([row["outside"] for row in rows], np.float64)
            if [row["id"] for row in rows] != list(range(len(rows))) or not rows:
                raise ParameterError("parcels of a prior must have the ids 0, 1, 2, ... in order")
            if not (np.isfinite(inside + outside).all() and min(inside.min(), outside.min()) >= 0):
                raise ParameterError("inside and outside of a prior are counts: give numbers of at least 0")
            return cls(inside, outside, int(value["images"]), str(value["structure"]), str(value["provenance"]))


def read_prior(prior: ParcelPrior | str | os.PathLike[str] | None, provenance: str) -> ParcelPrior | None:
    """Read a prior if it is a path, and check that it belongs to a parcel model.

    Args:
        prior: The prior, or its file.
        provenance: Fingerprint of the parcel model; empty if it is unknown.

    Raises:
        DataError: The file is missing or is not JSON.
        ParameterError: It is not a prior, or was counted on other parcels.
    """
    if prior is not None and not isinstance(prior, ParcelPrior):
        prior = ParcelPrior.from_json(prior)
    if prior is not None and provenance and prior.provenance not in ("", provenance):
        raise ParameterError(
            f"the prior was counted on parcels {prior.provenance[:12]}, the maps are of {provenance[:12]}: "
            "count it on maps of the same parcel model"
        )
    return prior


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
