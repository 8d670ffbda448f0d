"""The guided filter, compared with a loop over windows, its behaviour at edges, and its use by parcel models."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from alan.backbone.load import random_backbone
from alan.backbone.vit import VitSpec
from alan.errors import CheckpointError, ParameterError
from alan.parcels.guided import GuidedFilter, box_mean, filter_coefficients
from alan.parcels.heads import RaptorHead
from alan.parcels.maps import logits_to_maps
from alan.parcels.model import ParcelModel, load_parcels, save_parcels

SPEC = VitSpec(image_size=32, patch_size=8, in_chans=1, dim=16, depth=1, heads=2)


def slow(image, values, radius, eps):
    """He et al. 2013, equations 5, 6 and 8: least squares in every window, then the mean over windows."""
    height, width = image.shape
    a, b = np.zeros((height, width)), np.zeros((height, width))

    def window(y, x):
        return slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1)

    for y in range(height):
        for x in range(width):
            guide, value = image[window(y, x)].ravel(), values[window(y, x)].ravel()
            design = np.stack([guide, np.ones_like(guide)], 1)
            penalty = np.diag([eps * len(guide), 0.0])
            a[y, x], b[y, x] = np.linalg.solve(design.T @ design + penalty, design.T @ value)
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            out[y, x] = a[window(y, x)].mean() * image[y, x] + b[window(y, x)].mean()
    return out


def guided_filter(guide, values, radius, eps):
    """Values (B, K, H, W) filtered by the guide (B, H, W)."""
    a, b = filter_coefficients(guide[:, None], values, radius, eps)
    return a * guide[:, None] + b


@pytest.mark.parametrize(("radius", "eps"), [(1, 0.1), (3, 1e-3), (9, 0.01)])
def test_the_filter_equals_least_squares_in_windows(radius, eps):
    random = np.random.default_rng(0)
    guide, values = random.random((2, 12, 15)), random.normal(size=(2, 3, 12, 15))
    found = guided_filter(torch.from_numpy(guide), torch.from_numpy(values), radius, eps).numpy()
    for b in range(2):
        for k in range(3):
            np.testing.assert_allclose(found[b, k], slow(guide[b], values[b, k], radius, eps), atol=1e-8)


def test_edges_of_the_image_are_kept():
    image = torch.zeros(1, 20, 20)
    image[:, :, 10:] = 1.0
    wrong = torch.zeros(1, 1, 20, 20)
    wrong[..., 12:] = 1.0  # two pixels beside the edge of the image
    sharp = guided_filter(image, wrong, 4, 1e-4)[0, 0]
    steps = (sharp[5, 1:] - sharp[5, :-1]).abs()
    assert steps.argmax() == 9  # the largest step has moved to the edge of the image
    assert steps[9] > 3 * steps[11]
    flat = guided_filter(torch.zeros(1, 20, 20), wrong, 4, 1e-4)
    torch.testing.assert_close(flat, box_mean(box_mean(wrong, 4), 4))


def test_refined_maps_follow_the_image():
    frames = torch.full((2, 32, 32), 40, dtype=torch.uint8)
    frames[:, :, 14:] = 200  # the edge lies within the second of four tokens
    logits = torch.zeros(2, 2, 4, 4)
    logits[:, 1] = torch.tensor([-1.0, -0.2, 1.0, 1.0])
    plain = logits_to_maps(logits, 32)
    exact = GuidedFilter(radius=12, eps=1e-3, subsample=1)
    guided = logits_to_maps(logits, 32, frames, exact)
    truth = (frames > 100).to(torch.uint8)
    assert (guided != truth).sum() < (plain != truth).sum()
    # frame by frame is all at once
    up = exact(frames, logits, (32, 32))
    torch.testing.assert_close(guided, up.argmax(1).to(torch.uint8))
    both = F.interpolate(logits, (32, 32), mode="bilinear", align_corners=False)
    radius = round(12 * 32 / 112)  # lengths are those of 112 x 112
    torch.testing.assert_close(up, guided_filter(frames.float() / 255, both, radius, 1e-3))


def test_the_fast_filter_approximates_the_exact_one():
    random = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(2, 1, 7, 7, generator=random), 112, mode="bicubic").clamp(0, 1)
    frames = (255 * smooth[:, 0]).to(torch.uint8)
    logits = torch.randn(2, 5, 14, 14, generator=random)
    exact, fast = (GuidedFilter(8, 0.01, subsample)(frames, logits, (112, 112)) for subsample in (1, 2))
    assert not torch.equal(exact, fast)
    assert (exact - fast).abs().mean() < 0.1 * exact.std()
    assert (exact.argmax(1) == fast.argmax(1)).float().mean() > 0.95


def model(refine=None):
    head = RaptorHead(16, 6, generator=torch.Generator().manual_seed(0))
    return ParcelModel(random_backbone(SPEC), head, sector_only=True, refine=refine)


def test_a_parcel_model_keeps_its_refinement(tmp_path):
    frames = np.random.default_rng(0).integers(20, 255, (3, 32, 32)).astype(np.uint8)
    plain, refined = model(), model(GuidedFilter(8, 0.02))
    prints = {m.fingerprint for m in (plain, refined, model(GuidedFilter(9, 0.02)), model(GuidedFilter(8, 0.03)))}
    prints.add(model(GuidedFilter(8, 0.02, 1)).fingerprint)
    assert len(prints) == 5
    assert not torch.equal(plain.maps(frames), refined.maps(frames))
    torch.testing.assert_close(refined.maps(frames), refined.maps(frames, batch_size=2), rtol=0, atol=0)
    assert refined.refined(None).fingerprint == plain.fingerprint
    assert plain.refined(refined.refine).fingerprint == refined.fingerprint
    save_parcels(refined, tmp_path / "parcels.safetensors")
    again = load_parcels(tmp_path / "parcels.safetensors", random_backbone(SPEC))
    assert (again.refine, again.fingerprint) == (refined.refine, refined.fingerprint)
    other = type("Other", (GuidedFilter,), {"to_dict": lambda _: {"kind": "guidde", "radius": 4, "eps": 1.0}})()
    save_parcels(model(other), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="did you mean 'guided'"):
        load_parcels(tmp_path / "other.safetensors", random_backbone(SPEC))
    other = type("Other", (GuidedFilter,), {"to_dict": lambda _: {"kind": "guided", "radius": 4}})()
    save_parcels(model(other), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"refinement .* cannot be read"):
        load_parcels(tmp_path / "other.safetensors", random_backbone(SPEC))


def test_invalid_settings_are_refused():
    for name, value in (("radius", 0), ("eps", 0.0), ("eps", float("nan")), ("subsample", 0)):
        with pytest.raises(ParameterError, match=f"{name} is {value}: give"):
            GuidedFilter(**{name: value})
    for frames in (None, torch.zeros(3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ParameterError, match="refine needs those of the 2 logits"):
            logits_to_maps(torch.zeros(2, 2, 4, 4), 8, frames, GuidedFilter())
