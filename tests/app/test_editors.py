"""Editors of the white boxes of all views: a view is shown by the parcels of its model."""

import json

import numpy as np
import pytest

from alan.analysis import AnalysisModel
from alan.app.editors import ViewEditors
from alan.app.loops import UploadedFrames
from alan.app.parcels_tab import describe_choice
from alan.errors import DataError, ParameterError


@pytest.fixture(scope="module")
def model():
    return AnalysisModel.load("alan-sim")


@pytest.fixture
def editors(model):
    return ViewEditors(model)


@pytest.fixture(scope="module")
def uploads(model):
    """Frames of the example in each view, as if they were uploaded."""
    found = {}
    for view in ("A4C", "PLAX"):
        own = ViewEditors(model)
        own.choose(view)
        own.show_example()
        found[view] = UploadedFrames(own.current.loop.frames, own.current.loop.shape, None)
    return found


@pytest.mark.parametrize(
    ("view", "structures", "measures"),
    [
        ("A4C", "lv myo la", ["EDV", "ESV", "EF"]),
        ("A2C", "lv myo la", ["EDV", "ESV", "EF"]),
        ("PLAX", "lv myo la", ["LVIDd", "fractional shortening", "IVSd", "LVPWd"]),
        ("PSAX", "lv myo", ["fractional area change", "wall thickness"]),
    ],
)
def test_the_example_shows_the_chosen_view_by_its_model(editors, model, view, structures, measures):
    editors.choose(view)
    editors.show_example()
    editor = editors.current
    assert editor.fingerprint == model.of(view).parcels.fingerprint
    assert list(editor.boxes) == structures.split()
    assert editor.dice() > 0.8
    words = describe_choice(editor)
    assert all(name in words for name in measures)
    assert ("EF " in words) == (view in ("A4C", "A2C"))
    assert editors.prefix == ("" if view in model.views else f"{view}-")


def test_another_view_of_the_example_is_simulated(editors):
    editors.show_example()
    apical = editors.current.loop
    editors.choose("PSAX")
    assert editors.current.loop.frames.shape == apical.frames.shape
    assert not np.array_equal(editors.current.loop.frames, apical.frames)
    editors.choose("A4C")
    np.testing.assert_array_equal(editors.current.loop.maps, apical.maps)


def test_an_uploaded_loop_is_shown_in_its_view_or_the_chosen_one(editors, uploads):
    editors.show(uploads["PLAX"])
    assert editors.view == "PLAX"
    assert editors.recognised.startswith("recognised by ")
    plax = editors.current
    editors.choose("A4C")
    assert plax.loop is None  # one loop is kept
    apical = editors.current.loop
    np.testing.assert_array_equal(apical.frames, uploads["PLAX"].frames)
    editors.choose("A2C")  # of the same parcels
    assert editors.current.loop is apical
    assert editors.current.view == "A2C"


def test_the_size_of_a_pixel_gives_volumes(editors, uploads):
    editors.set_pixel(0.5)  # without a loop
    editors.show(uploads["A4C"])
    assert "EDV" not in describe_choice(editors.current)
    editors.set_pixel(0.5)
    half = editors.current.measures().edv_ml
    editors.set_pixel(1.0)
    assert editors.current.measures().edv_ml == pytest.approx(8 * half)
    assert f"EDV {8 * half:.0f} ml" in describe_choice(editors.current)
    editors.set_pixel(0)
    assert "EDV" not in describe_choice(editors.current)


def test_edits_are_kept_per_model_and_shared_by_its_views(editors):
    editors.show_example()
    parcel = int(editors.current.box().selector_.interior_[0])
    editors.current.toggle(parcel)
    editors.choose("PLAX")
    assert editors.current.opinion().parcels == {}
    editors.current.undo()  # nothing to undo in this model
    editors.choose("A2C")
    assert not editors.current.is_in(parcel)
    editors.current.undo()
    editors.choose("A4C")
    assert editors.current.is_in(parcel)


def test_saved_opinions_are_loaded_into_their_model_and_accepted_by_analyze(editors, model, tmp_path):
    editors.choose("PLAX")
    parcel = int(editors.current.box().selector_.interior_[0])
    editors.current.toggle(parcel)
    path = tmp_path / f"{editors.prefix}lv-ED-opinion.json"
    editors.current.opinion().to_json(path)
    assert path.name == "PLAX-lv-ED-opinion.json"
    fresh = ViewEditors(model)
    assert fresh.load(path.read_text()) == "PLAX"
    fresh.choose("PLAX")
    assert not fresh.current.is_in(parcel)
    assert fresh.load(path.read_text()) == ""
    revised = AnalysisModel.load("alan-sim", opinions=[path])
    assert parcel not in revised.of("PLAX").boxes["lv"].ed.selector_.interior_
    assert parcel in revised.of("PLAX").boxes["lv"].es.selector_.interior_
    with pytest.raises(ParameterError, match="about parcels bbbb"):
        fresh.load(json.dumps(json.loads(path.read_text()) | {"provenance": "b" * 64}))
    with pytest.raises(ParameterError, match="not JSON"):
        fresh.load("no opinion")


def test_a_loop_of_an_unknown_view_is_shown_in_the_chosen_one(editors):
    noise = np.random.default_rng(0).integers(0, 255, (4, 112, 112)).astype(np.uint8)
    editors.choose("PSAX")
    with pytest.raises(DataError, match=r"the view was not recognised \(other\): choose it"):
        editors.show(UploadedFrames(noise, (112, 112), None))
    assert editors.view == "PSAX"
    assert editors.current.loop is not None
