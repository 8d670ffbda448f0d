"""Numbered pictures are a loop if neighbours are alike where the pictures differ."""

import numpy as np
import pytest
from PIL import Image

from alan.data.io.picture_series import is_picture_loop, resemblance
from alan.data.simulator import simulate_sequence


def save(folder, frames):
    paths = [folder / f"{number:02d}.png" for number in range(len(frames))]
    for path, frame in zip(paths, frames, strict=True):
        Image.fromarray(frame).save(path)
    return paths


def on_screen(frame):
    """Place a frame on a screen with text that never changes."""
    screen = np.zeros((120, 160), np.uint8)
    screen[4:12, 4:150:3] = 220
    screen[20:84, 40:104] = frame
    return screen


@pytest.mark.parametrize("fps", [10, 50])
def test_frames_of_a_beat_are_a_loop(tmp_path, fps):
    frames = simulate_sequence("A4C", 5, n_frames=fps, beats=1.2, size=64).frames
    assert is_picture_loop(save(tmp_path, [on_screen(frame) for frame in frames]))


@pytest.mark.parametrize("place", [on_screen, lambda frame: frame])
def test_patients_are_not_a_loop(tmp_path, place):
    frames = [simulate_sequence("A4C", n, n_frames=1, size=64, seed=n).frames[0] for n in range(8)]
    assert not is_picture_loop(save(tmp_path, [place(frame) for frame in frames]))


def test_odd_pictures(tmp_path):
    frame = simulate_sequence("A4C", 5, n_frames=1, size=64).frames[0]
    paths = save(tmp_path, [frame] * 5)
    assert resemblance(paths) == 1
    assert not is_picture_loop(paths[:3])
    Image.fromarray(frame[:50]).save(paths[2])
    assert resemblance(paths) == 1  # the loop is read, and the error names the picture
    for path in paths[::2]:
        Image.fromarray(frame[:50]).save(path)
    assert resemblance(paths) == 0
    for path in paths:
        path.write_bytes(b"")
    assert resemblance(paths) == 1
