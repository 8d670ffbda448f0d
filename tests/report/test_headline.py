from alan.report.headline import headline


def test_says_what_was_measured_on_whom_and_against_what(results):
    lead, ventricle = headline(results)
    assert lead.startswith(
        "On 12 frames (A4C) of 6 patients of CAMUS that were kept aside for testing, the left ventricle"
    )
    assert "1 other patient." in lead
    assert "80.0% at end diastole (95% interval 75.0 to 85.0) and 70.0% at end systole" in ventricle
    assert (
        "5.0 points better at end diastole and no clear difference (1.0 points worse) at end systole" in ventricle
    )


def test_a_worse_method_is_called_worse(results):
    results["segmentation"]["against_atlas"][0]["dice"] |= {"mean": -0.2, "low": -0.3, "high": -0.1}
    assert "20.0 points worse at end diastole" in headline(results)[1]


def test_nothing_chosen_is_said(results):
    results["segmentation"]["example_methods"] = {}
    assert "nothing was outlined" in headline(results)[1]


def test_without_an_atlas_nothing_is_compared(results):
    results["segmentation"]["against_atlas"] = []
    assert "Against" not in headline(results)[1]


def test_views(results):
    cell = {"mean": 0.9, "low": 0.8, "high": 0.95}
    views = {
        "test": {"patients": 5, "images": 20},
        "rows": [
            {"kind": "backbone", "k": 10, "total": cell, "balanced": {"mean": 0.85}},
            {"kind": "pixels", "k": 10, "total": {**cell, "mean": 0.7}},
        ],
    }
    (text,) = headline({"views": views})
    assert "20 test images of 5 patients was named correctly in 90.0% (95% interval 80.0 to 95.0)" in text
    assert text.endswith("Plain pixels without any network: 70.0%.")
