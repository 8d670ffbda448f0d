"""Blanking of screens: text around and inside the sector is removed, as in ``alan analyze``."""

import csv

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from alan.analysis import find_sources, open_loops
from alan.data import Preprocessing, prepare
from alan.data.blanking import blank_frames, find_blanking
from alan.data.extract import extract_frames
from alan.data.io.frames import Samples
from alan.data.readers.base import EchoDataset
from alan.data.sample import Record, Sample
from alan.errors import AlanWarning, DataError

from ..analysis.test_privacy import INSIDE, screens, write_video


@pytest.fixture(scope="module")
def burnt(tmp_path_factory):
    """A loop with a name around and inside its sector, in a file."""
    frames, sector = screens()
    folder = tmp_path_factory.mktemp("in")
    write_video(folder / "a.avi", frames)
    write_video(folder / "none.avi", np.random.default_rng(0).integers(0, 255, (6, 64, 80), np.uint8))
    return folder, frames, sector


def check(frames, sector):
    """Nothing outside the sector is lit, and letters inside it are no brighter than what is beside them."""
    allowed = ndimage.binary_dilation(ndimage.binary_fill_holes(sector), np.ones((3, 3), bool), iterations=4)
    assert not (frames[:, ~allowed] > 40).any()  # a lossy codec brightens the border of the sector
    letters, beside = INSIDE > 128, ndimage.binary_dilation(INSIDE > 128, iterations=4) & (INSIDE < 50)
    assert abs(frames[:, letters].mean() - frames[:, beside].mean()) < 25
    assert frames[:, sector].mean() > 10


def test_extracted_stills_contain_no_burnt_in_text(burnt, tmp_path):
    folder, frames, sector = burnt
    with pytest.warns(AlanWarning, match="skipped 1 of 2"):
        extract_frames(str(folder), str(tmp_path / "out"), every=6, sector=True, workers=0)
    pictures = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out" / "images").glob("a_*.png"))]
    assert len(pictures) == 4
    assert pictures[0].shape == frames.shape[1:]
    check(np.stack(pictures), sector)
    with (tmp_path / "out" / "failures.csv").open(newline="") as file:
        ((name, reason),) = [(row["file"], row["reason"]) for row in csv.DictReader(file)]
    assert name == "none.avi"
    assert "no ultrasound sector is found" in reason


def test_extracted_stills_equal_those_of_the_analysis(burnt, tmp_path):
    folder, _, _ = burnt
    extract_frames(str(folder / "a.avi"), str(tmp_path / "out"), every=1, sector=True, workers=0)
    pictures = np.stack([np.asarray(Image.open(path)) for path in sorted((tmp_path / "out" / "images").glob("*"))])
    ((source,), _) = find_sources([folder / "a.avi"])
    (loop,) = open_loops(source)
    np.testing.assert_array_equal(pictures[:, *loop.box], np.concatenate(list(loop.chunks(8))))


class Screens(EchoDataset):
    """Loops in memory."""

    name, structures = "screens", ()

    def __init__(self, root, loops):
        super().__init__(root, "nothing")
        self.loops = list(loops.values())
        self._set_records([Record(name, name) for name in loops], [[] for _ in loops], {})

    def _load(self, index):
        return Sample(self.records[index], self.loops[index])


def test_a_frame_store_contains_no_burnt_in_text(burnt, tmp_path):
    _, frames, sector = burnt
    size = Preprocessing(240, keep_aspect=True)
    loops = {"a": frames, "none": np.zeros((3, 64, 64), np.uint8)}
    with pytest.warns(AlanWarning, match="skipped 1 of 2"):
        store = prepare(Screens(tmp_path, loops), tmp_path / "a.h5", size, sector=True, workers=0, progress=False)
    assert [sequence.id for sequence in store.sequences] == ["a"]
    assert store.source["sector"] is True
    assert "no ultrasound sector is found" in (tmp_path / "failures.csv").read_text()
    inside = size.apply(Sample(Record("s", "s"), sector[None].astype(np.uint8) * 255)).frames[0] > 0
    allowed = ndimage.binary_dilation(ndimage.binary_fill_holes(inside), iterations=5)
    stored = store.frames(range(len(store)))
    assert not stored[:, ~allowed].any()
    assert stored[:, inside].mean() > 10
    with pytest.raises(DataError, match=r"holds screens .* all frames, sector\), not screens .* all frames\)"):
        prepare(Screens(tmp_path, loops), tmp_path / "a.h5", size, workers=0, progress=False)


def test_frames_in_memory_are_blanked(burnt):
    _, frames, sector = burnt
    check(blank_frames(frames), sector)
    span = frames.max(0) - frames.min(0)
    found = find_blanking(Samples(np.arange(len(frames)), frames, None, span), frames.shape[1:])
    assert any("text inside the sector is painted over" in note for note in found.notes)
    with pytest.raises(DataError, match="no ultrasound sector is found"):
        blank_frames(np.zeros((3, 64, 64), np.uint8))
