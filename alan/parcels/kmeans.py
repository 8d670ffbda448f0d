"""k-means parcels: a scikit-learn estimator that can be converted to a token head; the baseline of RAPTOR."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from alan.arrays import AnyFloatArray
from alan.backbone.base import Backbone
from alan.bounds import PositiveInt, Seed, bounded, check_parameters
from alan.errors import ParameterError
from alan.parcels.count import ParcelCount, check_kmeans
from alan.parcels.guided import GuidedFilter
from alan.parcels.heads import KMeansHead
from alan.parcels.model import ParcelModel
from alan.progress import batches

#: Largest number of iterations of spherical k-means, which starts from Euclidean centres and moves little.
_ITERATIONS = 50


@dataclass(eq=False, repr=False)
class KMeansParcels(TransformerMixin, ClusterMixin, BaseEstimator):
    """Parcels by standardisation per channel, optional principal components, and mini-batch k-means.

    Args:
        n_parcels: Number of parcels K, 2 to 254.
        n_components: Number of principal components kept before k-means; None disables the PCA.
        whiten: Scale the components to unit variance; requires ``n_components``.
        spherical: Compare directions only: standardised (and projected) tokens and centres have unit length, and
            logits are cosines (spherical k-means; Dhillon & Modha 2001).
        random_state: Seed of the sample, the PCA and the k-means.
        max_samples: Largest number of tokens to fit on, drawn without replacement.

    Attributes:
        mean_: (D,) mean of the channels over the fitted tokens.
        std_: (D,) standard deviation; 1 for a constant channel.
        projection_: (D, C) principal axes (scaled if whitened), or None.
        explained_variance_ratio_: (C,) share of the variance of each component, or None.
        cluster_centers_: (K, C), without PCA (K, D); of unit length if spherical.
        labels_: Parcels of all given tokens, including those that were not drawn.
        inertia_: Sum of squared distances of the drawn tokens (of unit length if spherical) to their nearest
            centre.
        n_features_in_: Width D of a token.

    Examples:
        >>> tokens = np.random.default_rng(0).normal(size=(500, 16))
        >>> model = KMeansParcels(8, n_components=4).fit(tokens)
        >>> model.predict(tokens[:3]).shape, model.cluster_centers_.shape
        ((3,), (8, 4))
    """

    n_parcels: ParcelCount = 64
    _: KW_ONLY
    n_components: PositiveInt | None = None
    whiten: bool = False
    spherical: bool = False
    random_state: int | np.random.RandomState | None = 0
    max_samples: PositiveInt = 60_000

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Fit the parcels.

        Args:
            X: (n, D) tokens.
            y: Ignored; present for API consistency.

        Returns:
            The fitted estimator.

        Raises:
            ParameterError: A parameter is out of bounds, there are fewer tokens than parcels, or the PCA has more
                components than tokens or channels.
        """
        tokens = self._validate(X, reset=True)
        check_parameters(self)
        random = check_random_state(self.random_state)
        check_kmeans(self.n_parcels, self.max_samples, self.n_components, whiten=self.whiten)
        sample = tokens
        if len(tokens) > self.max_samples:
            sample = tokens[np.sort(random.choice(len(tokens), self.max_samples, replace=False))]
        if len(sample) < self.n_parcels:
            raise ParameterError(
                f"n_samples={len(sample)} tokens are fewer than n_parcels={self.n_parcels}: give more frames"
            )
        self.mean_ = sample.mean(0)
        std = sample.std(0)
        # the deviation of a constant channel is a rounding error, not zero
        self.std_ = np.where(std > 1e-6 * np.abs(self.mean_), std, 1).astype(sample.dtype)
        sample = (sample - self.mean_) / self.std_
        self.projection_, self.explained_variance_ratio_ = self._fit_projection(sample, random)
        if self.projection_ is not None:
            sample = sample @ self.projection_
        if self.spherical:
            sample = _unit(sample)
        batch = max(4096, 16 * self.n_parcels)
        clusters = MiniBatchKMeans(self.n_parcels, batch_size=batch, n_init=3, random_state=random).fit(sample)
        self.cluster_centers_: AnyFloatArray = clusters.cluster_centers_
        self.inertia_ = float(clusters.inertia_)
        if self.spherical:
            self.cluster_centers_, self.inertia_ = _on_the_sphere(sample, self.cluster_centers_)
        self.labels_ = self._logits(tokens).argmax(1)
        return self

    def _fit_projection(
        self, sample: AnyFloatArray, random: np.random.RandomState
    ) -> tuple[AnyFloatArray | None, AnyFloatArray | None]:
        if self.n_components is None:
            return None, None
        largest = min(sample.shape)
        if not 1 <= self.n_components <= largest:
            raise ParameterError(f"n_components is {self.n_components}: give 1 to {largest} (tokens, channels)")
        pca = PCA(self.n_components, random_state=random).fit(sample)  # the sample is centred
        projection = pca.components_.T
        if self.whiten:
            projection = projection / np.sqrt(np.maximum(pca.explained_variance_, np.finfo(sample.dtype).eps))
        return projection.astype(sample.dtype), pca.explained_variance_ratio_

    def transform(self, X: ArrayLike) -> AnyFloatArray:
        """Compute logits (n, K) of tokens (n, D): minus squared distances, or cosines if spherical.

        Raises:
            NotFittedError: The estimator is not fitted.
            ValueError: The tokens have another width.
        """
        check_is_fitted(self)
        return self._logits(self._validate(X, reset=False))

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Return the parcels (n,) of tokens (n, D): the nearest centre; ties go to the first.

        Raises:
            NotFittedError: The estimator is not fitted.
            ValueError: The tokens have another width.
        """
        return np.asarray(self.transform(X).argmax(1), np.int64)

    def to_head(self) -> KMeansHead:
        """Convert to a torch module with the same logits.

        Raises:
            NotFittedError: The estimator is not fitted.
        """
        check_is_fitted(self)
        components = None if self.projection_ is None else self.projection_.shape[1]
        head = KMeansHead(self.n_features_in_, len(self.cluster_centers_), components, self.spherical)
        head.set_statistics(torch.as_tensor(self.mean_), torch.as_tensor(self.std_))
        head.centres.copy_(torch.as_tensor(self.cluster_centers_))
        if head.projection is not None:
            head.projection.copy_(torch.as_tensor(self.projection_))
        return head

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)

    def _validate(self, X: ArrayLike, *, reset: bool) -> AnyFloatArray:
        array: AnyFloatArray = validate_data(self, X, dtype=[np.float32, np.float64], reset=reset)
        return array

    def _logits(self, tokens: AnyFloatArray) -> AnyFloatArray:
        x = (tokens - self.mean_) / self.std_
        if self.projection_ is not None:
            x = x @ self.projection_
        centres = self.cluster_centers_
        if self.spherical:
            return np.asarray(_unit(x) @ centres.T)
        squares = (x * x).sum(1, keepdims=True) - 2 * x @ centres.T + (centres * centres).sum(1)
        logits: AnyFloatArray = -np.maximum(squares, 0)
        return logits


def _unit(rows: AnyFloatArray) -> AnyFloatArray:
    """Scale rows to unit length; a row of zeros is left unchanged."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1))


