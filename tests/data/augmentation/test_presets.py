import pytest
import torch

from alan.data.augmentation.presets import PRESETS, Augmentation
from alan.errors import ParameterError

GEOMETRIC = {"unet_acdc", "ensemble_acdc", "ednas", "echo", "cardiac_mr"}


def ellipses(n=24, size=64):
    """Bright off-centre ellipses (n, 1, size, size) and their labels; the upper half is label 2, the lower 1."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    inside = ((y - 24) / 12) ** 2 + ((x - 36) / 7) ** 2 < 1
    labels = (inside * (1 + (y < 24))).to(torch.uint8)
    return (0.05 + 0.75 * inside.float()).repeat(n, 1, 1, 1), labels.repeat(n, 1, 1)


def apply(preset, seed=0, batch=None):
    images, labels = batch or ellipses()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Augmentation(preset, 3)(images, labels)


def centroid(mask):
    y, x = torch.meshgrid(*(torch.arange(s) for s in mask.shape[1:]), indexing="ij")
    total = mask.sum((1, 2))
    return torch.stack([(mask * y).sum((1, 2)) / total, (mask * x).sum((1, 2)) / total], 1)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_return_the_documented_shapes_and_types(preset):
    images, labels = ellipses()
    kept = images.clone(), labels.clone()
    out, moved = apply(preset, batch=(images, labels))
    assert out.shape == images.shape
    assert out.dtype == torch.float32
    assert 0 <= out.min() <= out.max() <= 1
    assert moved.shape == labels.shape
    assert moved.dtype == torch.uint8
    assert set(moved.unique().tolist()) == {0, 1, 2}
    assert torch.equal(images, kept[0])  # the batch itself is left alone
    assert torch.equal(labels, kept[1])


@pytest.mark.parametrize("preset", PRESETS)
def test_results_depend_on_the_seed(preset):
    first, second, other = apply(preset), apply(preset), apply(preset, seed=1)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(first[0], other[0]) == (preset == "none")


@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_changes_what_it_names(preset):
    images, labels = ellipses()
    out, moved = apply(preset)
    assert torch.equal(out, images) == (preset == "none")
    assert torch.equal(moved, labels) == (preset not in GEOMETRIC)
    if preset != "none":
        assert not torch.equal(out[0], out[1]) or not torch.equal(out[2], out[3])  # drawn for each image


@pytest.mark.parametrize("preset", sorted(GEOMETRIC))
def test_image_and_mask_move_together(preset):
    _, labels = ellipses()
    out, moved = apply(preset)
    bright = out[:, 0] > 0.5 * out.amax((1, 2, 3), keepdim=True)[:, 0]
    there, here = centroid((moved > 0).float()), centroid(bright.float())
    before = centroid((labels > 0).float())
    assert (there - before).norm(dim=1).max() > 2
    apart = (there - here).norm(dim=1)
    assert apart.median() < 0.2
    assert (apart < 1).float().mean() > 0.9  # CLAHE and the gain field light other parts of an image or two


def test_labels_turn_with_the_image():
    """A flip of the picture flips the order of the two labels."""
    _, moved = apply("ednas", seed=3)
    up = centroid((moved == 2).float())[:, 0] < centroid((moved == 1).float())[:, 0]
    assert 0 < up.float().mean() < 1


def test_an_unknown_preset_is_refused():
    with pytest.raises(ParameterError, match="unknown augmentation 'ehco': did you mean 'echo'"):
        Augmentation("ehco", 2)
