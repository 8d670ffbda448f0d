"""Banks of labelled frames, by which views are recognised."""

import numpy as np
import pytest
import torch

from alan.analysis.views import CLASSES, OTHER, ViewBank
from alan.backbone import random_backbone
from alan.backbone.checkpoint import export_backbone
from alan.backbone.conv import ConvSpec
from alan.data.sample import VIEWS
from alan.data.simulator import simulate_sequence
from alan.data.simulator.others import other_frames
from alan.errors import DataError, ParameterError

SPEC = ConvSpec(image_size=32, widths=(4, 8))


@pytest.fixture(scope="module")
def backbone():
    return random_backbone(SPEC)


def pictures(n, seed):
    """Vertical stripes, horizontal stripes and noise."""
    rng = np.random.default_rng(seed)
    wave = 90 + 80 * np.sin(np.arange(32) / 1.2)
    kinds = [np.tile(wave, (32, 1)), np.tile(wave[:, None], (1, 32)), np.full((32, 32), 90.0)]
    frames = [kinds[i % 3] + rng.normal(0, (8, 8, 60)[i % 3], (32, 32)) for i in range(n)]
    return np.clip(frames, 0, 255).astype(np.uint8), [("A4C", "A2C", OTHER)[i % 3] for i in range(n)]


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_frames_get_the_view_of_their_nearest_neighbours(backbone, weight):
    frames, views = pictures(30, 0)
    bank = ViewBank.build(backbone, frames, views, pixel_weight=weight, n_neighbors=3)
    new, truth = pictures(9, 1)
    for kind in range(3):
        found = bank.classify(new[kind::3])
        assert found.view == truth[kind]
        assert found.share == pytest.approx(found.votes[found.view])
        assert sum(found.votes.values()) == pytest.approx(1)
        assert found.unsure == (found.share < 0.7)
        assert 1 <= len(found.neighbours) <= 3
        assert {bank.views[row] for row in found.neighbours} == {found.view}
        np.testing.assert_array_equal(found.thumbnails, bank.thumbnails[found.neighbours])


def test_features_equal_the_mean_of_the_deepest_level(backbone):
    frames, views = pictures(5, 0)
    bank = ViewBank.build(backbone, frames, views, pixel_weight=0.5)
    with torch.no_grad():
        deep = backbone.network(SPEC.normalise(torch.from_numpy(frames)[:, None].float() / 255))[-1]
    expected = deep.mean((2, 3)).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    pixels = bank.thumbnails.reshape(5, -1).astype(np.float64)
    pixels -= pixels.mean(1, keepdims=True)
    pixels *= 0.5 / np.linalg.norm(pixels, axis=1, keepdims=True)
    found = bank._features(bank.pooled, bank.thumbnails)
    np.testing.assert_allclose(found, np.concatenate([expected, pixels], 1), atol=1e-5)


def test_a_saved_bank_loads_and_refuses_another_backbone(backbone, tmp_path):
    frames, views = pictures(12, 0)
    bank = ViewBank.build(backbone, frames, views, n_neighbors=2, sure_from=0.9, most_frames=2)
    export_backbone(backbone.network, SPEC, tmp_path / "little.safetensors")
    bank.save(tmp_path / "bank.safetensors", "little")
    again = ViewBank.load(tmp_path / "bank.safetensors")
    assert (again.views, again.n_neighbors, again.sure_from, again.most_frames) == (bank.views, 2, 0.9, 2)
    first, second = bank.classify(frames[:6]), again.classify(frames[:6])
    assert (first.view, first.unsure) == (second.view, second.unsure)
    assert first.share == pytest.approx(second.share, abs=1e-2)
    with pytest.raises(DataError, match="another backbone"):
        ViewBank.load(tmp_path / "bank.safetensors", random_backbone(SPEC, seed=1))
    (tmp_path / "bank.safetensors").write_bytes(b"no bank")
    with pytest.raises(DataError, match="not a bank of views"):
        ViewBank.load(tmp_path / "bank.safetensors")
    with pytest.raises(DataError, match="not a bank of views"):
        ViewBank.load("alan-sim-vews")


def test_real_frames_added_to_a_bank_improve_real_views(backbone):
    frames, views = pictures(30, 0)
    bank = ViewBank.build(backbone, frames, views, n_neighbors=1)
    odd = 255 - np.roll(frames[:1], 7, 2)
    assert bank.with_frames(odd, ["PLAX"]).classify(odd).view == "PLAX"
    assert len(bank.views) == 30


def test_invalid_input_is_refused(backbone):
    frames, views = pictures(3, 0)
    with pytest.raises(ParameterError, match="view is 'A3C'"):
        ViewBank.build(backbone, frames, ["A3C"] * 3)
    with pytest.raises(ParameterError, match="differ in number"):
        ViewBank.build(backbone, frames, views[:2])
    bank = ViewBank.build(backbone, frames, views)
    with pytest.raises(ParameterError, match="give a non-empty uint8"):
        bank.classify(frames[0])
    assert CLASSES == ("A2C", "A4C", "PLAX", "PSAX", "other")


def test_the_shipped_bank_recognises_new_simulated_clips():
    bank = ViewBank.load("alan-sim-views")
    for view in VIEWS:
        clips = [
            simulate_sequence(view, patient, n_frames=2, seed=patient).frames
            for patient in (90_001, 90_002, 90_003)
        ]
        assert [bank.classify(clip).view for clip in clips].count(view) >= 2
    others = [bank.classify(frame[None]).view for frame in other_frames(10, seed=9)]
    assert others.count(OTHER) >= 8
