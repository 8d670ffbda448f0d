import wave
from fractions import Fraction

import numpy as np
import pytest

from alan.data.io.video import read_video
from alan.errors import DataError


@pytest.fixture
def frames():
    rows, columns = np.indices((40, 56))
    return np.stack([(rows * 3 + columns * 2 + 5 * t) % 256 for t in range(9)]).astype(np.uint8)


def test_a_lossless_video_comes_back_bit_by_bit(tmp_path, archives, frames):
    archives.video(tmp_path / "a.avi", frames, codec="ffv1", pixels="gray", fps=Fraction(25, 2))
    video = read_video(tmp_path / "a.avi")
    assert np.array_equal(video.frames, frames)
    assert video.frames.dtype == np.uint8
    assert video.fps == 12.5


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [("a.avi", "mjpeg", "yuvj420p"), ("a.mp4", "mpeg4", "yuv420p"), ("b.avi", "ffv1", "yuv420p")],
)
def test_the_grey_range_is_full_whatever_the_pixel_format(tmp_path, archives, name, codec, pixels):
    ramp = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8), (6, 48, 64))
    archives.video(tmp_path / name, ramp, codec=codec, pixels=pixels)
    video = read_video(tmp_path / name)
    assert video.frames.shape == ramp.shape
    assert np.abs(video.frames.astype(int) - ramp).mean() < 3
    assert video.frames.min() <= 3
    assert video.frames.max() >= 252


def test_missing(tmp_path):
    with pytest.raises(DataError, match=r"a.avi: no such video"):
        read_video(tmp_path / "a.avi")


def test_garbage(tmp_path):
    (tmp_path / "a.avi").write_bytes(bytes(range(256)) * 8)
    with pytest.raises(DataError, match=r"a.avi: cannot be decoded"):
        read_video(tmp_path / "a.avi")


def test_sound_only(tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    with pytest.raises(DataError, match=r"a.wav: holds no video stream"):
        read_video(tmp_path / "a.wav")


def test_a_video_cut_short_gives_only_whole_frames_or_an_error(tmp_path, archives, frames):
    archives.video(tmp_path / "a.avi", frames, codec="ffv1", pixels="gray")
    data = (tmp_path / "a.avi").read_bytes()
    lengths, message = set(), ""
    for share in (0.02, 0.5, 0.8):
        (tmp_path / "b.avi").write_bytes(data[: int(share * len(data))])
        try:
            got = read_video(tmp_path / "b.avi").frames
        except DataError as error:
            message = str(error)
            lengths.add(0)
        else:
            assert np.array_equal(got, frames[: len(got)])
            lengths.add(len(got))
    assert 0 in lengths
    assert "b.avi" in message
    assert max(lengths) < len(frames)
