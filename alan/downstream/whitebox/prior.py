"""How much of each parcel lies in a structure: evidence out of labelled frames, kept as a prior for later ones."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alan.downstream.whitebox.counting import check_groups, check_maps, check_masks
from alan.downstream.whitebox.jsonfile import check_schema, dump, load
from alan.errors import ParameterError

CountArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

SCHEMA = "alan-parcel-prior/1"


class Evidence(NamedTuple):
    """Effective pixels of each parcel, inside and outside of the target.

    Attributes:
        inside: (K,) float64, 0 and above.
        outside: (K,) float64, 0 and above.
    """

    inside: FloatArray
    outside: FloatArray


def effective_pixels(
    area: CountArray, overlap: CountArray, groups: NDArray[np.generic], correlation: float
) -> Evidence:
    """Count effective pixels: those of one patient are alike, so that they count for less than their number.

    The n pixels of a parcel in all frames of one patient are a cluster with an intraclass correlation rho; they
    weigh as ``n / (1 + (n - 1) rho)`` independent ones (the design effect: Kish 1965, Survey Sampling, section
    8.2). With rho 0 every pixel counts, with rho 1 every patient is one observation: the parcel's share in it.

    Args:
        area: (N, K) pixels of each parcel in each image.
        overlap: (N, K) those inside the target.
        groups: (N,) the patient of each image.
        correlation: rho in [0, 1].

    Returns:
        The evidence.
    """
    group = np.unique(groups, return_inverse=True)[1]
    shape = (int(group.max()) + 1, area.shape[1])
    total, inner = np.zeros(shape), np.zeros(shape)
    np.add.at(total, group, area)
    np.add.at(inner, group, overlap)
    weight = 1 / (1 + np.maximum(total - 1, 0) * correlation)
    return Evidence((inner * weight).sum(0), ((total - inner) * weight).sum(0))


@dataclass(frozen=True, eq=False)
class ParcelPrior:
    """What is known of each parcel before any label: its share in a structure, counted elsewhere.

    Counted on simulated frames, whose labels are free, it names the parcels of a structure without any human label
    (``ParcelSelector(rule="beta", prior=prior).fit_prior()``), and steadies the choice where labels are few.

    Attributes:
        inside: (K,) float64, effective pixels of each parcel inside the structure.
        outside: (K,) float64, effective pixels outside.
        n_images: labelled images that were counted.
        structure: what was counted, for the reader.
        provenance: fingerprint of the parcel model that made the maps, or empty.
    """

    inside: FloatArray
    outside: FloatArray
    n_images: int
    structure: str = ""
    provenance: str = ""

    @classmethod
    def count(
        cls,
        parcel_maps: ArrayLike,
        masks: ArrayLike,
        *,
        groups: ArrayLike | None = None,
        n_parcels: int | None = None,
        background_id: int | None = None,
        correlation: float = 1.0,
        structure: str = "",
        provenance: str = "",
    ) -> Self:
        """Count a prior over labelled frames.

        Args:
            parcel_maps: (N, H, W) integer ids.
            masks: (N, H, W) bool, the structure.
            groups: (N,) patients; None: every image for itself.
            n_parcels: K; None takes the highest id, plus 1.
            background_id: the id of pixels outside the sector; it has no evidence.
            correlation: of the pixels of one patient, see :func:`effective_pixels`.
            structure: a name for the reader.
            provenance: fingerprint of the parcel model.

        Returns:
            The prior.

        Raises:
            ParameterError: an argument is not as described.
        """
        maps = check_maps(parcel_maps, n_parcels, background_id)
        targets = check_masks(masks, maps.shape)
        group = check_groups(groups, len(maps))
        if not 0 <= correlation <= 1:
            raise ParameterError(f"correlation is {correlation}; it is a share, give 0 to 1")
        background = -1 if background_id is None else background_id
        n_ids = n_parcels or 1 + int(np.max(maps, where=maps != background, initial=0))
        width = max(n_ids, int(maps.max()) + 1)
        area = np.stack([np.bincount(one.ravel(), minlength=width) for one in maps])
        pairs = zip(maps, targets, strict=True)
        overlap = np.stack([np.bincount(one[mask], minlength=width) for one, mask in pairs])
        if 0 <= background < width:
            area[:, background] = overlap[:, background] = 0
        found = effective_pixels(area[:, :n_ids], overlap[:, :n_ids], group, correlation)
        return cls(found.inside, found.outside, len(maps), structure, provenance)

    @property
    def share(self) -> FloatArray:
        """(K,) float64 in [0, 1], share of each parcel inside the structure; NaN where it was never seen."""
        seen = self.inside + self.outside
        share: FloatArray = np.divide(self.inside, seen, out=np.full(len(seen), np.nan), where=seen > 0)
        return share

    def to_dict(self) -> dict[str, Any]:
        """The prior as plain values, for JSON."""
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

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The prior as JSON, one line a parcel.

        Args:
            path: also write it there.

        Returns:
            The text.
        """
        return dump(self.to_dict(), path)

    @classmethod
    def from_dict(cls, value: Any) -> Self:
        """The inverse of :meth:`to_dict`.

        Raises:
            ParameterError: another schema, a field missing, ids that are not 0 to K - 1, or a negative count.
        """
        value = check_schema(value, SCHEMA)
        try:
            rows = value["parcels"]
            inside = np.array([row["inside"] for row in rows], np.float64)
            outside = np.array([row["outside"] for row in rows], np.float64)
            if [row["id"] for row in rows] != list(range(len(rows))) or not rows:
                raise ParameterError("parcels of a prior must have the ids 0, 1, 2, ... in order")
            if not (np.isfinite(inside + outside).all() and min(inside.min(), outside.min()) >= 0):
                raise ParameterError("inside and outside of a prior are counts: give 0 and above")
            return cls(inside, outside, int(value["images"]), str(value["structure"]), str(value["provenance"]))
        except ParameterError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise ParameterError(
                f"parcel prior is incomplete or malformed ({error}): compare a fresh one"
            ) from error

    @classmethod
    def from_json(cls, source: str | os.PathLike[str]) -> Self:
        """Read a prior.

        Args:
            source: a path, or the text itself (which starts with a brace).

        Returns:
            The prior.

        Raises:
            DataError: the file is missing or is not JSON.
            ParameterError: the content is not a parcel prior.
        """
        return cls.from_dict(load(source))