def _on_the_sphere(sample: AnyFloatArray, start: AnyFloatArray) -> tuple[AnyFloatArray, float]:
    """Run spherical k-means: assign by cosine, then move each centre to the direction of its mean.

    Args:
        sample: (n, C) rows of unit length.
        start: (K, C) initial centres.

    Returns:
        (K, C) centres of unit length (a centre without a row is left unchanged), and the inertia.
    """
    centres, before = _unit(start), None
    for _ in range(_ITERATIONS):
        nearest = (sample @ centres.T).argmax(1)
        if before is not None and np.array_equal(nearest, before):
            break
        before = nearest
        sums = np.stack([np.bincount(nearest, column, len(centres)) for column in sample.T], axis=1)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        moved = sums / np.where(lengths > 0, lengths, 1)
        centres = np.where(lengths > 0, moved, centres).astype(sample.dtype)
    return centres, float(((sample - centres[(sample @ centres.T).argmax(1)]) ** 2).sum())


@bounded
def fit_kmeans(
    backbone: Backbone,
    frames: NDArray[np.uint8],
    n_parcels: ParcelCount = 64,
    *,
    n_components: PositiveInt | None = None,
    whiten: bool = False,
    spherical: bool = False,
    sector_only: bool = False,
    seed: Seed = 0,
    max_samples: PositiveInt = 60_000,
    batch_size: PositiveInt = 64,
    source: str | None = None,
    refine: GuidedFilter | None = None,
) -> ParcelModel:
    """Fit k-means parcels on the tokens of a locked backbone.

    The same number of tokens is drawn at random from every frame, so that memory holds ``max_samples`` tokens and
    one batch, whatever the number of frames.

    Args:
        backbone: The locked backbone.
        frames: (N, H, W) uint8 training frames, e.g. ``store.frames(...)``.
        n_parcels: Number of parcels K, 2 to 254.
        n_components: Number of principal components kept before k-means; None disables the PCA.
        whiten: Scale the components to unit variance; requires ``n_components``.
        spherical: Compare the directions of tokens only.
        sector_only: Draw tokens inside the ultrasound sector only; the outside becomes background.
        seed: Seed of all draws.
        max_samples: Largest number of tokens drawn.
        batch_size: Number of frames that go through the backbone at a time.
        source: Path or name of the backbone, which the model keeps.
        refine: Guided filter of the parcel maps, see :class:`alan.parcels.ParcelModel`.

    Returns:
        The parcel model.

    Raises:
        ParameterError: There are no frames, fewer tokens than parcels, or a parameter is out of bounds.
    """
    if len(frames) == 0:
        raise ParameterError("frames are empty: give at least one (H, W) uint8 frame")
    check_kmeans(n_parcels, max_samples, n_components, whiten=whiten)  # before the tokens are computed
    random = np.random.default_rng(seed)
    quota = -(-max_samples // len(frames))
    drawn = []
    for part in batches(len(frames), batch_size, "tokens"):
        batch = torch.from_numpy(np.ascontiguousarray(frames[part]))
        tokens = backbone(batch).tokens.flatten(1, 2).cpu().numpy()
        seen = backbone.sector(batch).flatten(1).cpu().numpy() if sector_only else np.ones(tokens.shape[:2], bool)
        for rows, inside in zip(tokens, seen, strict=True):
            places = np.flatnonzero(inside)
            drawn.append(rows[random.permutation(places)[:quota]])
    estimator = KMeansParcels(
        n_parcels,
        n_components=n_components,
        whiten=whiten,
        spherical=spherical,
        random_state=seed,
        max_samples=max_samples,
    )
    head = estimator.fit(np.concatenate(drawn)).to_head().to(backbone.device)
    return ParcelModel(backbone, head, sector_only=sector_only, source=source, refine=refine)
