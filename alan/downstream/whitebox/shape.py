"""A prior of shapes, learnt on label maps that cost nothing: the main modes of a simulator's signed distances.

Each mask is moved to its centroid and scaled to unit area, its signed distance is taken, and principal components
of these are kept (Leventon, Grimson, Faugeras 2000, CVPR, Statistical shape influence in geodesic active
contours). A predicted mask is drawn towards its projection, whose coefficients are held within a few standard
deviations.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.utils.validation import check_is_fitted

from alan.errors import DataError, ParameterError
from alan.files import atomic

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

SCHEMA = "alan-shape-prior/1"
#: Side of the square grid on which shapes are compared, and half its width in units of the root of the area.
_GRID, _HALF = 48, 2.0
_ARRAYS = ("mean_", "modes_", "deviations_")


def signed_distance(mask: BoolArray) -> FloatArray:
    """Distance to the mask's border in pixels, positive inside: (H, W); the border lies between pixels."""
    inside = np.pad(mask, 1)
    inner, outer = ndimage.distance_transform_edt(inside), ndimage.distance_transform_edt(~inside)
    signed: FloatArray = np.where(inside, inner - 0.5, 0.5 - outer)[1:-1, 1:-1]
    return signed


class ShapePrior(BaseEstimator):
    """Main modes of a structure's shape.

    Args:
        variance: share of the variance that the kept modes explain, in (0, 1).
        limit: coefficients are held within so many standard deviations.

    Attributes:
        mean_: (G, G) mean signed distance, in units of the root of the area.
        modes_: (M, G, G) orthonormal modes.
        deviations_: (M,) standard deviation of each mode's coefficient.
    """

    def __init__(self, variance: float = 0.95, limit: float = 2.0) -> None:
        self.variance = variance
        self.limit = limit

    def fit(self, masks: ArrayLike, y: object = None) -> Self:
        """Learn the modes.

        Args:
            masks: (N, H, W) bool; empty ones are left out.
            y: ignored.

        Raises:
            ParameterError: not boolean masks, fewer than 3 that are not empty, or a parameter out of range.
        """
        array = np.asarray(masks)
        if array.dtype != np.bool_ or array.ndim != 3:
            raise ParameterError(f"masks are {array.dtype} {array.shape}: expected bool (N, H, W)")
        if not 0 < self.variance < 1 or self.limit < 0:
            raise ParameterError(
                f"variance is {self.variance}, limit {self.limit}; give a share between 0 and 1, and 0 or more"
            )
        shapes = np.array([_to_grid(mask)[0].ravel() for mask in array if mask.any()])
        if len(shapes) < 3:
            raise ParameterError(f"{len(shapes)} masks are not empty: give at least 3, better hundreds")
        pca = PCA(self.variance, svd_solver="full").fit(shapes)
        self.mean_ = pca.mean_.reshape(_GRID, _GRID)
        self.modes_ = pca.components_.reshape(-1, _GRID, _GRID)
        self.deviations_ = np.sqrt(pca.explained_variance_)
        return self

    def pull(self, mask: BoolArray, weight: float = 1.0) -> BoolArray:
        """Draw a mask towards its nearest shape.

        Args:
            mask: (H, W) bool.
            weight: 0 leaves the mask, 1 gives the shape; between them the signed distances are mixed.

        Returns:
            (H, W) bool; empty where the mask is.
        """
        check_is_fitted(self, "mean_")
        if weight == 0 or not mask.any():
            return mask
        shape, centre, root = _to_grid(mask)
        coefficient = np.tensordot(self.modes_, shape - self.mean_, 2)
        held = np.clip(coefficient, -self.limit * self.deviations_, self.limit * self.deviations_)
        nearest = self.mean_ + np.tensordot(held, self.modes_, 1)
        rows, columns = (np.arange(side) for side in mask.shape)
        place = [
            ((axis - middle) / root + _HALF) * (_GRID - 1) / (2 * _HALF)
            for axis, middle in zip((rows, columns), centre, strict=True)
        ]
        wanted = ndimage.map_coordinates(
            nearest, np.stack(np.meshgrid(*place, indexing="ij")), order=1, mode="constant", cval=-1.0
        )
        pulled: BoolArray = (1 - weight) * signed_distance(mask) + weight * root * wanted > 0
        return pulled

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted prior as NPZ, whole or not at all."""
        check_is_fitted(self, "mean_")
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        with atomic(path) as temporary, Path(temporary).open("wb") as handle:
            np.savez_compressed(handle, schema=SCHEMA, variance=self.variance, limit=self.limit, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: the file is missing, or is no shape prior.
        """
        try:
            with np.load(path) as file:
                if str(file["schema"]) != SCHEMA:
                    raise DataError(f"{path}: schema is {file['schema']}, {SCHEMA} expected")
                prior = cls(float(file["variance"]), float(file["limit"]))
                for name in _ARRAYS:
                    setattr(prior, name, file[name])
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file; write one with ShapePrior.save") from error
        except (KeyError, ValueError, OSError) as error:
            raise DataError(f"{path}: no shape prior ({error}); write one with ShapePrior.save") from error
        return prior


def load_shape(path: str) -> ShapePrior:
    """Read a shape prior, once for each state of its file.

    Raises:
        DataError: as :meth:`ShapePrior.load`.
    """
    return _kept_shape(path, Path(path).stat().st_mtime_ns if Path(path).is_file() else 0)


@lru_cache(maxsize=8)
def _kept_shape(path: str, changed: int) -> ShapePrior:
    return ShapePrior.load(path)


def _to_grid(mask: BoolArray) -> tuple[FloatArray, FloatArray, float]:
    """Signed distance on the common grid (G, G), the centroid (row, column) and the root of the area in pixels."""
    places = np.argwhere(mask)
    centre, root = places.mean(0), float(np.sqrt(len(places)))
    axis = np.linspace(-_HALF, _HALF, _GRID) * root
    where = np.stack(np.meshgrid(centre[0] + axis, centre[1] + axis, indexing="ij"))
    margin = int(np.ceil(_HALF * root)) + 2  # so that the grid never reaches beyond the picture's distances
    signed = signed_distance(np.pad(mask, margin))
    grid: FloatArray = ndimage.map_coordinates(signed, where + margin, order=1, mode="nearest") / root
    return grid, centre, root
