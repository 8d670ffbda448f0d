"""R waves of electrocardiograms with known beats, and of a file of pydicom."""

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from alan.data.io.dicom_ecg import find_r_waves, r_waves_of_waveform
from alan.data.io.dicom_header import attributes


def electrocardiogram(beats, *, rate=250, seconds=6.0, noise=0.02, r=1.0, t=0.3, drift=0.5):
    """A lead with P, QRS and T waves at given times of R, noise, and a baseline that drifts."""
    times = np.arange(round(seconds * rate)) / rate
    signal = drift * np.sin(2 * np.pi * 0.3 * times) + np.random.default_rng(0).normal(0, noise, len(times))
    waves = ((0.1, -0.16, 0.02), (-0.15, -0.025, 0.01), (r, 0, 0.012), (-0.2, 0.03, 0.01), (t, 0.25, 0.05))
    for beat in beats:
        for size, at, wide in waves:
            signal += size * np.exp(-(((times - beat - at) / wide) ** 2))
    return signal


@pytest.mark.parametrize("changes", [{}, {"rate": 100}, {"rate": 1000}, {"r": -1.0}, {"noise": 0.08}, {"t": 0.9}])
def test_r_waves_of_a_known_electrocardiogram_are_found(changes):
    beats = np.array([0.4, 1.2, 2.0, 2.7, 3.6, 4.4, 5.2])
    found = find_r_waves(electrocardiogram(beats, **changes), changes.get("rate", 250))
    np.testing.assert_allclose(found, beats, atol=0.02)


def test_signals_without_beats_have_no_r_waves():
    rng = np.random.default_rng(0)
    times = np.arange(1500) / 250
    for signal in (np.zeros(1500), np.sin(2 * np.pi * times), rng.normal(size=1500), np.full(1500, np.nan)):
        assert not len(find_r_waves(signal, 250))
    assert not len(find_r_waves(electrocardiogram([0.4, 1.2, 2.0]), 20))
    assert not len(find_r_waves(np.ones((0, 2)), 250))


def test_r_waves_are_read_from_a_waveform():
    dataset = pydicom.dcmread(get_testdata_file("waveform_ecg.dcm", download=False))
    found = r_waves_of_waveform(dataset)
    assert len(found) >= 10
    assert np.std(np.diff(found)) < 0.1 * np.mean(np.diff(found))
    for lead in dataset.waveform_array(0).T[:2]:  # each lead alone shows the same beats
        np.testing.assert_allclose(find_r_waves(lead, 1000), found, atol=0.06)
    dataset.WaveformSequence[0].MultiplexGroupTimeOffset = 250
    np.testing.assert_allclose(attributes(dataset)["r_wave_times"], found + 0.25)
    dataset.RWaveTimeVector = [100.0, 900.0]
    assert attributes(dataset)["r_wave_times"] == (0.1, 0.9)
    del dataset.RWaveTimeVector
    for channel in dataset.WaveformSequence[0].ChannelDefinitionSequence:
        del channel.ChannelSourceSequence  # not an electrocardiogram
    del dataset.WaveformSequence[1:]
    assert not len(r_waves_of_waveform(dataset))
