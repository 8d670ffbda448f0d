"""A synthetic loop with known outlines, and its result."""

from dataclasses import dataclass

import numpy as np

from alan.analysis import BeatResult, Flag, FrameResult, LoopResult, Measure, PatientResult, ViewEvidence

STRUCTURES = ("lv", "la")


@dataclass
class MadeLoop:
    """A loop in memory that counts how often it is read."""

    name: str = "loop1"
    n_frames: int = 20
    shape: tuple[int, int] = (96, 128)
    screen_shape: tuple[int, int] = (120, 160)
    pixel_mm: tuple[float, float] | None = (0.5, 0.5)
    pixel_aspect: float = 1.0
    lacking: int = 0

    def __post_init__(self):
        self.box = (slice(10, 10 + self.shape[0]), slice(20, 20 + self.shape[1]))
        self.longest = 0

    def chunks(self, size):
        frames = np.full((self.n_frames - self.lacking, *self.shape), 90, np.uint8)
        for start in range(0, len(frames), size):
            self.longest = max(self.longest, len(frames[start : start + size]))
            yield frames[start : start + size]


def made_labels(n_frames=20, size=112):
    """(T, size, size): a ventricle that is largest in frame 2 and smallest in frame 8, and an atrium below it."""
    labels = np.zeros((n_frames, size, size), np.uint8)
    for t in range(n_frames):
        wide = 20 + round(8 * np.cos(2 * np.pi * (t - 2) / 12))
        labels[t, 20:70, 56 - wide // 2 : 56 + wide // 2] = 1
        labels[t, 72:95, 45:70] = 2
    return labels


def made_result(loop=None, name="loop1", patient="p1", **changes):
    loop = loop or MadeLoop()
    beats = (
        BeatResult(
            2,
            8,
            14,
            True,
            edv_ml=Measure(100.0, 90.0, 110.0),
            esv_ml=Measure(40.0),
            ef_percent=Measure(60.0, 55.0, 65.0),
        ),
        BeatResult(14, 19, None, False, edv_ml=Measure(98.0), esv_ml=Measure(50.0), ef_percent=Measure(49.0)),
    )
    values = {
        "view": ViewEvidence("A4C", 0.9, {"A4C": 0.9, "A2C": 0.1}, ("sim 3", "sim 8")),
        "structures": STRUCTURES,
        "n_frames": loop.n_frames,
        "screen_shape": loop.screen_shape,
        "box": (10, 20, *loop.shape),
        "pixel_mm": loop.pixel_mm,
        "pixel_aspect": loop.pixel_aspect,
        "frame_rate_hz": 25.0,
        "heart_rate_bpm": Measure(125.0),
        "frames": tuple(
            FrameResult(t, t / 25, {"lv": 400.0 + t, "la": 100.0}, {"lv": 1.0}, 8.0, 70.0, 0.5, t == 4)
            for t in range(loop.n_frames)
        ),
        "beats": beats,
        "edv_ml": Measure(100.0, 90.0, 110.0),
        "esv_ml": Measure(40.0, 36.0, 44.0),
        "ef_percent": Measure(60.0, 55.0, 65.0),
        "flags": (Flag("low_frame_rate", "the loop has 25 frames per second"),),
        "notes": ("pixel size from the file",),
        "provenance": {"model": "alan-sim-small"},
    }
    return LoopResult(name, patient, "measured", **values | changes)


def made_patient(patient="p1", **changes):
    values = {
        "method": "single plane A4C",
        "loops": ("loop1",),
        "n_loops": 2,
        "n_beats": 1,
        "ef_percent": Measure(60.0, 55.0, 65.0),
        "edv_ml": Measure(100.0, 90.0, 110.0),
        "quality": "doubtful",
        "flags": (Flag("view_unsure", "2 of 3 neighbours"),),
    }
    return PatientResult(patient, **values | changes)
