import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr

from alan.data.store.reader import FrameStore
from alan.evaluation.intervals import resample_weights
from alan.evaluation.scoring import ejection_fractions, read_manual, score
from alan.evaluation.summary import EF_STATISTICS, agreement_statistics, compare_ejection_fractions
from alan.evaluation.views import _balanced_interval


def test_areas_and_volumes_of_an_ellipsoid_are_exact(lab):
    """The archive's ventricle has semi-axes of 13 rows and 9 columns (0.5 and 0.4 mm), 0.8 times that at ES."""
    store = FrameStore(lab / "store.h5")
    table = store.labelled(split="test")
    table.loc[0, "view"] = "PSAX"
    manual = read_manual(store, table, "lv")
    cases = score(manual.stored, manual, store, table, "the manual masks")
    assert (cases["dice"] == 1).all()
    assert (cases["dice_original"] > 0.95).all()
    size, known = cases["phase"].map({"ED": 1.0, "ES": 0.8}), cases["volume_unit"] == "ml"
    assert set(cases["volume_unit"]) == {"ml", "px3"}
    ellipsoid = 4 / 3 * np.pi * size**3 * np.where(known, 13 * 0.05 * (9 * 0.04) ** 2, 13 * 9**2)
    ellipse = np.pi * size**2 * 13 * 0.05 * 9 * 0.04
    for suffix, close in (("_manual", 0.05), ("", 0.12)):
        assert np.isnan(cases.loc[0, f"volume{suffix}"])  # a short axis gives no volume of disks
        assert cases.loc[1:, f"volume{suffix}"].to_numpy() == pytest.approx(ellipsoid[1:].to_numpy(), rel=close)
    for suffix, close in (("_manual", 0.03), ("", 0.08)):
        areas = cases[f"area_cm2{suffix}"]
        assert areas[known].to_numpy() == pytest.approx(ellipse[known].to_numpy(), rel=close)
        assert areas[~known].isna().all()
    for other in ("la", "lv+la"):
        assert np.isnan(read_manual(store, table, other).volumes).all()


def test_ejection_fractions_match_hand_computed_values():
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


def test_errors_of_the_ejection_fraction_match_hand_computed_values():
    rows = []
    for number, (esv, manual) in enumerate([(40.0, 50.0), (60.0, 50.0), (150.0, 50.0), (np.nan, 50.0)]):
        names = {"id": str(number), "patient": str(number), "method": "m", "rule": "paper", "structure": "lv"}
        rows.append({**names, "phase": "ED", "volume": 100.0, "volume_manual": 100.0})
        rows.append({**names, "phase": "ES", "volume": esv, "volume_manual": manual})
    (row,) = compare_ejection_fractions(pd.DataFrame(rows))
    # errors +10, -10, -100 points, and one undefined
    assert row["absolute_error_quartiles"] == pytest.approx({"q25": 10.0, "median": 10.0, "q75": 55.0})
    assert row["bias_quartiles"] == pytest.approx({"q25": -55.0, "median": -10.0, "q75": 0.0})
    spread = 1.96 * np.sqrt(((10 + 100 / 3) ** 2 + (-10 + 100 / 3) ** 2 + (-100 + 100 / 3) ** 2) / 2)
    expected = {
        "mean_bias": -100 / 3,
        "lower_limit_of_agreement": -100 / 3 - spread,
        "upper_limit_of_agreement": -100 / 3 + spread,
        "mean_absolute_error": 40.0,
        "median_bias": -10.0,
        "median_absolute_error": 10.0,
    }
    assert set(EF_STATISTICS) == {*expected, "correlation"}
    assert {name: row[name]["value"] for name in expected} == pytest.approx(expected)
    assert np.isnan(row["correlation"]["value"])  # the manual values are all 50%
    for name in expected:
        assert row[name]["low"] <= row[name]["value"] <= row[name]["high"]
    assert (row["n"], row["undefined"], row["reversed"]) == (3, 1, 1)


def test_agreement_equals_scipy():
    rng = np.random.default_rng(0)
    predicted, manual = rng.normal(50, 10, (2, 30))
    values = dict(zip(EF_STATISTICS, agreement_statistics(predicted, manual), strict=True))
    assert values["correlation"] == pytest.approx(pearsonr(predicted, manual).statistic)
    spread = pd.Series(predicted - manual).std()
    width = values["upper_limit_of_agreement"] - values["lower_limit_of_agreement"]
    assert width == pytest.approx(2 * 1.96 * spread)
    single = dict(zip(EF_STATISTICS, agreement_statistics(predicted[:1], manual[:1]), strict=True))
    assert single["mean_bias"] == pytest.approx(predicted[0] - manual[0])
    assert {name for name, value in single.items() if np.isnan(value)} == {
        "lower_limit_of_agreement",
        "upper_limit_of_agreement",
        "correlation",
    }


def test_the_balanced_interval_equals_a_plain_loop():
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
