"""Areas, numbers of labels needed and their intervals, compared with hand-computed values and a plain loop."""

from dataclasses import replace

import numpy as np
import pytest

from alan.active.comparison import area_under, compare_functions, first_reaching
from alan.active.state import FinishedPhase, State

LABELS = [10, 20, 40]
PATIENTS = ["a", "a", "b", "c"]


def state(**curves):
    """Map ``name_seed`` to the IoU of each phase, (phases, images)."""
    found = State("x", {int(name[-1]): [] for name in curves})
    for name, rows in curves.items():
        function, seed = name.split("_")
        found.finished += [
            FinishedPhase(function, int(seed), number, labels, {}, [], images=list(map(float, row)))
            for number, (labels, row) in enumerate(zip(LABELS, rows, strict=True), 1)
        ]
    return found


def test_comparison_matches_hand_computed_values():
    labels, curve = np.array([10.0, 20, 40]), np.array([0.2, 0.6, 0.8])
    assert area_under(labels, curve) == pytest.approx((10 * 0.4 + 20 * 0.7) / 30)
    assert area_under(labels[:1], curve[:1]) == 0.2
    assert [first_reaching(labels, curve, x) for x in (0.1, 0.6, 0.7, 0.9)] == [10, 20, 40, np.inf]


def test_identical_runs_have_intervals_without_width():
    flat = [[0.5] * 4, [0.7] * 4, [0.9] * 4]
    better = [[0.5] * 4, [0.9] * 4, [0.9] * 4]
    rows = compare_functions(state(random_0=flat, mfe_0=better), ["random", "mfe"], PATIENTS, [0.8, 0.95])
    random, mfe = rows
    assert random["area_gain"] is None
    assert mfe["gains"][1] == pytest.approx({"value": 0.2, "low": 0.2, "high": 0.2})
    assert mfe["area_gain"]["value"] == pytest.approx((10 * 0.1 + 20 * 0.1) / 30)
    assert random["needed"][0]["value"] == 40
    assert mfe["needed"][0] == {"score": 0.8, "value": 20.0, "low": 20.0, "high": 20.0, "reached": 1.0}
    assert mfe["needed"][1]["value"] is None
    assert mfe["needed"][1]["reached"] == 0


def test_intervals_match_a_plain_loop():
    """Patients and seeds are resampled together, identically for both functions."""
    rng = np.random.default_rng(1)
    curves = {f"{f}_{s}": rng.uniform(0.3, 0.9, (3, 4)) for f in ("random", "mfe") for s in (0, 1)}
    curves["mfe_0"][1, 2] = np.nan
    (_, row) = compare_functions(state(**curves), ["random", "mfe"], PATIENTS, n_resamples=400, seed=3)
    draw = np.random.default_rng(3)
    patients = np.concatenate([np.ones((1, 3)), draw.multinomial(3, np.full(3, 1 / 3), 400)])
    seeds = np.concatenate([np.ones((1, 2)), draw.multinomial(2, np.full(2, 1 / 2), 400)])
    gains = []
    for p, s in zip(patients, seeds, strict=True):
        image_weights = p[[0, 0, 1, 2]]
        means = {}
        for name, table in curves.items():
            known = ~np.isnan(table)
            with np.errstate(invalid="ignore"):
                means[name] = np.where(known, table, 0) @ image_weights / (known @ image_weights)
        curve = {f: (s[0] * means[f"{f}_0"] + s[1] * means[f"{f}_1"]) / 2 for f in ("random", "mfe")}
        gains.append(area_under(np.array(LABELS), curve["mfe"] - curve["random"]))
    gains = np.array(gains)
    assert row["area_gain"]["value"] == pytest.approx(gains[0])
    known = gains[1:][np.isfinite(gains[1:])]
    assert row["area_gain"]["low"] == pytest.approx(np.percentile(known, 2.5))
    assert row["area_gain"]["high"] == pytest.approx(np.percentile(known, 97.5))
    assert row["area_gain"]["low"] < row["area_gain"]["value"] < row["area_gain"]["high"]


def test_loops_of_different_numbers_of_labels_are_interpolated():
    """Loops by patient: 10, 20, 40 labels beside 12, 18, 30; both span 12 to 30, interpolated by hand."""
    loops = state(random_0=[[0.1] * 4, [0.3] * 4, [0.5] * 4], mfe_0=[[0.2] * 4, [0.5] * 4, [0.8] * 4])
    for number, labels in enumerate((12, 18, 30), 3):
        loops.finished[number] = replace(loops.finished[number], n_labels=labels)
    random, mfe = compare_functions(loops, ["random", "mfe"], PATIENTS, [0.5])
    assert random["labels"] == mfe["labels"] == [12, 18, 20, 30]
    gains = [0.2 - 0.14, 0.5 - 0.26, 0.55 - 0.3, 0.8 - 0.4]
    assert [one["value"] for one in mfe["gains"]] == pytest.approx(gains)
    assert mfe["needed"][0]["value"] == 18


def test_loops_are_compared_on_their_common_numbers_of_labels():
    short = state(random_0=[[0.5] * 4] * 3, mfe_0=[[0.6] * 4] * 3)
    short.finished.pop()
    assert compare_functions(short, ["random", "mfe"], PATIENTS)[0]["labels"] == [10, 20]
    assert compare_functions(State("x", {0: []}), ["random"], PATIENTS) == []
