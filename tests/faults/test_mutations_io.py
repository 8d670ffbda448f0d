"""Damaged files of every kind that is read give the right frames or one line of error, never anything else.

``pytest -m faults`` runs the whole campaign; a small part of it runs with the other tests.
"""

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
def run(damage):
    return partial(damage, SCRIPT)


def check(result):
    kind, counts = result["kind"], result["counts"]
    assert counts["truncate"]["refused"] > 0
    for way in ("truncate", "append"):
        assert counts[way]["wrong"] == 0 or kind in WITHOUT_PROMISE, (kind, way)
    if kind in WITH_CHECK_SUM:
        assert sum(count["wrong"] for count in counts.values()) == 0, kind


def test_damaged_files_are_refused_or_read_the_same(run, tmp_path):
    for result in run(KINDS, 5, tmp_path, 600):
        check(result)


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_files_damaged_at_many_places_are_refused_or_read_the_same(run, tmp_path, kind):
    check(*run([kind], 200, tmp_path, 3600))
