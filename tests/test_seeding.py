"""Random numbers that depend on keys, and global generators that are restored."""

import hashlib

import torch

from alan.seeding import seeded, step_generator, step_seed


def test_random_numbers_depend_on_the_key():
    digest = hashlib.sha256(b"(0, 11)").digest()
    assert step_seed(0, 11) == int.from_bytes(digest[:7], "big") < 2**56
    keys = [(0, 1), (0, 1), (1, 0), (0, 11)]
    one, same, *others = (torch.rand(1, generator=step_generator("cpu", *key)).item() for key in keys)
    assert one == same
    assert len({one, *others}) == 3


def test_the_global_generator_is_seeded_and_restored():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with seeded(1, torch.device("cpu")):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(inside, torch.rand(2, generator=torch.Generator().manual_seed(1)))
