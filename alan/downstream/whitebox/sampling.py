"""Alternative white boxes from the posterior of their parcels, for intervals of areas, volumes and EF."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import special

from alan.arrays import BoolArray, FloatArray
from alan.bounds import Coverage, PositiveFloat, PositiveInt, Share, bounded
from alan.downstream.whitebox.prior import JEFFREYS
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.selection import ParcelSelector
from alan.errors import AlanWarning

#: Correlation between the parcels of a patient and weight of the evidence, chosen on validation patients so that
#: 90% intervals of areas hold (docs/results/uncertainty.md).
CORRELATION = 0.7
EVIDENCE_WEIGHT = 0.2


@bounded
def sample_shares(
    selector: ParcelSelector,
    n: PositiveInt,
    rng: np.random.Generator,
    *,
    correlation: Share = CORRELATION,
    evidence_weight: PositiveFloat = EVIDENCE_WEIGHT,
) -> FloatArray:
    """Draw the shares of the parcels in the structure of one patient.

    The share of parcel k follows ``Beta(w a, w b)``, with a and b the effective pixels of prior, opinion and
    labels inside and outside the structure: its mean is that of the evidence, and its spread between patients
    grows as the weight w falls. Jeffreys' half pixel is left out, because it would admit many parcels far away
    from the structure. The parcels of a patient deviate together: a Gaussian copula with one common factor couples
    the draws. Two selectors that are sampled by generators of the same seed share their deviations, such as the
    lists for end-diastole and end-systole of one patient.

    Args:
        selector: Fitted selector.
        n: Number of draws.
        rng: Generator of random numbers; n (K + 1) standard normal numbers are taken.
        correlation: Correlation of the normal scores of two parcels.
        evidence_weight: Weight w of the evidence.

    Returns:
        (n, K) float64 in [0, 1]; 0 for a parcel without evidence, and for the background.

    Raises:
        ParameterError: A parameter is out of bounds, or the selector does not hold its counts.
    """
    known = selector.posterior_
    scores = rng.standard_normal((n, len(known.alpha) + 1))
    scores = np.sqrt(correlation) * scores[:, :1] + np.sqrt(1 - correlation) * scores[:, 1:]
    inside, outside = (evidence_weight * (pixels - JEFFREYS) for pixels in (known.alpha, known.beta))
    certain = (inside <= 0) | (outside <= 0)
    drawn = special.betaincinv(np.where(certain, 1, inside), np.where(certain, 1, outside), special.ndtr(scores))
    shares: FloatArray = np.where(certain, inside > 0, drawn)
    if selector.background_id is not None:
        shares[:, selector.background_id] = 0
    return shares


def sample_masks(
    segmenter: ParcelSegmenter, parcel_maps: NDArray[np.integer], shares: FloatArray
) -> Iterator[BoolArray]:
    """Segment frames of one patient by each of several alternative white boxes.

    A white box consists of the parcels whose drawn share exceeds ``share_above`` of the selector. Draws that give
    the same list on these frames are segmented once.

    Args:
        segmenter: Fitted segmenter, for its post-processing; soft segments are not sampled.
        parcel_maps: (N, H, W) integer ids.
        shares: (n, K) drawn shares, see :func:`sample_shares`.

    Yields:
        For each draw, (N, H, W) bool. Empty masks give no warning.
    """
    selector = segmenter.selector_
    present = np.zeros(shares.shape[1], bool)
    ids = np.unique(parcel_maps)
    present[ids[ids < len(present)]] = True
    chosen = (shares > selector.share_above) & present
    alternative = ParcelSegmenter(None, segmenter.steps, size=segmenter.size)
    alternative.selector_ = copy.copy(selector)
    done: dict[bytes, BoolArray] = {}
    for row in chosen:
        key = row.tobytes()
        if key not in done:
            alternative.selector_.interior_ = np.flatnonzero(row)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AlanWarning)
                done[key] = alternative.predict(parcel_maps)
        yield done[key]


@bounded
def sample_areas(
    segmenter: ParcelSegmenter,
    parcel_maps: NDArray[np.integer],
    n: PositiveInt,
    rng: np.random.Generator,
    *,
    correlation: Share = CORRELATION,
    evidence_weight: PositiveFloat = EVIDENCE_WEIGHT,
) -> NDArray[np.int64]:
    """Compute the areas of the segments of one patient by alternative white boxes.

    Args:
        segmenter: Fitted segmenter.
        parcel_maps: (N, H, W) integer ids.
        n: Number of draws.
        rng: Generator of random numbers.
        correlation: See :func:`sample_shares`.
        evidence_weight: See :func:`sample_shares`.

    Returns:
        (n, N) int64 pixels.
    """
    shares = sample_shares(segmenter.selector_, n, rng, correlation=correlation, evidence_weight=evidence_weight)
    return np.stack([masks.sum((1, 2)) for masks in sample_masks(segmenter, parcel_maps, shares)])


@bounded
def credible_interval(samples: FloatArray, level: Coverage = 0.9) -> FloatArray:
    """Compute the central interval of samples.

    Args:
        samples: (n, ...) samples; NaN, where a sample could not be measured, is left out.
        level: Share of the samples inside the interval.

    Returns:
        (2, ...) lower and upper end; NaN where all samples are NaN.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all NaN
        ends: FloatArray = np.nanquantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return ends
