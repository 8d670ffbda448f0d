"""Input and output of a selection rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from alan.arrays import BoolArray
from alan.downstream.whitebox.counting import Counts
from alan.downstream.whitebox.prior import Posterior

BACKGROUND = "background, not a parcel"


class Thresholds(NamedTuple):
    """Thresholds of an interior parcel, as shares in [0, 1].

    Attributes:
        overlap: Share of a region that must lie in the target for the region to count as inside.
        consistency: Share of the images with the parcel in which it must be inside.
        presence: Share of all images in which it must be present (or inside, see ``presence_of``).
    """

    overlap: float
    consistency: float
    presence: float


class RuleEvidence(NamedTuple):
    """Input of a selection rule.

    Attributes:
        counts: Counts over the labelled images.
        groups: (N,) patient of each image.
        posterior: Posterior of the share of each parcel in the target.
        thresholds: Thresholds of an interior parcel.
        ranking: Parcels that overlap the target, from the one closest to the thresholds downwards.
        settings: Parameters of :class:`alan.downstream.ParcelSelector` by name.
    """

    counts: Counts
    groups: NDArray[Any]
    posterior: Posterior
    thresholds: Thresholds
    ranking: list[int]
    settings: Mapping[str, Any]

    @property
    def n_parcels(self) -> int:
        """Number of parcels K."""
        return int(self.counts.area.shape[1])

    @property
    def background_id(self) -> int | None:
        """Id that is not a parcel."""
        background: int | None = self.settings["background_id"]
        return background


class Choice(NamedTuple):
    """The choice of a rule.

    Attributes:
        interior: (K,) bool, the chosen parcels.
        why: For each parcel, the reason why it was chosen or left out.
        ranking: Candidates, best first.
        nothing: Error message for the case that no parcel is chosen.
        cv_dice: Mean held-out Dice; NaN if the rule does not compute it.
    """

    interior: BoolArray
    why: list[str]
    ranking: list[int]
    nothing: str
    cv_dice: float = float("nan")

    def filled_up(self, min_parcels: int) -> Choice:
        """Add the best candidates until there are ``min_parcels``."""
        for parcel in self.ranking:
            if self.interior.sum() >= min_parcels:
                break
            if not self.interior[parcel]:
                self.interior[parcel] = True
                self.why[parcel] += f"; chosen because min_parcels is {min_parcels}"
        return self
