"""Damaged tables, lists and stores of archives give one line of error or a valid archive, never anything else.

Tables have no check sum and people edit them: a changed number or name is another archive. ``pytest -m faults``
runs the whole campaign; a small part of it runs with the other tests.
"""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("mutate_archives.py")
KINDS = (
    "EchoNet list",
    "EchoNet tracings",
    "CAMUS Info",
    "class list",
    "patients",
    "manifest",
    "COCO",
    "split",
    "reference",
    "store",
    "backbone",
    "checkpoint",
)
#: Kinds whose weights have a check sum.
WITH_CHECK_SUM = {"backbone", "checkpoint"}


@pytest.fixture
def run(record_property):
    return partial(damage, record_property)


def damage(record, kinds, tries, folder, seconds):
    """Damage files of the kinds in one process; record its counts and check them."""
    command = [sys.executable, SCRIPT, ",".join(kinds), str(tries), "3", folder]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    for kind, result in zip(kinds, map(json.loads, ran.stdout.splitlines()), strict=True):
        for way, count in result["counts"].items():
            for name in ("refused", "right", "wrong"):
                record("fault", (f"read {kind}", way, name, count[name]))
        assert not result["others"], kind
        assert sum(count["refused"] for count in result["counts"].values()) > 0
        if kind in WITH_CHECK_SUM:
            assert sum(count["wrong"] for count in result["counts"].values()) == 0


def test_damaged_archives(run, tmp_path):
    run(KINDS, 2, tmp_path, 300)


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_archives_at_many_places(run, tmp_path, kind):
    run([kind], 200, tmp_path, 3600)
