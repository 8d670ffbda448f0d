"""Video files to grey frames."""

import gc
import os
import struct
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from alan.data.io import base
from alan.data.io.video import read_video
from alan.errors import AlanWarning, DataError


@pytest.fixture
def frames():
    rows, columns = np.indices((40, 56))
    return np.stack([(rows * 3 + columns * 2 + 5 * t) % 256 for t in range(9)]).astype(np.uint8)


def test_a_lossless_video_is_read_exactly(tmp_path, archives, frames):
    archives.video(tmp_path / "a.avi", frames, codec="ffv1", pixels="gray", fps=Fraction(25, 2))
    video = read_video(tmp_path / "a.avi")
    assert np.array_equal(video.frames, frames)
    assert video.frames.dtype == np.uint8
    assert video.fps == 12.5


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [("a.avi", "mjpeg", "yuvj420p"), ("a.mp4", "mpeg4", "yuv420p"), ("b.avi", "ffv1", "yuv420p")],
)
def test_grey_values_use_the_full_range_in_every_pixel_format(tmp_path, archives, name, codec, pixels):
    ramp = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8), (6, 48, 64))
    archives.video(tmp_path / name, ramp, codec=codec, pixels=pixels)
    video = read_video(tmp_path / name)
    assert video.frames.shape == ramp.shape
    assert np.abs(video.frames.astype(int) - ramp).mean() < 3
    assert video.frames.min() <= 3
    assert video.frames.max() >= 252


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"a.avi: no such video"):
        read_video(tmp_path / "a.avi")


def test_a_file_of_garbage_is_refused(tmp_path):
    (tmp_path / "a.avi").write_bytes(bytes(range(256)) * 8)
    with pytest.raises(DataError, match=r"a.avi: cannot be decoded"):
        read_video(tmp_path / "a.avi")


def test_a_file_without_video_is_refused(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(DataError, match=r"a.mkv: has no video stream"):
        read_video(tmp_path / "a.mkv")


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile whole.avi\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nwhole.avi\n#EXT-X-ENDLIST\n",
        "notes on a video\n" * 40,
        "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    ],
)
def test_playlists_and_text_are_refused(tmp_path, archives, frames, text):
    archives.video(tmp_path / "whole.avi", frames)
    (tmp_path / "a.avi").write_text(text)
    with pytest.raises(DataError, match=r"a.avi: cannot be decoded after 0 frames"):
        read_video(tmp_path / "a.avi")


def test_an_unsupported_container_is_refused_with_a_remedy(tmp_path, archives, frames):
    archives.video(tmp_path / "a.y4m", frames, "wrapped_avframe", "yuv420p")
    with pytest.raises(DataError, match=r"a.y4m: cannot be decoded .*whitelist.*; save it as MP4 or AVI"):
        read_video(tmp_path / "a.y4m")


