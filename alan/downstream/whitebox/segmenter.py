"""Parcel-to-segment: parcel selection and post-processing in one estimator (paper, section 3.2)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from alan.arrays import BoolArray, FloatArray
from alan.bounds import PositiveInt, Share, check_parameters
from alan.downstream.whitebox.jsonfile import JsonModel, check_model
from alan.downstream.whitebox.opinion import ExpertOpinion
from alan.downstream.whitebox.selection import ParcelSelector
from alan.downstream.whitebox.steps import PostProcessing
from alan.errors import AlanWarning, ParameterError

SCHEMA = "alan-parcel-segmenter/2"
#: Kinds of soft segments and the level at which each is thresholded by default.
SOFT = {"union": 0.5, "share": 0.4}


def check_scores(scores: ArrayLike, n_images: int, n_parcels: int | None) -> NDArray[np.floating]:
    """Check soft scores.

    Args:
        scores: (N, K, h, w) floating point.
        n_images: Number of images N.
        n_parcels: Largest number of parcels K; None allows any.

    Raises:
        ParameterError: The shape or dtype is another, or a score is below 0 or above 1.
    """
    array = np.asarray(scores)
    if array.ndim != 4 or len(array) != n_images or not np.issubdtype(array.dtype, np.floating):
        raise ParameterError(f"scores are {array.dtype} {array.shape}: give floats ({n_images}, K, h, w)")
    if n_parcels is not None and array.shape[1] > n_parcels:
        raise ParameterError(
            f"scores have {array.shape[1]} parcels, n_parcels is {n_parcels}: give those of the same parcel model"
        )
    if not (array.min() >= 0 and array.max() <= 1 + 1e-3):
        raise ParameterError("scores exceed 0 to 1: give the softmax of the logits over the parcels")
    return array


def soft_union(
    scores: NDArray[np.floating], weights: FloatArray, level: float, shape: tuple[int, ...]
) -> BoolArray:
    """Return the pixels where the weighted sum of the scores of the parcels reaches a level.

    The sum is computed at the resolution of the scores and then enlarged linearly (both are linear, so that their
    order does not matter). Borders can lie between tokens.

    Args:
        scores: (N, K, h, w) in [0, 1].
        weights: One weight in [0, 1] per parcel; weights beyond K are ignored, missing ones are 0.
        level: Level in [0, 1].
        shape: (H, W).

    Returns:
        (N, H, W) bool.
    """
    weight = np.zeros(scores.shape[1], np.float32)
    weight[: len(weights)] = weights[: len(weight)]
    rows, columns = _interpolation(scores.shape[2], shape[0]), _interpolation(scores.shape[3], shape[1])
    out = np.empty((len(scores), *shape), bool)
    for one, target in zip(scores, out, strict=True):
        target[:] = rows @ np.tensordot(weight, one.astype(np.float32), 1) @ columns.T >= max(level, 1e-6)
    return out


@lru_cache(maxsize=16)
def _interpolation(length: int, wanted: int) -> NDArray[np.float32]:
    """Build the matrix (wanted, length) of linear interpolation between samples, with aligned pixel areas."""
    place = ((np.arange(wanted) + 0.5) * length / wanted - 0.5).clip(0, length - 1)
    low = np.minimum(place.astype(np.int64), max(length - 2, 0))
    matrix = np.zeros((wanted, length), np.float32)
    matrix[np.arange(wanted), np.minimum(low + 1, length - 1)] = place - low
    matrix[np.arange(wanted), low] += 1 - (place - low)
    return matrix


def resize(mask: BoolArray, size: tuple[int, int]) -> BoolArray:
    """Resize a mask by linear interpolation with a threshold of one half.

    Args:
        mask: (H, W) bool.
        size: (height, width).

    Returns:
        (height, width) bool; the mask itself if it has that size.
    """
    if mask.shape == size:
        return mask
    rows, columns = _interpolation(mask.shape[0], size[0]), _interpolation(mask.shape[1], size[1])
    return rows @ mask.astype(np.float32) @ columns.T >= 0.5


@dataclass(eq=False, repr=False)
class ParcelSegmenter(JsonModel, BaseEstimator):
    """Segment a structure as a union of parcels, followed by post-processing.

    Parameters of the selector and of the post-processing are nested parameters in the sense of scikit-learn:
    ``segmenter.set_params(selector__rule="greedy", steps__closing_radius=4)``.

    Args:
        selector: How parcels are chosen; a copy of it is fitted. None uses ``ParcelSelector()``, the rule of the
            paper.
        steps: Post-processing from the union of the chosen parcels to the segment.
        soft: How a segment is formed before post-processing. None takes the pixels of the chosen parcels.
            ``"union"`` takes the pixels where the soft scores of the chosen parcels sum to at least
            ``soft_above``. ``"share"`` weights the soft scores of all parcels by their posterior share in the
            structure (``selector_.share_``) and takes the pixels where they sum to at least ``soft_above``; the
            shares are then the model, and the lists of parcels only describe it.
        soft_above: Threshold of soft segments, 0 to 1; None uses 0.5 for ``"union"`` and 0.4 for ``"share"``.
        size: (height, width) of the predicted masks; None uses the size of the parcel maps.

    Attributes:
        selector_: The fitted :class:`~alan.downstream.ParcelSelector`; its lists may be edited.
        empty_: (n,) int64, indices of the empty masks of the last ``predict``.

    Examples:
        Four frames, of which parcel 3 covers the ventricle:

        >>> maps = np.zeros((4, 32, 32), np.uint8)
        >>> maps[:, 8:24, 8:24] = 3
        >>> white_box = ParcelSegmenter(ParcelSelector("relaxed")).fit(maps[:2], maps[:2] == 3)
        >>> white_box.selector_.interior_
        array([3])
        >>> white_box.predict(maps[2:]).shape
        (2, 32, 32)
    """

    selector: ParcelSelector | None = None
    steps: PostProcessing = PostProcessing()  # noqa: RUF009 (it cannot be changed)
    _: KW_ONLY
    soft: Literal["union", "share"] | None = None
    soft_above: Share | None = None
    size: tuple[PositiveInt, PositiveInt] | None = None

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name; ``steps__NAME`` replaces the post-processing by one with another value.

        Raises:
            ParameterError: A post-processing step of that name does not exist, or its value is out of bounds.
            ValueError: Any other name does not exist.
        """
        nested = [name for name in params if name.startswith("steps__")]
        changed = {name.removeprefix("steps__"): params.pop(name) for name in nested}
        if self.selector is None and any(name.startswith("selector__") for name in params):
            self.selector = ParcelSelector()
        super().set_params(**params)
        if changed:
            self.steps = self.steps.with_params(changed)
        return self

    def fit(self, parcel_maps: ArrayLike, masks: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Learn which parcels belong to a structure.

        Args:
            parcel_maps: (N, H, W) integer ids.
            masks: (N, H, W) bool.
            groups: (N,) patients, used by rules that compare patients. None treats every image as a patient.

        Returns:
            The fitted segmenter.

        Raises:
            ParameterError: A parameter is out of bounds, or an array is not as described.
            SelectionError: No parcel is chosen, see :meth:`ParcelSelector.fit`.
        """
        check_parameters(self)
        selector = ParcelSelector() if self.selector is None else clone(self.selector)
        self.selector_ = selector.fit(parcel_maps, masks, groups)
        return self

    def fit_prior(self) -> Self:
        """Choose parcels by the prior of the selector alone, see :meth:`ParcelSelector.fit_prior`.

        Returns:
            The fitted segmenter.

        Raises:
            ParameterError: A parameter is out of bounds, or the selector has no prior.
            SelectionError: No parcel is probable enough.
        """
        check_parameters(self)
        selector = ParcelSelector() if self.selector is None else clone(self.selector)
        self.selector_ = selector.fit_prior()
        return self

    def revise(self, opinion: ExpertOpinion | None) -> Self:
        """Choose parcels again with another opinion of an expert, see :meth:`ParcelSelector.revise`.

        Post-processing steps that the opinion sets are changed too.

        Returns:
            A new fitted segmenter.

        Raises:
            ParameterError: The selector cannot take the opinion.
            SelectionError: No parcel is probable enough.
        """
        check_is_fitted(self, "selector_")
        revised = self.with_steps({} if opinion is None else opinion.steps)
        revised.selector_ = self.selector_.revise(opinion)
        return revised

    def with_steps(self, params: Mapping[str, Any]) -> Self:
        """Return the segmenter with other values of some parameters of its post-processing.

        Raises:
            ParameterError: A parameter does not exist, or a value is out of its bounds.
        """
        other = copy.copy(self)
        other.steps = self.steps.with_params(params)
        return other

    def predict(self, parcel_maps: ArrayLike, scores: ArrayLike | None = None) -> BoolArray:
        """Segment frames.

        Args:
            parcel_maps: (N, H, W) integer ids.
            scores: (N, K, h, w) floating point, soft scores of the parcels at any resolution; they sum to 1 over
                the parcels (softmax of ``ParcelModel.logits``, divided by a temperature for k-means). Required if
                ``soft`` is set.

        Returns:
            (N, H, W) bool, or (N, height, width) if ``size`` is set: masks are interpolated linearly and
            thresholded at one half. A mask is empty if the frame contains no interior parcel; ``empty_`` lists
            these frames.

        Raises:
            ParameterError: An array is not as described, or the scores are missing.

        Warns:
            AlanWarning: Some masks are empty; the message gives their number.
        """
        check_is_fitted(self, "selector_")
        unions = self.selector_.predict(parcel_maps)
        maps = np.asarray(parcel_maps)
        if self.soft is not None:
            unions = self._soft_unions(maps, scores)
        out = np.empty((len(maps), *(self.size or maps.shape[1:])), bool)
        for n, (union, parcel_map) in enumerate(zip(unions, maps, strict=True)):
            out[n] = resize(self.steps(union, parcel_map), (out.shape[1], out.shape[2]))
        self.empty_ = np.flatnonzero(~out.any((1, 2)))
        if len(self.empty_):
            named = ", ".join(str(n) for n in self.empty_[:5]) + (", ..." if len(self.empty_) > 5 else "")
            warnings.warn(
                f"{len(self.empty_)} of {len(out)} predicted masks are empty (index {named}): no interior parcel",
                AlanWarning,
                stacklevel=2,
            )
        return out

    def to_dict(self) -> dict[str, Any]:
        """Return the fitted model, selection and post-processing, JSON-able."""
        check_is_fitted(self, "selector_")
        return {
            "schema": SCHEMA,
            "size": None if self.size is None else list(self.size),
            "soft": self.soft,
            "soft_above": self.soft_above,
            "steps": self.steps.get_params(),
            "selector": self.selector_.to_dict(),
        }

    @classmethod
    def from_dict(cls, value: Any) -> Self:
        """Build from the result of :meth:`to_dict`.

        Raises:
            ParameterError: The content is not a parcel segmenter.
        """
        value = check_model(value, SCHEMA)
        selector = ParcelSelector.from_dict(value.get("selector"))
        steps, size = value.get("steps"), value.get("size")
        size = tuple(size) if isinstance(size, list) else size
        if not isinstance(steps, dict):
            raise ParameterError("the parcel segmenter has no steps: write it again with to_json")
        soft: dict[str, Any] = {name: value.get(name) for name in ("soft", "soft_above")}
        model = cls(clone(selector), PostProcessing().with_params(steps), size=size, **soft)
        check_parameters(model)
        model.selector_ = selector
        return model

    def _soft_unions(self, maps: NDArray[np.integer], scores: ArrayLike | None) -> BoolArray:
        """Compute weighted sums of the scores, enlarged and thresholded; background stays background."""
        if scores is None or self.soft is None:
            raise ParameterError(
                f"soft is {self.soft!r}: give predict the scores (N, K, h, w), or set soft to None"
            )
        weights = self.selector_.share_
        if self.soft == "union":
            weights = np.isin(np.arange(len(weights)), self.selector_.interior_).astype(np.float64)
        level = SOFT[self.soft] if self.soft_above is None else self.soft_above
        checked = check_scores(scores, len(maps), self.selector_.n_parcels)
        unions = soft_union(checked, weights, level, maps.shape[1:])
        background = self.selector_.background_id
        return unions if background is None else unions & (maps != background)
