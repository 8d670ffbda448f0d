"""Video files to grey frames."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from alan.data.io.base import Cine
from alan.errors import DataError


def read_video(path: str | os.PathLike[str]) -> Cine:
    """Decode the first video stream of an AVI or MP4 file to grey.

    Colour is reduced to luma. Whatever the installed FFmpeg decodes is accepted.

    Raises:
        DataError: missing, not a video, without a video stream, undecodable, or frames of more than one size.
    """
    source = Path(path)
    if not source.is_file():
        raise DataError(f"{source}: no such video")
    frames: list[NDArray[Any]] = []
    try:
        with av.open(str(source)) as container:
            if not container.streams.video:
                raise DataError(f"{source}: holds no video stream")
            stream = container.streams.video[0]
            rate = stream.average_rate
            frames.extend(frame.to_ndarray(format="gray") for frame in container.decode(stream))
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"{source}: cannot be decoded after {len(frames)} frames ({error})") from error
    if not frames:
        raise DataError(f"{source}: holds no frame that can be decoded")
    shapes = {frame.shape for frame in frames}
    if len(shapes) > 1:
        raise DataError(f"{source}: frames of {len(shapes)} sizes {sorted(shapes)}; one size is needed")
    return Cine(np.stack(frames).astype(np.uint8, copy=False), float(rate) if rate else None)
