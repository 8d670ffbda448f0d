"""Parcel-to-segment: selected parcels and post-processing in one estimator (paper, section 3.2)."""

from __future__ import annotations

import os
import warnings
from dataclasses import fields
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from alan.downstream.readouts.resizing import check_frames, check_scores, resize, soft_union
from alan.downstream.whitebox.jsonfile import check_schema, dump, load
from alan.downstream.whitebox.selection import ParcelSelector
from alan.downstream.whitebox.steps import PostProcessing
from alan.errors import AlanWarning, ParameterError, nearest

BoolArray = NDArray[np.bool_]

SCHEMA = "alan-parcel-segmenter/1"
_STEPS = tuple(field.name for field in fields(PostProcessing))
_NOT_NEGATIVE = (
    "enclave_regions",
    "closing_radius",
    "contour_edge",
    "median_radius",
    "snap_width",
    "snap_smoothness",
    "snap_stay",
)
#: What soft segments are made of, with the level at which they are cut.
SOFT = {"union": 0.5, "share": 0.4}


class ParcelSegmenter(BaseEstimator):
    """Segment a target as a union of parcels, cleaned up.

    Lengths are given for images of 112 x 112 pixels and scale with the image.

    Args:
        selector: how parcels are chosen; a copy of it is fitted. None is ``ParcelSelector()``, the paper's rule.
        component: keep the connected component that holds the most interior parcels.
        enclaves: add small enclosed groups of regions.
        enclave_regions: regions of an enclave at most.
        closing_radius: of the closing's disk, in pixels; None switches it off.
        fill: fill all remaining holes, however large.
        contour: let the outline settle as an active contour (which leaves no holes either).
        contour_sigma: of the Gaussian under the contour, in pixels.
        contour_beta: weight of the contour's bending.
        contour_gamma: inverse of the contour's time step.
        contour_edge: attraction to edges.
        contour_iterations: steps of the contour at most.
        median_radius: of the median's disk, in pixels; None switches it off.
        shape: file of a :class:`alan.downstream.whitebox.shape.ShapePrior`; None switches it off.
        shape_weight: how far a segment is drawn to the prior's nearest shape, 0 to 1.
        snap_width: how far an outline may move to an edge of the frame, in pixels; None switches it off.
        snap_smoothness: weight of jumps between neighbouring points of the outline.
        snap_stay: penalty for moving by the full width.
        soft: what segments are made of before the steps. None: the chosen parcels' pixels. ``"union"``: pixels
            where the chosen parcels' soft scores sum to ``soft_above``. ``"share"``: pixels where the soft scores
            of all parcels, each times its posterior share in the target (``selector_.share_``), sum to it: what is
            read is K shares, and the lists of parcels only describe.
        soft_above: the level; None takes 0.5 for ``"union"`` and 0.4 for ``"share"``.
        size: (height, width) of the predicted masks; None is the maps' own.

    Attributes:
        selector_: the fitted :class:`~alan.downstream.ParcelSelector`; its lists may be edited.
        empty_: (n,) int64, which masks of the last ``predict`` are empty.
    """

    def __init__(
        self,
        selector: ParcelSelector | None = None,
        *,
        component: bool = True,
        enclaves: bool = True,
        enclave_regions: int = 8,
        closing_radius: float | None = 10,
        fill: bool = True,
        contour: bool = True,
        contour_sigma: float = 3.0,
        contour_beta: float = 0.2,
        contour_gamma: float = 0.01,
        contour_edge: float = 1.0,
        contour_iterations: int = 10,
        median_radius: float | None = None,
        shape: str | None = None,
        shape_weight: float = 0.5,
        snap_width: float | None = None,
        snap_smoothness: float = 1.0,
        snap_stay: float = 3.0,
        soft: str | None = None,
        soft_above: float | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.selector = selector
        self.component = component
        self.enclaves = enclaves
        self.enclave_regions = enclave_regions
        self.closing_radius = closing_radius
        self.fill = fill
        self.contour = contour
        self.contour_sigma = contour_sigma
        self.contour_beta = contour_beta
        self.contour_gamma = contour_gamma
        self.contour_edge = contour_edge
        self.contour_iterations = contour_iterations
        self.median_radius = median_radius
        self.shape = shape
        self.shape_weight = shape_weight
        self.snap_width = snap_width
        self.snap_smoothness = snap_smoothness
        self.snap_stay = snap_stay
        self.soft = soft
        self.soft_above = soft_above
        self.size = size

    def fit(self, parcel_maps: ArrayLike, masks: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Learn the parcels of a target.

        Args:
            parcel_maps: (N, H, W) integer ids.
            masks: (N, H, W) bool.
            groups: (N,) patients, for the held-out check of the greedy rule.

        Returns:
            The segmenter.

        Raises:
            ParameterError: a parameter or an array is not as described.
            SelectionError: no parcel is chosen, see :meth:`ParcelSelector.fit`.
        """
        self._post_processing()
        selector = ParcelSelector() if self.selector is None else clone(self.selector)
        self.selector_ = selector.fit(parcel_maps, masks, groups)
        return self

    def fit_prior(self) -> Self:
        """Choose by the selector's prior alone, without any label, see :meth:`ParcelSelector.fit_prior`.

        Raises:
            ParameterError: a parameter is not as described, or the selector has no prior.
            SelectionError: no parcel is likely enough.
        """
        self._post_processing()
        selector = ParcelSelector() if self.selector is None else clone(self.selector)
        self.selector_ = selector.fit_prior()
        return self

    def predict(
        self, parcel_maps: ArrayLike, frames: ArrayLike | None = None, scores: ArrayLike | None = None
    ) -> BoolArray:
        """Segment frames.

        Args:
            parcel_maps: (N, H, W) integer ids.
            frames: (N, H, W) uint8; needed where ``snap_width`` is set.
            scores: (N, K, h, w) floating point, soft scores of the parcels at any resolution, summing to 1 over
                the parcels (the softmax of ``ParcelModel.logits``, divided by a temperature for k-means); needed
                where ``soft`` is set.

        Returns:
            ``(N, H, W)`` bool, or ``(N, *size)``. Enlarged masks are cut at the half level of the linearly
            interpolated mask. A mask is empty where no interior parcel is; ``empty_`` says which.

        Raises:
            ParameterError: an array is not as described, or one that a parameter needs is missing.

        Warns:
            AlanWarning: some masks are empty, with their number.
        """
        check_is_fitted(self, "selector_")
        process = self._post_processing()
        unions = self.selector_.predict(parcel_maps)
        maps = np.asarray(parcel_maps)
        if self.soft is not None:
            unions = self._soft_unions(maps, scores)
        pictures = [None] * len(maps) if frames is None else list(check_frames(frames, maps.shape))
        out = np.empty((len(maps), *(self.size or maps.shape[1:])), bool)
        for n, (union, parcel_map, frame) in enumerate(zip(unions, maps, pictures, strict=True)):
            out[n] = resize(process(union, parcel_map, frame), (out.shape[1], out.shape[2]))
        self.empty_ = np.flatnonzero(~out.any((1, 2)))
        if len(self.empty_):
            named = ", ".join(str(n) for n in self.empty_[:5]) + (", ..." if len(self.empty_) > 5 else "")
            warnings.warn(
                f"{len(self.empty_)} of {len(out)} predicted masks are empty (index {named}): no interior parcel",
                AlanWarning,
                stacklevel=2,
            )
        return out

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The fitted model, selection and steps, as JSON for people to read and edit.

        Args:
            path: also write it there.

        Returns:
            The text.
        """
        check_is_fitted(self, "selector_")
        value = {
            "schema": SCHEMA,
            "size": None if self.size is None else list(self.size),
            "soft": self.soft,
            "soft_above": self.soft_above,
            "post_processing": {name: getattr(self, name) for name in _STEPS},
            "selector": self.selector_.to_dict(),
        }
        return dump(value, path)

    @classmethod
    def from_json(cls, source: str | os.PathLike[str]) -> Self:
        """Read a fitted model.

        Args:
            source: a path, the name of a shipped white box (``alan-sim-small-lv``), or the text itself (which
                starts with a brace).

        Returns:
            The fitted segmenter.

        Raises:
            DataError: the file is missing or is not JSON.
            ParameterError: the content is not a parcel segmenter.
        """
        value = check_schema(load(source), SCHEMA)
        steps, size = value.get("post_processing"), value.get("size")
        if not isinstance(steps, dict):
            raise ParameterError("parcel segmenter has no post_processing: write it afresh with to_json")
        for name in steps:
            if name not in _STEPS:
                raise ParameterError(f"unknown step {name!r} in post_processing: {nearest(name, _STEPS)}")
        selector = ParcelSelector.from_dict(value.get("selector"))
        soft: dict[str, Any] = {name: value.get(name) for name in ("soft", "soft_above")}
        model = cls(selector=clone(selector), size=None if size is None else tuple(size), **soft, **steps)
        model._post_processing()
        model.selector_ = selector
        return model

    def _soft_unions(self, maps: NDArray[np.integer], scores: ArrayLike | None) -> BoolArray:
        """Weighted sums of the parcels' scores, enlarged and cut; nothing outside the sector."""
        if scores is None or self.soft is None:
            raise ParameterError(f"soft is {self.soft!r}: predict needs scores (N, K, h, w), or set soft to None")
        weights = self.selector_.share_
        if self.soft == "union":
            weights = np.isin(np.arange(len(weights)), self.selector_.interior_).astype(np.float64)
        level = SOFT[self.soft] if self.soft_above is None else self.soft_above
        checked = check_scores(scores, len(maps), self.selector_.n_parcels)
        unions = soft_union(checked, weights, level, maps.shape[1:])
        background = self.selector_.background_id
        return unions if background is None else unions & (maps != background)

    def _post_processing(self) -> PostProcessing:
        """The steps as asked, checked."""
        if self.soft not in (None, *SOFT):
            raise ParameterError(f"unknown soft {self.soft!r}: {nearest(str(self.soft), SOFT)}, or None")
        for name in ("shape_weight", "soft_above"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ParameterError(f"{name} is {value}; it is a share, give 0 to 1")
        for name in _NOT_NEGATIVE:
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ParameterError(f"{name} is {value}; give 0 or more")
        for name in ("contour_sigma", "contour_gamma"):
            if getattr(self, name) <= 0:
                raise ParameterError(f"{name} is {getattr(self, name)}; give more than 0")
        if self.contour_beta < 0 or self.contour_iterations < 1:
            raise ParameterError(
                f"contour_beta is {self.contour_beta}, contour_iterations {self.contour_iterations}; "
                "give 0 or more, and 1 or more"
            )
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ParameterError(f"size is {self.size}; give (height, width), both 1 or more")
        return PostProcessing(**{name: getattr(self, name) for name in _STEPS})
