"""Decoding of video files to grey frames with FFmpeg."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from alan.arrays import ByteArray
from alan.data.io.base import (
    GET_AGAIN,
    MAX_PIXELS,
    Cine,
    Header,
    check_complete,
    check_size,
    known_rate,
    mean_frame_rate,
    times_at,
    variable_rate,
)
from alan.data.io.frames import DecodedFrame, GreyMapping, read_all
from alan.data.io.grey import GreyRange
from alan.data.io.orientation import is_quarter_turn, upright_frames
from alan.errors import SHORTAGE, DataError

#: FFmpeg's demuxers of containers; its others read playlists, picture series, text and devices.
_CONTAINERS = "avi,mov,matroska,asf,mpeg,mpegts,mpegvideo,flv,ogg"
#: Demuxers of video in DICOM: transport streams, MP4 and bare streams.
_STREAMS = "mov,mpeg,mpegts,mpegvideo,m4v,h264,hevc"
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
#: Sizes of the packets of transport streams, and the last box of a fragmented MP4 file.
_PACKETS, _LAST_BOX = (188, 192, 204), b"mfro"
#: Number of zeros that no whole video ends with.
_UNWRITTEN = 2**20
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067


def read_video(path: str | os.PathLike[str]) -> Cine:
    """Decode the largest video stream of an AVI, MP4, QuickTime, Matroska, WebM, MPEG or ASF file to grey.

    Colour is reduced to luma, the display matrix is applied, and ``times`` are the presentation times. All codecs
    of the installed FFmpeg are supported; no other file and no network address is opened.

    Args:
        path: The file.

    Raises:
        DataError: The file is missing, damaged or not a video, holds fewer frames than its container promises, or
            frames of different sizes.
    """
    return read_all(VideoFrames(Path(path)))


class VideoFrames:
    """The frames of a video.

    Args:
        path: The file.
        data: A transport stream, an MP4 file or a bare MPEG-2, H.264 or HEVC stream that is embedded in the file,
            such as DICOM; None if the file itself is the video.
        whole: Whether all frames must fit into memory at once.
    """

    kind = "video"

    def __init__(self, path: Path, data: bytes | None = None, *, whole: bool = True) -> None:
        self.path, self._data, self._whole = path, data, whole
        self._stamps: list[float | None] = []
        self._rate: float | None = None
        self._aspect = 1.0
        self._turned, self._across = "", False

    def __iter__(self) -> Iterator[DecodedFrame]:
        """Decode the frames from the first on."""
        log: list[Any] = []
        frames = self._decode()
        while True:
            with _log_of_ffmpeg() as lines:  # per frame, because other threads and loops log too
                frame = next(frames, None)
            log += lines
            if frame is None:
                break
            yield frame
        _report(log, self.path)

    def _decode(self) -> Iterator[DecodedFrame]:
        path = self.path
        if self._data is None:
            n_bytes, formats = path.stat().st_size, _CONTAINERS
            _check_written(path, n_bytes)
            source: Any = f"file:{path}"
            promised_bytes = _promised_bytes(path)
            check_complete(path, "bytes", promised_bytes, n_bytes)
        else:
            n_bytes, source, formats = len(self._data), io.BytesIO(self._data), _STREAMS
            promised_bytes = n_bytes
        options = {"format_whitelist": formats, "protocol_whitelist": "file"}
        converter = VideoReformatter()  # one converter per frame would start threads for each
        matrix: bytes | None = None
        promised = hidden = 0
        self._stamps = []
        try:
            with av.open(source, options=options) as container:
                stream = _main_stream(container, path)
                stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
                stream.codec_context.thread_count = 1  # FFmpeg's messages are collected by thread
                promised = _promised_frames(container, stream, path, n_bytes)
                if not promised and not promised_bytes:
                    _check_unstated(container.format.name, path, n_bytes)
                check_size(path, (max(promised, 1) if self._whole else 1, stream.height, stream.width))
                self._rate = float(stream.average_rate) if stream.average_rate else None
                self._aspect = 1 / float(stream.sample_aspect_ratio or 1)
                for packet in container.demux(stream):
                    hidden += packet.is_discard  # by an edit list
                    for frame in packet.decode():
                        if packet.is_corrupt or frame.is_corrupt:
                            raise DataError(
                                f"{path}: frame {len(self._stamps) + 1} is damaged or cut off; {GET_AGAIN}"
                            )
                        if not self._stamps:  # PyAV frees a frame late whose side data were asked for
                            matrix = _matrix(frame)
                        self._stamps.append(frame.time)
                        yield self._upright(frame, converter, matrix)
        except av.FFmpegError as error:
            done = len(self._stamps)
            there = f"{done} of {promised}" if promised > done else str(done)
            if error.errno in SHORTAGE:
                raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
            words = _words(error)
            remedy = "save it as MP4 or AVI" if "whitelist" in words else GET_AGAIN
            raise DataError(f"{path}: cannot be decoded after {there} frames ({words}); {remedy}") from error
        check_complete(path, "frames", max(promised - hidden, 1), len(self._stamps))

    def _upright(self, frame: Any, converter: VideoReformatter, matrix: bytes | None) -> DecodedFrame:
        grey: Any = converter.reformat(frame, format="gray").to_ndarray()
        grey, self._turned = upright_frames(grey[None], matrix, self.path)
        self._across = matrix is not None and is_quarter_turn(matrix)

        def colours() -> ByteArray:
            channels: Any = np.moveaxis(converter.reformat(frame, format="rgb24").to_ndarray(), -1, 0)
            return np.moveaxis(upright_frames(channels, matrix, self.path)[0], 0, -1)

        return DecodedFrame(grey[0], None if frame.format.name.startswith("gray") else colours)

    def header(self, count: int, found: GreyRange) -> tuple[Header, GreyMapping]:
        """Return the times and rate."""
        times, fps, notes = _times(self._stamps, self._rate)
        aspect = 1 / self._aspect if self._across else self._aspect
        if aspect != 1:
            notes.append(f"pixels are {1 / aspect:.4g} times as wide as high, frames are left as stored")
        turned = [self._turned] if self._turned else []
        return Header(fps, times=times, notes=(*turned, *notes), aspect=aspect), None


def _main_stream(container: Any, path: Path) -> Any:
    """Return the largest video stream but for covers; the others, such as previews, are named in a warning."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise DataError(f"{path}: has no video stream; give a video")
    # the first stream of AVIF is a still of the same size
    chosen = max(streams, key=lambda stream: (stream.width * stream.height, stream.frames))
    if len(streams) > 1:
        sizes = ", ".join(f"{stream.width} x {stream.height}" for stream in streams)
        warnings.warn(
            f"holds {len(streams)} video streams ({sizes}); that of {chosen.width} x {chosen.height} is read",
            stacklevel=2,
        )
    return chosen


