"""Modules that are never trained."""

from __future__ import annotations

from typing import Self

from torch import nn


class FrozenModule(nn.Module):
    """A module that is always in eval mode, whatever the surrounding module does."""

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode."""
        return super().train(False)
