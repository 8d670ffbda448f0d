import numpy as np
import pytest

from alan.errors import ParameterError
from alan.evaluation.baselines import Atlas, pixel_features
from alan.evaluation.metrics import dice


def masks_around(rng, n=9, size=20):
    rows, columns = np.mgrid[:size, :size]
    centres = rng.normal(10, 1.5, (n, 2))
    return np.stack([(rows - r) ** 2 + (columns - c) ** 2 <= 25 for r, c in centres])


@pytest.mark.parametrize("seed", range(4))
def test_the_level_of_the_atlas_equals_an_exhaustive_search(seed):
    masks = masks_around(np.random.default_rng(seed))
    atlas = Atlas().fit(masks)
    mean = masks.mean(axis=0)
    levels = np.arange(1, len(masks) + 1) / len(masks)
    scores = [np.mean([dice(mean >= level - 1e-9, mask) for mask in masks]) for level in levels]
    assert atlas.score_ == pytest.approx(max(scores))
    assert atlas.level_ == pytest.approx(levels[len(scores) - 1 - int(np.argmax(scores[::-1]))])
    np.testing.assert_array_equal(atlas.mask_, mean >= atlas.level_ - 1e-9)
    assert dice(atlas.predict(len(masks)), masks).mean() == pytest.approx(max(scores))


def test_the_atlas_of_two_masks_matches_hand_computed_values():
    masks = np.zeros((2, 2, 4), bool)
    masks[0, 0, :3] = True
    masks[1, 0, :2] = True
    masks[1, 1, 0] = True
    # level 1/2: 4 pixels, Dice 6/7 each; level 1: 2 pixels, Dice 4/5 each
    atlas = Atlas().fit(masks)
    assert (atlas.level_, atlas.score_) == (0.5, pytest.approx(6 / 7))
    np.testing.assert_array_equal(atlas.mean_, [[1, 1, 0.5, 0], [0.5, 0, 0, 0]])


def test_empty_masks_do_not_change_the_atlas():
    masks = masks_around(np.random.default_rng(0))
    with_empty = np.concatenate([masks, np.zeros_like(masks[:3])])
    np.testing.assert_array_equal(Atlas().fit(masks).mask_, Atlas().fit(with_empty).mask_)
    with pytest.raises(ParameterError, match="all masks are empty"):
        Atlas().fit(np.zeros((2, 3, 3), bool))
    with pytest.raises(ParameterError, match="N, H, W"):
        Atlas().fit(np.zeros((3, 3), bool))


def test_pixel_features_are_averaged_and_standardised():
    frames = np.random.default_rng(0).integers(0, 255, (3, 8, 8), dtype=np.uint8)
    got = pixel_features(frames, size=4)
    small = frames.reshape(3, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(3, 16)
    expected = (small - small.mean(1, keepdims=True)) / small.std(1, keepdims=True)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    brighter = (frames // 2 + 90).astype(np.uint8)
    assert np.corrcoef(got[0], pixel_features(brighter, size=4)[0])[0, 1] > 0.99
    assert not pixel_features(np.full((1, 8, 8), 7, np.uint8)).any()
    with pytest.raises(ParameterError, match="size is 1"):
        pixel_features(frames, size=1)
