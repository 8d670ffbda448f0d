"""Greedy k-centre, compared with brute force, and the choice of a batch."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alan.active.diversity import FrameFeatures, choose, encoder_features, k_centre
from alan.errors import ParameterError
from alan.supervised.settings import NetworkSpec

from ..discs import untrained_segmenter


def radius(points, centres):
    return max(min(np.linalg.norm(p - c) for c in centres) for p in points)


def test_k_centre_takes_the_farthest_points_of_a_line():
    """From 0 the farthest is 10, then 5; then 1 and 9 are equally far from their centres, and 1 comes first."""
    points = np.array([0.0, 1.0, 5.0, 9.0, 10.0])[:, None]
    assert k_centre(points, 4).tolist() == [0, 4, 2, 1]
    assert k_centre(points, 2, np.array([[10.0]])).tolist() == [0, 2]
    assert k_centre(np.zeros((3, 2)), 3).tolist() == [0, 1, 2]  # copies are picked once each


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 4), centres=st.integers(0, 2))
def test_k_centre_is_within_twice_the_optimum(seed, k, centres):
    rng = np.random.default_rng(seed)
    points, known = rng.standard_normal((8, 2)), rng.standard_normal((centres, 2))
    picked = k_centre(points, k, known if centres else None)
    assert len(set(picked.tolist())) == k
    best = min(radius(points, [*known, *points[list(c)]]) for c in combinations(range(8), k))
    assert radius(points, [*known, *points[picked]]) <= 2 * best + 1e-9


def test_images_are_chosen_by_score_then_by_diversity():
    scores = np.array([1.0, 5.0, np.nan, 5.0, 3.0, 4.0])
    assert choose(scores, 3).tolist() == [1, 3, 5]
    assert choose(scores, 9).tolist() == [1, 3, 5, 4, 0]
    places = np.array([0.0, 0.0, 0.0, 0.1, 9.0, 0.2])[:, None]
    asked = []

    def features(positions):
        asked.append(positions.tolist())
        return places[positions]

    assert choose(scores, 2, features, candidates=2).tolist() == [1, 4]
    assert asked == [[1, 3, 5, 4]]  # the four largest, in order
    assert choose(scores, 2, features, candidates=1).tolist() == [1, 3]
    assert choose(scores, 2, features, np.array([[9.0]]), candidates=2).tolist() == [1, 5]
    with pytest.raises(ParameterError, match="k is 0: give a whole number of at least 1"):
        choose(scores, 0)
    with pytest.raises(ParameterError, match="k is 4: give 1 to 3, the number of candidates"):
        k_centre(np.zeros((3, 1)), 4)


@pytest.mark.parametrize(
    ("spec", "width"),
    [
        (NetworkSpec("unet_acdc", None, decoder_channels=(4, 8, 12)), 12),
        (NetworkSpec("unet", "mobilenet_v2"), 1280),
    ],
)
def test_encoder_features_equal_those_of_the_network(spec, width):
    model = untrained_segmenter(spec, ["lv"], size=32)
    frames = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    found = encoder_features(model, frames)
    assert found.shape == (3, width)
    seen = FrameFeatures("encoder", batch_size=2)(frames.numpy(), model)
    assert seen == pytest.approx(found.double().numpy(), rel=1e-4, abs=1e-5)
    if spec.encoder is None:
        x = model.model.network.encoder
        images = frames[:, None].float() / 255
        deep = x[2](torch.max_pool2d(x[1](torch.max_pool2d(x[0](images), 2)), 2))
        assert torch.allclose(found, deep.mean((2, 3)), atol=1e-5)


def test_backbone_features_equal_the_cls_token(tiny):
    from alan.backbone.load import load_backbone

    model = untrained_segmenter(NetworkSpec("unet_acdc", None, decoder_channels=(4, 8)), ["lv"], size=32)
    frames = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    found = FrameFeatures(tiny.backbone())(frames.numpy(), model)
    assert found == pytest.approx(load_backbone(tiny.backbone())(frames).cls.double().numpy(), abs=1e-6)
