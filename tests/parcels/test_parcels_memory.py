"""The token memory and the monitor of parcels in use."""

import math

import pytest
import torch

from alan.backbone.load import random_backbone
from alan.backbone.vit import VitSpec
from alan.parcels.training import TokenMemory
from alan.parcels.usage import parcel_collapse, parcel_usage

SPEC = VitSpec(image_size=32, patch_size=8, in_chans=1, dim=16, depth=1, heads=2)
FRAME_BYTES = 4 * 4 * 16 * 2 + 4 * 4


def frames(n=6):
    out = torch.randint(20, 255, (n, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    out[:, :, 20:] = 0
    return out


class Counting:
    """Count the frames that go through a backbone."""

    def __init__(self, backbone):
        self.backbone, self.device, self.sector = backbone, backbone.device, backbone.sector
        self.seen = 0

    def __call__(self, batch):
        self.seen += len(batch)
        return self.backbone(batch)


def test_frames_are_computed_once_and_returned_in_order():
    backbone = Counting(random_backbone(SPEC))
    memory, x = TokenMemory(1.0, batch_size=2), frames()
    expected = backbone.backbone(x).tokens
    for index in ([0, 1, 2], [2, 0, 3], [5, 4, 4, 1]):
        found = memory(backbone, x[index], torch.tensor(index))
        torch.testing.assert_close(found.tokens, expected[index].half().float(), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.sector, backbone.sector(x[index]), rtol=0, atol=0)
    assert backbone.seen == 6 == len(memory)
    assert memory.used == 6 * FRAME_BYTES


def test_the_memory_limit_holds_and_does_not_change_the_tokens():
    backbone, x = Counting(random_backbone(SPEC)), frames()
    memory, roomy = TokenMemory(2.5 * FRAME_BYTES / 1e9), TokenMemory(1.0)
    for _ in range(2):
        small, large = (m(backbone, x, torch.arange(6)).tokens for m in (memory, roomy))
        torch.testing.assert_close(small, large, rtol=1e-3, atol=1e-3)
    assert len(memory) == 2
    assert backbone.seen == (6 + 4) + 6


def test_tokens_are_exact_without_memory():
    backbone, x = Counting(random_backbone(SPEC)), frames()
    memory = TokenMemory()
    for _ in range(2):
        found = memory(backbone, x, torch.arange(6)).tokens
        torch.testing.assert_close(found, backbone.backbone(x).tokens, rtol=0, atol=0)
    assert backbone.seen == 12
    assert len(memory) == 0


def test_parcel_usage_matches_hand_computed_values():
    ids = torch.tensor([0] * 500 + [1] * 499 + [2])  # the third holds 0.1%
    usage = parcel_usage(ids.view(10, 100), 5)
    entropy = -sum(p * math.log(p) for p in (0.5, 0.499, 0.001))
    assert usage.in_use == 2
    assert usage.perplexity == pytest.approx(math.exp(entropy))
    assert parcel_usage(torch.arange(64), 64).perplexity == pytest.approx(64)
    assert math.isnan(parcel_usage(torch.zeros(0, dtype=torch.long), 5).perplexity)


def test_a_collapse_is_fewer_than_a_tenth_of_the_parcels():
    assert parcel_collapse(parcel_usage(torch.arange(2), 20), 20) == ""
    verdict = parcel_collapse(parcel_usage(torch.arange(2), 21), 21)
    assert verdict.startswith("2 of 21 parcels are in use")
    assert "sector_only" in verdict
