"""Damaged files of models and features: the same output or a one-line error.

The whole campaign is ``pytest -m faults``; a small part of it runs with the other tests.
"""

import json
import subprocess
import sys
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
    "cache",
    "cache of ranks",
    "shard",
)
#: Files that people edit by hand: another number does no damage.
EDITABLE = ("white box", "prior")


@pytest.fixture
def run(record_property):
    return partial(damage, record_property)


def damage(record, kinds, tries, folder, seconds):
    """Kind to its result; one process damages all of them."""
    command = [sys.executable, SCRIPT, ",".join(kinds), str(tries), "3", folder]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    results = dict(zip(kinds, map(json.loads, ran.stdout.splitlines()), strict=True))
    for kind, result in results.items():
        for way, count in result["counts"].items():
            for name in ("refused", "right", "wrong"):
                record("fault", (f"read {kind}", way, name, count[name]))
    return results


def check(kind, result):
    assert not result["others"]
    counts = result["counts"]
    assert counts["truncate"]["refused"] > 0
    assert counts["wrong type"]["refused"] == counts["wrong type"]["tried"]
    assert counts["truncate"]["wrong"] == 0
    if kind not in EDITABLE:
        assert sum(count["wrong"] for count in counts.values()) == 0


def test_damaged_models_are_refused(run, tmp_path):
    for kind, result in run(KINDS, 5, tmp_path, 300).items():
        check(kind, result)


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_models_damaged_at_many_places_are_refused(run, tmp_path, kind):
    check(kind, run([kind], 200, tmp_path, 3600)[kind])
