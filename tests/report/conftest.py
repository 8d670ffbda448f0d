"""Small results in the form that a run writes."""

import copy

import pytest
from matplotlib.figure import Figure

from ..conftest import SAVE_FIGURE


@pytest.fixture(scope="module", autouse=True)
def real_figures():
    """Figures as users see them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", SAVE_FIGURE)
        yield


def interval(mean, low, high, **more):
    return {"mean": mean, "std": 0.1, "low": low, "high": high, "n": 6, "groups": 6, "undefined": 0, **more}


def row(method, kind, rule, phase, mean, **more):
    nothing = interval(None, None, None, n=0, undefined=6)
    names = ("iou", "dice_original", "iou_original")
    metrics = {name: interval(mean - 0.05, mean - 0.1, mean) for name in names}
    metrics |= {
        "dice": interval(mean, mean - 0.05, mean + 0.05),
        "hd95_mm": interval(9.0, 8.0, 10.0),
        "asd_mm": nothing,
    }
    names = {"method": method, "kind": kind, "rule": rule, "structure": "lv", "phase": phase}
    return {**names, "reason": "", "empty": 0, "metrics": metrics, **more}


def difference(phase, mean, low, high):
    names = {"method": "RAPTOR", "kind": "parcels", "rule": "greedy", "structure": "lv", "phase": phase}
    return {**names, "dice": interval(mean, low, high)}


SIDE = {"patients": 6, "frames": 12, "views": {"A4C": 12}, "phases": {"ED": 6, "ES": 6}}
RESULTS = {
    "schema": "alan-results/2",
    "title": "Trial <b>",
    "segmentation": {
        "store": {
            "name": "CAMUS",
            "fingerprint": "f" * 64,
            "size": 32,
            "skipped": {"videos that cannot be decoded": 2},
            "simulated": False,
        },
        "leaks": "",
        "label": {**SIDE, "patients": 1},
        "test": SIDE,
        "train_patients": 40,
        "published": None,
        "rows": [
            row("RAPTOR", "parcels", "greedy", "ED", 0.8),
            row("RAPTOR", "parcels", "greedy", "ES", 0.7, empty=1),
            row("atlas", "atlas", "", "ED", 0.75),
            row("atlas", "atlas", "", "ES", 0.71),
            row("RAPTOR", "parcels", "paper", "ED", 0.1, metrics={}, reason="parcel 3 is 4 points below"),
            row("RAPTOR", "parcels", "paper", "ES", 0.1, metrics={}, reason="parcel 3 is 4 points below"),
        ],
        "against_atlas": [difference("ED", 0.05, 0.02, 0.08), difference("ES", -0.01, -0.03, 0.01)],
        "ejection_fraction": [
            {
                "method": "RAPTOR",
                "rule": "greedy",
                "mean_bias": {"value": -1.9, "low": -3.9, "high": 0.3},
                "lower_limit_of_agreement": {"value": -14.1, "low": -17.0, "high": -11.2},
                "upper_limit_of_agreement": {"value": 10.3, "low": 7.0, "high": 13.4},
                "mean_absolute_error": {"value": 8.3, "low": 7.7, "high": 9.2},
                "median_bias": {"value": -2.0, "low": -4.4, "high": 0.2},
                "median_absolute_error": {"value": 8.1, "low": 6.6, "high": 9.9},
                "correlation": {"value": 0.71, "low": 0.55, "high": 0.84},
                "absolute_error_quartiles": {"q25": 6.0, "median": 8.1, "q75": 9.0},
                "bias_quartiles": {"q25": -4.0, "median": -2.0, "q75": 0.1},
                "n": 6,
                "undefined": 0,
                "reversed": 1,
            }
        ],
        "example_methods": {"lv": {"method": "RAPTOR", "rule": "greedy"}},
        "white_boxes": [
            {
                "method": "RAPTOR",
                "kind": "parcels",
                "rule": "greedy",
                "structure": "lv",
                "phase": "",
                "reason": "",
                "label_dice": 0.82,
                "file": "lv-raptor-greedy.json",
                "n_parcels": 4,
                "in_use": 3,
                "interior": [2],
                "exterior": [0],
                "valve": [],
            },
            {
                "method": "RAPTOR",
                "kind": "parcels",
                "rule": "paper",
                "structure": "lv",
                "phase": "",
                "reason": "parcel 3 is 4 points below",
                "label_dice": None,
            },
        ],
        "examples": [],
        "networks": [],
        "ensembles": [],
        "accuracy": [],
    },
    "views": None,
    "curves": {},
    "provenance": {
        "created": "2026-01-02T03:04:05+00:00",
        "command": "alan evaluate",
        "system": "Linux",
        "versions": {"alan": "0.1.0"},
        "inputs": {"store.h5": "f" * 64},
    },
}


@pytest.fixture
def results():
    return copy.deepcopy(RESULTS)
