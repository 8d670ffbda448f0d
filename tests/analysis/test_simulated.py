"""Simulated loops are recognised, so that reports can call them simulated."""

import shutil
from pathlib import Path

import pytest

from alan.analysis import Source, find_sources, open_loops
from alan.data import Preprocessing, open_dataset, prepare
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


@pytest.mark.parametrize(("left_out", "key_frames"), [("*half_sequence*", (0, 1)), ("no file", None)])
def test_stored_sequences_of_two_known_phases_are_key_frames(tmp_path, tiny, left_out, key_frames):
    shutil.copytree(tiny.archive("camus"), tmp_path / "archive", ignore=shutil.ignore_patterns(left_out))
    archive = open_dataset("camus", tmp_path / "archive")
    prepare(archive, tmp_path / "a.h5", Preprocessing(112), workers=0, progress=False)
    sources, _ = find_sources([tmp_path / "a.h5"])
    assert {source.key_frames for source in sources} == {key_frames}
    assert {source.view for source in sources} == {"A4C", "A2C"}
    (given, *_), _ = find_sources([tmp_path / "a.h5"], views={"a.h5": "PLAX"})
    assert given.view == "PLAX"
    (loop,) = open_loops(sources[0], stills=True)
    assert (loop.n_frames == 2) == (key_frames is not None)
