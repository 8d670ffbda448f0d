"""Simulated screens with known sectors."""

import numpy as np
import pytest

from alan.data.simulator.screen import SHAPES, simulate_screen


def test_a_screen_depends_on_its_seed_alone():
    first, again, other = (simulate_screen(seed, n_frames=2) for seed in (3, 3, 4))
    assert np.array_equal(first.frames, again.frames)
    assert first.frames.shape != other.frames.shape or not np.array_equal(first.frames, other.frames)


@pytest.mark.parametrize("seed", range(4))
def test_the_heart_moves_inside_the_sector_only(seed):
    screen = simulate_screen(seed, n_frames=4)
    (sector,) = screen.sectors
    assert screen.frames.shape[1:] in SHAPES
    moving = np.ptp(screen.frames, 0) > 10
    assert moving[sector].mean() > 0.3
    assert moving[~sector].mean() < 0.03  # the ECG trace
    assert (screen.frames[0][~sector] > 100).any()  # text


def test_two_panels_do_not_touch():
    left, right = simulate_screen(1, n_frames=1, panels=2).sectors
    assert not (left & right).any()
    assert np.flatnonzero(left.any(0)).max() < np.flatnonzero(right.any(0)).min()
