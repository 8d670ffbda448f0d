"""Names of the normalisations, for settings that are read before PyTorch is imported."""

from __future__ import annotations

from typing import Literal

#: See :func:`alan.backbone.normalise.normalise`.
Normalisation = Literal["imagenet", "sector", "unit"]
