"""White boxes of several structures as one model: overlaps, counts and incompatible boxes."""

import numpy as np
import pytest

from alan.downstream.whitebox.opinion import ExpertOpinion, Opinion
from alan.downstream.whitebox.prior import ParcelPrior
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.selection import ParcelSelector
from alan.downstream.whitebox.several import WhiteBoxes, load_white_boxes
from alan.downstream.whitebox.steps import PostProcessing
from alan.errors import CheckpointError, DataError, ParameterError
from alan.parcels.model import load_parcels
from alan.shipped import PARCELS, WHITE_BOXES

PLAIN = PostProcessing(component=False, enclaves=False, closing_radius=0, fill=False, contour=False)


def box(model, parcels, structure="", **settings):
    """A white box that takes these parcels."""
    inside = np.isin(np.arange(model.n_ids), parcels) * 10.0
    prior = ParcelPrior(inside, 10 - inside, 1, structure, model.fingerprint)
    selector = ParcelSelector("beta", prior=prior, n_parcels=model.n_ids, background_id=model.background_id)
    selector.set_params(provenance=model.fingerprint)
    return ParcelSegmenter(selector, PLAIN, **settings).fit_prior()


@pytest.fixture(scope="module")
def model(tiny):
    return load_parcels(tiny.parcels())


@pytest.fixture(scope="module")
def frames():
    generator = np.random.default_rng(0)
    coarse = generator.integers(40, 255, (3, 8, 8), np.uint8)
    return np.kron(coarse, np.ones((1, 8, 8), np.uint8))


def test_opinions_change_the_parcels(tmp_path):
    """The shipped white boxes, without a frame: a parcel of the list is taken out, another one in."""
    before = load_white_boxes(PARCELS, WHITE_BOXES)
    chosen = before.boxes["la"].selector_.interior_.tolist()
    other = next(k for k in range(64) if k not in chosen)
    opinion = ExpertOpinion(
        "la", before.model.fingerprint, {chosen[0]: Opinion.of("never"), other: Opinion.of("inside")}
    )
    opinion.to_json(tmp_path / "mine.json")
    after = load_white_boxes(PARCELS, WHITE_BOXES, opinions=[tmp_path / "mine.json"])
    assert after.boxes["la"].selector_.interior_.tolist() == sorted([*chosen[1:], other])
    assert after.boxes["lv"].selector_.interior_.tolist() == before.boxes["lv"].selector_.interior_.tolist()
    assert after.fingerprint != before.fingerprint


def test_given_white_boxes_are_left_unchanged(model, frames):
    given = box(model, [0], size=(9, 9))
    assert WhiteBoxes(model, {"lv": given}).label(frames).labels.shape == frames.shape
    assert given.size == (9, 9)
    assert not hasattr(given, "empty_")


@pytest.mark.filterwarnings("ignore::alan.errors.AlanWarning")
def test_a_pixel_in_two_segments_goes_to_the_smaller_one(model, frames):
    maps = model.maps(frames).numpy()
    ids = [int(k) for k in np.unique(maps[0]) if k != model.background_id]
    boxes = {"large": box(model, ids), "small": box(model, ids[:1])}
    found = WhiteBoxes(model, boxes).label(frames)
    assert found.labels.dtype == np.uint8
    for n in range(len(frames)):
        large, small = (one.predict(maps)[n] for one in boxes.values())
        expected = large * 1
        if small.sum() < large.sum():
            expected[small] = 2
        np.testing.assert_array_equal(found.labels[n], expected)
        for value, chosen in ((1, ids), (2, ids[:1])):
            present = set(maps[n][found.labels[n] == value]) & set(chosen)
            assert found.parcels[n, value - 1] == len(present)


def test_white_boxes_of_another_model_are_refused(model, frames):
    other = box(model, [1])
    other.selector_.provenance_["parcels"] = "0" * 64
    with pytest.raises(CheckpointError, match="give the parcel model that it belongs to"):
        WhiteBoxes(model, {"lv": other})
    foreign = box(model, [1])
    foreign.selector_.interior_ = np.array([200])
    with pytest.raises(CheckpointError, match=f"contains 200; ids are below {model.n_parcels}"):
        WhiteBoxes(model, {"lv": foreign})
    with pytest.raises(ParameterError, match="no white box"):
        WhiteBoxes(model, {})
    with pytest.raises(ParameterError, match="temperature is -1"):
        WhiteBoxes(model, {"lv": box(model, [1])}, temperature=-1)
    k_means = load_parcels(PARCELS)
    with pytest.raises(ParameterError, match="give a temperature"):
        WhiteBoxes(k_means, {"lv": box(k_means, [1], soft="union")})


def test_soft_segments_depend_on_the_temperature(model, frames):
    ids = [int(k) for k in np.unique(model.maps(frames[:1]))][:3]
    found = {t: WhiteBoxes(model, {"lv": box(model, ids, soft="share")}, t) for t in (0.01, 100.0)}
    assert len({one.fingerprint for one in found.values()}) == 2
    sharp, flat = (one.label(frames).labels for one in found.values())
    assert (sharp != flat).any()


def test_the_structure_comes_from_the_prior_or_from_the_file_name(model, tiny, tmp_path):
    box(model, [1], "lv").to_json(tmp_path / "a.json")
    box(model, [2]).to_json(tmp_path / "b.json")
    assert load_white_boxes(tiny.parcels(), [tmp_path / "a.json", tmp_path / "b.json"]).structures == ("lv", "b")
    with pytest.raises(ParameterError, match="a second white box of 'lv'"):
        load_white_boxes(tiny.parcels(), [tmp_path / "a.json", tmp_path / "a.json"])


def test_shipped_white_boxes_are_found_by_name():
    shipped = load_white_boxes(PARCELS, WHITE_BOXES)
    assert shipped.structures == ("lv", "myo", "la")
    for one in shipped.boxes.values():
        known = one.selector_.provenance_
        assert (known["parcels"], known["labels"]) == (shipped.model.fingerprint, "none")
        assert known["learnt_from"]["human_labels"] == "none"
    with pytest.raises(DataError, match="did you mean 'alan-sim-small-lv'") as refused:
        ParcelSegmenter.from_json("alan-sim-smal-lv")
    assert ".model" not in str(refused.value)
    empty = shipped.label(np.zeros((1, 112, 112), np.uint8))
    assert empty.labels.shape == (1, 112, 112)
