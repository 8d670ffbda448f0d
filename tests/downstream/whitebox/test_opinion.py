import json

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone

from alan.downstream import ExpertOpinion, ParcelPrior, ParcelSegmenter, ParcelSelector
from alan.downstream.whitebox.opinion import Opinion, read_opinions, read_phase_opinions
from alan.errors import DataError, ParameterError, SelectionError

MODEL = "a" * 64
WORDS = [
    {"id": 0, "opinion": "inside"},
    {"id": 1, "opinion": "never"},
    {"id": 2, "opinion": "unknown"},
    {"id": 3, "opinion": 0.75},
    {"id": 4, "opinion": 0.25, "strength": 2},
]


def opinion(*rows, structure="lv", provenance=MODEL, **more):
    return ExpertOpinion.from_dict(
        {
            "schema": "alan-expert-opinion/1",
            "structure": structure,
            "provenance": provenance,
            "parcels": list(rows),
            **more,
        }
    )


@pytest.fixture
def prior():
    """Six parcels; 30 patients, of which the selector counts 8 effective pixels."""
    share = np.array([0.1, 0.9, 0.9, 0.0, 0.5, 1.0])
    return ParcelPrior(30 * share, 30 * (1 - share), 60, "lv", MODEL)


@pytest.fixture
def selector(prior):
    return ParcelSelector("beta", prior=prior, n_parcels=6, provenance=MODEL, correlation=1.0)


def one_patient():
    """One image: parcel 0 has 4 pixels, 1 of them in the mask; parcel 3 has 4 pixels, all in the mask."""
    maps = np.array([[[0, 0, 3, 3], [0, 0, 3, 3]]])
    masks = np.array([[[0, 1, 1, 1], [0, 0, 1, 1]]], bool)
    return maps, masks


def test_words_and_shares_become_effective_pixels():
    found = opinion(*WORDS).pixels(6)
    np.testing.assert_allclose(found.inside, [100, 0, 0, 6, 0.5, 0])
    np.testing.assert_allclose(found.outside, [0, 100, 0, 2, 1.5, 0])


def test_the_posterior_matches_hand_computed_values(selector):
    # Jeffreys 1/2, prior 8 x share, opinion, and one patient of one effective pixel
    fitted = selector.set_params(opinion=opinion(*WORDS)).fit(*one_patient())
    alpha = [0.5 + 0.8 + 100 + 0.25, 0.5 + 7.2, 0.5 + 7.2, 0.5 + 0 + 6 + 1, 0.5 + 4 + 0.5, 0.5 + 8]
    beta = [0.5 + 7.2 + 0 + 0.75, 0.5 + 0.8 + 100, 0.5 + 0.8, 0.5 + 8 + 2 + 0, 0.5 + 4 + 1.5, 0.5]
    np.testing.assert_allclose(fitted.posterior_.alpha, alpha)
    np.testing.assert_allclose(fitted.posterior_.beta, beta)
    np.testing.assert_allclose(fitted.share_, np.array(alpha) / np.add(alpha, beta))
    np.testing.assert_allclose(fitted.posterior_.exceeds(0.4), stats.beta.sf(0.4, alpha, beta))
    assert fitted.interior_.tolist() == np.flatnonzero(stats.beta.sf(0.4, alpha, beta) > 0.5).tolist()


def test_the_table_shows_prior_opinion_and_counts(selector):
    table = selector.set_params(opinion=opinion(*WORDS)).fit(*one_patient()).table_
    names = ("prior_inside", "prior_outside", "expert_inside", "expert_outside", "labels_inside", "labels_outside")
    assert table.loc[0, list(names)].tolist() == pytest.approx([0.8, 7.2, 100, 0, 0.25, 0.75])
    assert "108.9" not in table.loc[0, "why"]
    assert "109.0 effective pixels of evidence, 100.0 of them an expert's opinion" in table.loc[0, "why"]
    assert "expert" not in table.loc[2, "why"]


def test_an_expert_adds_and_removes_parcels_without_labels(selector):
    before = clone(selector).fit_prior()
    assert before.interior_.tolist() == [1, 2, 4, 5]
    after = before.revise(opinion({"id": 0, "opinion": "inside"}, {"id": 1, "opinion": "never"}))
    assert after.interior_.tolist() == [0, 2, 4, 5]
    assert before.interior_.tolist() == [1, 2, 4, 5]
    assert after.revise(None).interior_.tolist() == [1, 2, 4, 5]