def _words(error: Any) -> str:
    """Return the message of an error and FFmpeg's last log line before it."""
    message = error.log[2] if error.log else ""
    return " ".join(f"{error.strerror}; {message}".split()).rstrip("; ")


def _check_written(path: Path, n_bytes: int) -> None:
    """Refuse a file that ends with zeros, as an interrupted copy leaves it; FFmpeg would search all of them."""
    with path.open("rb") as file:
        file.seek(max(n_bytes - _UNWRITTEN, 0))
        if n_bytes >= _UNWRITTEN and not any(file.read(_UNWRITTEN)):
            raise DataError(f"{path}: ends early, its last {_UNWRITTEN} bytes are zeros; {GET_AGAIN}")


def _promised_frames(container: Any, stream: Any, path: Path, n_bytes: int) -> int:
    """Return the number of frames stated by the container, or 0 if it states none."""
    index = [entry for entry in stream.index_entries if entry.size]
    if "mov" in container.format.name:  # the index is correct if an edit list hides frames
        check_complete(path, "bytes", max((entry.pos + entry.size for entry in index), default=0), n_bytes)
        return len(index) if stream.frames else 0
    stated: int = stream.frames
    # A complete AVI file may hold fewer frames than it states, because it also counts frames that a recorder
    # dropped.
    return len(index) if stated and _is_whole_riff(path, n_bytes) else stated


