"""Means of a map beside and within the left ventricle and the left atrium."""

import math

import numpy as np
import pytest
import torch

from alan.backbone import random_backbone
from alan.backbone.base import Backbone
from alan.backbone.conv import ConvSpec
from alan.backbone.region_means import region_means

SPEC = ConvSpec(image_size=32, widths=(4, 8, 6), structures=("la", "myo", "lv"))


def by_hand(deep, lv, la):
    """The means of one frame (C, h, w), place by place."""
    channels, h, w = deep.shape
    heart = column = 0.0
    for i in range(h):
        for j in range(w):
            heart += lv[i, j] + la[i, j]
            column += (lv[i, j] + la[i, j]) * (j + 0.5) / w
    column = (column + 0.1 * 0.5) / (heart + 0.1)
    means = []
    for region in ("left", "right", "lv", "la"):
        total, weights = np.zeros(channels), 0.0
        for i in range(h):
            for j in range(w):
                apart = (j + 0.5) / w - column
                sides = {"left": -apart, "right": apart}
                if region in sides:
                    weight = 1 / (1 + math.exp(-14 * (sides[region] - 1 / 7)))
                else:
                    weight = {"lv": lv, "la": la}[region][i, j]
                total += weight * deep[:, i, j]
                weights += weight
        means.append(total / (weights + (0 if region in ("left", "right") else 0.1)))
    return np.concatenate(means)


def test_means_equal_a_loop_over_places():
    rng = np.random.default_rng(0)
    deep, fine = rng.normal(size=(3, 5, 4, 6)), rng.uniform(size=(2, 3, 1, 8, 12))
    fine[:, 2] *= 1e-6  # a frame without a heart
    found = region_means(*(torch.from_numpy(x) for x in (deep, *fine)))
    coarse = fine.reshape(2, 3, 4, 2, 6, 2).mean((3, 5))
    wanted = [by_hand(deep[n], coarse[0, n], coarse[1, n]) for n in range(3)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)  # the bounds of the sides are in float32
    assert np.abs(found[2, 10:]).max() < 1e-3


def test_sides_follow_the_heart():
    """A map is 1 in its last column, which is right of a heart on the left and within one on the right."""
    deep, heart = torch.zeros(1, 1, 7, 7), torch.zeros(2, 1, 1, 7, 7)
    deep[..., 6], heart[0, ..., 1], heart[1, ..., 6] = 1, 1, 1
    none = torch.zeros_like(heart[0])
    (left, right, lv, la), (_, _, inside, _) = (region_means(deep, lv, none)[0].tolist() for lv in heart)
    assert left < 1e-3
    assert right > 0.2
    assert (lv, la) == (0, 0)
    assert inside == pytest.approx(7 / 7.1)


def test_a_network_that_finds_the_heart_has_means_by_region():
    backbone = random_backbone(SPEC)
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)
    with torch.no_grad():
        deep = backbone.network(SPEC.normalise(torch.from_numpy(frames)[:, None].float() / 255))[-1]
    tissues = backbone.predictions(frames)  # background, la, myo, lv
    wanted = region_means(deep, tissues[:, 3:4], tissues[:, 1:2])
    torch.testing.assert_close(backbone.pooled(frames), wanted)
    assert wanted.shape == (3, 4 * 6)


@pytest.mark.parametrize("structures", [(), ("lv",)])
def test_a_network_that_does_not_has_the_mean(structures):
    backbone = random_backbone(ConvSpec(image_size=32, widths=(4, 8), structures=structures))
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)
    torch.testing.assert_close(backbone.pooled(frames), Backbone.pooled(backbone, frames))
