"""Damaged files of models and features: the same output or a one-line error.

The whole campaign is ``pytest -m faults``; a small part of it runs with the other tests.
"""

from functools import partial
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("mutate_models.py")
KINDS = (
    "linear probe",
    "decoder probe",
    "parcels",
    "member",
    "ensemble",
    "white box",
    "prior",
    "segmenter",
    "view bank",
    "cache",
    "cache of ranks",
    "shard",
)
#: Files that people edit by hand: another number does no damage.
EDITABLE = ("white box", "prior")


@pytest.fixture
def run(damage):
    return partial(damage, SCRIPT)


def check(result):
    counts = result["counts"]
    assert counts["truncate"]["refused"] > 0
    assert counts["wrong type"]["refused"] == counts["wrong type"]["tried"]
    assert counts["truncate"]["wrong"] == 0
    if result["kind"] not in EDITABLE:
        assert sum(count["wrong"] for count in counts.values()) == 0


def test_damaged_models_are_refused(run, tmp_path):
    for result in run(KINDS, 5, tmp_path, 300):
        check(result)


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_models_damaged_at_many_places_are_refused(run, tmp_path, kind):
    check(*run([kind], 200, tmp_path, 3600))
