import numpy as np
import pytest
from PIL import Image

from alan.data.io import frames as module
from alan.data.io.cine import frame_source
from alan.data.io.frames import open_stream
from alan.errors import DataError


def write_gif(path, n=7):
    pictures = [Image.fromarray(np.full((20, 30), 30 * i, np.uint8)) for i in range(n)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40)
    return path


def test_frames_that_are_kept_are_those_that_are_decoded_again(tmp_path, monkeypatch):
    path = write_gif(tmp_path / "a.gif")
    kept = open_stream(frame_source(path))
    monkeypatch.setattr(module, "_KEPT_BYTES", 6 * 600)
    decoded = open_stream(frame_source(path))
    frames = [np.stack(list(stream)) for stream in (kept, kept, decoded, decoded)]
    assert frames[0].shape == (7, 20, 30)
    for others in frames[1:]:
        np.testing.assert_array_equal(others, frames[0])
    path.unlink()
    np.testing.assert_array_equal(np.stack(list(kept)), frames[0])
    with pytest.raises(DataError):
        list(decoded)
