"""The parcel editor of the page: opinions, steps, undo and the resulting segments, without a browser."""

import json
import math

import numpy as np
import pytest

from alan.analysis.phase_boxes import PhaseBoxes
from alan.app.state import ParcelEditor, ParcelLoop
from alan.cardiac import ejection_fraction, simpson_volume
from alan.downstream import ParcelPrior, ParcelSegmenter, ParcelSelector, PostProcessing
from alan.downstream.whitebox.opinion import Opinion
from alan.errors import ParameterError, SelectionError

MODEL = "a" * 64
OFF = PostProcessing(component=False, enclaves=False, closing_radius=0, fill=False, contour=False)


def box(shares, structure, steps=OFF):
    share = np.array(shares)
    prior = ParcelPrior(8 * share, 8 * (1 - share), 8, structure, MODEL)
    return ParcelSegmenter(ParcelSelector("beta", prior=prior, provenance=MODEL, n_parcels=4), steps).fit_prior()


def one(segmenter):
    """A structure with one list for the whole beat."""
    return PhaseBoxes(segmenter, segmenter)


def quarters():
    """(16, 16) ids 0 1 over 2 3, 8 x 8 pixels each."""
    return np.kron([[0, 1], [2, 3]], np.ones((8, 8), np.uint8)).astype(np.uint8)


@pytest.fixture
def editor():
    """Parcel 0 is the left ventricle, 3 the atrium; in the second frame the ventricle is smaller."""
    maps = np.stack([quarters(), quarters()])
    maps[1, :4, :4] = 1
    reference = np.zeros((2, 16, 16), np.uint8)
    reference[:, :8] = 1
    found = ParcelEditor(
        {"A4C": {"lv": one(box([0.9, 0.3, 0, 0], "lv")), "la": one(box([0, 0, 0.1, 0.9], "la"))}}, MODEL
    )
    found.show(ParcelLoop(np.zeros((2, 16, 16), np.uint8), maps, (480, 960), reference, ("lv", "myo")))
    return found


def test_a_click_adds_and_removes_a_parcel(editor):
    assert editor.picture_shape == (480, 960)
    assert [editor.parcel_at(x, y) for x, y in ((0, 0), (959, 0), (479, 240), (480, 479))] == [0, 1, 2, 3]
    assert editor.parcel_at(5000, -3) == 1
    np.testing.assert_array_equal(editor.masks()["lv"], editor.loop.maps[0] == 0)
    editor.toggle(1)
    np.testing.assert_array_equal(editor.masks()["lv"], editor.loop.maps[0] <= 1)
    editor.toggle(0)
    np.testing.assert_array_equal(editor.masks()["lv"], editor.loop.maps[0] == 1)
    np.testing.assert_array_equal(editor.masks()["la"], editor.loop.maps[0] == 3)
    assert editor.opinion().parcels == {1: Opinion.of("inside"), 0: Opinion.of("never")}


def test_area_dice_and_ejection_fraction_follow_the_list(editor):
    assert editor.area() == 64 / 256
    assert editor.dice() == pytest.approx(2 * 64 / (64 + 128))
    spacing = (480 / 16, 960 / 16)
    ed, es = (editor.loop.maps[n] == 0 for n in (0, 1))
    expected = ejection_fraction(simpson_volume(ed, spacing), simpson_volume(es, spacing))
    assert editor.measures().ef_percent == pytest.approx(expected)
    assert editor.areas().tolist() == [64, 48]
    editor.toggle(1)
    assert editor.dice() == 1
    assert editor.areas().tolist() == [128, 128]
    editor.frame = 1
    assert editor.area() == 128 / 256
    editor.structure = "la"
    assert math.isnan(editor.dice())  # the reference does not show it


def test_a_share_counts_as_a_weak_opinion(editor):
    editor.judge(1, Opinion.of(1.0))  # Beta(0.5 + 2.4 + 8, 0.5 + 5.6)
    assert editor.is_in(1)
    assert editor.box().selector_.share_[1] == pytest.approx(10.9 / 17)
    editor.judge(1, None)
    assert not editor.is_in(1)
    assert editor.opinion().parcels == {}


def test_undo_reverts_one_step_at_a_time(editor):
    assert not editor._history
    editor.undo()  # nothing to undo
    before = editor.masks()["lv"]
    editor.toggle(1)
    after = editor.masks()["lv"]
    editor.structure = "la"
    editor.set_steps(["median"])
    editor.toggle(2)
    editor.undo()
    assert editor.steps_on() == ["median"]
    assert editor.opinion().parcels == {}
    editor.undo()
    assert editor.steps_on() == []
    editor.structure = "lv"
    np.testing.assert_array_equal(editor.masks()["lv"], after)
    editor.undo()
    np.testing.assert_array_equal(editor.masks()["lv"], before)
    assert not editor._history


