"""Memory of tokens: the tokens of a locked backbone never change, so that a training computes them once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alan.backbone.base import Backbone


class FrameTokens(NamedTuple):
    """Tokens of N frames.

    Attributes:
        tokens: (N, h, w, D) float32.
        sector: (N, h, w) bool, tokens inside the ultrasound sector.
    """

    tokens: Tensor
    sector: Tensor


class TokenMemory:
    """Tokens by frame number, kept in memory.

    If tokens are kept, all of them are rounded to float16, new ones included, so that the tokens of a frame do not
    depend on when they were computed.

    Args:
        room_gb: Largest size of the memory in GB (1e9 bytes); tokens that do not fit are recomputed each time. 0
            disables the memory.
        batch_size: Number of frames that go through the backbone at a time.
    """

    def __init__(self, room_gb: float = 0.0, batch_size: int = 64) -> None:
        self.room = room_gb * 1e9
        self.batch_size = batch_size
        self.used = 0
        self._kept: dict[int, FrameTokens] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def __call__(self, backbone: Backbone, frames: Tensor, index: Tensor) -> FrameTokens:
        """Return the tokens of frames, from memory if possible.

        Args:
            backbone: The backbone, the same one in every call.
            frames: (N, S, S) uint8.
            index: (N,) integer numbers of the frames; equal numbers mean equal frames.

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
                known[number] = FrameTokens(tokens[row].clone(), sector[row].clone())
                size = known[number].tokens.nbytes + known[number].sector.nbytes
                if self.used + size <= self.room:
                    self._kept[number] = known[number]
                    self.used += size
        device = backbone.device
        rows = [known[number] for number in numbers]
        return FrameTokens(
            torch.stack([row.tokens for row in rows]).to(device).float(),
            torch.stack([row.sector for row in rows]).to(device),
        )

    def _compute(self, backbone: Backbone, frames: Tensor) -> FrameTokens:
        parts = frames.split(self.batch_size)  # type: ignore[no-untyped-call]
        tokens = torch.cat([backbone(part).tokens for part in parts])
        return FrameTokens(tokens, torch.cat([backbone.sector(part) for part in parts]))
