"""Orientation of stills and videos: rotate and flip them as a viewer does."""

from __future__ import annotations

import os
import struct
import warnings

import numpy as np
from PIL import Image, ImageOps

from alan.arrays import ByteArray
from alan.errors import DataError


def upright_picture(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation of a decoded still; damaged EXIF data are reported and ignored."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # errors of PIL's EXIF parser have no common base class
        warnings.warn(f"the orientation in EXIF cannot be read ({error}); shown as stored", stacklevel=2)
        return image.copy()


def upright_frames(frames: ByteArray, matrix: bytes | None, path: str | os.PathLike[str]) -> tuple[ByteArray, str]:
    """Apply the display matrix of a video.

    Args:
        frames: (T, H, W) as stored.
        matrix: Nine 32-bit numbers as FFmpeg gives them, or None.
        path: The file, for messages.

    Returns:
        frames: (T, H, W) or, turned by a quarter, (T, W, H).
        note: Description of the rotation, empty for none.

    Raises:
        DataError: The matrix rotates by an angle that is not a multiple of 90 degrees.
    """
    if matrix is None or len(matrix) < 36:
        return frames, ""
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])
    # A viewer puts the stored pixel (x, y) at (a x + c y, b x + d y).
    signs = np.sign([[a, c], [b, d]]).astype(int)
    if abs(np.linalg.det(signs)) != 1 or (abs(signs).sum(0) != 1).any():
        raise DataError(f"{path}: its display matrix rotates by no multiple of 90 degrees; convert the video")
    if (signs == np.eye(2)).all():
        return frames, ""
    if signs[0, 0] == 0:  # the shown row comes from the stored column
        frames, signs = frames.transpose(0, 2, 1), signs[:, ::-1]
    turned = frames[:, :: int(signs[1, 1]), :: int(signs[0, 0])]
    return np.ascontiguousarray(turned), "rotated by the display matrix"


def is_quarter_turn(matrix: bytes) -> bool:
    """Return whether a display matrix turns rows into columns."""
    return len(matrix) >= 36 and struct.unpack("=i", matrix[:4])[0] == 0
