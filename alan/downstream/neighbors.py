"""Weighted k nearest neighbours on frozen features: the view classifier of the paper, as an estimator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
from annotated_types import Interval
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from alan.bounds import PositiveInt, bounded, check_parameters
from alan.progress import batches

#: Number of similarities that are computed at a time, and smallest number of queries.
_VALUES, _QUERIES = 1 << 20, 32
#: Unit vectors are rounded to multiples of 1 / 2**25: their scalar products are multiples of 2**-50 below 2, which
#: float64 holds exactly, whatever the order of summation.
_GRID = 2.0**25


@dataclass(eq=False, repr=False)
class WeightedKNNClassifier(ClassifierMixin, BaseEstimator):
    """k nearest neighbours by cosine similarity s, votes weighted by exp(s / T).

    The classifier of DINO (Caron et al. 2021, section 4.1), with which the paper classifies the view of a frame
    from its CLS feature. Among the k training features most similar to the query, class c gets the share

        sum over neighbours i of class c of exp(s_i / T), divided by the same sum over all k neighbours.

    The largest similarity is subtracted before the exponential. This does not change the shares and never
    overflows, however small T is.

    The formula leaves some cases open:

    * A zero vector has similarity 0 to everything, itself included.
    * Neighbours with exactly equal similarity are ordered by training row (lower index first); among classes with
      exactly equal votes, the first in ``classes_`` wins.
    * If ``n_neighbors`` exceeds the number of training rows, all of them vote (``n_neighbors_``).

    Queries are compared in blocks, so that memory does not grow with their number. Normalised features are rounded
    to multiples of 2**-25 (3e-8), for which float64 similarities are exact: equal features are equally similar.

    Args:
        n_neighbors: Number of neighbours k; the paper uses 2 and 10.
        temperature: Temperature T of the votes; a smaller value trusts the nearest neighbours more. The paper uses
            0.07.

    Attributes:
        classes_: (C,) sorted labels.
        n_features_in_: Width D of a feature.
        n_neighbors_: Number of neighbours that vote, the smaller of ``n_neighbors`` and the training rows.

    Examples:
        >>> features = [[1, 0], [0.9, 0.1], [0, 1]]
        >>> model = WeightedKNNClassifier(2).fit(features, ["A4C", "A4C", "PLAX"])
        >>> model.predict([[2, 1], [0.1, 3]]).tolist()
        ['A4C', 'PLAX']
    """

    n_neighbors: PositiveInt = 10
    temperature: Annotated[float, Interval(gt=0, lt=math.inf)] = 0.07

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Store the normalised features and the labels.

        Args:
            X: (N, D) finite features of any real dtype; stored as float64 rows of length 1.
            y: (N,) labels, numbers or strings.

        Returns:
            The fitted classifier.

        Raises:
            ParameterError: A parameter is out of its bounds.
            ValueError: X or y is not valid for scikit-learn (shape, finite values, classes).
        """
        check_parameters(self)
        features, labels = validate_data(self, X, y, dtype="numeric")
        check_classification_targets(labels)
        self.classes_: NDArray[Any]
        self.classes_, self._y = np.unique(labels, return_inverse=True)
        self._X = _unit_rows(features)
        self.n_neighbors_ = min(int(self.n_neighbors), len(self._X))
        return self

    @bounded
    def kneighbors(
        self, X: ArrayLike, n_neighbors: PositiveInt | None = None, return_distance: bool = True
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]] | NDArray[np.int64]:
        """Return the nearest training rows of each query, nearest first; ties are ordered by index.

        Args:
            X: (Q, D) features.
            n_neighbors: Number of neighbours k, at most the N training rows; None uses the parameter of the
                estimator.
            return_distance: Whether to return distances too; False returns only the indices.

        Returns:
            Cosine distances 1 - s, (Q, k) float64 in [0, 2], and indices of training rows, (Q, k) int64.

        Raises:
            ParameterError: ``n_neighbors`` is below 1.
            NotFittedError: The classifier is not fitted.
        """
        check_is_fitted(self)
        wanted = self.n_neighbors_ if n_neighbors is None else min(int(n_neighbors), len(self._X))
        similarity, index = self._search(X, wanted)
        return (np.clip(1 - similarity, 0, 2), index) if return_distance else index

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Compute the share of the votes of each class.

        Args:
            X: (Q, D) features.

        Returns:
            (Q, C) float64 in [0, 1], columns as ``classes_``; rows sum to 1.

        Raises:
            NotFittedError: The classifier is not fitted.
            ValueError: The features have another width.
        """
        check_is_fitted(self)
        similarity, index = self._search(X, self.n_neighbors_)
        weights = np.exp((similarity - similarity[:, :1]) / float(self.temperature))
        queries, n_classes = len(index), len(self.classes_)
        cells = np.arange(queries)[:, None] * n_classes + self._y[index]
        votes = np.bincount(cells.ravel(), weights.ravel(), queries * n_classes).reshape(queries, n_classes)
        share: NDArray[np.float64] = votes / votes.sum(axis=1, keepdims=True)
        return share

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the class with the most votes, (Q,), of features (Q, D); see :meth:`predict_proba`."""
        winner = self.predict_proba(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[winner]
        return labels

    def _search(self, X: ArrayLike, k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Find similarities (Q, k) float64 in descending order, and training indices (Q, k) int64."""
        queries: NDArray[Any] = validate_data(self, X, dtype="numeric", reset=False)
        found = np.empty((len(queries), k))
        index = np.empty((len(queries), k), np.int64)
        for part in batches(len(queries), max(_QUERIES, _VALUES // len(self._X))):
            similarity = _unit_rows(queries[part]) @ self._X.T
            bound = np.partition(similarity, -k, axis=1)[:, -k]
            for place, row, least in zip(range(part.start, part.stop), similarity, bound, strict=True):
                near = np.flatnonzero(row >= least)  # more than k rows if some are tied
                near = near[np.argsort(-row[near], kind="stable")[:k]]
                found[place], index[place] = row[near], near
        return found, index


def _unit_rows(X: NDArray[Any]) -> NDArray[np.float64]:
    """Scale rows to length 1 in multiples of 2**-25; zero rows stay zero. Scaling first avoids overflow."""
    rows = X.astype(np.float64)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows /= np.where(largest > 0, largest, 1)
    length = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    rows /= np.where(length > 0, length, 1)
    return np.round(rows * _GRID) / _GRID