def _check_unstated(container: str, path: Path, n_bytes: int) -> None:
    """Check, as far as possible, a file whose container states neither frames nor bytes, and warn about it."""
    if container == "mpegts" and all(n_bytes % size for size in _PACKETS):
        raise DataError(f"{path}: ends early, within a packet of {_PACKETS[0]} bytes; {GET_AGAIN}")
    if "mov" in container:
        with path.open("rb") as file:
            file.seek(max(n_bytes - 16, 0))
            if file.read()[4:8] == _LAST_BOX:
                return
    warnings.warn(
        "its container does not state the number of frames, so missing frames at the end cannot be "
        "noticed; compare it with its source",
        stacklevel=2,
    )


def _is_whole_riff(path: Path, n_bytes: int) -> bool:
    """Check whether an AVI file is as long as its chunks state; some programs also count 8 header bytes."""
    end = 0
    with path.open("rb") as file:
        while (head := file.read(12))[:4] == b"RIFF":
            end += 8 + int.from_bytes(head[4:8], "little")
            file.seek(end)
    return 0 < end <= n_bytes + 8


def _promised_bytes(path: Path) -> int:
    """Return the file size stated by the header of a Matroska or ASF file, or 0 if it states none."""
    with path.open("rb") as file:
        start = file.read(2**16)
    at = start.find(_ASF_PROPERTIES)
    if start[:4] == bytes.fromhex("3026b275") and at >= 0:
        return int.from_bytes(start[at + 40 : at + 48], "little")
    at = 0
    for wanted in (_EBML, _SEGMENT):
        if int.from_bytes(start[at : at + 4]) != wanted or at + 12 > len(start):
            return 0
        width = 9 - start[at + 4].bit_length()  # bytes of the size that follows
        size = int.from_bytes(start[at + 4 : at + 4 + width]) & (1 << 7 * width) - 1
        at += 4 + width + size
    return 0 if size == (1 << 7 * width) - 1 else at  # all ones: unknown to the writer


def _matrix(frame: Any) -> bytes | None:
    data = frame.side_data.get("DISPLAYMATRIX")
    return None if data is None else bytes(data)


def _times(
    stamps: list[float | None], rate: float | None
) -> tuple[NDArray[np.float64] | None, float | None, list[str]]:
    """Return times from the first frame, the frame rate, and notes."""
    times = np.array([np.nan if stamp is None else stamp for stamp in stamps], np.float64)
    steps = np.diff(times)
    if len(times) == 1:
        return np.zeros(1), known_rate(rate), []
    if not (steps > 0).all():  # false for NaN too
        fps = known_rate(rate)
        return times_at(fps, len(times)), fps, ["time stamps do not increase, so a constant rate is assumed"]
    notes, mean = [*variable_rate(times)], mean_frame_rate(times)
    if known_rate(mean) is None:
        return None, None, notes
    return times - times[0], mean if notes else known_rate(rate) or mean, notes


@contextlib.contextmanager
def _log_of_ffmpeg() -> Iterator[list[Any]]:
    """Collect FFmpeg's error messages of this thread."""
    level, repeated = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # repeated messages are otherwise held back
    try:
        with av.logging.Capture(local=True) as lines:
            yield lines
    finally:
        av.logging.set_skip_repeated(repeated)
        av.logging.set_level(level)


def _report(log: list[Any], path: Path) -> None:
    """Warn of FFmpeg's messages about a video that was decoded nevertheless."""
    lines = list(dict.fromkeys(f"{name}: {message.strip()}" for _, name, message in log))
    for words, problem in (("crc mismatch", "a check sum is wrong"), ("ended prematurely", "ends early")):
        if any(words in line.lower() for line in lines):
            raise DataError(f"{path}: {problem} ({lines[0]}); {GET_AGAIN}")
    if lines:
        more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
        warnings.warn(f"FFmpeg reports {lines[0]!r}{more}", stacklevel=2)