def test_post_processing_steps_change_the_mask(editor):
    editor.loop.maps[0, 3, 3] = 1
    holes = editor.masks()["lv"]
    assert not holes[3, 3]
    editor.set_steps(["fill"])
    assert editor.masks()["lv"][3, 3]
    editor.set_steps([])
    np.testing.assert_array_equal(editor.masks()["lv"], holes)


def test_steps_can_be_reset_to_the_white_box():
    steps = PostProcessing(closing_radius=7, median_radius=0)
    editor = ParcelEditor({"A4C": {"lv": one(box([0.9, 0, 0, 0], "lv", steps))}}, MODEL)
    on = editor.steps_on()
    assert on == ["component", "enclaves", "closing", "fill", "contour"]
    editor.set_steps([])
    assert editor.steps_on() == []
    editor.set_steps(on)
    assert editor.box().steps == steps
    editor.set_steps([*on, "median"])
    assert editor.box().steps.median_radius == 3


def test_the_last_parcel_cannot_be_removed(editor):
    with pytest.raises(SelectionError, match="chose no parcel"):
        editor.toggle(0)
    assert editor.is_in(0)
    assert not editor._history


def test_opinions_are_saved_and_loaded(editor):
    editor.toggle(1)
    editor.judge(2, Opinion.of(0.25, 3))
    text = editor.opinion().to_json()
    assert json.loads(text)["parcels"] == [
        {"id": 1, "opinion": "inside"},
        {"id": 2, "opinion": 0.25, "strength": 3.0},
    ]
    mask = editor.masks()["lv"]
    editor.undo()
    editor.undo()
    editor.structure = "la"
    assert editor.load(text) == "lv"
    np.testing.assert_array_equal(editor.masks()["lv"], mask)


def test_steps_are_saved_and_loaded(editor):
    editor.loop.maps[0, 3, 3] = 1  # a hole
    editor.set_steps(["fill"])
    assert editor.opinion().steps == {"fill": True}
    text = editor.opinion().to_json()
    assert editor.boxes["lv"].revise(editor.opinion()).ed.steps == editor.box().steps
    editor.undo()
    assert editor.opinion().steps == {}
    plain = editor.opinion().to_json()
    editor.load(text)
    assert editor.steps_on() == ["fill"]
    assert editor.masks()["lv"][3, 3]
    editor.load(plain)
    assert editor.steps_on() == []
    editor.undo()
    assert editor.steps_on() == ["fill"]


def test_steps_apply_to_both_lists():
    segmenters = box([0.9, 0.3, 0, 0], "lv"), box([0.9, 0.8, 0, 0], "lv")
    editor = ParcelEditor({"A4C": {"lv": PhaseBoxes(*segmenters)}}, MODEL)
    editor.set_steps(["fill"])
    saved = {phase: editor.set_phase(phase) or editor.opinion() for phase in ("ED", "ES")}
    assert [one.steps for one in saved.values()] == [{"fill": True}] * 2
    for given in saved.values():
        pair = editor.boxes["lv"].revise(given)
        assert pair.ed.steps.fill
        assert pair.es.steps.fill


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"structure": "rv"}, "structure is 'rv': give one of lv, la"),
        ({"provenance": "b" * 64}, "about parcels bbbbbbbbbbbb"),
        ({"parcels": [{"id": 9, "opinion": "inside"}]}, "about parcel 9"),
    ],
)
def test_opinions_on_other_parcels_are_refused(editor, change, message):
    value = json.loads(editor.opinion().to_json()) | change
    with pytest.raises(ParameterError, match=message):
        editor.load(json.dumps(value))


def test_opinion_text_is_never_read_as_a_path(editor, tmp_path):
    editor.opinion().to_json(tmp_path / "secret.json")
    with pytest.raises(ParameterError, match="not JSON"):
        editor.load(str(tmp_path / "secret.json"))


def test_the_table_shows_the_evidence_of_visible_parcels(editor):
    editor.judge(1, Opinion.of("inside"))
    editor.judge(2, Opinion.of(0.25))
    assert editor.rows() == [
        [1, "in", "94%", "inside", "30% of 8", "", 64],
        [0, "in", "86%", "", "90% of 8", "", 64],
        [2, "", "15%", "25% of 8", "0% of 8", "", 64],
        [3, "", "6%", "", "0% of 8", "", 64],
    ]


def test_the_picture_changes_with_the_mask(editor):
    before = editor.picture()
    assert before.shape == (480, 960, 3)
    editor.toggle(1)
    changed = (editor.picture() != before).any(2)
    assert changed[:240, 480:].mean() > 0.5
    assert not changed[260:, :].any()


def test_unsupported_rules_and_a_missing_loop_are_refused():
    maps, masks = np.zeros((2, 8, 8), int), np.ones((2, 8, 8), bool)
    paper = ParcelSegmenter(ParcelSelector()).fit(maps, masks)
    with pytest.raises(ParameterError, match="rule 'paper': the page edits rule beta"):
        ParcelEditor({"A4C": {"lv": one(paper)}}, MODEL)
    with pytest.raises(ParameterError, match="no loop is loaded"):
        ParcelEditor({"A4C": {"lv": one(box([0.9, 0, 0, 0], "lv"))}}, MODEL).picture()


