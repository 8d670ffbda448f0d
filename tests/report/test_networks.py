"""Notes on networks and ensembles."""

from alan.report.networks import ensemble_tables


def test_the_note_states_the_gain_on_held_out_patients():
    validation = {
        "objective": "iou", "weights": "searched", "sampler": "tpe", "trials": 9, "frames": 40, "patients": 5,
        "split": "val", "score": 0.8, "equal": 0.79,
    }  # fmt: skip
    one = {"method": "ensemble", "validation": validation, "members": [], "gains": []}
    summary = {"networks": [], "ensembles": [one]}
    (plain,) = ensemble_tables(summary)
    assert "fold" not in plain["note"]
    validation["held_out"] = {"gain": {"mean": 0.0032, "low": -0.001, "high": 0.007}, "folds": []}
    (found,) = ensemble_tables(summary)
    assert found["note"].startswith(plain["note"])
    assert "40 frames of 5 patients of the split “val”." in plain["note"]
    validation["folds"] = 3
    assert "40 frames of 5 patients held out in turn by 3 folds." in ensemble_tables(summary)[0]["note"]
    assert "+0.32 points of IoU (95% interval over patients -0.10 to +0.70)" in found["note"]
