"""Damaged tables, lists and stores of archives give one line of error or a valid archive, never anything else.

Tables have no check sum and people edit them: a changed number or name is another archive. ``pytest -m faults``
runs the whole campaign; a small part of it runs with the other tests.
"""

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
    "unfinished store",
    "backbone",
    "checkpoint",
)
#: Kinds with check sums.
WITH_CHECK_SUM = {"store", "unfinished store", "backbone", "checkpoint"}


@pytest.fixture
def run(damage):
    return partial(damage, SCRIPT)


def check(result):
    counts = result["counts"].values()
    assert sum(count["refused"] for count in counts) > 0
    if result["kind"] in WITH_CHECK_SUM:
        assert sum(count["wrong"] for count in counts) == 0


def test_damaged_archives_are_refused_or_read_the_same(run, tmp_path):
    for result in run(KINDS, 2, tmp_path, 300):
        check(result)


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_archives_damaged_at_many_places_are_refused_or_read_the_same(run, tmp_path, kind):
    check(*run([kind], 200, tmp_path, 3600))
