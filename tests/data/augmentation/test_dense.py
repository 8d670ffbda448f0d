"""Joint augmentation of frames and label maps: geometry and random draws."""

import math
from dataclasses import fields, replace

import pytest
import torch

from alan.data.augmentation.dense import DenseAugmentation, warp, warp_labels
from alan.errors import ParameterError
from alan.seeding import step_generator

STILL = DenseAugmentation(**{f.name: 0.0 for f in fields(DenseAugmentation) if f.name != "blur_sigma"})


def generator(*key):
    return step_generator(torch.device("cpu"), *key)


def test_zero_probabilities_change_nothing():
    x = torch.rand(3, 1, 16, 16, generator=generator(0))
    labels = torch.randint(0, 7, (3, 16, 16), generator=generator(1), dtype=torch.uint8)
    grid = STILL.draw_grid(3, 16, generator(2))
    torch.testing.assert_close(warp(x, grid), x)
    assert torch.equal(warp_labels(labels, grid), labels)
    assert warp_labels(labels, grid).dtype == torch.uint8
    torch.testing.assert_close(STILL.change(x, torch.ones_like(x, dtype=torch.bool), generator(3)), x)


@pytest.mark.parametrize("name", [f.name for f in fields(DenseAugmentation) if f.name != "blur_sigma"])
def test_every_strength_changes_the_result(name):
    x = torch.rand(4, 1, 16, 16, generator=generator(0))
    one = replace(STILL, **{name: 0.5})
    sector = torch.ones_like(x, dtype=torch.bool)

    def augmented(augmentation, key):
        rng = generator(key)
        return augmentation.change(warp(x, augmentation.draw_grid(4, 16, rng)), sector, rng)

    assert not torch.allclose(augmented(one, 1), augmented(STILL, 1), atol=1e-3)
    assert torch.equal(augmented(one, 1), augmented(one, 1))
    assert not torch.allclose(augmented(one, 1), augmented(one, 2), atol=1e-3)


def test_blur_sigma_changes_the_result():
    x = torch.rand(4, 1, 16, 16, generator=generator(0))
    sector = torch.ones_like(x, dtype=torch.bool)
    weak, strong = (replace(STILL, blur=1.0, blur_sigma=(s, s)) for s in (0.3, 2.0))
    assert strong.change(x, sector, generator(1)).std() < weak.change(x, sector, generator(1)).std()


def test_geometry_matches_the_moments_of_a_shape():
    """Rotation, scale, shift and stretch of the affine grid have the requested spread."""
    augmentation = replace(STILL, rotation=0.2, scale=0.1, shift=0.3)
    grid = augmentation.draw_grid(4000, 2, generator(0))
    right = (grid[:, 0, 1] - grid[:, 0, 0]) / 1.0  # one pixel of two is 1 in -1..1
    scale, angle = right.norm(dim=1), torch.atan2(right[:, 1], right[:, 0])
    assert scale.mean() == pytest.approx(1, abs=0.01)
    assert scale.std() == pytest.approx(0.1, rel=0.1)
    assert angle.std() == pytest.approx(0.2, rel=0.1)
    assert grid.mean((1, 2)).std(0).tolist() == pytest.approx([0.3, 0.3], rel=0.1)
    grid = replace(STILL, stretch=0.2).draw_grid(4000, 2, generator(0))
    ratio = (grid[:, 0, 1, 0] - grid[:, 0, 0, 0]) / (grid[:, 1, 0, 1] - grid[:, 0, 0, 1])
    assert (ratio.log() / 2).std() == pytest.approx(0.2, rel=0.1)


def test_image_and_labels_move_together():
    """A quarter turn by hand moves the top to the right."""
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    labels[0, 0, 2] = 3
    matrix = torch.tensor([[[math.cos(math.pi / 2), -1.0, 0.0], [1.0, math.cos(math.pi / 2), 0.0]]])
    grid = torch.nn.functional.affine_grid(matrix, [1, 1, 8, 8], align_corners=False)
    turned = warp_labels(labels, grid)
    assert torch.equal(turned[0], labels[0].rot90(1))
    torch.testing.assert_close(warp(labels[:, None].float(), grid)[0, 0], turned[0].float())
    outside = warp_labels(torch.ones(1, 4, 4, dtype=torch.uint8), torch.full((1, 1, 1, 2), 3.0))
    assert outside.item() == 0


def test_the_outside_of_the_sector_stays_black():
    x = torch.rand(2, 1, 16, 16, generator=generator(0))
    sector = torch.zeros_like(x, dtype=torch.bool)
    sector[..., 4:12] = True
    changed = DenseAugmentation().change(x, sector, generator(1))
    assert (changed[~sector] == 0).all()
    assert 0 <= changed.min() <= changed.max() <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rotation": -1}, "rotation is -1"),
        ({"blur": 1.5}, "from 0 to 1"),
        ({"blur_sigma": (2.0, 1.0)}, "lower end first"),
    ],
)
def test_invalid_arguments_are_refused(changes, message):
    with pytest.raises(ParameterError, match=message):
        replace(STILL, **changes)
