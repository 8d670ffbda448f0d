"""Simulated loops are recognised, so that reports can call them simulated."""

from pathlib import Path

import pytest

from alan.analysis import Source
from alan.data.readers.base import SIMULATION


@pytest.mark.parametrize("place", ["a.avi", "Videos/deep/a.avi"])
def test_loops_of_a_simulated_archive_are_marked_simulated(tmp_path, place):
    path = tmp_path / "archive" / place
    assert not Source(path, "p1", "loop1").simulated
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / SIMULATION).write_text("{}", encoding="utf-8")
    assert Source(path, "p1", "loop1").simulated
    assert not Source(tmp_path / "a.avi", "p1", "loop1").simulated


def test_sequences_of_a_simulated_store_are_marked_simulated(tiny):
    store = Path(tiny.store("camus"))
    assert Source(store, "p1", "loop1", sequence=0).simulated
