"""Tables and notes of an evaluation's report, made from ``results.json``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from alan.data.structures import structure_name
from alan.downstream.whitebox.table import read_evidence
from alan.evaluation.published import MARK_SEGMENTATION, MARK_VIEWS, published_dice, published_views
from alan.evaluation.scoring import METRICS, VOLUME_METRICS, Metric
from alan.report.table import Cell, Column, Row, Section, Table, interval_cell
from alan.report.words import KIND_COLOURS, RULES, UNDEFINED, join_words, method_label, number, percent, where
from alan.words import plural

_METHOD = Column("Method", number=False)
_EVIDENCE = "Share in the structure, %"
#: Posterior share from which the table of parcels lists a parcel that no labelled frame contains.
_SMALL_SHARE = 0.05
_KINDS = list(KIND_COLOURS)


def structures_of(summary: Mapping[str, Any]) -> list[str]:
    """List the structures of the segmentation part of ``results.json`` in the order of measurement."""
    return list(dict.fromkeys(row["structure"] for row in summary["rows"]))


def heading(metric: Metric) -> str:
    """Format the heading of a metric with its unit."""
    return f"{metric.title}, {metric.unit or '%'}"


def _rule(rule: str) -> str:
    """Format the rule below the name of a method."""
    return f"{RULES[rule]} rule" if rule else ""


def _value(row: Mapping[str, Any], name: str, *, strong: bool = False) -> Cell:
    style = "number" if METRICS[name].unit else "percent"
    return interval_cell(row["metrics"].get(name), style, strong=strong)


def segmentation_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Make the main table of each structure.

    Args:
        summary: The ``segmentation`` part of ``results.json``.

    Returns:
        Tables with the main metrics and the difference to the atlas at each phase.
    """
    phases = list(summary["test"]["phases"])
    return [_main_table(summary, structure, phases) for structure in structures_of(summary)]


def _main_table(summary: Mapping[str, Any], structure: str, phases: Sequence[str]) -> Table:
    main = [name for name, metric in METRICS.items() if metric.main]
    atlas = {
        (row["method"], row["rule"], row["phase"]): row["dice"]
        for row in summary["against_atlas"]
        if row["structure"] == structure
    }
    example = summary["example_methods"].get(structure)
    methods: dict[tuple[str, str], dict[str, Any]] = {}  # method and rule to the rows of its phases
    for row in summary["rows"]:
        if row["structure"] == structure:
            methods.setdefault((row["method"], row["rule"]), {})[row["phase"]] = row
    rows = []
    for (method, rule), by_phase in sorted(methods.items(), key=lambda item: _rank(*item)):
        one = next(iter(by_phase.values()))
        missing = {phase: {"metrics": {}} for phase in phases} | by_phase
        cells = []
        for name in main:
            cells += [_value(missing[phase], name, strong=name == "dice") for phase in phases]
            if name == "dice":
                cells += [interval_cell(atlas.get((method, rule, phase)), "signed") for phase in phases]
        cells.append(Cell(str(sum(row["empty"] for row in by_phase.values()))))
        reasons = list(dict.fromkeys(row["reason"] for row in by_phase.values() if row["reason"]))
        note = f"no parcel selected: {'; '.join(reasons)}" if all(r["reason"] for r in by_phase.values()) else ""
        rows.append(
            Row(
                method,
                [] if note else cells,
                detail=_rule(rule),
                colour=KIND_COLOURS.get(one["kind"], ""),
                highlight={"method": method, "rule": rule} == example,
                note=note,
            )
        )
    columns = [_METHOD]
    for name in main:
        columns += [Column(phase, heading(METRICS[name])) for phase in phases]
        if name == "dice":
            columns += [Column(phase, "Difference to atlas, points") for phase in phases]
    sections = [Section(rows)]
    if published := _published_rows(summary, structure, phases):
        sections.append(Section(published, published=True))
    title = structure_name(structure).capitalize() + (", slice by slice" if summary.get("volumes") else "")
    return Table(title, [*columns, Column("Empty")], sections)


def _rank(key: tuple[str, str], by_phase: Mapping[str, Any]) -> tuple[int, str, int]:
    return (_KINDS.index(next(iter(by_phase.values()))["kind"]), key[0], list(RULES).index(key[1]))