def test_revision_equals_a_fit_with_the_opinion(selector):
    given = opinion(*WORDS)
    revised = clone(selector).fit(*one_patient()).revise(given)
    fitted = clone(selector).set_params(opinion=given).fit(*one_patient())
    columns = ["present", "inside", "share", "role", "why", "expert_inside", "labels_inside"]
    assert revised.table_[columns].equals(fitted.table_[columns])
    assert revised.interior_.tolist() == fitted.interior_.tolist()


def test_an_opinion_alone_chooses_parcels():
    found = ParcelSelector("beta", opinion=opinion(*WORDS), n_parcels=6).fit_prior()
    assert found.interior_.tolist() == [0, 3]


def test_opinions_survive_a_json_round_trip(selector, tmp_path):
    given = opinion(*WORDS)
    again = ExpertOpinion.from_json(given.to_json())
    assert again.parcels == given.parcels
    assert again.to_dict()["parcels"] == WORDS
    given.to_json(tmp_path / "lv.json")
    box = ParcelSegmenter(selector.set_params(opinion=tmp_path / "lv.json")).fit(*one_patient())
    read = ParcelSegmenter.from_json(box.to_json())
    np.testing.assert_allclose(read.selector_.posterior_.alpha, box.selector_.posterior_.alpha)
    assert read.selector_.opinion.parcels == given.parcels


@pytest.mark.parametrize("rows", [slice(1, 2), slice(None)])
def test_a_file_without_evidence_is_refused(selector, rows):
    value = json.loads(clone(selector).fit_prior().to_json())
    for row in value["parcels"][rows]:
        del row["prior_inside"]
    with pytest.raises(ParameterError, match="has no prior_inside: restore it, or fit the white box again"):
        ParcelSelector.from_dict(value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": 9, "opinion": "inside"}], "about parcel 9: give ids from 0 to 5"),
        ([{"id": 1, "opinion": "inside"}, {"id": 1, "opinion": 0.5}], "two opinions on parcel 1"),
        ([{"id": 1, "opinion": 1.5}], "parcel 1: opinion is 1.5: give a number from 0 to 1"),
        ([{"id": 1, "opinion": float("nan")}], "parcel 1: opinion is nan"),
        ([{"id": 1, "opinion": True}], "opinion is True"),
        ([{"id": 1, "opinion": 0.5, "strength": -1}], "strength is -1: give a number at least 0"),
        ([{"id": 1, "opinion": "unknown", "strength": 3}], "leave the strength out"),
        ([{"id": 1, "opinion": "inisde"}], "opinion is 'inisde': did you mean 'inside'"),
        ([{"id": "1", "opinion": "inside"}], "id is '1'"),
        ([{"id": 1, "opinion": 0.5, "stregth": 3}], "parcel 1 has 'stregth'"),
        ([{"id": 1}], "incomplete or malformed"),
    ],
)
def test_invalid_opinions_are_refused(selector, rows, message):
    with pytest.raises(ParameterError, match=message):
        selector.set_params(opinion=opinion(*rows)).fit_prior()


def test_an_opinion_on_the_background_is_refused(selector):
    with pytest.raises(ParameterError, match=r"not 5 \(background\)"):
        selector.set_params(opinion=opinion({"id": 5, "opinion": "inside"}), background_id=5).fit_prior()


def test_an_opinion_on_other_parcels_is_refused(selector):
    with pytest.raises(ParameterError, match="about parcels bbbbbbbbbbbb, the model has aaaaaaaaaaaa"):
        selector.set_params(opinion=opinion(provenance="b" * 64)).fit_prior()


def test_only_the_rule_beta_can_be_revised():
    maps, masks = np.zeros((2, 8, 8), int), np.ones((2, 8, 8), bool)
    with pytest.raises(ParameterError, match="rule is 'paper'"):
        ParcelSelector().fit(maps, masks).revise(None)


def test_an_opinion_can_remove_every_parcel(selector):
    fitted = selector.fit_prior()
    with pytest.raises(SelectionError, match="chose no parcel"):
        fitted.revise(opinion(*({"id": k, "opinion": "never"} for k in range(6))))


