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

#: Number of queries compared at a time with ``chunk_size`` training rows.
_QUERIES = 512
#: Number of values gathered at a time for the exact similarities (8 bytes each, three arrays).
_PAIR_VALUES = 1 << 21


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

    Training rows and queries are compared in blocks, and only the k best so far are kept, so that memory holds
    512 x ``chunk_size`` float32 similarities, whatever the number of queries and rows. Blocks are screened in
    float32 (BLAS), and candidates for the k best are recomputed in float64. The result is therefore bitwise equal
    for every ``chunk_size``.

    Args:
        n_neighbors: Number of neighbours k; the paper uses 2 and 10.
        temperature: Temperature T of the votes; a smaller value trusts the nearest neighbours more. The paper uses
            0.07.
        chunk_size: Number of training rows compared at a time.

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
    chunk_size: PositiveInt = 16384

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Store the normalised features and the labels.

        Args:
            X: (N, D) finite features of any real dtype; stored as float32 rows of length 1.
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
        """Similarities (Q, k) float64 in descending order, and training indices (Q, k) int64."""
        queries: NDArray[Any] = validate_data(self, X, dtype="numeric", reset=False)
        similarity = np.empty((len(queries), k))
        index = np.empty((len(queries), k), np.int64)
        for part in batches(len(queries), _QUERIES):
            similarity[part], index[part] = _nearest(_unit_rows(queries[part]), self._X, k, self.chunk_size)
        return similarity, index


def _unit_rows(X: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of length 1 as float32; zero rows stay zero. Scaling by the largest value avoids overflow."""
    unit = np.empty(X.shape, np.float32)
    for part in batches(len(X), _QUERIES):
        rows = X[part].astype(np.float64)
        largest = np.abs(rows).max(axis=1, keepdims=True)
        rows /= np.where(largest > 0, largest, 1)
        length = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
        unit[part] = rows / np.where(length > 0, length, 1)
    return unit


def _nearest(
    queries: NDArray[np.float32], rows: NDArray[np.float32], k: int, chunk_size: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k rows most similar to each query, exact in float64; ties are ordered by index.

    A float32 product of two vectors of length 1 differs from the exact one by at most D x 2**-24 (Higham 2002,
    section 3.1). A row is only dropped if its float32 similarity is lower by more than that than k others.
    """
    n_queries, width = queries.shape
    error = (width + 8) * 2.0**-24  # 8 covers rows not exactly of length 1 and the rounding of the bound
    best = np.full((n_queries, k), -np.inf)
    index = np.zeros((n_queries, k), np.int64)
    for start in range(0, len(rows), chunk_size):
        block = rows[start : start + chunk_size]
        screen = queries @ block.T
        bound = np.maximum(best[:, -1] - error, _lower_bound(screen, k) - 2 * error)
        hits = screen >= bound.astype(np.float32)[:, None]
        query, column = np.divmod(np.flatnonzero(hits), len(block))
        count = np.bincount(query, minlength=n_queries)
        place = k + np.arange(len(query)) - np.repeat(np.cumsum(count) - count, count)
        width_now = k + int(count.max())
        similarity = np.full((n_queries, width_now), -np.inf)
        similarity[:, :k] = best
        similarity[query, place] = _exact(queries, block, query, column)
        candidates = np.zeros((n_queries, width_now), np.int64)
        candidates[:, :k] = index
        candidates[query, place] = column + start
        # stable sort: among equals, earlier rows come first
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(similarity, order, axis=1)
        index = np.take_along_axis(candidates, order, axis=1)
    return best, index


def _lower_bound(screen: NDArray[np.float32], k: int) -> NDArray[np.float64]:
    """A value that k entries of each row reach: the k-th largest maximum of groups; -inf for fewer entries."""
    n_queries, width = screen.shape
    if width < k:
        return np.full(n_queries, -np.inf)
    groups = max(k, min(width, 16 * k, max(512, k)))
    depth = width // groups
    maxima = screen[:, : depth * groups].reshape(n_queries, depth, groups).max(axis=1)
    return np.partition(maxima, groups - k, axis=1)[:, groups - k].astype(np.float64)


def _exact(
    queries: NDArray[np.float32],
    rows: NDArray[np.float32],
    query: NDArray[np.int64],
    column: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Similarities of pairs (P,) in float64; equal vectors give equal values at any position."""
    similarity = np.empty(len(query))
    step = max(1, _PAIR_VALUES // queries.shape[1])
    for part in batches(len(query), step):
        left, right = queries[query[part]].astype(np.float64), rows[column[part]].astype(np.float64)
        similarity[part] = (left * right).sum(axis=1)
    return similarity