def _published_rows(summary: Mapping[str, Any], structure: str, phases: Sequence[str]) -> list[Row]:
    if not summary["published"]:
        return []
    cells = [cell for cell in published_dice(summary["published"]) if cell.structure == structure]
    rows = []
    for training, k in dict.fromkeys((cell.training, cell.k) for cell in cells):
        by_phase = {cell.phase: cell for cell in cells if (cell.training, cell.k) == (training, k)}
        dice = {p: Cell(percent(cell.mean), f"± {percent(cell.std)} SD") for p, cell in by_phase.items()}
        name, note = f"ALAN trained on {training}, K = {k}", f"{MARK_SEGMENTATION}, n = {cells[0].n}"
        rows.append(Row(name, [dice.get(p, Cell(UNDEFINED)) for p in phases], detail=_rule("paper"), note=note))
    return rows


def metric_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Make the table of all metrics of each structure."""
    titles = [heading(metric) for metric in METRICS.values()]
    counts = ("SD of Dice", "n", "Undefined", "Empty")
    columns = [_METHOD, Column("Phase", number=False), *map(Column, (*titles, *counts))]
    tables = []
    for structure in structures_of(summary):
        rows = []
        for row in summary["rows"]:
            if row["structure"] == structure and row["metrics"]:
                dice = row["metrics"]["dice"]
                texts = (percent(dice["std"]), str(dice["n"]), str(dice["undefined"]), str(row["empty"]))
                values = [_value(row, name) for name in METRICS]
                cells = [Cell(row["phase"]), *values, *map(Cell, texts)]
                rows.append(Row(row["method"], cells, detail=_rule(row["rule"])))
        title = f"{structure_name(structure).capitalize()}, all metrics"
        tables.append(Table(title, columns, [Section(rows)], small=True))
    return tables


def published_note(summary: Mapping[str, Any]) -> str:
    """Explain the published rows, and how their data differ from ours; empty if there are none."""
    if not summary["published"]:
        return ""
    test = summary["test"]
    frames = join_words([f"{n:,} {phase}" for phase, n in test["phases"].items()])
    note = (
        f"Rows marked “{MARK_SEGMENTATION}” are copied from the paper: mean ± standard deviation over its test "
        f"frames (n frames of each phase). Ours were measured on {plural(test['patients'], 'patient')} "
        f"({frames} frames, {join_words(list(test['views'])) or 'view unknown'})"
    )
    if summary["published"] == "camus":
        note += "; the paper’s were A2C and A4C together"
    return f"{note}."


def volume_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Make the table of each structure by volume; empty if volumes were not measured."""
    if not (volumes := summary.get("volumes")):
        return []
    main = {name: metric for name, metric in VOLUME_METRICS.items() if metric.main}
    columns = [_METHOD, Column("Phase", number=False), *(Column(heading(one)) for one in main.values())]
    columns += [Column("Limits of agreement, ml"), Column("Volumes"), Column("Empty")]
    found = []
    for structure in dict.fromkeys(row["structure"] for row in volumes["rows"]):
        rows = []
        for row in volumes["rows"]:
            if row["structure"] == structure:
                values = [
                    interval_cell(row["metrics"][name], "number" if one.unit else "percent", strong=name == "dice")
                    for name, one in main.items()
                ]
                cells = [Cell(row["phase"]), *values, _limits(row["metrics"]["error_ml"])]
                cells += [Cell(str(row["metrics"]["dice"]["n"])), Cell(str(row["empty"]))]
                colour = KIND_COLOURS.get(row["kind"], "")
                rows.append(Row(row["method"], cells, detail=_rule(row["rule"]), colour=colour))
        title = f"{structure_name(structure).capitalize()}, volumes of a patient at a phase"
        found.append(Table(title, columns, [Section(rows)]))
    return found


def _limits(error: Mapping[str, Any]) -> Cell:
    """Format the limits of agreement: the mean error plus and minus 1.96 standard deviations."""
    if error["mean"] is None or error["n"] < 2:
        return Cell(UNDEFINED)
    spread = 1.96 * error["std"] * (error["n"] / (error["n"] - 1)) ** 0.5  # std is divided by n
    return Cell(f"{number(error['mean'] - spread)} to {number(error['mean'] + spread)}")


