"""The figure, the table and the sentences of label efficiency, from results small enough to check by eye."""

import re

import numpy as np
import pytest

from alan.evaluation.results import RESULTS
from alan.files import write_json, write_text
from alan.report import figures
from alan.report.html import write_report
from alan.report.label_efficiency import (
    efficiency_alternative,
    efficiency_figure,
    efficiency_headline,
    efficiency_tables,
    failure_notes,
    time_table,
)
from alan.runs import CONFIG

NUMBERS = (1, 5, 20, 299)
#: Mean Dice of the LV by number of patients.
CURVES = {
    ("parcels, greedy", "rule"): (0.70, 0.78, 0.80, 0.81),
    ("linear on tokens", "linear"): (0.72, 0.80, 0.86, 0.88),
    ("decoder on tokens", "decoder"): (0.76, 0.86, 0.90, 0.92),
    ("U-Net", "network"): (0.40, 0.79, 0.88, 0.93),
    ("U-Net <from simulation>", "network"): (0.75, 0.85, 0.90, 0.93),
    ("atlas", "atlas"): (0.62, 0.70, 0.72, 0.72),
}

FAMILY = {"rule": "parcels", "network": "network", "atlas": "atlas"}
FIXED = {"label": "a fixed network", "family": "fixed", "pretrained": False}


def row(method, kind, n, structure, phase, mean, seeds=3):  # noqa: PLR0917
    sd = None if seeds == 1 else 0.02
    ends = {"lowest": mean - 0.02, "highest": mean + 0.02, "low": mean - 0.04, "high": mean + 0.04}
    names = {"method": method, "kind": kind, "label_patients": n, "structure": structure, "phase": phase}
    return {**names, "mean": mean, "sd": sd, "seeds": seeds, **ends}


@pytest.fixture
def summary():
    rows = [
        row(method, kind, n, structure, phase, mean - 0.1 * (structure == "la") - 0.02 * (phase == "ES"))
        for (method, kind), means in CURVES.items()
        for n, mean in zip(NUMBERS, means, strict=True)
        for structure in ("lv", "la")
        for phase in ("ED", "ES", "both")
    ]
    rows += [row("fixed", "segmenter", 0, s, p, 0.83, 1) for s in ("lv", "la") for p in ("ED", "ES", "both")]
    split = {"patients": 310, "frames": 598, "views": {"A4C": 598}, "phases": {"ED": 299, "ES": 299}}
    return {
        "store": {
            "name": "CAMUS",
            "fingerprint": "f" * 64,
            "size": 112,
            "skipped": {"no mask": 2},
            "simulated": False,
        },
        "leaks": "",
        "label": split,
        "test": {**split, "patients": 50, "frames": 100},
        "structures": ["lv", "la"],
        "seeds": [0, 1, 2],
        "largest_component": True,
        "phases": ["ED", "ES", "both"],
        "methods": [
            {
                "method": method,
                "kind": kind,
                "label": f"a {kind}",
                "family": FAMILY.get(kind, "probe"),
                "pretrained": "simulation" in method,
                "seconds": {str(n): n / 3 for n in NUMBERS},
            }
            for method, kind in CURVES
        ]
        + [{"method": "fixed", "kind": "segmenter", **FIXED, "seconds": {"0": 4.0}}],
        "rows": rows,
        "notes": [
            {"method": "parcels, greedy", "label_patients": 1, "seed": s, "structure": "la", "reason": "too few"}
            for s in (0, 2)
        ]
        + [{"method": "U-Net", "label_patients": 5, "seed": 1, "structure": "", "reason": "the loss is nan"}],
    }


def test_the_legend_names_every_line(summary):
    figure = efficiency_figure(summary)
    assert len(figure.axes) == 2
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(named) == sorted([name for name, _ in CURVES] + ["fixed"])
    for axes in figure.axes:
        assert sorted(line.get_label() for line in axes.lines) == sorted([name for name, _ in CURVES] + ["fixed"])
        assert axes.get_xscale() == "log"
        assert [label.get_text() for label in axes.get_xticklabels()] == [str(n) for n in NUMBERS]
    lines = {line.get_color(): line for line in figure.axes[0].lines}
    assert len(lines) == len(CURVES) + 1
    np.testing.assert_allclose(lines["#8A939B"].get_ydata(), CURVES["atlas", "atlas"])
    bands = figure.axes[0].collections
    assert len(bands) == len(CURVES)
    assert bands[0].get_datalim(figure.axes[0].transData).y0 == pytest.approx(0.68)