@pytest.fixture
def phased(editor):
    """The ventricle has a list for each phase, the atrium one; the ventricle is smaller in the second frame."""
    ed, es = box([0.9, 0.3, 0, 0], "lv"), box([0.9, 0, 0, 0], "lv")
    found = ParcelEditor({"A4C": {"lv": PhaseBoxes(ed, es), "la": editor.boxes["la"]}}, MODEL)
    found.show(editor.loop)
    return found


def test_each_phase_has_its_list(phased):
    assert phased.phases("lv") == ("ED", "ES")
    assert phased.phases("la") == ("",)
    phased.toggle(1)
    np.testing.assert_array_equal(phased.masks()["lv"], phased.loop.maps[0] <= 1)
    phased.set_phase("ES")
    assert phased.frame == 1  # where the ventricle is smallest by the list of that phase
    np.testing.assert_array_equal(phased.masks()["lv"], phased.loop.maps[1] == 0)
    phased.toggle(2)
    assert phased.opinion().to_dict()["phase"] == "ES"
    assert phased.opinion().parcels == {2: Opinion.of("inside")}
    phased.set_phase("ED")
    assert phased.opinion().parcels == {1: Opinion.of("inside")}
    phased.structure = "la"
    assert "phase" not in phased.opinion().to_dict()
    np.testing.assert_array_equal(phased.masks()["la"], phased.loop.maps[0] == 3)
    phased.undo()
    phased.structure = "lv"
    phased.set_phase("ES")
    assert phased.opinion().parcels == {}


def test_the_ejection_fraction_uses_each_list_at_its_phase(phased):
    phased.toggle(1)  # at end-diastole alone
    ed, es = phased.loop.maps[0] <= 1, phased.loop.maps[1] == 0
    spacing = (480 / 16, 960 / 16)
    expected = ejection_fraction(simpson_volume(ed, spacing), simpson_volume(es, spacing))
    for phase in ("ED", "ES"):
        phased.set_phase(phase)
        assert phased.measures().ef_percent == pytest.approx(expected)


def test_opinions_on_a_phase_are_loaded_into_its_list(phased):
    phased.set_phase("ES")
    phased.toggle(2)
    text = phased.opinion().to_json()
    phased.undo()
    phased.set_phase("ED")
    phased.load(text)
    assert phased.phase == "ES"
    assert phased.opinion().parcels == {2: Opinion.of("inside")}
    both = json.loads(text)
    del both["phase"]
    phased.load(json.dumps(both))
    for phase in ("ED", "ES"):
        phased.set_phase(phase)
        assert phased.is_in(2)
    with pytest.raises(ParameterError, match="la has one list for the whole beat"):
        phased.load(json.dumps(both | {"structure": "la", "phase": "ED"}))


def test_an_opinion_changes_the_lists_of_all_views():
    """The views have white boxes of their own, and steps of their own."""
    other = box([0.3, 0.9, 0, 0], "lv", PostProcessing(median_radius=2))
    editor = ParcelEditor({"A4C": {"lv": one(box([0.9, 0.3, 0, 0], "lv"))}, "A2C": {"lv": one(other)}}, MODEL)
    editor.judge(2, Opinion.of("inside"))
    editor.set_steps(["closing"])
    lists, steps = {}, {}
    for view in editor.views:
        editor.set_view(view)
        lists[view] = sorted(map(int, editor.box().selector_.interior_))
        steps[view] = editor.box().steps
    assert lists == {"A4C": [0, 2], "A2C": [1, 2]}
    assert steps["A4C"].closing_radius == steps["A2C"].closing_radius == 10
    assert editor.opinion().parcels == {2: Opinion.of("inside")}
    editor.undo()
    assert editor.box().steps == other.steps
    editor.set_view("A4C")
    assert editor.box().steps == OFF
    editor.undo()
    assert editor.opinion().parcels == {}


def test_structures_of_another_view_of_the_model_are_loaded_but_not_shown():
    boxes = {name: one(box(shares, name)) for name, shares in (("lv", [0.9, 0, 0, 0]), ("rv", [0, 0.9, 0, 0]))}
    editor = ParcelEditor({"PSAX": {"lv": boxes["lv"]}, "A4C": boxes}, MODEL)
    editor.set_view("A4C")
    editor.structure = "rv"
    editor.toggle(2)
    text = editor.opinion().to_json()
    editor.undo()
    editor.set_view("PSAX")
    assert editor.structure == "lv"
    assert editor.load(text) == "rv"
    assert editor.structure == "lv"
    editor.set_view("A4C")
    editor.structure = "rv"
    assert editor.is_in(2)
