"""Detection of text inside the sector, which does not move; tissue is left unchanged."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from alan.data.io.cine import read_cine
from alan.data.overlaid import find_marks, find_text, paint_over
from alan.data.simulator.sequence import simulate_sequence
from alan.errors import DataError


def loop(size=(240, 300), seed=3, view="A4C"):
    return simulate_sequence(view, seed, n_frames=10, size=size, seed=seed).frames


def drawn(shape, place, words="DOE^JANE 02.01.1955", height=12, grey=230):
    picture = Image.fromarray(np.zeros(shape, np.uint8))
    ImageDraw.Draw(picture).text(place, words, fill=grey, font=ImageFont.load_default(height))
    return np.asarray(picture)


@pytest.mark.parametrize(
    ("place", "height", "grey"), [((90, 120), 12, 230), ((80, 170), 9, 200), ((60, 60), 20, 255)]
)
def test_text_is_found_and_painted_over(place, height, grey):
    frames = loop()
    words = drawn(frames.shape[1:], place, height=height, grey=grey)
    seen = np.maximum(frames, words)
    text, inside = find_text(seen.min(0), seen.max(0)), (frames > 0).any(0)
    assert text[(words > 100) & (words.astype(int) - frames.max(0) > 45)].all()  # what stands out
    assert text.mean() < 0.08
    clean = paint_over(seen, text, inside)
    assert np.array_equal(clean[:, ~text], seen[:, ~text])
    steps = [np.abs(np.diff(clean.astype(int), axis=axis)) for axis in (1, 2)]
    within = text & inside & np.roll(text & inside, -1, 0) & np.roll(text & inside, -1, 1)
    assert (
        max(steps[0][:, within[:-1]].max(), steps[1][:, within[:, :-1]].max()) < 20
    )  # no edge of a letter is left


@pytest.mark.parametrize("view", ["A4C", "A2C", "PLAX", "PSAX"])
@pytest.mark.parametrize("size", [(112, 112), (240, 300)])
def test_tissue_is_not_taken_for_text(view, size):
    for seed in (501, 506, 509):
        frames = loop(size, seed, view)
        assert not find_text(frames.min(0), frames.max(0)).any()


def test_moving_marks_and_words_are_not_text():
    low = np.zeros((200, 240), np.uint8)
    low[100, 40:200] = 220  # a line
    low[40:60, 40:60] = 220  # a block
    assert not find_text(low, low).any()
    words = drawn((200, 240), (40, 120))
    assert find_text(words, words).any()
    assert not find_text(np.zeros_like(words), words).any()


@pytest.mark.parametrize(("height", "grey"), [(12, 255), (18, 230)])
def test_bright_text_in_a_still_is_found(height, grey):
    frame = simulate_sequence("A4C", 901, n_frames=1, size=(420, 520), seed=901).frames[0]
    words = drawn(frame.shape, (180, 200), height=height, grey=grey)
    seen = np.maximum(frame, words)
    text = find_text(seen, seen)
    assert text[(words > 100) & (words.astype(int) - frame > 45)].all()
    assert text.mean() < 0.03


@pytest.mark.parametrize("view", ["A4C", "A2C", "PLAX", "PSAX"])
@pytest.mark.parametrize("noise", [0, 1])  # a frozen loop that was coded with loss
def test_still_tissue_is_not_taken_for_text(view, noise):
    for seed in (902, 907):
        frame = simulate_sequence(view, seed, n_frames=1, size=(420, 520), seed=seed).frames[0]
        change = np.random.default_rng(seed).integers(0, noise + 1, frame.shape).astype(np.uint8)
        assert not find_text(frame - np.minimum(change, frame), frame).any()


@pytest.mark.real
def test_real_tissue_is_not_taken_for_text(real_camus):
    """Stills of real hearts, of other patients than those by which the contrast was chosen."""
    files = sorted(real_camus.glob("database_nifti/patient0[1-4]*/*_ES.nii.gz"))[5::60]
    assert len(files) >= 5
    for file in files:
        frame = read_cine(file).frames[0]
        assert not find_text(frame, frame).any()


def test_coloured_marks_are_found():
    grey = loop((200, 240))[:3]
    inside = (grey > 0).any(0)
    colours = np.repeat(grey[..., None], 3, axis=-1)
    assert not find_marks(colours, inside).any()
    mark = np.zeros(inside.shape, bool)
    mark[100, 90:130] = mark[80:120, 110] = True
    colours[1:, mark] = (255, 255, 0)
    found = find_marks(colours, inside)
    assert found[mark & inside].all()
    assert found.mean() < 0.02
    tinted = (grey[..., None] * np.array([1.0, 0.7, 0.3])).astype(np.uint8)  # a colour map
    assert not find_marks(tinted, inside).any()


def test_frames_without_text_are_unchanged():
    frames = loop()
    assert paint_over(frames, np.zeros(frames.shape[1:], bool), frames[0] > 0) is frames


def test_text_is_painted_over_by_the_same_average_wherever_it_lies():
    """The average is computed around each text only; the reference computes it for the whole frame."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (2, 150, 190), dtype=np.uint8)
    inside = np.ones((150, 190), bool)
    inside[:, :20] = False
    text = np.zeros_like(inside)
    text[3:9, 5:60] = text[100:104, 150:180] = text[101, 185] = True
    known = (inside & ~text).astype(np.float32)
    width = 2.0 * np.sqrt(text.any(1).sum())
    weight = ndimage.gaussian_filter(known, width, truncate=3) + 1e-6
    for frame, clean in zip(frames, paint_over(frames, text, inside), strict=True):
        smooth = ndimage.gaussian_filter(frame * known, width, truncate=3) / weight
        np.testing.assert_array_equal(clean, np.where(text, np.where(inside, smooth, 0), frame).astype(np.uint8))


def test_invalid_arrays_are_refused():
    with pytest.raises(DataError, match="of one shape"):
        find_text(np.zeros((20, 20), np.uint8), np.zeros((20, 21), np.uint8))