def test_a_missing_cell_leaves_a_gap(summary):
    for one in summary["rows"]:
        if (one["method"], one["label_patients"]) == ("U-Net", 5):
            one.update(dict.fromkeys(("mean", "sd", "lowest", "highest", "low", "high")))
    drawn = efficiency_figure(summary).axes[0].lines
    assert sorted({len(line.get_xdata()) for line in drawn}) == [2, 3, 4]  # the fixed line, the gap, the others
    rows = efficiency_tables(summary)[0].sections[0].rows
    assert (rows[3].cells[2].text, rows[3].cells[2].detail) == ("–", "")
    summary["phases"] = ["ED"]
    assert len(efficiency_tables(summary)) == 1


def test_the_table_lists_every_method(summary):
    tables = efficiency_tables(summary)
    assert [table.title for table in tables] == [
        "Dice, %, both phases",
        "Dice, %, end-systole",
        "Dice, %, end-diastole",
    ]
    assert [column.title for column in tables[0].columns[1:]] == ["0", *map(str, NUMBERS)]
    assert [section.title for section in tables[0].sections] == ["Left ventricle", "Left atrium"]
    rows = {row.name: row for row in tables[0].sections[0].rows}
    assert (rows["U-Net"].cells[1].text, rows["U-Net"].cells[1].detail) == ("40.0", "± 2.0")
    assert rows["U-Net"].cells[0].text == ""
    assert (rows["fixed"].cells[0].text, rows["fixed"].cells[0].detail) == ("83.0", "")
    assert rows["fixed"].detail == "a fixed network"
    assert [cell.text for cell in time_table(summary).rows[0].cells] == ["", "0.3", "1.7", "6.7", "100"]
    assert len({row.colour for row in rows.values()}) == len(rows)


def test_the_alternative_text_contains_the_figures(summary):
    text = efficiency_alternative(summary)
    assert "Left ventricle: parcels, greedy 70.0% with 1 and 81.0% with 299;" in text
    assert "fixed 83.0% with 0." in text


def test_methods_without_parcels_are_mentioned(summary):
    assert failure_notes(summary) == [
        "parcels, greedy, left atrium: nothing outlined, Dice 0 (1 patient: seed 0 and 2). First reason: too few",
        "U-Net, failed, no value (5 patients: seed 1). First reason: the loss is nan",
    ]


def test_the_sentences_state_the_findings(summary):
    lead, lv, _ = efficiency_headline(summary)
    assert "up to 299 patients (CAMUS)" in lead
    assert "50 other patients" in lead
    assert lv == (
        "Left ventricle: “U-Net” is better than “parcels, greedy” with 5 or more labelled patients; than “linear "
        "on tokens” with 20 or more labelled patients; than “decoder on tokens” with 299 or more labelled "
        "patients."
    )
    low = [r for r in summary["rows"] if r["method"] == "U-Net"]
    for one in low:
        one["mean"] = 0.1
    assert efficiency_headline(summary)[1] == (
        "Left ventricle: “U-Net” is not better than “parcels, greedy”, “linear on tokens” and “decoder on tokens” "
        "with up to 299 labelled patients."
    )
    for one in low:
        one["mean"] = 0.99
    assert efficiency_headline(summary)[1] == (
        "Left ventricle: “U-Net” is better than “parcels, greedy”, “linear on tokens” and “decoder on tokens” "
        "with any number of labelled patients."
    )
    next(
        one for one in low if (one["structure"], one["label_patients"]) == ("lv", 299) and one["phase"] == "both"
    )["mean"] = 0.90
    assert "It is not better than “decoder on tokens” with up to 299" in efficiency_headline(summary)[1]
    summary["methods"] = [m for m in summary["methods"] if m["family"] != "network"]
    assert len(efficiency_headline(summary)) == 1


def test_the_page_shows_figure_and_table(summary, tmp_path):
    provenance = {"created": "2026-01-01T00:00:00", "command": "alan", "system": "x", "versions": {}, "inputs": {}}
    provenance["versions"] = {"alan": "0"}
    results = {"schema": "alan-results/2", "title": "Labels", "label_efficiency": summary, "curves": {}}
    write_json(tmp_path / RESULTS, {**results, "provenance": provenance})
    write_text(tmp_path / CONFIG, "title: Labels\n")
    page = write_report(tmp_path).read_text()
    assert "U-Net &lt;from simulation&gt;" in page
    assert "<from simulation>" not in page
    assert page.count("data:image/png;base64,") == 1
    assert "no mask" in page
    for outside in ("http://", "https://", "<script", 'src="figures', "<link", "@import", "url("):
        assert outside not in page
    picture = (tmp_path / "figures" / "label_efficiency.svg").read_text()
    assert "parcels, greedy" in picture  # text stays text
    assert "<image" not in picture
    assert re.search(rb"^\x89PNG", (tmp_path / "figures" / "label_efficiency.png").read_bytes())
    assert figures.svg(efficiency_figure(summary)) == figures.svg(efficiency_figure(summary))
    summary["leaks"] = "Made by image."
    write_json(tmp_path / RESULTS, {**results, "provenance": provenance})
    assert "Made by image." in write_report(tmp_path).read_text()
