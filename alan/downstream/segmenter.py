"""Parcel-to-segment: selected parcels and post-processing in one estimator (paper, section 3.2)."""

from __future__ import annotations

import os
import warnings
from dataclasses import fields
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from alan.downstream.jsonfile import check_schema, dump, load
from alan.downstream.postprocess import PostProcessing
from alan.downstream.selection import ParcelSelector
from alan.errors import AlanWarning, ParameterError, nearest

BoolArray = NDArray[np.bool_]

SCHEMA = "alan-parcel-segmenter/1"
_STEPS = tuple(field.name for field in fields(PostProcessing))


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
        median_radius: of the final median's disk, in pixels; None switches it off.
        size: (height, width) of the predicted masks; None is the maps' own.

    Attributes:
        selector_: the fitted :class:`~alan.downstream.selection.ParcelSelector`; its lists may be edited.
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

    def predict(self, parcel_maps: ArrayLike) -> BoolArray:
        """Segment frames.

        Args:
            parcel_maps: (N, H, W) integer ids.

        Returns:
            ``(N, H, W)`` bool, or ``(N, *size)``. Enlarged masks are cut at the half level of the linearly
            interpolated mask. A mask is empty where no interior parcel is; ``empty_`` says which.

        Raises:
            ParameterError: the maps are not as described.

        Warns:
            AlanWarning: some masks are empty, with their number.
        """
        check_is_fitted(self, "selector_")
        process = self._post_processing()
        unions = self.selector_.predict(parcel_maps)
        maps = np.asarray(parcel_maps)
        out = np.empty((len(maps), *(self.size or maps.shape[1:])), bool)
        for n, (union, parcel_map) in enumerate(zip(unions, maps, strict=True)):
            out[n] = resize(process(union, parcel_map), (out.shape[1], out.shape[2]))
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
            "post_processing": {name: getattr(self, name) for name in _STEPS},
            "selector": self.selector_.to_dict(),
        }
        return dump(value, path)

    @classmethod
    def from_json(cls, source: str | os.PathLike[str]) -> Self:
        """Read a fitted model.

        Args:
            source: a path, or the text itself (which starts with a brace).

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
        model = cls(selector=clone(selector), size=None if size is None else tuple(size), **steps)
        model._post_processing()
        model.selector_ = selector
        return model

    def _post_processing(self) -> PostProcessing:
        """The steps as asked, checked."""
        for name in ("enclave_regions", "closing_radius", "contour_edge", "median_radius"):
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


@lru_cache(maxsize=16)
def _interpolation(length: int, wanted: int) -> NDArray[np.float32]:
    """Linear interpolation from ``length`` to ``wanted`` samples, pixel areas aligned: (wanted, length)."""
    place = ((np.arange(wanted) + 0.5) * length / wanted - 0.5).clip(0, length - 1)
    low = np.minimum(place.astype(np.int64), max(length - 2, 0))
    matrix = np.zeros((wanted, length), np.float32)
    matrix[np.arange(wanted), np.minimum(low + 1, length - 1)] = place - low
    matrix[np.arange(wanted), low] += 1 - (place - low)
    return matrix


def resize(mask: BoolArray, size: tuple[int, int]) -> BoolArray:
    """Resize a mask: linear interpolation, cut at one half.

    Args:
        mask: (H, W) bool.
        size: (height, width).

    Returns:
        (height, width) bool; the mask itself where the size is its own.
    """
    if mask.shape == size:
        return mask
    rows, columns = _interpolation(mask.shape[0], size[0]), _interpolation(mask.shape[1], size[1])
    level: BoolArray = rows @ mask.astype(np.float32) @ columns.T >= 0.5
    return level
