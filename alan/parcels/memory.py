"""Tokens of a locked backbone, computed once: they never change, so training a head need not compute them anew."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alan.backbone.locked import Backbone


class Tokens(NamedTuple):
    """Tokens of N frames.

    Attributes:
        tokens: (N, h, w, D) float32.
        sector: (N, h, w) bool, the tokens that see the ultrasound sector.
    """

    tokens: Tensor
    sector: Tensor


class TokenMemory:
    """Tokens by frame number, in memory.

    With room for anything, tokens are rounded to float16, kept and new ones alike, so that a frame's tokens do not
    depend on when they were computed.

    Args:
        room_gb: bytes to keep at most, in GB (1e9); what comes when it is full is
            computed every time. 0: keep none.
        batch_size: frames that go through the backbone at a time.
    """

    def __init__(self, room_gb: float = 0.0, batch_size: int = 64) -> None:
        self.room = room_gb * 1e9
        self.batch_size = batch_size
        self.used = 0
        self._kept: dict[int, Tokens] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def __call__(self, backbone: Backbone, frames: Tensor, index: Tensor) -> Tokens:
        """Tokens of frames, from memory where they are known.

        Args:
            backbone: always the same one.
            frames: (N, S, S) uint8.
            index: (N,) integer; equal numbers are equal frames.

        Returns:
            Tokens on the device of the backbone.
        """
        if not self.room:
            return self._compute(backbone, frames)
        numbers: list[int] = index.tolist()
        known = {number: self._kept[number] for number in numbers if number in self._kept}
        missing = {number: place for place, number in enumerate(numbers) if number not in known}
        if missing:
            fresh = self._compute(backbone, frames[list(missing.values())])
            tokens, sector = fresh.tokens.half().cpu(), fresh.sector.cpu()
            for row, number in enumerate(missing):
                known[number] = Tokens(tokens[row].clone(), sector[row].clone())
                size = known[number].tokens.nbytes + known[number].sector.nbytes
                if self.used + size <= self.room:
                    self._kept[number] = known[number]
                    self.used += size
        device = backbone.device
        rows = [known[number] for number in numbers]
        return Tokens(
            torch.stack([row.tokens for row in rows]).to(device).float(),
            torch.stack([row.sector for row in rows]).to(device),
        )

    def _compute(self, backbone: Backbone, frames: Tensor) -> Tokens:
        parts = frames.split(self.batch_size)  # type: ignore[no-untyped-call]
        tokens = torch.cat([backbone(part).tokens for part in parts])
        return Tokens(tokens, torch.cat([backbone.sector(part) for part in parts]))
