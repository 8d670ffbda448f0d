"""R waves of an electrocardiogram that a DICOM file holds as a waveform."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import uniform_filter1d
from scipy.signal import butter, find_peaks, sosfiltfilt

from alan.arrays import FloatArray

#: Frequencies in Hz of the QRS complex, and lowest sampling frequency that shows them.
_BAND, _LOWEST_HZ = (5.0, 25.0), 60.0
#: Duration of a QRS complex, and shortest interval between two of them, in s.
_QRS_S, _APART_S = 0.12, 0.27
#: Smallest power of a QRS complex as a fraction of that of a large one, and largest power between them.
_LEAST, _REST = 0.3, 0.2


def find_r_waves(signal: ArrayLike, rate_hz: float) -> FloatArray:
    """Find the R waves of an electrocardiogram by the power of its slope (Pan and Tompkins 1985).

    Args:
        signal: (T,) or (T, C), one or several leads.
        rate_hz: Samples per second.

    Returns:
        (N,) times of the R waves in s from the first sample; empty if none stand out clearly from the rest.
    """
    leads = np.asarray(signal, np.float64)
    leads = leads[:, None] if leads.ndim == 1 else leads
    if rate_hz < _LOWEST_HZ or len(leads) < rate_hz or not np.isfinite(leads).all():
        return np.empty(0)
    high = min(_BAND[1], 0.45 * rate_hz)
    band = sosfiltfilt(butter(2, (_BAND[0], high), "bandpass", fs=rate_hz, output="sos"), leads, axis=0)
    slopes = np.gradient(band, axis=0)
    scale = np.quantile(np.abs(slopes), 0.98, axis=0)
    power = (slopes[:, scale > 0] / scale[scale > 0]) ** 2
    if not power.size:
        return np.empty(0)
    smooth = uniform_filter1d(power.mean(1), max(1, round(_QRS_S * rate_hz)))
    tops = find_peaks(smooth, distance=max(1, round(_APART_S * rate_hz)))[0]
    large = float(np.quantile(smooth[tops], 0.8)) if len(tops) else 0.0
    waves = tops[smooth[tops] >= _LEAST * large]
    if len(waves) < 2 or np.median(smooth) > _REST * large:
        return np.empty(0)
    half = round(_QRS_S * rate_hz / 2)
    height = np.abs(band).mean(1)
    first = np.maximum(waves - half, 0)
    refined = [start + height[start : wave + half + 1].argmax() for start, wave in zip(first, waves, strict=True)]
    return np.asarray(refined, np.float64) / rate_hz


def r_waves_of_waveform(dataset: Any) -> FloatArray:
    """Return the times in s of the R waves in the first electrocardiogram of a file; empty without one.

    Times count from the acquisition of the first frame, as the offset of the waveform does.
    """
    for number, group in enumerate(dataset.get("WaveformSequence") or ()):
        sources = " ".join(
            str(source.get("CodingSchemeDesignator", "")) + " " + str(source.get("CodeMeaning", ""))
            for channel in group.get("ChannelDefinitionSequence") or ()
            for source in channel.get("ChannelSourceSequence") or ()
        ).lower()
        if not any(word in sources for word in ("ecg", "ekg", "electrocardio", "lead")):
            continue
        try:
            signal = dataset.waveform_array(number)
            waves = find_r_waves(signal, float(group.SamplingFrequency))
            return waves + float(group.get("MultiplexGroupTimeOffset") or 0.0) / 1000
        except Exception as error:  # the waveform is damaged; the pictures can still be read
            warnings.warn(f"its electrocardiogram cannot be read ({error})", stacklevel=2)
    return np.empty(0)
