"""Opening sentences of a report in plain language: what was measured, on whom, and how it compares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alan.data.structures import structure_name
from alan.report.evaluation_tables import structures_of
from alan.report.label_efficiency import efficiency_headline
from alan.report.networks import network_headline
from alan.report.table import interval_cell
from alan.report.words import difference, join_words, origin, patients, percent, phase_name
from alan.words import plural


def headline(results: Mapping[str, Any]) -> list[str]:
    """Write plain sentences for a clinician, one list entry per paragraph.

    Args:
        results: Content of ``results.json``.

    Returns:
        Text without markup. Each mean has its interval, and the text states whether a method is better than the
        atlas.
    """
    paragraphs = []
    if results.get("segmentation"):
        paragraphs += _segmentation(results["segmentation"])
    if results.get("views"):
        paragraphs += _views(results["views"])
    if results.get("label_efficiency"):
        paragraphs += efficiency_headline(results["label_efficiency"])
    return paragraphs


def simulated_stores(results: Mapping[str, Any]) -> list[str]:
    """List the names of the simulated datasets of a run."""
    stores = [
        results[name]["store"] for name in ("segmentation", "views", "label_efficiency") if results.get(name)
    ]
    return list(dict.fromkeys(store["name"] for store in stores if store["simulated"]))


def _find(rows: list[dict[str, Any]], **wanted: str) -> dict[str, Any] | None:
    return next((row for row in rows if all(row[name] == value for name, value in wanted.items())), None)


def _segmentation(summary: Mapping[str, Any]) -> list[str]:
    label, test, store = summary["label"], summary["test"], summary["store"]
    structures = structures_of(summary)
    names = join_words([f"the {structure_name(structure)}" for structure in structures])
    views = join_words(list(test["views"])) or "view unknown"
    others = patients(label["patients"], store, "other")
    lead = (
        f"{names[:1].upper()}{names[1:]} {'was' if len(structures) == 1 else 'were'} outlined on "
        f"{plural(test['frames'], 'test frame')} ({views}) of {patients(test['patients'], store)} "
        f"({store['name']}) "
    )
    networks, how = [row["method"] for row in summary["networks"]], origin(store)
    if summary["white_boxes"]:
        lead += (
            f"from parcels, image regions that a network found without labels. The {how} outlines of {others} "
            "determined which parcels were selected. "
        )
        if networks:
            lead += f"Networks trained on {how} outlines were also measured: {join_words(networks)}. "
    elif networks:
        lead += f"by networks that were trained on the {how} outlines of other patients: {join_words(networks)}. "
    else:
        lead += f"by the average outline of {others}. "
    lead += f"The Dice score measures how well an outline agrees with the {how} one; 100% is perfect."
    if summary["against_atlas"]:
        lead += " Each method is compared with the atlas, an average outline that ignores the image."
    return [lead, *(_structure(summary, structure) for structure in structures), *network_headline(summary)]


def _structure(summary: Mapping[str, Any], structure: str) -> str:
    name = structure_name(structure).capitalize()
    example = summary["example_methods"].get(structure)
    if example is None and not any(box["structure"] == structure for box in summary["white_boxes"]):
        return f"{name}: measured for the atlas only, see the tables."
    if example is None:
        return (
            f"{name}: no rule selected a parcel, so nothing was outlined. The tables show which threshold the "
            "nearest parcel missed."
        )
    parts, missing, verdicts = [], [], []
    for phase in summary["test"]["phases"]:
        row = _find(summary["rows"], structure=structure, phase=phase, **example)
        if row is None or not row["metrics"]:
            missing.append(phase_name(phase))
            continue
        cell = interval_cell(row["metrics"]["dice"])
        of = f" (95% interval {cell.detail})" if cell.detail else ""
        parts.append(f"{cell.text}% at {phase_name(phase)}{of}")
        against = _find(summary["against_atlas"], structure=structure, phase=phase, **example)
        if against is not None:
            verdicts.append(f"{difference(against['dice'])} at {phase_name(phase)}")
    by = "" if example["rule"] else f" by {example['method']}"
    text = f"{name}{by}: Dice {join_words(parts)}."
    if missing:
        text += f" At {join_words(missing)} no parcel was selected."
    if verdicts:
        text += f" Compared with the atlas: {join_words(verdicts)}."
    return text


def _views(summary: Mapping[str, Any]) -> list[str]:
    own = [row for row in summary["rows"] if row["kind"] == "backbone"]
    if not own:
        return []
    row, test = own[-1], summary["test"]
    cell = interval_cell(row["total"])
    of = f" (95% interval {cell.detail})" if cell.detail else ""
    text = (
        f"The view of {plural(test['images'], 'test image')} of {patients(test['patients'], summary['store'])} "
        f"was recognised in {cell.text}%{of} by comparison with the {row['k']} most similar training images. The "
        f"mean over the views is {percent(row['balanced']['mean'])}%."
    )
    for kind, what in (("pixels", "plain pixels without a network"), ("random", "an untrained network")):
        other = [other for other in summary["rows"] if other["kind"] == kind and other["k"] == row["k"]]
        if other:
            text += f" {what.capitalize()}: {percent(other[0]['total']['mean'])}%."
    return [text]
