"""Random numbers derived from a seed or a key, without changing the state of torch's global generators.

The random numbers of a training step are a function of numbers such as (seed, batch, rank): a resumed run repeats
those of the uninterrupted run without any saved generator state.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def step_seed(*key: int) -> int:
    """Hash a key such as (seed, batch, rank) to a seed of torch, 0 to 2**56 - 1."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:7], "big")


def step_generator(device: torch.device | str, *key: int) -> torch.Generator:
    """Make the generator of a step.

    Args:
        device: Device of the tensors that it will fill.
        *key: Numbers that identify the step, such as (seed, batch, rank).
    """
    import torch  # slow to import

    return torch.Generator(device).manual_seed(step_seed(*key))


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators inside the block and restore them after it.

    Args:
        seed: 0 or more.
        device: CUDA device whose generator is seeded too; None or a CPU device seeds that of the CPU alone.
    """
    import torch

    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield
