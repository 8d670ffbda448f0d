"""Multi-crop: geometry and appearance, compared with torchvision and SciPy, and batches with single images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from scipy.ndimage import gaussian_filter1d

from alan.data.augmentation.appearance import Appearance, change_appearance, gaussian_blur
from alan.data.augmentation.multicrop import CropDraw, MultiCrop, crop_grid
from alan.errors import ParameterError
from alan.seeding import step_generator

PLAIN = MultiCrop(global_size=16, local_size=8, n_local=3, flip=0, jitter=0, blur=(0, 0, 0), solarise=(0, 0, 0))
ECHO = replace(
    PLAIN, gamma=0.7, field=0.35, noise=0.08, flip=0.5, jitter=0.8, blur=(1, 0.5, 0.5), solarise=(0, 0.5, 0)
)


@pytest.fixture
def frames():
    coarse = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")[:, 0]
    return (smooth * 255).to(torch.uint8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def box(left, top, width, height, side):
    """Box of a crop given in pixels."""
    return torch.tensor(
        [[width / side, height / side, (2 * left + width) / side - 1, (2 * top + height) / side - 1]]
    )


@pytest.mark.parametrize(("size", "flip"), [(24, False), (12, False), (12, True), (6, False)])
def test_geometry_equals_torchvision_crop_and_resize(frames, size, flip):
    at = box(left=3, top=5, width=24, height=12, side=32)
    if flip:
        at[:, 0] *= -1
    crop = PLAIN.cut(frames[:1], CropDraw(at, Appearance()), size, (0.1, (24 / 32) ** 2)).images[0]
    expected = TF.resized_crop(frames[:1].float() / 255, 5, 3, 12, 24, [size, size], antialias=True)
    expected = expected.flip(-1) if flip else expected
    inner = (slice(None), slice(1, -1), slice(1, -1))  # torchvision repeats the crop's edge, ours sees the frame
    assert (crop[inner] - expected[inner]).abs().max() < 0.03
    assert (crop[inner].flip(-1) - expected[inner]).abs().max() > 0.1  # a mirrored crop exceeds the tolerance


def test_a_crop_of_the_whole_frame_is_the_identity(frames):
    crop = PLAIN.cut(frames, CropDraw(torch.tensor([[1.0, 1, 0, 0]] * 4), Appearance()), 32, (1, 1))
    torch.testing.assert_close(crop.images[:, 0], frames.float() / 255)


def test_the_crop_grid_matches_hand_computed_values():
    grid = crop_grid(torch.tensor([[-0.5, 0.25, 0.1, 0.2]]), 2)
    assert torch.allclose(grid[0, 0, 0], torch.tensor([0.25 + 0.1, -0.125 + 0.2]))
    assert torch.allclose(grid[0, 1, 1], torch.tensor([-0.25 + 0.1, 0.125 + 0.2]))


def test_crops_have_the_documented_order_and_shapes(frames):
    sector = torch.zeros(4, 32, 32, dtype=torch.bool)
    sector[:, 8:24, 8:24] = True
    views = PLAIN(frames * sector, generator(), sector)
    assert views.globals.images.shape == (8, 1, 16, 16)
    assert views.locals.images.shape == (12, 1, 8, 8)
    assert views.globals.sector.dtype == torch.bool
    assert not views.globals.images[~views.globals.sector].gt(0.9).any()
    draws = [PLAIN.draw(4, kind, g) for g in [generator()] for kind in (0, 1)]
    assert torch.equal(views.globals.boxes, torch.cat([draw.boxes for draw in draws]))
    assert replace(PLAIN, n_local=0)(frames, generator()).locals is None
    # row c B + b holds frame b
    flat = torch.arange(4, dtype=torch.uint8)[:, None, None].expand(4, 32, 32) * 50
    values = PLAIN(flat, generator()).locals.images[:, 0, 4, 4] * 255
    torch.testing.assert_close(values, torch.tensor([0.0, 50, 100, 150] * 3))


def test_boxes_stay_within_their_ranges():
    draw = replace(PLAIN, global_scale=(0.3, 0.6), flip=0.25).draw(4000, 0, generator())
    width, height, x, y = draw.boxes.T
    area = width.abs() * height
    assert 0.29 < area.min() < 0.32
    assert 0.58 < area.max() < 0.61
    assert (width.abs() / height).min() > 0.74
    assert (x.abs() + width.abs()).max() <= 1.0001
    assert (y.abs() + height).max() <= 1.0001
    assert abs((width < 0).float().mean() - 0.25) < 0.03


def test_a_batch_equals_its_images_one_by_one(frames):
    sector = frames > 20
    draw = ECHO.draw(4, 1, generator())
    batch = ECHO.cut(frames, draw, 16, (0.4, 1), sector).images
    for i in range(4):
        one = ECHO.cut(frames[i : i + 1], draw.rows(slice(i, i + 1)), 16, (0.4, 1), sector[i : i + 1]).images
        torch.testing.assert_close(one[0], batch[i])


def test_crops_depend_on_the_seed_only(frames):
    first, again, other = (ECHO(frames, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.locals.images, again.locals.images)
    assert not torch.equal(first.locals.images, other.locals.images)
    cpu = torch.device("cpu")
    numbers = [
        torch.rand(1, generator=step_generator(cpu, *key)).item() for key in [(0, 1), (0, 1), (1, 0), (0, 11)]
    ]
    assert numbers[0] == numbers[1]
    assert len(set(numbers)) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flip", 1.0),
        ("global_scale", (0.2, 0.3)),
        ("local_scale", (0.5, 0.9)),
        ("ratio", (2.0, 3.0)),
        ("blur", (1.0, 1.0, 1.0)),
        ("solarise", (1.0, 1.0, 1.0)),
        ("gamma", 0.7),
        ("field", 0.35),
        ("noise", 0.08),
    ],
)
def test_each_switch_changes_the_crops(frames, name, value):
    before, after = PLAIN(frames, generator()), replace(PLAIN, **{name: value})(frames, generator())
    crops = [(before.globals, after.globals), (before.locals, after.locals)]
    if name.endswith("scale"):
        crops = crops[:1] if name.startswith("global") else crops[1:]
    for a, b in crops:
        assert (a.images - b.images).abs().mean() > 1e-3


@pytest.mark.parametrize("name", ["brightness", "contrast", "blur_sigma"])
def test_each_strength_changes_the_crops(frames, name):
    base = replace(PLAIN, jitter=1.0, blur=(1, 1, 1))
    value = (4.0, 5.0) if name == "blur_sigma" else 0.9
    a, b = (m(frames, generator()).globals.images for m in (base, replace(base, **{name: value})))
    assert (a - b).abs().mean() > 1e-3


def test_switches_follow_their_probabilities():
    draw = replace(PLAIN, jitter=0.8, blur=(1, 0.1, 0.5), solarise=(0, 0.2, 0)).draw(4000, 1, generator())
    assert abs((draw.appearance.brightness != 1).float().mean() - 0.8) < 0.03
    assert abs((draw.appearance.blur > 0).float().mean() - 0.1) < 0.03
    assert abs(draw.appearance.solarise.float().mean() - 0.2) < 0.03


def test_jitter_and_solarise_equal_torchvision(frames):
    images = frames[:, None].float() / 255
    factor = torch.tensor([0.6, 0.9, 1.2, 1.4])
    bright = change_appearance(images, Appearance(brightness=factor))
    contrast = change_appearance(images, Appearance(contrast=factor))
    sun = change_appearance(images, Appearance(solarise=factor > 1))
    for i in range(4):
        torch.testing.assert_close(bright[i], TF.adjust_brightness(images[i], factor[i].item()))
        torch.testing.assert_close(contrast[i], TF.adjust_contrast(images[i], factor[i].item()))
        torch.testing.assert_close(sun[i], TF.solarize(images[i], 0.5) if i > 1 else images[i])


def test_blur_equals_scipy_inside_the_sector(frames):
    images = frames[:, None].double() / 255
    sigma = torch.tensor([0.0, 0.5, 1.0, 1.5], dtype=torch.float64)
    blurred = gaussian_blur(images, sigma)
    assert torch.equal(blurred[0], images[0])
    for i in range(1, 4):
        expected = images[i, 0].numpy()
        for axis in (0, 1):
            expected = gaussian_filter1d(expected, sigma[i].item(), axis=axis, truncate=8)
        np.testing.assert_allclose(blurred[i, 0, 12:-12, 12:-12], expected[12:-12, 12:-12], atol=1e-6)
    torch.testing.assert_close(
        gaussian_blur(torch.ones(2, 1, 8, 8), torch.tensor([1.0, 3])), torch.ones(2, 1, 8, 8)
    )


def test_noise_and_gamma_keep_the_outside_black(frames):
    sector = torch.zeros(4, 1, 32, 32, dtype=torch.bool)
    sector[..., :16] = True
    images = frames[:, None].float() / 255 * sector
    draw = Appearance(gamma=torch.full((4,), 0.5), noise=torch.full((4, 32, 32), 0.1), field=torch.ones(4, 3, 3))
    changed = change_appearance(images, draw, sector)
    assert changed[..., 16:].max() == 0
    expected = (images.clamp(min=1e-4) ** 0.5 * torch.e + 0.1).clamp(max=1)
    torch.testing.assert_close(changed[images > 0], expected[images > 0])


@pytest.mark.parametrize(
    "changes",
    [
        {"flip": 1.5},
        {"blur": (0, 2, 0)},
        {"global_scale": (0.5, 1.2)},
        {"ratio": (2, 1)},
        {"noise": -1},
        {"n_local": -1},
    ],
)
def test_invalid_values_are_refused(changes):
    with pytest.raises(ParameterError):
        replace(PLAIN, **changes)
