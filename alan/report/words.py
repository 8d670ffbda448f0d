"""Numbers and names in words, the same everywhere in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

STRUCTURES = {
    "lv": "left ventricle",
    "myo": "myocardium",
    "la": "left atrium",
    "rv": "right ventricle",
    "ra": "right atrium",
    "ao": "aorta",
    "lv+myo": "left ventricle with its wall",
}
#: Kinds of methods, in the order in which they are shown.
KINDS = ("parcels", "ensemble", "network", "k-means", "random", "atlas")
PHASES = {"ED": "end diastole", "ES": "end systole"}
RULES = {"paper": "paper’s", "relaxed": "relaxed", "greedy": "greedy", "beta": "Beta", "": "–"}
UNDEFINED = "–"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage without the sign, ``72.1``; a dash where it is undefined."""
    return UNDEFINED if value is None else f"{100 * value:.{digits}f}"


def number(value: float | None, digits: int = 1) -> str:
    """A number with a real minus, or a dash where it is undefined."""
    return UNDEFINED if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 1) -> str:
    """A share's difference in points with its sign, ``+3.1`` or ``−0.4`` (a real minus)."""
    return UNDEFINED if value is None else f"{100 * value:+.{digits}f}".replace("-", "−")


def interval(value: Mapping[str, Any] | None, style: str = "percent") -> dict[str, str]:
    """An interval in two parts for a table cell.

    Args:
        value: a dictionary of an :class:`alan.evaluation.intervals.Interval`, or None where nothing was measured.
        style: ``percent``, ``number`` or ``signed``.

    Returns:
        ``mean`` and ``range`` (``70.2 to 74.0``, or empty where there is no interval).
    """
    show = {"percent": percent, "number": number, "signed": signed}[style]
    if value is None or value["mean"] is None:
        return {"mean": UNDEFINED, "range": ""}
    if value["low"] is None:
        return {"mean": show(value["mean"]), "range": ""}
    return {"mean": show(value["mean"]), "range": f"{show(value['low'])} to {show(value['high'])}"}


def difference(value: Mapping[str, Any]) -> str:
    """How a paired difference of shares compares, without more certainty than its interval has."""
    mean, low, high = value["mean"], value["low"], value["high"]
    if mean is None:
        return "not comparable"
    points = f"{abs(100 * mean):.1f} points"
    if low is None or low <= 0 <= high:
        return f"no clear difference ({points} {'better' if mean > 0 else 'worse'})"
    return f"{points} {'better' if mean > 0 else 'worse'}"


def plural(n: int, one: str, many: str = "") -> str:
    """``1 patient``, ``2 patients``, ``1,041 images``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def listed(parts: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else list(parts))


def method_label(method: str, rule: str) -> str:
    """A method with its rule, as the axis of a chart names it."""
    return f"{method} · {RULES.get(rule, rule)} rule" if rule else method