def test_a_picture_is_refused(tmp_path, archives, frames):
    archives.picture(tmp_path / "a.png", frames[0])
    (tmp_path / "a.png").rename(tmp_path / "a.avi")
    with pytest.raises(DataError, match="whitelist"):
        read_video(tmp_path / "a.avi")


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "options"),
    [
        ("a.avi", "mjpeg", "yuvj420p", {}),
        ("a.avi", "ffv1", "gray", {}),
        ("a.mp4", "mpeg4", "yuv420p", {}),
        ("a.mp4", "mpeg4", "yuv420p", {"movflags": "faststart"}),
        ("a.mov", "mjpeg", "yuvj420p", {"movflags": "faststart"}),
        ("a.mkv", "ffv1", "gray", {}),
        ("a.webm", "libvpx-vp9", "yuv420p", {}),
        ("a.wmv", "wmv2", "yuv420p", {}),
    ],
)
def test_a_truncated_video_is_refused(tmp_path, name, codec, pixels, options):
    noise = np.random.default_rng(0).integers(0, 256, (12, 48, 64), np.uint8)
    write(tmp_path / name, noise, codec, pixels, options=options)
    whole = (tmp_path / name).read_bytes()
    shown = read_video(tmp_path / name).frames
    assert len(shown) == 12
    for share in np.linspace(0.01, 0.999, 25):
        (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
        try:
            frames = read_video(tmp_path / name).frames
        except DataError:
            continue
        assert np.array_equal(frames, shown), f"{len(frames)} frames of {share:.3f}"  # only the index was lost


def read_and_catch(path):
    """Number of frames, 0 if the video is refused, and whether the reader warns that it is unknown."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            count = len(read_video(path).frames)
        except DataError:
            return 0, False
    return count, any("does not state the number of frames" in str(warning.message) for warning in caught)


@pytest.mark.parametrize(
    ("name", "options", "warns"),
    [
        ("a.ts", {}, True),
        ("a.mp4", {"movflags": "frag_keyframe+empty_moov"}, False),
        ("a.mkv", {"live": "1"}, True),
    ],
)
def test_a_video_of_unknown_length_is_read_with_a_warning(tmp_path, frames, name, options, warns):
    write(tmp_path / name, np.concatenate([frames] * 4), "libx264", "yuv420p", options=options)
    whole = (tmp_path / name).read_bytes()
    assert read_and_catch(tmp_path / name) == (36, warns)
    found = []
    for share in np.linspace(0.01, 0.99, 25):
        (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
        found.append(read_and_catch(tmp_path / name))
    assert set(found) <= {(0, False), *((count, True) for count in range(1, 37))}
    assert found.count((0, False)) > 12


def test_an_error_names_declared_and_decoded_frames(tmp_path, archives):
    noise = np.random.default_rng(0).integers(0, 256, (12, 48, 64), np.uint8)
    archives.video(tmp_path / "a.avi", noise)
    whole = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "a.avi").write_bytes(whole[: int(0.6 * len(whole))])
    with pytest.raises(DataError, match=r"a.avi: .*\d+ of 12 frames.*; get the file again"):
        read_video(tmp_path / "a.avi")


def test_damage_found_by_the_decoder_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (12, 48, 64), np.uint8)
    write(tmp_path / "a.mkv", noise, "ffv1", "gray", options={"slicecrc": "1"})
    whole = bytearray((tmp_path / "a.mkv").read_bytes())
    whole[len(whole) // 2] ^= 0x10
    (tmp_path / "a.mkv").write_bytes(whole)
    with pytest.raises(DataError, match="a check sum is wrong"):
        read_video(tmp_path / "a.mkv")


def test_ffmpeg_messages_are_shown_once(tmp_path, archives, frames, monkeypatch):
    archives.video(tmp_path / "a.avi", frames)

    class Capture:
        def __init__(self, local):
            assert local

        def __enter__(self):
            return [(16, "mjpeg", "odd marker\n"), (16, "mjpeg", "odd marker\n"), (16, "avi", "odd index")]

        def __exit__(self, *_):
            return False

    monkeypatch.setattr(av.logging, "Capture", Capture)
    with pytest.warns(AlanWarning, match=r"a.avi: FFmpeg reports 'mjpeg: odd marker' and 1 more") as caught:
        assert len(read_video(tmp_path / "a.avi").frames) == len(frames)
    assert len(caught) == 1


def write(path, frames, codec, pixels, *, stamps=None, options=None):
    """Frames (T, H, W) with presentation times in milliseconds, 40 apart by default."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="gray").reformat(format=pixels)
            frame.pts, frame.time_base = stamps[index] if stamps else 40 * index, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("codec", ["flv", "libx264"])
def test_flash_video_is_read(tmp_path, codec):
    frames = np.random.default_rng(0).integers(0, 255, (8, 4, 4), np.uint8).repeat(16, 1).repeat(16, 2)
    write(tmp_path / "a.flv", frames, codec, "yuv420p")
    with pytest.warns(AlanWarning, match="does not state the number of frames"):
        found = read_video(tmp_path / "a.flv")
    assert found.frames.shape == frames.shape
    assert found.fps == pytest.approx(25, rel=0.01)


def test_an_animated_avif_is_read_as_a_loop(tmp_path):
    """Its first stream is a still of the same size."""
    frames = np.random.default_rng(0).integers(0, 255, (6, 4, 4), np.uint8).repeat(16, 1).repeat(16, 2)
    first, *others = map(Image.fromarray, frames)
    first.save(tmp_path / "a.avif", save_all=True, append_images=others, duration=40, quality=95)
    with pytest.warns(AlanWarning, match="holds 2 video streams"):
        found = read_video(tmp_path / "a.avif")
    assert found.frames.shape == frames.shape
    assert np.abs(found.frames.astype(float) - frames).mean() < 4


def test_times_of_a_constant_rate_are_read(tmp_path, archives, frames):
    archives.video(tmp_path / "a.avi", frames, fps=50)
    video = read_video(tmp_path / "a.avi")
    assert video.times == pytest.approx(np.arange(9) / 50)
    assert video.notes == ()


@pytest.mark.parametrize(("name", "codec", "pixels"), [("a.mkv", "ffv1", "gray"), ("a.mp4", "mpeg4", "yuv420p")])
def test_times_of_a_variable_rate_are_read(tmp_path, frames, name, codec, pixels):
    stamps = [100, 120, 140, 160, 200, 400, 1000, 1010, 1100]
    write(tmp_path / name, frames, codec, pixels, stamps=stamps)
    video = read_video(tmp_path / name)
    assert video.times == pytest.approx((np.array(stamps) - 100) / 1000)
    assert video.fps == pytest.approx(8)
    assert video.notes == ("variable frame rate, 1.667 to 100 fps",)


@pytest.mark.parametrize("step", [10**9, 10**5])
def test_a_frame_rate_that_no_loop_of_a_heart_has_is_unknown(tmp_path, frames, step):
    write(tmp_path / "a.mkv", frames, "ffv1", "gray", stamps=[step * index for index in range(9)])
    with pytest.warns(AlanWarning, match=r"a.mkv: states .* frames per second, .* its times are unknown"):
        video = read_video(tmp_path / "a.mkv")
    assert video.times is video.fps is None
    assert len(video.frames) == 9


def test_a_file_of_zeros_is_refused_without_reading_all_of_it(tmp_path):
    with (tmp_path / "a.mp4").open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(DataError, match=r"a.mp4: begins with 4096 zeros, .*; get the file again"):
        read_video(tmp_path / "a.mp4")


@pytest.mark.parametrize(("name", "codec", "pixels"), [("a.avi", "mjpeg", "yuvj420p"), ("a.mkv", "ffv1", "gray")])
def test_zeros_after_the_frames_are_refused_without_reading_all_of_them(tmp_path, frames, name, codec, pixels):
    write(tmp_path / name, frames, codec, pixels)
    os.truncate(tmp_path / name, 2**40)
    with pytest.raises(DataError, match=rf"{name}: ends early, its last 1048576 bytes are zeros"):
        read_video(tmp_path / name)


def test_dropped_frames_are_not_counted_as_missing(tmp_path, frames):
    """AVI counts a dropped frame and holds nothing for it; here one of 40 slots is filled."""
    write(tmp_path / "a.avi", frames, "mjpeg", "yuvj420p")
    with av.open(str(tmp_path / "a.avi")) as container:
        assert container.streams.video[0].frames == 360
    assert read_video(tmp_path / "a.avi").times == pytest.approx(np.arange(9) / 25)


def test_a_single_frame_has_time_0(tmp_path, archives, frames):
    archives.video(tmp_path / "a.avi", frames[:1], fps=50)
    assert read_video(tmp_path / "a.avi").times.tolist() == [0]


def patched(path, name, place, values, form):
    """Overwrite a part of the first box of this name in an MP4 file."""
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, data.index(name) + place, *values)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((0, 1, -1, 0), lambda a: np.rot90(a, -1, (1, 2))),
        ((-1, 0, 0, -1), lambda a: a[:, ::-1, ::-1]),
        ((0, -1, 1, 0), lambda a: np.rot90(a, 1, (1, 2))),
    ],
)
def test_the_display_matrix_is_applied(tmp_path, archives, frames, matrix, turn):
    path = tmp_path / "a.mp4"
    archives.video(path, frames, codec="mpeg4", pixels="yuv420p")
    stored = read_video(path).frames
    a, b, c, d = (65536 * value for value in matrix)
    patched(path, b"tkhd", 44, (a, b, 0, c, d, 0, 0, 0, 1 << 30), ">9i")
    video = read_video(path)
    assert np.array_equal(video.frames, turn(stored))
    assert video.notes == ("rotated by the display matrix",)


