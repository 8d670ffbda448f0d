"""Pictures and videos of a loop with the outlines of its structures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from alan.analysis.results import LoopResult
from alan.arrays import ByteArray
from alan.data.preprocessing import Preprocessing
from alan.data.structures import label_colour, label_palette
from alan.files import atomic

#: Shortest and longest allowed length of the longer side of a picture in pixels.
_SHORTEST, _LONGEST = 480, 960
#: Height of the strip with the area curve below a video, in pixels, and the margin around the curve.
_STRIP, _MARGIN = 88, 10
#: Width of the place left of the curve for its name.
_GUTTER = 54
#: Frames per second of a video whose loop has no frame times.
_DEFAULT_RATE = 25.0
#: Resolution in s of the times of frames in a video with a variable frame rate.
_TICK = Fraction(1, 10_000)
#: Part of the frame that a parcel must cover for its id to be drawn.
_LABELLED = 0.004
_PALE, _DIM, _ALARM = (230, 236, 242), (90, 104, 120), (255, 143, 133)
_DARK = (16, 20, 24)


def display_shape(shape: tuple[int, int], aspect: float) -> tuple[int, int]:
    """Choose the size of pictures of a loop: square pixels, a readable size, and even numbers for videos.

    Args:
        shape: (H, W) of the frames.
        aspect: Height of their pixels divided by the width.

    Returns:
        (height, width), each even; the longer side is between 480 and 960 pixels.
    """
    height, width = shape[0] * max(1.0, aspect), shape[1] * max(1.0, 1 / aspect)
    longer = max(height, width)
    factor = min(max(1.0, _SHORTEST / longer), _LONGEST / longer)
    return _even(height * factor), _even(width * factor)


def _even(side: float) -> int:
    return max(2, 2 * round(side / 2))


class Painter:
    """Draws outlines in the colours of the structures.

    Args:
        shape: (height, width) of the pictures.
        size: Side of the label maps of the model.
    """

    def __init__(self, shape: tuple[int, int], size: int) -> None:
        self.shape, self._restore = shape, Preprocessing(size).restore
        self._colours = np.frombuffer(label_palette(), np.uint8).reshape(256, 3)
        self._thickness = 2 if max(shape) < 700 else 3

    def labels(self, labels: ByteArray) -> ByteArray:
        """Resize label maps (B, size, size) of the model to the size of the pictures (B, height, width)."""
        return self._restore(labels, self.shape)

    def paint(self, frame: ByteArray, labels: ByteArray) -> ByteArray:
        """Draw one frame.

        Args:
            frame: (H, W) uint8, any size.
            labels: (height, width) uint8 label map.

        Returns:
            (height, width, 3) uint8.
        """
        picture = np.stack([self.resize(frame)] * 3, axis=2)
        self._draw(labels, picture)
        return picture

    def _draw(self, labels: ByteArray, picture: NDArray[Any]) -> None:
        """Draw the outlines of a label map into a picture (height, width, 3)."""
        edge = np.flatnonzero(outline(labels, self._thickness))
        picture.reshape(-1, 3)[edge] = self._colours[labels.ravel()[edge]]

    def paint_parcels(
        self, frame: ByteArray, parcels: ByteArray, labels: ByteArray, chosen: ByteArray
    ) -> ByteArray:
        """Draw the borders of all parcels, and the chosen ones in the colours of their structures.

        Args:
            frame: (H, W) uint8, any size.
            parcels: (size, size) uint8 ids.
            labels: (height, width) uint8 label map of the final outlines.
            chosen: (256,) uint8, for each id the value of the structure that it belongs to, or 0.

        Returns:
            (height, width, 3) uint8, with the ids of the larger chosen parcels.
        """
        ids = np.asarray(Image.fromarray(parcels).resize(self.shape[::-1], Image.Resampling.NEAREST))
        picture = np.repeat(self.resize(frame)[..., None], 3, axis=2).astype(np.float32)
        value = chosen[ids]
        tinted = value > 0
        picture[tinted] = 0.6 * picture[tinted] + 0.4 * self._colours[value[tinted]]
        border = np.zeros(ids.shape, bool)
        border[:, 1:] |= ids[:, 1:] != ids[:, :-1]
        border[1:] |= ids[1:] != ids[:-1]
        picture[border] = 0.45 * picture[border] + 0.55 * np.array([240, 192, 64], np.float32)
        self._draw(labels, picture)
        image = Image.fromarray(picture.astype(np.uint8))
        draw, font = ImageDraw.Draw(image), ImageFont.load_default(max(self.shape) // 40)
        scale = (self.shape[1] / parcels.shape[1], self.shape[0] / parcels.shape[0])
        pixels = np.bincount(parcels.ravel(), minlength=256)
        for parcel in np.flatnonzero((chosen > 0) & (pixels >= _LABELLED * parcels.size)):
            row, column = _inner_point(parcels == parcel)
            place = ((column + 0.5) * scale[0], (row + 0.5) * scale[1])
            draw.text(
                place, str(parcel), fill="white", font=font, anchor="mm", stroke_width=2, stroke_fill="black"
            )
        return np.asarray(image)

    def resize(self, frame: ByteArray) -> ByteArray:
        """Resize a frame (H, W) uint8 to the size of the pictures."""
        if frame.shape == self.shape:
            return frame
        return np.asarray(Image.fromarray(frame).resize(self.shape[::-1], Image.Resampling.BILINEAR))


def outline(labels: ByteArray, thickness: int) -> NDArray[np.bool_]:
    """Find the inner edges of the structures of a label map.

    Args:
        labels: (H, W) uint8.
        thickness: Width of the edges in pixels.

    Returns:
        (H, W) bool, True on pixels of a structure that are closer than ``thickness`` to another label or to the
        border of the picture, along a row or a column.
    """
    inside = labels > 0
    edge = np.zeros(labels.shape, bool)
    for step in range(1, thickness + 1):
        down, across = labels[step:] != labels[:-step], labels[:, step:] != labels[:, :-step]
        edge[:-step] |= down
        edge[step:] |= down
        edge[:, :-step] |= across
        edge[:, step:] |= across
    for border in (edge[:thickness], edge[-thickness:], edge[:, :thickness], edge[:, -thickness:]):
        border[:] = True
    return edge & inside


def _inner_point(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Find the point of a mask that is farthest from its border, as (row, column)."""
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), mask.shape)
    return int(row), int(column)


