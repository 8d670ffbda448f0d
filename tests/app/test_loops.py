"""Frames of the page: thinned loops in bounded memory, the example, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from alan.analysis.views import ViewResult
from alan.app import loops
from alan.app.views_tab import describe_view
from alan.errors import DataError


def test_a_long_loop_is_thinned_evenly(loop, monkeypatch):
    every, shape, pixel_mm = loops.read_frames(loop, 56)
    assert pixel_mm is None
    assert every.shape == (24, 56, 56)
    assert shape[0] <= 160
    assert shape[1] <= 208
    monkeypatch.setattr(loops, "MAX_FRAMES", 5)
    monkeypatch.setattr(loops, "_PART", 7)
    told = []
    few = loops.read_frames(loop, 56, lambda share, text: told.append(share)).frames
    np.testing.assert_array_equal(few, every[[0, 6, 12, 17, 23]])
    assert told[0] == 0
    assert told[-1] == 0.5
    assert told == sorted(told)


def test_files_that_are_not_loops_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(DataError, match=r"\w"):
        loops.read_loop(tmp_path / "notes.txt")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"^the file is empty"):
        loops.read_loop(tmp_path / "empty.mp4")
    Image.fromarray(np.full((64, 64), 90, np.uint8)).save(tmp_path / "grey.png")
    with pytest.raises(DataError, match=r"^the file shows something else: not an echo, its grey values"):
        loops.read_loop(tmp_path / "grey.png")


def test_the_view_is_written_in_words():
    found = ViewResult(
        "A4C", 0.6, {"A2C": 0.4, "A4C": 0.6, "PLAX": 0.0}, np.zeros(0, int), np.zeros(0), unsure=True
    )
    assert describe_view(found) == "**A4C** (unsure); votes: A4C 60%, A2C 40%"
