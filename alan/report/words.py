"""Names and numbers as the report shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alan.data.structures import structure_name
from alan.words import plural

#: Kinds of methods in the order of the tables, with colours by Okabe and Ito for colour-blind readers.
KIND_COLOURS = {
    "parcels": "#0072B2",
    "backbone": "#0072B2",
    "ensemble": "#D55E00",
    "network": "#CC79A7",
    "k-means": "#009E73",
    "random": "#E69F00",
    "atlas": "#555555",
    "pixels": "#555555",
}
PHASES = {"ED": "end-diastole", "ES": "end-systole"}
RULES = {"paper": "paper’s", "relaxed": "relaxed", "greedy": "greedy", "beta": "Beta", "": "–"}
UNDEFINED = "–"


def percent(value: float | None, digits: int = 1) -> str:
    """Format a share as a percentage without the sign, ``72.1``; a dash if it is undefined."""
    return UNDEFINED if value is None else f"{100 * value:.{digits}f}"


def number(value: float | None, digits: int = 1) -> str:
    """Format a number with a typographic minus; a dash if it is undefined."""
    return UNDEFINED if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None) -> str:
    """Format a difference of shares in percentage points with its sign, ``+3.1`` or ``−0.4``."""
    return UNDEFINED if value is None else f"{100 * value:+.1f}".replace("-", "−")


def difference(value: Mapping[str, Any]) -> str:
    """Describe a paired difference of shares, with no more certainty than its interval has."""
    mean, low, high = value["mean"], value["low"], value["high"]
    if mean is None:
        return "not comparable"
    points = f"{abs(100 * mean):.1f} points"
    if low is None or low <= 0 <= high:
        return f"no clear difference ({points} {'better' if mean > 0 else 'worse'})"
    return f"{points} {'better' if mean > 0 else 'worse'}"


def patients(n: int, store: Mapping[str, Any], adjective: str = "") -> str:
    """Format a number of patients: ``3 other patients``, ``3 other simulated patients``.

    Args:
        n: Their number.
        store: The ``store`` of a part of ``results.json``.
        adjective: Word before the noun.
    """
    words = (adjective, "simulated" if store["simulated"] else "", "patient")
    return plural(n, " ".join(filter(None, words)))


def join_words(parts: Sequence[str]) -> str:
    """Join texts: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else list(parts))


def method_label(method: str, rule: str) -> str:
    """Format a method with its selection rule."""
    return f"{method}, {RULES.get(rule, rule)} rule" if rule else method


def phase_name(phase: str) -> str:
    """Return the full name of a phase: ``end-diastole`` for ``ED``."""
    return PHASES.get(phase, phase)


def where(structure: str, phase: str) -> str:
    """Format a structure at a phase: ``left ventricle at end-diastole``; the phase may be empty."""
    return f"{structure_name(structure)} at {phase_name(phase)}" if phase else structure_name(structure)


def origin(store: Mapping[str, Any]) -> str:
    """Name the origin of the outlines of a dataset: people, or the simulator."""
    return "simulated" if store["simulated"] else "manual"
