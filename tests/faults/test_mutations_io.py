"""Damaged files of every kind that is read: right data or one line, never anything else.

The whole campaign is ``pytest -m faults``; a small part of it runs with the other tests.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .mutate_io import KINDS

SCRIPT = Path(__file__).with_name("mutate_io.py")
#: Kinds that state neither their length nor a number of frames.
WITHOUT_PROMISE = {"mpg"}
#: Kinds with a check sum over all bytes that matter.
WITH_CHECK_SUM = {"nii.gz", "png", "png 16 bits", "mask"}


def run(kind, tries, folder, seconds):
    command = [sys.executable, SCRIPT, kind, str(tries), "3", folder]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    result = json.loads(ran.stdout.splitlines()[-1])
    for way, count in result["counts"].items():
        print(f"{kind:15} {way:12} " + "  ".join(f"{name} {number:4}" for name, number in count.items()))
    return result


def check(kind, result):
    assert not result["others"]
    counts = result["counts"]
    assert counts["truncate"]["refused"] > 0
    for way in ("truncate", "append"):
        assert counts[way]["wrong"] == 0 or kind in WITHOUT_PROMISE, way
    if kind in WITH_CHECK_SUM:
        assert sum(count["wrong"] for count in counts.values()) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(tmp_path, kind):
    check(kind, run(kind, 8, tmp_path, 300))


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_at_many_places(tmp_path, kind):
    check(kind, run(kind, 400, tmp_path, 3600))
