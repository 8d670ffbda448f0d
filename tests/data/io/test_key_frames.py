"""Pairs of stills at end-diastole and end-systole."""

import numpy as np
import pytest
from PIL import Image

from alan.data.io.cine import frame_source
from alan.data.io.frames import open_stream, read_all
from alan.data.io.key_frames import KeyFrames, find_key_frames
from alan.errors import DataError


def image(path, value, shape=(1, 40, 50), spacing="0.5 0.5 1"):
    """A MetaImage file whose pixels rise from ``value``."""
    pixels = (np.arange(np.prod(shape)) % 100 + value).astype(np.uint8)
    sizes = " ".join(map(str, shape[::-1]))
    lines = ["NDims = 3", f"DimSize = {sizes}", "ElementType = MET_UCHAR", f"ElementSpacing = {spacing}"]
    path.write_bytes("\n".join([*lines, "ElementDataFile = LOCAL", ""]).encode() + pixels.tobytes())
    return path


@pytest.mark.parametrize(
    ("diastole", "systole"),
    [
        ("p1_2CH_ED.mha", "p1_2CH_ES.mha"),
        ("ed.mha", "es.mha"),
        ("a4c ED 7.mha", "a4c ES 7.mha"),
        ("1-ed.mha", "1-ES.mha"),
    ],
)
def test_names_that_differ_in_the_phase_alone_are_a_pair(tmp_path, diastole, systole):
    pair = {image(tmp_path / diastole, 0): image(tmp_path / systole, 50)}
    assert find_key_frames([*pair, *pair.values()]) == pair


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("p1_4CH_ED.mha", "p1_2CH_ES.mha"),  # another view
        ("p1ED.mha", "p1ES.mha"),  # no words
        ("fred.mha", "fres.mha"),
        ("ED_ES_1.mha", "ES_ES_1.mha"),  # two phases
        ("p1_ED.mha", "deeper/p1_ES.mha"),
    ],
)
def test_other_names_are_no_pair(tmp_path, name, other):
    (tmp_path / "deeper").mkdir()
    assert find_key_frames([image(tmp_path / name, 0), image(tmp_path / other, 50)]) == {}


@pytest.mark.parametrize("shape", [(2, 40, 50), (1, 50, 40)])
def test_loops_and_stills_of_another_size_are_no_pair(tmp_path, shape):
    assert find_key_frames([image(tmp_path / "a_ED.mha", 0), image(tmp_path / "a_ES.mha", 0, shape)]) == {}


def test_damaged_files_are_no_pair(tmp_path):
    paths = [tmp_path / "a_ED.mha", tmp_path / "a_ES.mha"]
    for path in paths:
        path.write_bytes(b"")
    assert find_key_frames(paths) == {}


def test_pictures_are_pairs_too(tmp_path):
    for phase, value in (("ED", 90), ("ES", 30)):
        Image.fromarray(np.full((40, 50), value, np.uint8)).save(tmp_path / f"a4c_{phase}.png")
    ((diastole, systole),) = find_key_frames(tmp_path.iterdir()).items()
    cine = read_all(KeyFrames(frame_source(diastole), frame_source(systole)))
    assert cine.frames[:, 0, 0].tolist() == [90, 30]
    assert cine.times is None


def test_frames_of_a_pair_share_grey_scale_and_size(tmp_path):
    sources = [frame_source(image(tmp_path / f"a_{phase}.mha", value)) for phase, value in (("ED", 0), ("ES", 50))]
    stream = open_stream(KeyFrames(*sources))
    assert stream.n_frames == 2
    assert stream.header.spacing == (0.5, 0.5)
    assert [frame[0, 0] for frame in stream] == [0, 50]


def test_a_pair_with_two_pixel_sizes_is_refused(tmp_path):
    first, second = image(tmp_path / "a_ED.mha", 0), image(tmp_path / "a_ES.mha", 0, spacing="0.4 0.5 1")
    with pytest.raises(DataError, match=r"pixel sizes .* are \(0.5, 0.5\) mm and \(0.5, 0.4\) mm"):
        open_stream(KeyFrames(frame_source(first), frame_source(second)))