def curve_strip(result: LoopResult, width: int) -> tuple[ByteArray, NDArray[np.int64]]:
    """Draw the area curve of the first structure over the frames, with the beats.

    Args:
        result: The loop.
        width: Width of the strip in pixels.

    Returns:
        (88, width, 3) uint8, and for each frame the column of the cursor.
    """
    columns = np.linspace(_GUTTER, width - 1 - _MARGIN, max(2, result.n_frames)).round().astype(np.int64)
    image = Image.new("RGB", (width, _STRIP), _DARK)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    name = result.structures[0] if result.structures else "lv"
    area = np.array([frame.area_px.get(name, np.nan) for frame in result.frames])
    top, bottom = 26, _STRIP - _MARGIN
    if len(area) == result.n_frames and np.isfinite(area).any():
        low, high = np.nanmin(area), np.nanmax(area)
        rows = bottom - (area - low) / max(high - low, 1e-9) * (bottom - top)
        points = [(int(x), float(y)) for x, y in zip(columns, rows, strict=False) if np.isfinite(y)]
        draw.line(points, fill=label_colour(1), width=2)
        for x, y, frame in zip(columns, rows, result.frames, strict=False):
            if frame.repaired and np.isfinite(y):
                draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=_ALARM)
        for beat in result.beats:
            for frame_number, word in ((beat.ed, "ED"), (beat.es, "ES")):
                x, y = int(columns[frame_number]), rows[frame_number]
                draw.line((x, top - 6, x, bottom), fill=_DIM, width=1)
                draw.text((x, top - 8), word, fill=_PALE, font=font, anchor="ms")
                if np.isfinite(y):
                    draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_PALE)
    draw.text((_MARGIN, _STRIP // 2), f"area\nof {name}", fill=_PALE, font=font, anchor="lm")
    return np.asarray(image), columns


class VideoWriter(Protocol):
    """Function that encodes the frames of a video, one after the other."""

    def __call__(self, picture: ByteArray) -> None:
        """Encode a picture (height, width, 3) uint8."""


@contextmanager
def write_mp4(
    path: Path, shape: tuple[int, int], rate: float | None, times: Sequence[float] = ()
) -> Iterator[VideoWriter]:
    """Write an MP4 that browsers play, frame by frame and atomically.

    Args:
        path: The file.
        shape: (height, width), both even.
        rate: Frames per second; None uses 25.
        times: Time of each frame in s, ascending, of a loop with a variable frame rate; empty for a constant one.

    Yields:
        A function that encodes a picture (height, width, 3) uint8.
    """
    speed = Fraction(min(max(rate or _DEFAULT_RATE, 1.0), 240.0)).limit_denominator(1000)
    with (
        atomic(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as file,
    ):
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        options = {"preset": "ultrafast", "crf": "20", "threads": "1"} if codec == "libx264" else {"qscale": "3"}
        stream: Any = file.add_stream(codec, rate=speed, options=options)
        stream.height, stream.width, stream.pix_fmt = *shape, "yuv420p"
        stamps = iter(times)
        if times:
            stream.codec_context.time_base = _TICK

        def encode(picture: ByteArray) -> None:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if (stamp := next(stamps, None)) is not None:
                frame.pts, frame.time_base = round(stamp / _TICK), _TICK
            file.mux(stream.encode(frame))

        yield encode
        file.mux(stream.encode())
