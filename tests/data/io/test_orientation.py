"""Orientation of stills and videos."""

import struct

import numpy as np
import pytest
from PIL import Image

from alan.data.io.orientation import upright_frames, upright_picture
from alan.errors import DataError

FRAMES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def display(a, b, c, d, one=65536):
    return struct.pack("=9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)


def put_one_by_one(frames, a, b, c, d):
    """Slow oracle: each stored pixel (x, y) goes to (a x + c y, b x + d y), shifted to begin at 0."""
    points = {(a * x + c * y, b * x + d * y): (y, x) for y in range(3) for x in range(4)}
    left, top = (min(point[axis] for point in points) for axis in (0, 1))
    right, bottom = (max(point[axis] for point in points) for axis in (0, 1))
    out = np.zeros((len(frames), bottom - top + 1, right - left + 1), np.uint8)
    for (x, y), (row, column) in points.items():
        out[:, y - top, x - left] = frames[:, row, column]
    return out


@pytest.mark.parametrize(
    "matrix",
    [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)],
)
def test_eight_display_matrices_are_applied(matrix):
    turned, note = upright_frames(FRAMES, display(*matrix), "a.mp4")
    assert np.array_equal(turned, put_one_by_one(FRAMES, *matrix))
    assert bool(note) == (matrix != (1, 0, 0, 1))


def test_a_missing_matrix_changes_nothing():
    assert upright_frames(FRAMES, None, "a.mp4") == (FRAMES, "")


@pytest.mark.parametrize("matrix", [(1, 1, -1, 1), (0, 0, 0, 0), (1, 0, 0, 0)])
def test_other_matrices_are_refused(matrix):
    with pytest.raises(DataError, match=r"a.mp4: its display matrix rotates by no multiple of 90 degrees"):
        upright_frames(FRAMES, display(*matrix), "a.mp4")


def test_damaged_exif_is_reported():
    image = Image.fromarray(FRAMES[0])
    image.info["exif"] = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0"
    with pytest.warns(UserWarning, match="EXIF"):
        assert np.array_equal(np.asarray(upright_picture(image)), FRAMES[0])