@pytest.mark.parametrize("keep", [1, 4])
def test_frames_hidden_by_an_edit_list_are_not_counted_as_missing(tmp_path, frames, keep):
    """A recording that was trimmed on a phone."""
    path = tmp_path / "a.mp4"
    write(path, frames, "mjpeg", "yuvj420p")
    data = path.read_bytes()
    at = data.index(b"mdhd")
    scale = struct.unpack_from(">I", data, at + 16)[0]
    patched(path, b"elst", 12, (keep * 40, 2 * scale // 25), ">Ii")  # durations in ms of the movie
    video = read_video(path)
    assert len(video.frames) == keep
    assert video.times == pytest.approx(np.arange(keep) / 25)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux to count threads")
def test_reading_leaves_no_threads(tmp_path, archives, frames):
    """PyAV starts threads for each frame that it converts by itself, and keeps them until garbage is collected."""
    archives.video(tmp_path / "a.avi", np.repeat(frames, 4, 0))
    read_video(tmp_path / "a.avi")
    before = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    gc.disable()
    try:
        assert len(read_video(tmp_path / "a.avi").frames) == 36
        assert len(os.listdir("/proc/self/task")) <= before + 4  # noqa: PTH208
    finally:
        gc.enable()


def test_anisotropic_pixels_are_noted(tmp_path, frames):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for array in frames:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(array, format="gray").reformat(format="yuv420p"))
            )
        container.mux(stream.encode())
    video = read_video(tmp_path / "a.mp4")
    assert video.notes == ("pixels are 1.333 times as wide as high, frames are left as stored",)


