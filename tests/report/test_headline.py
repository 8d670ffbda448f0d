from alan.report.headline import headline, simulated_stores


def test_the_headline_names_measure_patients_and_reference(results):
    lead, ventricle = headline(results)
    assert lead.startswith(
        "The left ventricle was outlined on 12 test frames (A4C) of 6 patients (CAMUS) from parcels"
    )
    assert "manual outlines of 1 other patient determined" in lead
    assert "80.0% at end-diastole (95% interval 75.0 to 85.0) and 70.0% at end-systole" in ventricle
    assert (
        "5.0 points better at end-diastole and no clear difference (1.0 points worse) at end-systole" in ventricle
    )


def test_a_worse_method_is_called_worse(results):
    results["segmentation"]["against_atlas"][0]["dice"] |= {"mean": -0.2, "low": -0.3, "high": -0.1}
    assert "20.0 points worse at end-diastole" in headline(results)[1]


def test_a_rule_without_parcels_is_mentioned(results):
    results["segmentation"]["example_methods"] = {}
    assert "nothing was outlined" in headline(results)[1]


def test_a_phase_without_parcels_is_named(results):
    results["segmentation"]["rows"][1] |= {"metrics": {}, "reason": "none"}
    text = headline(results)[1]
    assert "Dice 80.0% at end-diastole (95% interval 75.0 to 85.0). At end-systole no parcel was selected." in text


def test_simulated_patients_are_called_simulated(results):
    assert simulated_stores(results) == []
    results["segmentation"]["store"] |= {"simulated": True, "name": "simulated CAMUS"}
    assert simulated_stores(results) == ["simulated CAMUS"]
    lead = headline(results)[0]
    assert "of 6 simulated patients (simulated CAMUS)" in lead
    assert "The simulated outlines of 1 other simulated patient determined" in lead
    assert "manual" not in lead


def test_a_run_without_atlas_compares_nothing(results):
    results["segmentation"]["against_atlas"] = []
    assert "Compared with" not in headline(results)[1]


def test_the_headline_names_the_accuracy_of_views(results):
    cell = {"mean": 0.9, "low": 0.8, "high": 0.95}
    views = {
        "test": {"patients": 5, "images": 20},
        "store": {"name": "TMED-2", "simulated": False},
        "rows": [
            {"kind": "backbone", "k": 10, "total": cell, "balanced": {"mean": 0.85}},
            {"kind": "pixels", "k": 10, "total": {**cell, "mean": 0.7}},
        ],
    }
    (text,) = headline({"views": views})
    assert "20 test images of 5 patients was recognised in 90.0% (95% interval 80.0 to 95.0)" in text
    assert text.endswith("Plain pixels without a network: 70.0%.")
