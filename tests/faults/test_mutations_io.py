"""Damaged files of every kind that is read give the right frames or one line of error, never anything else.

``pytest -m faults`` runs the whole campaign; a small part of it runs with the other tests.
"""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from .mutate_io import KINDS

SCRIPT = Path(__file__).with_name("mutate_io.py")
#: Kinds that state neither their length nor a number of frames.
WITHOUT_PROMISE = {"mpg"}
#: Kinds with a check sum over all their bytes.
WITH_CHECK_SUM = {"nii.gz", "png", "png 16 bits", "mask"}


@pytest.fixture
def run(record_property):
    return partial(damage, record_property)


def damage(record, kind, tries, folder, seconds):
    """Run the campaign in a process of its own; record its counts and check them."""
    command = [sys.executable, SCRIPT, kind, str(tries), "3", folder]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    results = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    for result in results:
        for way, count in result["counts"].items():
            for name in ("refused", "right", "wrong"):
                record("fault", (f"read {result['kind']}", way, name, count[name]))
    for result in results:
        check(result["kind"], result["counts"], result["others"])
    return results


def check(kind, counts, others):
    assert not others
    assert counts["truncate"]["refused"] > 0
    for way in ("truncate", "append"):
        assert counts[way]["wrong"] == 0 or kind in WITHOUT_PROMISE, (kind, way)
    if kind in WITH_CHECK_SUM:
        assert sum(count["wrong"] for count in counts.values()) == 0, kind


def test_damaged_files_are_refused_or_read_the_same(run, tmp_path):
    assert [result["kind"] for result in run("all", 5, tmp_path, 600)] == list(KINDS)


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_files_damaged_at_many_places_are_refused_or_read_the_same(run, tmp_path, kind):
    run(kind, 200, tmp_path, 3600)
