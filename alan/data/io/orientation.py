"""Orientation: turn stills and videos the way in which a viewer shows them."""

from __future__ import annotations

import os
import struct
import warnings

import numpy as np
from PIL import Image, ImageOps

from alan.data.sample import ByteArray
from alan.errors import DataError


def upright_picture(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation of a decoded still; damaged EXIF is reported and leaves the still as it is."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # PIL parses EXIF without a root of its errors
        warnings.warn(f"the orientation in EXIF cannot be read ({error}); shown as stored", stacklevel=2)
        return image.copy()


def upright_frames(frames: ByteArray, matrix: bytes | None, path: str | os.PathLike[str]) -> tuple[ByteArray, str]:
    """Apply the display matrix of a video.

    Args:
        frames: (T, H, W) as stored.
        matrix: nine 32-bit numbers as FFmpeg gives them, or None.
        path: the file, for messages.

    Returns:
        frames: (T, H, W) or, turned by a quarter, (T, W, H).
        note: what was done, empty for nothing.

    Raises:
        DataError: the matrix turns by another angle than quarters.
    """
    if matrix is None or len(matrix) < 36:
        return frames, ""
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])
    # A viewer puts the stored pixel (x, y) at (a x + c y, b x + d y).
    signs = np.sign([[a, c], [b, d]]).astype(int)
    if abs(np.linalg.det(signs)) != 1 or (abs(signs).sum(0) != 1).any():
        raise DataError(f"{path}: is to be turned by an angle other than quarters; convert it without rotation")
    if (signs == np.eye(2)).all():
        return frames, ""
    if signs[0, 0] == 0:  # the shown row comes from the stored column
        frames, signs = frames.transpose(0, 2, 1), signs[:, ::-1]
    turned = frames[:, :: int(signs[1, 1]), :: int(signs[0, 0])]
    return np.ascontiguousarray(turned), "turned as the display matrix says"
