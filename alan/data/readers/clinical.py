"""Bounds of clinical values in the tables of archives: a value beyond them is a mistake and is left out."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from alan.data.io.base import RATES

#: Mapping from attribute to the smallest and largest value that a heart or a recording can have, and the unit.
BOUNDS: Mapping[str, tuple[float, float, str]] = {
    "EF": (1.0, 100.0, "%, not a fraction"),
    "EDV": (0.1, 1000.0, "ml"),
    "ESV": (0.1, 1000.0, "ml"),
    "fps": (*RATES, "frames per second"),
}
#: Kind of such a failure.
IMPOSSIBLE = "values that no heart has"


def remove_impossible(attributes: MutableMapping[str, Any]) -> list[str]:
    """Remove values beyond their bounds, and volumes of which the end-systolic one is larger.

    Args:
        attributes: Attributes of a record; changed in place.

    Returns:
        The reason for each removal: name, value, bound.
    """
    reasons = []
    for name, (low, high, unit) in BOUNDS.items():
        value = attributes.get(name)
        if value is not None and not low <= value <= high:
            reasons.append(f"{name} is {attributes.pop(name):g}: give {low:g} to {high:g} {unit}")
    edv, esv = attributes.get("EDV"), attributes.get("ESV")
    if edv is not None and esv is not None and esv > edv:
        reasons.append(f"ESV is {esv:g}: give at most EDV, which is {edv:g} ml")
        for name in ("EDV", "ESV", "EF"):
            attributes.pop(name, None)
    return reasons
