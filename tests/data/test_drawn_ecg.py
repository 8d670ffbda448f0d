"""Electrocardiograms on the screen of a machine."""

import numpy as np
import pytest

from alan.data.drawn_ecg import _find_peaks, find_ecg_band, read_r_waves
from alan.data.io.frames import Samples
from alan.data.simulator.screen import draw_ecg

FPS = 30.0


def screen(seed, phase=None, shape=(200, 320)):
    """Speckle in the upper part of a screen of 2.3 s, an ECG below it, and the true times of its R waves."""
    phase = np.arange(70) / 70 * 2.6 + 0.3 if phase is None else phase
    frames = np.zeros((len(phase), *shape), np.uint8)
    sector = np.zeros(shape, bool)
    sector[10:150, 80:240] = True
    rng = np.random.default_rng(seed)
    frames[:, sector] = rng.integers(0, 255, (len(phase), sector.sum()))
    waves = draw_ecg(frames, phase % 1.0, FPS, rng)
    return frames, sector, waves


def read(frames, sector):
    samples = Samples(np.arange(0, len(frames), 3), frames[::3], None, frames.max(0) - frames.min(0))
    band = find_ecg_band(samples, sector)
    return np.empty(0) if band is None else read_r_waves(iter(frames), band, np.arange(len(frames)) / FPS)


@pytest.mark.parametrize("seed", [0, 3, 4])  # two sweeps and a mark
def test_r_waves_are_read_from_a_sweep_and_from_a_still_trace_with_a_mark(seed):
    frames, sector, waves = screen(seed)
    found = read(frames, sector)
    assert len(found) == len(waves) == 2
    assert np.abs(found - waves).max() < 1 / FPS
    noise = np.random.default_rng(0).integers(-3, 4, frames.shape)
    lossy = np.clip(frames.astype(int) + noise, 0, 255).astype(np.uint8)
    assert np.abs(read(lossy, sector) - waves).max() < 1 / FPS


def test_nothing_is_read_without_a_clear_and_regular_ecg():
    frames, sector, _ = screen(0)
    assert len(read(np.where(sector, frames, 0), sector)) == 0
    one_beat = screen(0, np.arange(30) / 30 * 0.9 + 0.3)  # one R wave does not show the rate
    assert len(read(*one_beat[:2])) == 0
    backward = frames[::-1]
    assert len(read(backward, sector)) == 0
    jumping = frames[np.random.default_rng(0).permutation(len(frames))]
    assert len(read(jumping, sector)) == 0
    thinned = Samples(np.arange(3), frames[:3], None, np.ptp(frames, 0), step=2)
    assert find_ecg_band(thinned, sector) is None


def test_a_trace_of_one_column_per_second_shows_no_r_wave():
    upper = np.where(np.arange(20) % 5 == 2, 0.0, 40.0)
    trace = np.stack([np.arange(20.0), upper, upper + 2, np.ones(20)], 1)
    assert len(_find_peaks(trace, 1.0)) == 0


def test_the_r_waves_of_a_simulated_heart_are_at_its_end_diastoles():
    phase = (np.arange(60) / 20 + 0.25) % 1.0
    frames = np.zeros((60, 120, 400), np.uint8)
    waves = draw_ecg(frames, phase, 25.0, np.random.default_rng(0))
    np.testing.assert_allclose(waves, [0.6, 1.4, 2.2])
    np.testing.assert_allclose(phase[np.round(waves * 25).astype(int)], 0.0, atol=1e-9)
