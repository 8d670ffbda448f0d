"""Kinds of normalisation by name, without PyTorch: settings of networks and trainings name them."""

from __future__ import annotations

from typing import Literal

#: See :func:`alan.backbone.normalise.normalise`.
Normalisation = Literal["imagenet", "sector", "unit"]
