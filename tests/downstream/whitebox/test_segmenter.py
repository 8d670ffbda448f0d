import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from alan.downstream.whitebox.segmenter import ParcelSegmenter, resize
from alan.downstream.whitebox.selection import ParcelSelector
from alan.downstream.whitebox.steps import PostProcessing
from alan.errors import AlanWarning, DataError, ParameterError, SelectionError


@pytest.fixture(scope="module")
def data(slow):
    return slow.parcel_maps_and_masks(0, 40)


@pytest.fixture(scope="module")
def fitted(data):
    return ParcelSegmenter(ParcelSelector("greedy", n_parcels=64)).fit(*data)


def compare(slow, n, seed):
    """Dice against the slow plain steps, over n maps and three kinds of selection."""
    scores = []
    for part, rule in enumerate(("paper", "relaxed", "greedy")):
        maps, masks = slow.parcel_maps_and_masks(seed + part, max(n, 20))
        model = ParcelSegmenter(ParcelSelector(rule, min_parcels=2)).fit(maps, masks)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AlanWarning)
            ours = model.predict(maps[:n])
        scores += [
            slow.dice(a, slow.segment(p, model.selector_.interior_)) for a, p in zip(ours, maps[:n], strict=True)
        ]
    return np.array(scores)


def test_masks_equal_a_plain_reference(slow):
    scores = compare(slow, 8, seed=10)
    assert len(scores) == 24
    assert scores.min() >= 0.98


def test_segments_are_one_smooth_piece_without_holes(data, fitted):
    for mask in fitted.predict(data[0]):
        assert ndimage.label(mask, np.ones((3, 3)))[1] <= 2  # a snake may pinch itself
        np.testing.assert_array_equal(ndimage.binary_fill_holes(mask), mask)


def test_post_processing_improves_a_ragged_union(slow):
    rng = np.random.default_rng(0)
    maps = np.zeros((6, 112, 112), np.uint8)
    maps[:, 30:80, 40:70] = 1
    masks = maps == 1
    maps[rng.random(maps.shape) < 0.05] = 2  # holes
    maps[:, 5:12, 5:12] = 1  # a stray piece
    raw = ParcelSelector("greedy").fit(maps, masks).predict(maps)
    model = ParcelSegmenter(ParcelSelector("greedy")).fit(maps, masks)
    for before, after, truth in zip(raw, model.predict(maps), masks, strict=True):
        assert slow.dice(after, truth) > slow.dice(before, truth)


PLAIN = {"component": False, "enclaves": False, "closing_radius": 0, "fill": False, "contour": False}


@pytest.mark.parametrize(
    ("base", "change"),
    [
        ({}, {"component": False}),
        (PLAIN, {"enclaves": True}),
        (PLAIN | {"enclaves": True}, {"enclave_regions": 0}),
        ({}, {"closing_radius": 0}),
        ({}, {"closing_radius": 4}),
        (PLAIN, {"fill": True}),
        ({}, {"contour": False}),
        ({}, {"contour_sigma": 6.0}),
        ({}, {"contour_beta": 5.0}),
        ({}, {"contour_gamma": 0.1}),
        ({}, {"contour_edge": 0.0}),
        ({}, {"contour_iterations": 1}),
        ({}, {"median_radius": 6}),
    ],
)
def test_every_parameter_changes_the_segments(data, base, change):
    maps = data[0].copy()
    chosen = np.bincount(maps[data[1]]).argmax()
    maps[:, 2:5, 2:5] = chosen  # a stray piece
    maps[:, 50:58, 50:58] = chosen
    maps[:, 52:56, 52:56] = 70  # a hole
    fitted = ParcelSegmenter(ParcelSelector("greedy"), PostProcessing(**base)).fit(*data)
    before = fitted.predict(maps)
    fitted.set_params(**{f"steps__{name}": value for name, value in change.items()})
    assert (fitted.predict(maps) != before).any()


def test_another_rule_changes_the_segments(data):
    segments = [ParcelSegmenter(ParcelSelector(rule)).fit(*data).predict(data[0]) for rule in ("greedy", "paper")]
    assert (segments[0] != segments[1]).any()


def test_segments_have_the_given_size(data, fitted):
    own = fitted.predict(data[0][:3])
    model = clone(fitted).set_params(size=(200, 150)).fit(*data)
    out = model.predict(data[0][:3])
    assert out.shape == (3, 200, 150)
    assert out.mean((1, 2)) == pytest.approx(own.mean((1, 2)), rel=0.02)


def test_resizing_matches_hand_computed_values():
    mask = np.array([[True, False], [False, False]])
    assert resize(mask, (2, 2)) is mask
    expected = [[True, True, False, False], [True, True, False, False], [False] * 4, [False] * 4]
    assert resize(mask, (4, 4)).tolist() == expected
    assert resize(np.ones((1, 1), bool), (3, 2)).all()


def test_empty_masks_are_counted_and_give_a_warning(data, fitted):
    maps = data[0][:4].copy()
    maps[[1, 3]] = int(fitted.selector_.exterior_[0])
    with pytest.warns(AlanWarning, match=r"2 of 4 predicted masks are empty \(index 1, 3\)"):
        out = fitted.predict(maps)
    assert out.any((1, 2)).tolist() == [True, False, True, False]
    assert fitted.empty_.tolist() == [1, 3]


