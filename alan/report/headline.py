"""The first sentences of the report, in plain language: what was measured, on whom, and how it compares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alan.report.efficiency import efficiency_headline
from alan.report.words import PHASES, STRUCTURES, interval, listed, percent, plural


def headline(results: Mapping[str, Any]) -> list[str]:
    """Plain sentences for a clinician, one list entry a paragraph.

    Args:
        results: content of ``results.json``.

    Returns:
        Text without markup. Nothing in it is more certain than the measurements: each mean comes with its
        interval, and a method that does not pass the atlas is said not to.
    """
    paragraphs = []
    if results.get("segmentation"):
        paragraphs += _segmentation(results["segmentation"])
    if results.get("views"):
        paragraphs += _views(results["views"])
    if results.get("label_efficiency"):
        paragraphs += efficiency_headline(results["label_efficiency"])
    return paragraphs


def _find(rows: list[dict[str, Any]], **wanted: str) -> dict[str, Any] | None:
    return next((row for row in rows if all(row[name] == value for name, value in wanted.items())), None)


def _segmentation(summary: Mapping[str, Any]) -> list[str]:
    label, test = summary["label"], summary["test"]
    structures = list(dict.fromkeys(row["structure"] for row in summary["rows"]))
    names = listed([f"the {STRUCTURES.get(s, s)}" for s in structures])
    views = listed(list(test["views"])) or "unknown view"
    lead = (
        f"On {plural(test['frames'], 'frame')} ({views}) of {plural(test['patients'], 'patient')} of "
        f"{summary['store']['name']} that were kept aside for testing, {names} "
        f"{'was' if len(structures) == 1 else 'were'} outlined by joining parcels: image regions that a network "
        f"found without any labels. Which parcels to join was learnt from the manual outlines of "
        f"{plural(label['patients'], 'other patient')}. Agreement with the manual outline is given as the Dice "
        "score (100% is perfect), and compared with an atlas, an average outline that never looks at the image."
    )
    return [lead, *(_structure(summary, structure) for structure in structures)]


def _structure(summary: Mapping[str, Any], structure: str) -> str:
    name = STRUCTURES.get(structure, structure).capitalize()
    shown = summary["shown"].get(structure)
    if shown is None:
        return (
            f"{name}: no selection rule found parcels that make it up, so nothing was outlined. The tables say "
            "which threshold the nearest candidate missed."
        )
    parts, verdicts = [], []
    for phase in summary["test"]["phases"]:
        row = _find(summary["rows"], structure=structure, phase=phase, **shown)
        if row is None or not row["metrics"]:
            continue
        cell = interval(row["metrics"]["dice"])
        of = f" (95% interval {cell['range']})" if cell["range"] else ""
        parts.append(f"{cell['mean']}% at {PHASES.get(phase, phase)}{of}")
        against = _find(summary["against_atlas"], structure=structure, phase=phase, **shown)
        if against is not None:
            verdicts.append(f"{_verdict(against['dice'])} at {PHASES.get(phase, phase)}")
    text = f"{name}: {listed(parts)}."
    if verdicts:
        text += f" Against the atlas: {listed(verdicts)}."
    return text


def _verdict(difference: Mapping[str, Any]) -> str:
    """How a paired difference compares, without more certainty than its interval has."""
    mean, low, high = difference["mean"], difference["low"], difference["high"]
    if mean is None:
        return "not comparable"
    points = f"{abs(100 * mean):.1f} points"
    if low is None or low <= 0 <= high:
        return f"no clear difference ({points} {'better' if mean > 0 else 'worse'})"
    return f"{points} {'better' if mean > 0 else 'worse'}"


def _views(summary: Mapping[str, Any]) -> list[str]:
    own = [row for row in summary["rows"] if row["kind"] == "backbone"]
    if not own:
        return []
    row = own[-1]
    cell = interval(row["total"])
    of = f" (95% interval {cell['range']})" if cell["range"] else ""
    text = (
        f"The view of {plural(summary['test']['images'], 'test image')} of "
        f"{plural(summary['test']['patients'], 'patient')} was named correctly in {cell['mean']}%{of} by "
        f"comparing each with its {row['k']} most similar training images; averaged over the views, "
        f"{percent(row['balanced']['mean'])}%."
    )
    for kind, what in (("pixels", "plain pixels without any network"), ("random", "an untrained network")):
        other = [other for other in summary["rows"] if other["kind"] == kind and other["k"] == row["k"]]
        if other:
            text += f" {what.capitalize()}: {percent(other[0]['total']['mean'])}%."
    return [text]