def ejection_fraction_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Make the tables of the ejection fraction, from outlines in long-axis views and from volumes of slices."""
    found = [ejection_fraction_table(summary)]
    if volumes := summary.get("volumes"):
        found.append(ejection_fraction_table(volumes, "Ejection fraction from the volumes of slices"))
    return [table for table in found if table]


def ejection_fraction_table(
    summary: Mapping[str, Any], title: str = "Ejection fraction from the outlines"
) -> Table | None:
    """Make the table of the ejection fraction; None if it was not measured."""
    if not summary["ejection_fraction"]:
        return None
    titles = (
        "Mean bias, points",
        "Limits of agreement, points",
        "Mean absolute error, points",
        "Median bias, points",
        "Median absolute error, points",
        "Correlation",
        "Loops",
        "Reversed",
        "Undefined",
    )
    rows = []
    for row in summary["ejection_fraction"]:
        limits = (row[f"{end}_limit_of_agreement"]["value"] for end in ("lower", "upper"))
        correlation = row["correlation"]
        ends = [number(correlation[end], 2) for end in ("low", "high")]
        cells = [
            interval_cell(row["mean_bias"], "number"),
            Cell(" to ".join(number(limit) for limit in limits)),
            interval_cell(row["mean_absolute_error"], "number"),
            _quartiles(row["bias_quartiles"]),
            _quartiles(row["absolute_error_quartiles"]),
            Cell(number(correlation["value"], 2), "" if correlation["low"] is None else " to ".join(ends)),
            *(Cell(str(row[name])) for name in ("n", "reversed", "undefined")),
        ]
        rows.append(Row(row["method"], cells, detail=_rule(row["rule"])))
    columns = [_METHOD, *map(Column, titles)]
    return Table(title, columns, [Section(rows)], small=True)


def _quartiles(value: Mapping[str, float]) -> Cell:
    return Cell(number(value["median"]), f"{number(value['q25'])} to {number(value['q75'])}")


def parcel_tables(summary: Mapping[str, Any], models: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Show for the example white boxes why each parcel was or was not selected.

    Args:
        summary: The ``segmentation`` part of ``results.json``.
        models: Mapping from file name in ``models/`` to its content.

    Returns:
        Descriptions of white boxes as in ``results.json``, with ``name``, ``rule`` in words, ``images`` and
        ``table``. The table shows the evidence on the share of each parcel if the file of the white box holds it.
    """
    found = []
    for box in summary["white_boxes"]:
        example = summary["example_methods"].get(box["structure"])
        if box["reason"] or example != {"method": box["method"], "rule": box["rule"]}:
            continue
        selector, name = models[box["file"]]["selector"], where(box["structure"], box["phase"])
        described = {"name": name, "rule": RULES[box["rule"]], "images": selector["images"]}
        found.append({**box, **described, "table": _parcel_table(selector, f"Parcels of the {name}")})
    return found


def _parcel_table(selector: Mapping[str, Any], title: str) -> Table:
    """List the interior parcels first, then the others with evidence from labels or the prior."""
    parcels = sorted(
        (parcel for parcel in selector["parcels"] if parcel["present"] or parcel.get("share", 0) >= _SMALL_SHARE),
        key=lambda parcel: (
            parcel["role"] != "interior",
            -(parcel["mean_overlap"] or parcel.get("share", 0)),
            parcel["id"],
        ),
    )
    columns: dict[Column, Callable[[Mapping[str, Any]], Cell]] = {
        Column("Role", number=False): lambda parcel: Cell(parcel["role"] or UNDEFINED),
        Column("Present in"): lambda parcel: Cell(str(parcel["present"])),
        Column("of frames, %"): lambda parcel: Cell(percent(parcel["presence"], 0)),
        Column("Inside in"): lambda parcel: Cell(str(parcel["inside"])),
        Column("of those, %"): lambda parcel: Cell(percent(parcel["consistency"], 0)),
        Column("Mean overlap, %"): lambda parcel: Cell(percent(parcel["mean_overlap"], 0)),
    }
    for source in ("prior", "expert", "labels"):
        if any(parcel.get(f"{source}_inside") or parcel.get(f"{source}_outside") for parcel in parcels):
            columns[Column(source.capitalize(), _EVIDENCE)] = functools.partial(_evidence, source=source)
    if any(column.group == _EVIDENCE for column in columns):
        columns[Column("Posterior", _EVIDENCE)] = _posterior
    columns[Column("Reason", number=False)] = lambda parcel: Cell(parcel["why"])
    rows = [
        Row(
            str(parcel["id"]),
            [cell(parcel) for cell in columns.values()],
            highlight=parcel["role"] == "interior",
        )
        for parcel in parcels
    ]
    return Table(title, [Column("Parcel"), *columns], [Section(rows)], small=True)


