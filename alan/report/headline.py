"""The first sentences of the report, in plain language: what was measured, on whom, and how it compares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alan.report.label_efficiency import efficiency_headline
from alan.report.networks import network_headline
from alan.report.words import PHASES, STRUCTURES, difference, interval, listed, percent, plural


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
        f"{'was' if len(structures) == 1 else 'were'} outlined "
    )
    networks = [row["method"] for row in summary.get("networks", [])]
    if summary["white_boxes"]:
        lead += (
            "by joining parcels: image regions that a network found without any labels. Which parcels to join was "
            f"learnt from the manual outlines of {plural(label['patients'], 'other patient')}. "
        )
        if networks:
            lead += f"Beside them stand networks that learnt every pixel from outlines: {listed(networks)}. "
    elif networks:
        lead += f"by networks that learnt every pixel from outlines of other patients: {listed(networks)}. "
    else:
        lead += f"by the average outline of {plural(label['patients'], 'other patient')}. "
    lead += "Agreement with the manual outline is given as the Dice score (100% is perfect)"
    if summary["against_atlas"]:
        lead += ", and compared with an atlas, an average outline that never looks at the image"
    paragraphs = [f"{lead}.", *(_structure(summary, structure) for structure in structures)]
    return paragraphs + network_headline(summary)


def _structure(summary: Mapping[str, Any], structure: str) -> str:
    name = STRUCTURES.get(structure, structure).capitalize()
    shown = summary["example_methods"].get(structure)
    if shown is None and not any(box["structure"] == structure for box in summary["white_boxes"]):
        return f"{name}: outlined by the atlas alone, see the tables."
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
            verdicts.append(f"{difference(against['dice'])} at {PHASES.get(phase, phase)}")
    by = "" if shown["rule"] else f" by {shown['method']}"
    text = f"{name}{by}: {listed(parts)}."
    if verdicts:
        text += f" Against the atlas: {listed(verdicts)}."
    return text


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