def test_oversized_frames_are_refused_before_decoding(tmp_path, archives, frames, monkeypatch):
    archives.video(tmp_path / "a.avi", frames)
    monkeypatch.setattr(base, "MAX_PIXELS", 2000)
    with pytest.raises(DataError, match="claims 9 x 40 x 56 pixels"):
        read_video(tmp_path / "a.avi")
    monkeypatch.setattr(base, "MAX_PIXELS", 3000)
    monkeypatch.setattr(base, "MAX_BYTES", 6000)
    with pytest.raises(DataError, match="6000 bytes are decoded"):
        read_video(tmp_path / "a.avi")


def test_the_largest_of_several_streams_is_read_with_a_warning(tmp_path, frames):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        streams = [container.add_stream("ffv1", rate=25) for _ in range(2)]
        for stream, step in zip(streams, (4, 1), strict=True):  # a preview, and the loop
            stream.height, stream.width, stream.pix_fmt = 40 // step, 56 // step, "gray"
        for stream, step in zip(streams, (4, 1), strict=True):
            for frame in np.ascontiguousarray(frames[:, ::step, ::step]):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
            container.mux(stream.encode())
    with pytest.warns(AlanWarning, match=r"holds 2 video streams \(14 x 10, 56 x 40\); that of 56 x 40 is read"):
        assert np.array_equal(read_video(tmp_path / "a.mkv").frames, frames)


def test_a_cover_picture_is_not_taken_for_the_video(tmp_path, frames):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        small, cover = container.add_stream("mpeg4", rate=20), container.add_stream("mjpeg", rate=1)
        small.height, small.width, small.pix_fmt = 40, 56, "yuv420p"
        cover.height, cover.width, cover.pix_fmt = 160, 160, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        for stream, pictures in ((cover, np.full((1, 160, 160), 200, np.uint8)), (small, frames)):
            for picture in pictures:
                frame = av.VideoFrame.from_ndarray(picture, format="gray")
                container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
            container.mux(stream.encode())
    assert read_video(tmp_path / "a.mp4").frames.shape == frames.shape