def test_a_segmenter_survives_json_and_can_be_edited(data, fitted, tmp_path):
    path = tmp_path / "lv.json"
    fitted.to_json(path)
    again = ParcelSegmenter.from_json(path)
    np.testing.assert_array_equal(again.predict(data[0]), fitted.predict(data[0]))
    assert again.to_json() == fitted.to_json()
    first = int(fitted.selector_.interior_[0])
    text = fitted.to_json().replace(f'"interior": [{first}, ', '"interior": [')
    edited = ParcelSegmenter.from_json(text)
    assert first not in edited.selector_.interior_
    assert (edited.predict(data[0]) != fitted.predict(data[0])).any()
    assert "set by hand" in edited.selector_.table_.loc[first, "why"]


def test_malformed_json_is_refused(fitted, tmp_path):
    with pytest.raises(ParameterError, match="schema is 'x'"):
        ParcelSegmenter.from_json('{"schema": "x"}')
    with pytest.raises(ParameterError, match="did you mean 'contour'"):
        ParcelSegmenter.from_json(fitted.to_json().replace('"contour":', '"contuor":'))
    with pytest.raises(ParameterError, match="contour_sigma is -1"):
        ParcelSegmenter.from_json(fitted.to_json().replace('"contour_sigma": 3.0', '"contour_sigma": -1'))
    with pytest.raises(ParameterError, match="contour is 'false': give true or false"):
        ParcelSegmenter.from_json(fitted.to_json().replace('"contour": true', '"contour": "false"'))
    with pytest.raises(ParameterError, match="has no steps"):
        ParcelSegmenter.from_json(fitted.to_json().replace('"steps"', '"stairs"'))
    with pytest.raises(ParameterError, match="soft is 'shares'"):
        ParcelSegmenter.from_json(fitted.to_json().replace('"soft": null', '"soft": "shares"'))
    with pytest.raises(ParameterError, match="size is 5"):
        ParcelSegmenter.from_json(fitted.to_json().replace('"size": null', '"size": 5'))
    with pytest.raises(DataError, match="no such file"):
        ParcelSegmenter.from_json(tmp_path / "none.json")


def test_parameters_are_nested_as_in_scikit_learn(data):
    model = ParcelSegmenter(ParcelSelector("relaxed"), PostProcessing(median_radius=3))
    params = clone(model).get_params()
    assert params["selector__rule"] == "relaxed"
    assert params["steps__median_radius"] == 3
    given = model.steps
    assert model.set_params(steps__median_radius=2, steps__fill=False) is model
    assert (model.steps.median_radius, model.steps.fill, model.steps.contour) == (2, False, True)
    assert given.median_radius == 3  # the given one is left as it is
    model.set_params(steps=PostProcessing(), steps__contour_beta=0.5)
    assert model.steps == PostProcessing(contour_beta=0.5)
    with pytest.raises(ParameterError, match="did you mean 'median_radius'"):
        model.set_params(steps__medain_radius=2)
    with pytest.raises(ParameterError, match="median_radius is -1"):
        model.set_params(steps__median_radius=-1)
    with pytest.raises(ValueError, match="Invalid parameter 'step'"):
        model.set_params(step=PostProcessing())
    assert ParcelSegmenter().get_params()["steps"] == PostProcessing()
    assert ParcelSegmenter().set_params(selector__rule="greedy").selector.rule == "greedy"
    assert "steps=PostProcessing(" in repr(model)
    with pytest.raises(NotFittedError):
        model.predict(data[0])
    assert model.fit(*data) is model
    assert not hasattr(model.selector, "interior_")  # the given one is left as it is
    model.set_params(selector__overlap=1.0, selector__consistency=1.0)
    with pytest.raises(SelectionError):
        model.fit(*data)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"closing_radius": -1}, "closing_radius is -1: give a number of at least 0"),
        ({"contour_gamma": 0}, "contour_gamma is 0: give a number above 0"),
        ({"contour_iterations": 0}, "contour_iterations is 0: give a whole number of at least 1"),
        ({"enclave_regions": 1.5}, "enclave_regions is 1.5: give a whole number of at least 0"),
    ],
)
def test_invalid_steps_are_refused(params, message):
    with pytest.raises(ParameterError, match=message):
        PostProcessing(**params)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"size": (0, 5)}, r"size\[0\] is 0"),
        ({"size": (5,)}, "give 2 values"),
        ({"size": 5}, "size is 5: give 2 values"),
        ({"soft_above": 2}, "soft_above is 2"),
    ],
)
def test_invalid_parameters_are_refused(data, params, message):
    with pytest.raises(ParameterError, match=message):
        ParcelSegmenter(**params).fit(*data)


@settings(max_examples=40)
@given(
    arrays(
        np.int16,
        st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20)),
        elements=st.integers(0, 4),
    ),
    st.booleans(),
)
def test_every_map_and_mask_is_accepted(maps, as_background):
    masks = maps == 1
    model = ParcelSegmenter(ParcelSelector("greedy", n_parcels=5, background_id=4 if as_background else None))
    if not masks.any():
        with pytest.raises(SelectionError, match="none overlaps the target"):
            model.fit(maps, masks)
        return
    model.fit(maps, masks)
    assert model.selector_.interior_.tolist() == [1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AlanWarning)
        out = model.predict(maps)
    assert out.shape == maps.shape
    assert model.empty_.tolist() == np.flatnonzero(~masks.any((1, 2))).tolist()


def test_a_folder_in_place_of_a_white_box_names_a_file_in_it(tmp_path):
    with pytest.raises(DataError, match=r"is a folder; give a file in it, such as .*NAME\.json$"):
        ParcelSegmenter.from_json(tmp_path)
    (tmp_path / "lv.json").touch()
    with pytest.raises(DataError, match=r"such as .*lv\.json$"):
        ParcelSegmenter.from_json(str(tmp_path))
