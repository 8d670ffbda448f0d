"""Banks of labelled frames, by which views are recognised."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import pairwise_distances

from alan.analysis.discriminants import direction_of_sides, discriminants, frame_weights
from alan.analysis.view_bank_file import CLASSES, OTHER
from alan.analysis.views import ViewBank
from alan.backbone import random_backbone
from alan.backbone.checkpoint import export_backbone
from alan.backbone.conv import ConvSpec
from alan.data.sample import VIEWS
from alan.data.simulator import simulate_sequence
from alan.data.simulator.others import other_frames
from alan.errors import DataError, ParameterError

SPEC = ConvSpec(image_size=32, widths=(4, 8))


@pytest.fixture(scope="module")
def backbone():
    return random_backbone(SPEC)


def pictures(n, seed):
    """Vertical stripes, horizontal stripes and noise."""
    rng = np.random.default_rng(seed)
    wave = 90 + 80 * np.sin(np.arange(32) / 1.2)
    kinds = [np.tile(wave, (32, 1)), np.tile(wave[:, None], (1, 32)), np.full((32, 32), 90.0)]
    frames = [kinds[i % 3] + rng.normal(0, (8, 8, 60)[i % 3], (32, 32)) for i in range(n)]
    return np.clip(frames, 0, 255).astype(np.uint8), [("A4C", "A2C", OTHER)[i % 3] for i in range(n)]


def test_frames_get_the_view_of_their_nearest_neighbours(backbone):
    frames, views = pictures(30, 0)
    bank = ViewBank.build(backbone, frames, views, n_neighbors=3)
    new, truth = pictures(9, 1)
    for kind in range(3):
        found = bank.classify(new[kind::3])
        assert found.view == truth[kind]
        assert found.share == pytest.approx(found.votes[found.view])
        assert sum(found.votes.values()) == pytest.approx(1)
        assert found.unsure == (found.share < 0.7)
        assert 1 <= len(found.neighbours) <= 3
        assert {bank.views[row] for row in found.neighbours} == {found.view}
        np.testing.assert_array_equal(found.thumbnails, bank.thumbnails[found.neighbours])


def test_features_equal_the_mean_of_the_deepest_level(backbone):
    frames, _ = pictures(5, 0)
    with torch.no_grad():
        deep = backbone.network(SPEC.normalise(torch.from_numpy(frames)[:, None].float() / 255))[-1]
    np.testing.assert_allclose(ViewBank.pool(backbone, frames)[0], deep.mean((2, 3)).numpy(), atol=1e-5)


def test_directions_are_those_of_frames_and_changed_copies_which_do_not_vote(backbone, monkeypatch):
    frames, views = pictures(30, 0)
    features = []
    whole = ViewBank.pool

    def pool(backbone, frames):
        features.append(whole(backbone, frames)[0])
        return whole(backbone, frames)

    monkeypatch.setattr(ViewBank, "pool", staticmethod(pool))
    bank = ViewBank.build(backbone, frames, views, copies=2, sides=None)
    monkeypatch.undo()
    own, *changed = features
    assert len(changed) == 2
    assert not np.allclose(*changed)
    wanted = discriminants(np.concatenate([own, *changed]), views * 3)
    np.testing.assert_allclose(np.abs(bank.directions), np.abs(wanted), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(bank.pooled, own)
    plain = ViewBank.build(backbone, frames, views, sides=None)
    assert plain.directions is None
    assert len({bank.fingerprint, plain.fingerprint}) == 2
    again, other = (ViewBank.build(backbone, frames, views, copies=2, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(again.directions, bank.directions)
    assert not np.allclose(other.directions, bank.directions)


def test_labelled_frames_replace_the_directions_of_simulated_ones(backbone):
    frames, views = pictures(30, 0)
    bank = ViewBank.build(backbone, frames, views, copies=1)
    new, known = pictures(9, 1)
    plain = bank._copy(directions=None)
    labelled = bank.with_frames(new, known)
    assert labelled.directions is None
    np.testing.assert_allclose(labelled._directions, plain.with_frames(new, known)._directions)
    archive = bank.with_archive(frames[:20])
    assert archive.directions is not None
    np.testing.assert_array_equal(archive.with_frames(new, known).directions, archive.directions)
    np.testing.assert_array_equal(
        archive.with_archive(new).directions, bank._copy(directions=None).with_archive(new).directions
    )


def test_an_archive_without_a_certain_frame_keeps_the_directions(backbone):
    frames, views = pictures(30, 0)
    bank = ViewBank.build(backbone, frames, views, copies=1, sure_from=1.0, n_neighbors=30)
    moved = bank.with_archive(frames)
    assert moved.shift is not None
    np.testing.assert_array_equal(moved.directions, bank.directions)


def test_a_bank_of_an_earlier_schema_is_refused_with_the_remedy(backbone, tmp_path, monkeypatch):
    bank = ViewBank.build(backbone, *pictures(12, 0))
    monkeypatch.setattr("alan.analysis.view_bank_file.SCHEMA", "alan-view-bank/3")
    bank.save(tmp_path / "bank.safetensors", "little")
    monkeypatch.undo()
    with pytest.raises(
        DataError, match=r"schema is 'alan-view-bank/3', .*build the bank again with `alan assemble`"
    ):
        ViewBank.load(tmp_path / "bank.safetensors", backbone)


def test_discriminants_measure_distances_like_scikit_learn():
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b", "c"], 20)
    features = rng.normal(size=(60, 6)) @ rng.normal(size=(6, 6)) + np.repeat(rng.normal(size=(3, 6)), 20, 0)
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(features, labels)
    directions = discriminants(features, labels)
    assert directions.shape == (6, 2)
    places = np.stack([features[labels == name].mean(0) for name in "abc"]) @ directions
    logits = -0.5 * pairwise_distances(features @ directions, places) ** 2
    theirs = oracle.decision_function(features)
    np.testing.assert_allclose(logits - logits[:, :1], theirs - theirs[:, :1], rtol=1e-6, atol=1e-6)
    plain = LinearDiscriminantAnalysis(solver="eigen").fit(features, labels).transform(features)
    ours = features @ discriminants(features, labels, 0.0)
    np.testing.assert_allclose(pairwise_distances(ours), pairwise_distances(plain), rtol=1e-6, atol=1e-6)
    assert discriminants(features, ["a"] * 60).shape == (6, 1)
    assert np.isfinite(discriminants(features[:3], ["a", "b", "c"])).all()


def test_a_saved_bank_loads_and_refuses_another_backbone(backbone, tmp_path):
    frames, views = pictures(12, 0)
    bank = ViewBank.build(backbone, frames, views, n_neighbors=2, sure_from=0.9, most_frames=2)
    bank = bank.with_archive(frames[6:], ["A2C"])
    export_backbone(backbone.network, SPEC, tmp_path / "little.safetensors")
    bank.save(tmp_path / "bank.safetensors", "little")
    whole, damaged = (tmp_path / "bank.safetensors").read_bytes(), tmp_path / "damaged.safetensors"
    # the order of the metadata, and so what lies at a place of the header, differs from process to process
    refusals = ("its content is not what", "missing, or not a bank", "schema is .*, give a file of")
    for place in [*range(0, 700, 7), *np.random.default_rng(0).integers(0, len(whole), 40)]:
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 2]) + whole[place + 1 :])
        with pytest.raises(DataError, match=rf"{damaged}: ({'|'.join(refusals)})"):
            ViewBank.load(damaged, backbone)
    again = ViewBank.load(tmp_path / "bank.safetensors")
    assert (again.views, again.n_neighbors, again.sure_from, again.most_frames) == (bank.views, 2, 0.9, 2)
    first, second = bank.classify(frames[:6]), again.classify(frames[:6])
    assert (first.view, first.unsure) == (second.view, second.unsure)
    assert first.share == pytest.approx(second.share, abs=1e-2)
    np.testing.assert_array_equal(again.shift, bank.shift)
    with pytest.raises(DataError, match="another backbone"):
        ViewBank.load(tmp_path / "bank.safetensors", random_backbone(SPEC, seed=1))
    (tmp_path / "bank.safetensors").write_bytes(b"no bank")
    with pytest.raises(DataError, match="not a bank of views"):
        ViewBank.load(tmp_path / "bank.safetensors")
    with pytest.raises(DataError, match="not a bank of views"):
        ViewBank.load("alan-sim-vews")


def test_real_frames_added_to_a_bank_are_neighbours(backbone):
    frames, views = pictures(30, 0)
    bank = ViewBank.build(backbone, frames, views, n_neighbors=1)
    odd = 255 - np.roll(frames[:1], 7, 2)
    assert bank.with_frames(odd, ["PLAX"]).classify(odd).view == "PLAX"
    assert len(bank.views) == 30


@pytest.fixture
def moved(backbone, monkeypatch):
    """A bank of two views in the plane, and frames of an archive whose features all lie 3 further up."""
    rng = np.random.default_rng(0)
    of = np.repeat([0, 1], 40)
    features = rng.normal(size=(80, 2)) * 0.3 + np.array([[0, 0], [0, 3.0]])[of]
    bank = ViewBank(
        backbone, np.array(["A2C", "A4C"])[of], features.astype(np.float32), np.zeros((80, 28, 28), np.uint8)
    )
    real = (features + np.array([0, 3])).astype(np.float32)

    def pool(_, frames):
        rows = frames[:, 0, 0]
        return real[rows], bank.thumbnails[rows]

    monkeypatch.setattr(ViewBank, "pool", staticmethod(pool))
    return bank, np.tile(np.arange(80, dtype=np.uint8)[:, None, None], (1, 2, 2)), bank.views


def right(bank, frames, views):
    return np.mean([bank.classify(frame[None]).view == view for frame, view in zip(frames, views, strict=True)])


def test_unlabelled_frames_measure_the_shift_of_an_archive(moved):
    bank, frames, views = moved
    assert right(bank, frames, views) == 0.5
    shifted = bank.with_archive(frames)
    np.testing.assert_allclose(shifted.shift, [0, 3], atol=1e-5)
    assert right(shifted, frames, views) == 1
    assert shifted.fingerprint != bank.fingerprint
    with pytest.raises(ParameterError, match="views of the bank, A2C, A4C"):
        bank.with_archive(frames, ["PLAX"])
    with pytest.raises(ParameterError, match=r"shift has shape \(3,\): give \(2,\)"):
        ViewBank(bank.backbone, bank.views, bank.pooled, bank.thumbnails, shift=np.zeros(3, np.float32))


def test_an_archive_turns_the_directions_of_a_bank(backbone, monkeypatch, tmp_path):
    """Simulated views differ in the first feature, real ones also in the second, which the simulator lacks."""
    rng = np.random.default_rng(0)
    of, simulated = np.repeat([0, 1], 60), rng.normal(size=(120, 2)) * [1, 0.5]
    simulated[:, 0] += 5 * of
    real = rng.normal(size=(120, 2)) * [1, 0.5] + np.outer(of, [5, 3])
    monkeypatch.setattr(
        ViewBank,
        "pool",
        staticmethod(lambda _, x: (real[x[:, 0, 0]].astype(np.float32), np.zeros((len(x), 28, 28), np.uint8))),
    )
    views, frames = np.array(["A2C", "A4C"])[of], np.tile(np.arange(120, dtype=np.uint8)[:, None, None], (1, 2, 2))
    bank = ViewBank(backbone, views, simulated.astype(np.float32), np.zeros((120, 28, 28), np.uint8))
    moved = bank.with_archive(frames)
    shift = real.mean(0) - simulated.mean(0)
    np.testing.assert_allclose(moved.shift, shift, atol=1e-5)
    shifted = bank._copy(shift=moved.shift)
    sure = np.array([not shifted.classify(frame[None]).unsure for frame in frames])
    guessed = [shifted.classify(frame[None]).view for frame in frames[sure]]
    weights = frame_weights([*views, *guessed], np.arange(120 + sure.sum()) >= 120)
    expected = discriminants(np.r_[simulated, real[sure] - shift], [*views, *guessed], weights=weights)
    np.testing.assert_allclose(moved.directions, expected, rtol=1e-4, atol=1e-5)
    assert abs(moved.directions[1, 0]) > 2 * abs(shifted._directions[1, 0])
    assert len(moved.views) == len(bank.views)
    moved.save(tmp_path / "bank.safetensors", "little")
    again = ViewBank.load(tmp_path / "bank.safetensors", backbone)
    np.testing.assert_array_equal(again.directions, moved.directions)
    assert moved.fingerprint != shifted.fingerprint
    np.testing.assert_array_equal(moved.with_frames(frames[:2], views[:2]).directions, moved.directions)
    assert moved.with_frames(frames[:2], ["PLAX", "PLAX"]).directions is None
    with pytest.raises(ParameterError, match=r"directions has shape \(3, 1\): give \(2,\)"):
        bank._copy(directions=np.ones((3, 1)))


def test_labelled_frames_measure_the_shift_of_a_bank_without_one(moved):
    bank, frames, views = moved
    labelled = bank.with_frames(frames[20:45], views[20:45])  # 20 of one view, 5 of the other
    np.testing.assert_allclose(labelled.shift, [0, 3], atol=0.5)
    assert right(labelled, frames, views) == 1
    again = bank.with_archive(frames).with_frames(frames[:1], views[:1])
    np.testing.assert_allclose(again.shift, [0, 3], atol=1e-5)
    np.testing.assert_allclose(again.pooled[-1], bank.pooled[0], atol=1e-5)


def test_labelled_frames_weigh_as_ten_of_them_against_all_simulated_ones(moved, tmp_path):
    """Weights as written; a view without labelled frames keeps its own; they outvote simulated frames."""
    views = ["A2C"] * 4 + ["A4C"] * 3 + ["A2C"] * 5
    weights = frame_weights(views, np.arange(12) >= 7)
    np.testing.assert_allclose(weights, [10 / 15] * 4 + [1] * 3 + [4 / 15] * 5)
    assert weights[7:].sum() / weights[:4].sum() == pytest.approx(5 / 10)
    np.testing.assert_array_equal(frame_weights(["A2C", "A4C"], np.array([True, False])), 1)

    bank, frames, views = moved
    # the labels of the user against those of the simulator
    swapped = [{"A2C": "A4C", "A4C": "A2C"}[view] for view in views]
    labelled = bank._copy(shift=np.array([0, 3], np.float32)).with_frames(frames, swapped)
    votes = labelled.classify(frames[:1]).votes
    assert votes["A4C"] == pytest.approx(40 / 50, abs=0.1)  # ten parts of fifty for the simulator
    labelled.save(tmp_path / "bank.safetensors", "little")
    again = ViewBank.load(tmp_path / "bank.safetensors", bank.backbone)
    np.testing.assert_array_equal(again.labelled, labelled.labelled)
    assert again.classify(frames[:1]).votes == pytest.approx(votes, abs=0.05)
    assert labelled.fingerprint != labelled._copy(labelled=None).fingerprint


def test_invalid_input_is_refused(backbone):
    frames, views = pictures(3, 0)
    with pytest.raises(ParameterError, match="view is 'A3C'"):
        ViewBank.build(backbone, frames, ["A3C"] * 3)
    with pytest.raises(ParameterError, match="differ in number"):
        ViewBank.build(backbone, frames, views[:2])
    bank = ViewBank.build(backbone, frames, views)
    with pytest.raises(ParameterError, match="give a non-empty uint8"):
        bank.classify(frames[0])
    assert CLASSES == ("A2C", "A4C", "PLAX", "PSAX", "other")


def test_the_shipped_bank_recognises_new_simulated_clips():
    bank = ViewBank.load("alan-sim-views")
    for view in VIEWS:
        clips = [
            simulate_sequence(view, patient, n_frames=2, seed=patient).frames
            for patient in (90_001, 90_002, 90_003)
        ]
        assert [bank.classify(clip).view for clip in clips].count(view) >= 2
    others = [bank.classify(frame[None]).view for frame in other_frames(10, seed=9)]
    assert others.count(OTHER) >= 8


def test_the_direction_of_sides_separates_frames_from_swapped_ones():
    """Features that differ by sides in one entry, and by noise in all."""
    rng = np.random.default_rng(0)
    patients = rng.normal(size=(80, 6))
    stored, swapped = (patients + 0.3 * rng.normal(size=(80, 6)) for _ in range(2))
    stored[:, 2] += 1.0
    direction = direction_of_sides(stored[:40], swapped[:40])
    assert np.abs(direction).argmax() == 2
    assert ((stored - swapped)[40:] @ direction > 0).mean() > 0.9
    opposite = direction_of_sides(swapped[:40], stored[:40])
    np.testing.assert_allclose(opposite, -direction, rtol=1e-5, atol=1e-6)


def test_a_bank_keeps_the_direction_of_sides_of_its_two_chamber_views(backbone, tmp_path):
    frames, views = pictures(30, 0)
    bank = ViewBank.build(backbone, frames, views)
    two = np.array(views) == "A2C"
    swapped = ViewBank.pool(backbone, frames[two][..., ::-1])[0]
    np.testing.assert_array_equal(bank.sides, direction_of_sides(bank.pooled[two], swapped))
    assert bank.fingerprint != ViewBank.build(backbone, frames, views, sides=None).fingerprint
    assert ViewBank.build(backbone, frames[~two], np.array(views)[~two].tolist()).sides is None
    bank.save(tmp_path / "bank.safetensors", "own")
    np.testing.assert_array_equal(ViewBank.load(tmp_path / "bank.safetensors", backbone).sides, bank.sides)
    with pytest.raises(ParameterError, match="sides has shape"):
        ViewBank.build(backbone, frames, views, sides=np.zeros(3, np.float32))


def test_an_apical_view_with_left_and_right_swapped_is_noticed():
    bank = ViewBank.load("alan-sim-views")
    for view in ("A4C", "A2C"):
        clips = [simulate_sequence(view, n, n_frames=2, seed=n).frames for n in (90_001, 90_002, 90_003, 90_005)]
        assert not any(bank.looks_mirrored(clip) for clip in clips)
        marked = [bank.looks_mirrored(clip[..., ::-1]) for clip in clips]
        assert sum(marked) >= (4 if view == "A4C" else 2)
        assert marked == [bank.looks_mirrored(clip[..., ::-1], bank.classify(clip[..., ::-1])) for clip in clips]


@pytest.mark.parametrize(("more", "noticed"), [(0.01, False), (0.03, True)])
def test_a_little_more_certainty_does_not_make_a_view_mirrored(monkeypatch, more, noticed):
    bank = ViewBank.load("alan-sim-views")
    clip = simulate_sequence("A4C", 90_001, n_frames=2, seed=90_001).frames[..., ::-1]
    certainty = iter((0.5 + more, 0.5))  # of the swapped frames, and of the frames
    monkeypatch.setattr(type(bank.backbone), "certainty", lambda backbone, frames: next(certainty))
    assert bank.looks_mirrored(clip) == noticed


def test_a_network_without_structures_notices_no_mirrored_view(backbone):
    frames, views = pictures(30, 0)
    assert not ViewBank.build(backbone, frames, views).looks_mirrored(frames[1::3])