def _evidence(parcel: Mapping[str, Any], source: str) -> Cell:
    """Show the share that one source of evidence gives, and the effective pixels that it counts for."""
    inside, outside = parcel[f"{source}_inside"], parcel[f"{source}_outside"]
    total = inside + outside
    return Cell(percent(inside / total, 0), f"{number(total)} px") if total else Cell(UNDEFINED)


def _posterior(parcel: Mapping[str, Any]) -> Cell:
    """Show the share by all evidence with its 95% credible interval."""
    known = read_evidence(pd.DataFrame([parcel]))
    if not known.known[0]:
        return Cell(UNDEFINED)
    low, high = (percent(end[0], 0) for end in known.interval(0.95))
    return Cell(percent(known.share[0], 0), f"{low} to {high}")


def view_table(summary: Mapping[str, Any]) -> Table:
    """Make the table of accuracies by view.

    Args:
        summary: The ``views`` part of ``results.json``.
    """
    views = summary["views"]
    rows = []
    for row in summary["rows"]:
        cells = [interval_cell(row["by_view"].get(view)) for view in views]
        cells += [interval_cell(row[name], strong=True) for name in ("total", "balanced")]
        rows.append(Row(row["method"], [Cell(str(row["k"])), *cells], colour=KIND_COLOURS.get(row["kind"], "")))
    sections = [Section(rows)]
    if summary["published"]:
        published = [
            Row(
                f"ALAN trained on {line.training}",
                [
                    Cell(str(line.k)),
                    *(Cell(percent(line.accuracy.get(view))) for view in (*views, "total")),
                    Cell(UNDEFINED),
                ],
                detail=f"{MARK_VIEWS}, n = {line.n:,}",
            )
            for line in published_views()
        ]
        sections.append(Section(published, published=True))
    columns = [Column("Features", number=False), Column("k"), *(Column(view, "Accuracy, %") for view in views)]
    columns += [Column("Total", "Accuracy, %"), Column("Balanced", "Accuracy, %")]
    return Table("Views by nearest neighbours", columns, sections)


def published_views_note(summary: Mapping[str, Any]) -> str:
    """Explain the published rows of the view table; empty if there are none."""
    if not summary["published"]:
        return ""
    return (
        f"Rows marked “{MARK_VIEWS}” are copied from the paper (n = 1,041 images). The paper split the data by "
        "image: every test image comes from a study that is also in the training data, so these figures are "
        "optimistic."
    )


def skipped_notes(results: Mapping[str, Any]) -> list[str]:
    """List what was left out, is undefined or found nothing, in one sentence each."""
    parts = [results[name] for name in ("segmentation", "views", "label_efficiency") if results.get(name)]
    notes = [
        f"{part['store']['name']}: {plural(n, 'sample')} left out when the store was made ({reason})"
        for part in parts
        for reason, n in part["store"]["skipped"].items()
    ]
    summary = results.get("segmentation")
    if summary:
        for row in summary["rows"]:
            method, place = method_label(row["method"], row["rule"]), where(row["structure"], row["phase"])
            if row["empty"]:
                notes.append(f"{method}, {place}: nothing predicted in {plural(row['empty'], 'frame')}, Dice 0")
            undefined = row["metrics"]["dice"]["undefined"] if row["metrics"] else 0
            if undefined:
                frames = plural(undefined, "frame")
                notes.append(f"{method}, {place}: Dice undefined in {frames}, since neither outline exists")
        for one in summary["networks"]:
            if one["missing"]:
                names = join_words([structure_name(structure) for structure in one["missing"]])
                notes.append(f"{one['method']}: does not segment the {names}")
        notes += [
            f"{method_label(box['method'], box['rule'])}, {where(box['structure'], box['phase'])}: no parcel "
            f"selected. {box['reason']}"
            for box in summary["white_boxes"]
            if box["reason"]
        ]
    return list(dict.fromkeys(notes))