def test_opinions_are_read_by_structure(tmp_path):
    for name in ("lv", "la"):
        opinion(*WORDS, structure=name).to_json(tmp_path / f"{name}.json")
    files = [tmp_path / "lv.json", tmp_path / "la.json"]
    assert list(read_opinions(files, ["lv", "myo", "la"], MODEL)) == ["lv", "la"]
    with pytest.raises(ParameterError, match=r"la\.json: structure is 'la': give one of lv"):
        read_opinions(files, ["lv"], MODEL)
    with pytest.raises(ParameterError, match=r"lv\.json: a second opinion on 'lv'"):
        read_opinions([files[0], files[0]], ["lv"], MODEL)
    with pytest.raises(ParameterError, match=r"lv\.json: the opinion on lv is about parcels"):
        read_opinions(files, ["lv", "la"], "c" * 64)
    with pytest.raises(DataError, match=r"none\.json"):
        read_opinions([tmp_path / "none.json"], ["lv"], MODEL)


def test_opinions_are_read_by_structure_and_phase(tmp_path):
    files = [tmp_path / f"{n}.json" for n in range(3)]
    for file, more in zip(files, ({"phase": "ES"}, {}, {"phase": "ED"}), strict=True):
        opinion(*WORDS, **more).to_json(file)
    found = read_phase_opinions(files, ["lv"], MODEL)
    assert list(found) == [("lv", ""), ("lv", "ES"), ("lv", "ED")]  # what is about all lists comes first
    assert [one.phase for one in found.values()] == ["", "ES", "ED"]
    assert "phase" not in json.loads(files[1].read_text())
    with pytest.raises(
        ParameterError, match=r"0\.json: a second opinion on 'lv ES': give one file per structure and"
    ):
        read_phase_opinions([files[0], files[0]], ["lv"], MODEL)
    with pytest.raises(ParameterError, match="about lv at ES, but its list serves all phases"):
        read_opinions(files[:1], ["lv"], MODEL)
    with pytest.raises(ParameterError, match="phase is 'MD': give ED or ES"):
        opinion(*WORDS, phase="MD")


def test_an_opinion_sets_post_processing_steps(selector, tmp_path):
    steps = {"median_radius": 2, "fill": False}
    given = opinion(*WORDS, steps=steps, phase="ES")
    assert ExpertOpinion.from_json(given.to_json()).steps == steps
    assert "steps" not in opinion(*WORDS).to_dict()
    box = ParcelSegmenter(selector).fit_prior()
    revised = box.revise(given)
    assert (revised.steps.median_radius, revised.steps.fill, revised.steps.contour) == (2, False, True)
    assert (box.steps.median_radius, box.steps.fill) == (0, True)
    assert ParcelSegmenter.from_json(revised.to_json()).steps == revised.steps
    assert revised.revise(opinion(*WORDS)).steps == revised.steps
    files = [tmp_path / f"{n}.json" for n in range(3)]
    for file, more in zip(files, ({}, {"steps": steps}, {"steps": {"fill": True}}), strict=True):
        opinion(*WORDS, phase="ED" if file == files[2] else "ES" if more else "", **more).to_json(file)
    assert [one.steps for one in read_phase_opinions(files[:2], ["lv"], MODEL).values()] == [{}, steps]
    with pytest.raises(ParameterError, match=r"2\.json: steps are {'fill': True}, in another opinion {'median_"):
        read_phase_opinions(files[1:], ["lv"], MODEL)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"medain_radius": 2}, "unknown step 'medain_radius'"),
        ({"fill": 1}, "fill is 1: give true or false"),
        ({"median_radius": -1}, "median_radius is -1"),
        (["fill"], "incomplete or malformed"),
    ],
)
def test_invalid_steps_are_refused(steps, message):
    with pytest.raises(ParameterError, match=message):
        opinion(*WORDS, steps=steps)


def test_named_strengths_have_their_documented_values():
    assert Opinion.of("inside") == (1.0, 100.0, "inside")
    assert Opinion.of(0.3) == (0.3, 8.0, "")
    assert Opinion.of("never", 4).strength == 4


def test_another_json_file_is_no_file_of_opinions():
    with pytest.raises(ParameterError, match=r"^schema is None where .*: give a file of opinions, such as"):
        ExpertOpinion.from_dict({})
