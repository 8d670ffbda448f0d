"""Time and size that ImageJ writes into the description of a TIFF stack."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from alan.data.io.base import Spacing, known_spacing

_DESCRIPTION, _ACROSS, _DOWN = 270, 282, 283
_BEGIN = "ImageJ="
_MM = {"mm": 1.0, "cm": 10.0, "inch": 25.4} | dict.fromkeys(("micron", "um", "\N{MICRO SIGN}m", "\\u00b5m"), 0.001)


def read_imagej(tags: Mapping[int, Any]) -> tuple[float | None, Spacing | None]:
    """Read the description of ImageJ.

    Args:
        tags: Tags of the first page.

    Returns:
        Seconds from one frame to the next, and (row, column) size of a pixel in mm; None for what is not stated.
    """
    text = str(tags.get(_DESCRIPTION) or "")
    if not text.startswith(_BEGIN):
        return None, None
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    interval, rate = (_number(fields.get(name)) for name in ("finterval", "fps"))
    seconds = interval or (1 / rate if rate else None)
    unit = _MM.get(fields.get("unit", "").strip().lower())
    down, across = (_number(tags.get(tag)) for tag in (_DOWN, _ACROSS))  # pixels per unit
    spacing = known_spacing(unit / down, unit / across) if unit and down and across else None
    return seconds, spacing


def _number(value: Any) -> float | None:
    """Return a positive number, or None."""
    try:
        found = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return found if math.isfinite(found) and found > 0 else None
