from scipy.stats import beta

from alan.report import evaluation_tables as tables

DICE, ATLAS = "Dice, %", "Difference to atlas, points"


def column(table, title, group=""):
    """Main texts of a column, row by row; empty where a row has no such cell."""
    place = next(n for n, one in enumerate(table.columns) if (one.title, one.group) == (title, group))
    texts = [[row.name, *(cell.text for cell in row.cells)] for row in table.rows]
    return [cells[place] if place < len(cells) else "" for cells in texts]


def test_methods_are_ordered_and_the_example_is_highlighted(results):
    (table,) = tables.segmentation_tables(results["segmentation"])
    assert [(row.name, row.detail, row.highlight) for row in table.rows] == [
        ("RAPTOR", "paper’s rule", False),
        ("RAPTOR", "greedy rule", True),
        ("atlas", "", False),
    ]
    assert table.title == "Left ventricle"
    assert table.rows[0].note == "no parcel selected: parcel 3 is 4 points below"
    assert (column(table, "ED", DICE), column(table, "ES", DICE)) == (["", "80.0", "75.0"], ["", "70.0", "71.0"])
    assert column(table, "ED", ATLAS) == ["", "+5.0", "–"]
    assert column(table, "ES", ATLAS) == ["", "−1.0", "–"]
    assert column(table, "ES", "95% Hausdorff, mm") == ["", "9.0", "9.0"]
    assert column(table, "Empty") == ["", "1", "0"]
    assert table.rows[1].cells[0].detail == "75.0 to 85.0"
    assert table.rows[1].cells[0].strong
    (every,) = tables.metric_tables(results["segmentation"])
    assert column(every, "Phase") == ["ED", "ES", "ED", "ES"]
    assert column(every, "IoU, %") == ["75.0", "65.0", "70.0", "66.0"]


def test_a_phase_without_parcels_does_not_hide_the_other(results):
    rows = results["segmentation"]["rows"]
    rows[1] |= {"metrics": {}, "reason": "none at ES"}
    (table,) = tables.segmentation_tables(results["segmentation"])
    assert (column(table, "ED", DICE)[1], column(table, "ES", DICE)[1]) == ("80.0", "–")
    assert table.rows[1].note == ""


def test_every_metric_has_a_column(results, monkeypatch):
    """A new metric needs its declaration and its value, and nothing in the report."""
    monkeypatch.setitem(tables.METRICS, "tilt", tables.Metric("Tilt", "deg", "Angle of the long axis", main=True))
    for row in results["segmentation"]["rows"]:
        row["metrics"] |= {"tilt": {**row["metrics"]["hd95_mm"], "mean": 12.0}} if row["metrics"] else {}
    for table, group in (
        (tables.segmentation_tables(results["segmentation"])[0], "Tilt, deg"),
        (tables.metric_tables(results["segmentation"])[0], ""),
    ):
        texts = column(table, "ED", group) if group else column(table, "Tilt, deg")
        assert "12.0" in texts


def test_published_rows_appear_on_request_and_are_marked(results):
    summary = results["segmentation"]
    assert not [section for section in tables.segmentation_tables(summary)[0].sections if section.published]
    assert tables.published_note(summary) == ""
    summary["published"] = "camus"
    (section,) = [section for section in tables.segmentation_tables(summary)[0].sections if section.published]
    row = section.rows[2]
    assert row.name == "ALAN trained on EchoNet-Dynamic, K = 112"
    assert [(cell.text, cell.detail) for cell in row.cells] == [("80.0", "± 9.0 SD"), ("75.7", "± 9.5 SD")]
    assert {row.note for row in section.rows} == {"published, ALAN paper Table 2, n = 100"}
    note = tables.published_note(summary)
    assert "6 patients (6 ED and 6 ES frames, A4C); the paper’s were A2C and A4C together" in note


