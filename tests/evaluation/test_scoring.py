import numpy as np
import pandas as pd
import pytest

from alan.evaluation.intervals import resample_weights
from alan.evaluation.scoring import ejection_fractions
from alan.evaluation.summary import compare_ejection_fractions
from alan.evaluation.views import _balanced_interval


def test_ejection_fractions_by_hand():
    cases = pd.DataFrame(
        {
            "id": ["x", "x", "y", "y", "z"],
            "patient": ["p", "p", "q", "q", "r"],
            "phase": ["ED", "ES", "ES", "ED", "ED"],
            "volume": [100.0, 40.0, np.nan, 90.0, 80.0],
            "volume_manual": [100.0, 50.0, 45.0, 90.0, 80.0],
        }
    )
    table = ejection_fractions(cases).set_index("id")
    assert list(table.index) == ["x", "y"]  # z has no end-systolic frame
    assert table.loc["x", ["ef", "ef_manual"]].tolist() == pytest.approx([60.0, 50.0])
    assert np.isnan(table.loc["y", "ef"])
    assert table.loc["y", "ef_manual"] == pytest.approx(50.0)


def test_errors_of_the_ejection_fraction_by_hand():
    rows = []
    for number, (esv, manual) in enumerate([(40.0, 50.0), (60.0, 50.0), (150.0, 50.0), (np.nan, 50.0)]):
        names = {"id": str(number), "patient": str(number), "method": "m", "rule": "paper", "structure": "lv"}
        rows.append({**names, "phase": "ED", "volume": 100.0, "volume_manual": 100.0})
        rows.append({**names, "phase": "ES", "volume": esv, "volume_manual": manual})
    (row,) = compare_ejection_fractions(pd.DataFrame(rows))
    # errors +10, -10, -100 points, and one undefined
    assert row["absolute"] == pytest.approx([10.0, 10.0, 55.0])
    assert row["bias"] == pytest.approx([-55.0, -10.0, 0.0])
    assert (row["n"], row["undefined"], row["reversed"]) == (3, 1, 1)


def test_balanced_interval_equals_a_slow_loop():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "patient": rng.integers(0, 12, 60).astype(str),
            "view": rng.choice(["A2C", "PLAX"], 60, p=[0.3, 0.7]),
            "correct": rng.random(60) < 0.7,
        }
    )
    patients = sorted(set(table["patient"]))
    scores = []
    for weights in resample_weights(len(patients), 200, 3):
        weight = table["patient"].map(dict(zip(patients, weights, strict=True))).to_numpy()
        drawn = table.loc[np.repeat(table.index.to_numpy(), weight.astype(int))]
        scores.append(np.mean([drawn["correct"][drawn["view"] == view].mean() for view in ("A2C", "PLAX")]))
    assert _balanced_interval(table, 3, n_resamples=200) == pytest.approx(
        tuple(np.percentile(scores, [2.5, 97.5]))
    )
