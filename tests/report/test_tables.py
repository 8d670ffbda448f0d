from alan.report import tables


def test_methods_in_order_and_the_shown_one_marked(results):
    (table,) = tables.segmentation_tables(results["segmentation"])
    assert [(r["method"], r["rule"], r["shown"]) for r in table["rows"]] == [
        ("RAPTOR", "paper’s", False),
        ("RAPTOR", "greedy", True),
        ("atlas", "–", False),
    ]
    nothing, best, atlas = table["rows"]
    assert nothing["reason"]
    assert [cell["mean"] for cell in best["dice"]] == ["80.0", "70.0"]
    assert [cell["mean"] for cell in best["against"]] == ["+5.0", "−1.0"]
    assert best["empty"] == 1
    assert [cell["mean"] for cell in atlas["against"]] == ["–", "–"]
    assert [row["phase"] for row in table["long"]] == ["ED", "ES", "ED", "ES"]


def test_published_rows_only_where_asked_and_always_marked(results):
    summary = results["segmentation"]
    assert tables.segmentation_tables(summary)[0]["published"] == []
    summary["published"] = "camus"
    published = tables.segmentation_tables(summary)[0]["published"]
    assert [row["method"] for row in published][2] == "ALAN trained on EchoNet-Dynamic, K = 112"
    assert published[2]["dice"] == [{"mean": "80.0", "range": "± 9.0 SD"}, {"mean": "75.7", "range": "± 9.5 SD"}]
    assert {row["n"] for row in published} == {100}
    note = tables.published_note(summary)
    assert "6 patients (6 ED and 6 ES frames, A4C); the paper’s were A2C and A4C together" in note


def test_parcel_table_has_interior_parcels_first_and_leaves_absent_ones_out(results):
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
    (table,) = tables.parcel_tables(results["segmentation"], models)
    assert [row["id"] for row in table["rows"]] == [2, 3, 0]
    assert (table["rows"][0]["consistency"], table["rows"][0]["why"]) == ("25", "because 2")


def test_what_was_left_out_is_said_once(results):
    results["segmentation"]["rows"][0]["metrics"]["dice"]["undefined"] = 2
    notes = tables.skipped_notes(results)
    assert notes == [
        "CAMUS: 2 samples left out when the store was made (videos that cannot be decoded)",
        "RAPTOR, greedy rule: Dice undefined in 2 frames (left ventricle, end diastole): "
        "no outline on either side",
        "RAPTOR, greedy rule: nothing predicted in 1 frame (left ventricle, end systole); Dice 0 there",
        "RAPTOR, paper’s rule, left ventricle: nothing chosen. parcel 3 is 4 points below",
    ]


def test_ejection_fraction(results):
    (row,) = tables.ejection_fraction_rows(results["segmentation"])
    assert row["absolute"] == {"mean": "8.1", "range": "6.0 to 9.0"}
    assert row["bias"] == {"mean": "−2.0", "range": "−4.0 to 0.1"}
    assert (row["rule"], row["n"], row["reversed"]) == ("greedy", 6, 1)