def test_the_parcel_table_lists_interior_parcels_first(results):
    def parcel(number, role, present, overlap):
        counts = {"present": present, "inside": 0, "outside": 0, "valve": 0, "presence": 0.5, "consistency": 0.25}
        return {"id": number, **counts, "mean_overlap": overlap, "role": role, "why": f"because {number}"}

    parcels = [
        parcel(0, "exterior", 4, 0.1),
        parcel(1, "", 0, None),
        parcel(2, "interior", 3, 0.6),
        parcel(3, "", 4, 0.9),
    ]
    models = {"lv-raptor-greedy.json": {"selector": {"images": 12, "parcels": parcels}}}
    (box,) = tables.parcel_tables(results["segmentation"], models)
    assert (box["name"], box["images"]) == ("left ventricle", 12)
    assert column(box["table"], "Parcel") == ["2", "3", "0"]
    assert column(box["table"], "of those, %")[0] == "25"
    assert column(box["table"], "Reason")[0] == "because 2"
    assert [row.highlight for row in box["table"].rows] == [True, False, False]


def test_the_parcel_table_shows_the_evidence_of_a_white_box(results):
    def parcel(number, role, share, prior=(0.0, 0.0), labels=(0.0, 0.0)):
        counts = {"present": 0, "inside": 0, "outside": 0, "valve": 0, "presence": None, "consistency": None}
        evidence = dict(zip(("prior_inside", "prior_outside"), prior, strict=True))
        evidence |= {"expert_inside": 0.0, "expert_outside": 0.0}
        evidence |= dict(zip(("labels_inside", "labels_outside"), labels, strict=True))
        return {"id": number, **counts, **evidence, "mean_overlap": None, "share": share, "role": role, "why": ""}

    parcels = [
        parcel(0, "", 0.01, prior=(0.0, 8.0)),
        parcel(1, "interior", 0.75, prior=(6.0, 2.0), labels=(8.5, 2.5)),
        parcel(2, "", 0.3),
    ]
    models = {"lv-raptor-greedy.json": {"selector": {"images": 0, "parcels": parcels}}}
    (box,) = tables.parcel_tables(results["segmentation"], models)
    table, share = box["table"], "Share in the structure, %"
    assert column(table, "Parcel") == ["1", "2"]  # parcel 0 has no label and nearly no share
    assert [one.title for one in table.columns if one.group == share] == ["Prior", "Labels", "Posterior"]
    evidence = {c.title: row for c, row in zip(table.columns[1:], table.rows[0].cells, strict=True)}
    assert (evidence["Prior"].text, evidence["Prior"].detail) == ("75", "8.0 px")
    assert (evidence["Labels"].text, evidence["Labels"].detail) == ("77", "11.0 px")
    low, high = (100 * beta(15, 5).ppf(end) for end in (0.025, 0.975))
    assert (evidence["Posterior"].text, evidence["Posterior"].detail) == ("75", f"{low:.0f} to {high:.0f}")
    assert column(table, "Posterior", share)[1] == "–"


def test_omissions_are_listed_once(results):
    results["segmentation"]["rows"][0]["metrics"]["dice"]["undefined"] = 2
    assert tables.skipped_notes(results) == [
        "CAMUS: 2 samples left out when the store was made (videos that cannot be decoded)",
        "RAPTOR, greedy rule, left ventricle at end-diastole: Dice undefined in 2 frames, since neither outline "
        "exists",
        "RAPTOR, greedy rule, left ventricle at end-systole: nothing predicted in 1 frame, Dice 0",
        "RAPTOR, paper’s rule, left ventricle: no parcel selected. parcel 3 is 4 points below",
    ]


def test_the_ejection_fraction_has_a_table(results):
    table = tables.ejection_fraction_table(results["segmentation"])
    (row,) = table.rows
    cells = {one.title: cell for one, cell in zip(table.columns[1:], row.cells, strict=True)}
    assert row.detail == "greedy rule"
    shown = {title: (cell.text, cell.detail) for title, cell in cells.items()}
    assert shown == {
        "Mean bias, points": ("−1.9", "−3.9 to 0.3"),
        "Limits of agreement, points": ("−14.1 to 10.3", ""),
        "Mean absolute error, points": ("8.3", "7.7 to 9.2"),
        "Median bias, points": ("−2.0", "−4.0 to 0.1"),
        "Median absolute error, points": ("8.1", "6.0 to 9.0"),
        "Correlation": ("0.71", "0.55 to 0.84"),
        "Loops": ("6", ""),
        "Reversed": ("1", ""),
        "Undefined": ("0", ""),
    }
    results["segmentation"]["ejection_fraction"] = []
    assert tables.ejection_fraction_table(results["segmentation"]) is None
