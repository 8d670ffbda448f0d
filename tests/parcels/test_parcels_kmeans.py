"""k-means parcels, compared with PCA and distances of scikit-learn, and their head."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from alan.backbone.load import random_backbone
from alan.backbone.vit import VitSpec
from alan.errors import ParameterError
from alan.parcels.kmeans import KMeansParcels, fit_kmeans


@parametrize_with_checks([KMeansParcels(n_parcels=2), KMeansParcels(n_parcels=2, n_components=1, whiten=True)])
def test_scikit_learn_estimator_checks_pass(estimator, check):
    check(estimator)


def tokens(n=600, dim=8, seed=0, clusters=5):
    """Gaussian clusters, the channels of very different scale."""
    random = np.random.default_rng(seed)
    truth = random.integers(clusters, size=n)
    x = (6 * random.normal(size=(clusters, dim)))[truth] + random.normal(size=(n, dim))
    return (x * np.logspace(-2, 2, dim) + 3).astype(np.float32), truth


def test_clusters_are_found_whatever_the_scale_of_the_channels():
    x, truth = tokens()
    assert adjusted_rand_score(truth, KMeansParcels(5).fit(x).labels_) > 0.95
    assert adjusted_rand_score(truth, KMeans(5, n_init=3, random_state=0).fit(x).labels_) < 0.8  # unstandardised


@pytest.mark.parametrize(("components", "whiten"), [(None, False), (3, False), (3, True)])
def test_logits_equal_distances_of_scikit_learn(components, whiten):
    x, _ = tokens()
    model = KMeansParcels(4, n_components=components, whiten=whiten).fit(x)
    z = StandardScaler().fit_transform(x.astype(np.float64))
    if components:
        z = PCA(components, whiten=whiten).fit_transform(z)
        # the sign of an axis is free
        z *= np.sign((z * (((x - model.mean_) / model.std_) @ model.projection_)).sum(0))
    expected = -((z[:, None] - model.cluster_centers_) ** 2).sum(-1)
    logits = model.transform(x)
    np.testing.assert_allclose(logits, expected, rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(model.predict(x), logits.argmax(1))
    np.testing.assert_array_equal(model.labels_, logits.argmax(1))
    assert model.inertia_ == pytest.approx(-expected.max(1).sum(), rel=0.05)
    head = model.to_head()
    np.testing.assert_allclose(head(torch.from_numpy(x)).numpy(), logits, rtol=1e-3, atol=1e-3)


def test_invalid_parameters_are_refused(monkeypatch):
    x, _ = tokens(20)
    for parameters, message in (
        ({"n_parcels": 1}, "n_parcels is 1"),
        ({"n_parcels": 21}, "n_samples=20 tokens are fewer"),
        ({"n_parcels": 5, "max_samples": 4}, "max_samples is 4"),
        ({"n_parcels": 5, "n_components": 9}, "n_components is 9: give 1 to 8"),
        ({"n_parcels": 5, "whiten": True}, "only principal components"),
    ):
        with pytest.raises(ParameterError, match=message):
            KMeansParcels(**parameters).fit(x)
    with pytest.raises(NotFittedError):
        KMeansParcels().to_head()
    backbone, frames = random_backbone(VitSpec(image_size=32, patch_size=8)), np.zeros((1, 32, 32), np.uint8)
    monkeypatch.setattr(type(backbone), "forward", pytest.fail)  # refused before tokens are computed
    with pytest.raises(ParameterError, match="max_samples is 4: give at least"):
        fit_kmeans(backbone, frames, 5, max_samples=4)
    with pytest.raises(ParameterError, match="frames are empty"):
        fit_kmeans(random_backbone(VitSpec(image_size=32, patch_size=8)), np.zeros((0, 32, 32), np.uint8))


def test_fit_kmeans_gives_a_parcel_model_of_the_sector():
    spec = VitSpec(image_size=32, patch_size=8, in_chans=1, dim=16, depth=1, heads=2)
    backbone = random_backbone(spec)
    frames = np.random.default_rng(0).integers(20, 255, (12, 32, 32)).astype(np.uint8)
    frames[:, :, 16:] = 0
    model = fit_kmeans(backbone, frames, 4, sector_only=True, batch_size=5)
    maps = model.maps(frames).numpy()
    assert (maps[:, :, 16:] == 4).all()
    assert set(np.unique(maps[:, :, :16])) == {0, 1, 2, 3}
    again = fit_kmeans(backbone, frames, 4, sector_only=True, batch_size=3)
    assert again.fingerprint == model.fingerprint  # the batch size is nothing but memory
    seen = backbone(torch.from_numpy(frames)).tokens[backbone.sector(torch.from_numpy(frames))]
    torch.testing.assert_close(model.head.mean, seen.mean(0), rtol=1e-4, atol=1e-5)
    assert fit_kmeans(backbone, frames, 4).background_id is None
    assert (
        fit_kmeans(backbone, frames, 4, max_samples=24).fingerprint != fit_kmeans(backbone, frames, 4).fingerprint
    )
