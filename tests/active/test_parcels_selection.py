"""Selection by parcels: coverage, compared with brute force, disagreement by hand, and whole loops."""

import itertools

import numpy as np
import pytest
import torch

from alan.active.loop import run_active
from alan.active.parcels import ParcelPool, coverage, disagreement
from alan.active.protocol import open_frames
from alan.active.state import read_state
from alan.downstream.whitebox.several import load_white_boxes
from alan.errors import ParameterError
from alan.parcels.model import load_parcels
from alan.supervised.settings import NetworkSpec
from alan.supervised.training import train

from ..discs import untrained_segmenter

PLAIN = NetworkSpec("unet_acdc", None, decoder_channels=(4, 8))


def covered(histograms, chosen):
    similar = np.minimum(histograms[:, None], histograms[None]).sum(-1)
    return similar[:, list(chosen)].max(1).sum()


@pytest.mark.parametrize("seed", range(4))
def test_coverage_is_greedy_and_near_the_optimum(seed):
    rng = np.random.default_rng(seed)
    histograms = rng.dirichlet(np.full(5, 0.4), 9)
    labelled = [4]
    chosen = coverage(histograms, 3, np.array(labelled)).tolist()
    assert len({*chosen, *labelled}) == 4
    done = list(labelled)
    for pick in chosen:
        free = [i for i in range(9) if i not in done]
        assert pick == max(free, key=lambda i: round(covered(histograms, [*done, i]), 12))
        done.append(pick)
    best = max(covered(histograms, [4, *rest]) for rest in itertools.combinations([0, 1, 2, 3, 5, 6, 7, 8], 3))
    start = covered(histograms, labelled)
    assert covered(histograms, done) - start >= (1 - 1 / np.e) * (best - start)


def test_coverage_takes_one_of_each_kind():
    histograms = np.repeat(np.eye(3), [4, 3, 2], axis=0)
    assert coverage(histograms, 3).tolist() == [0, 4, 7]
    assert coverage(histograms, 2, np.array([1])).tolist() == [4, 7]
    with pytest.raises(ParameterError, match="k is 9: give 1 to 8"):
        coverage(histograms, 9, np.array([1]))


def test_disagreement_matches_hand_computed_values():
    a, b = np.zeros((3, 2, 4, 4), bool), np.zeros((3, 2, 4, 4), bool)
    a[0, 0, :2, :2], b[0, 0, 1:3, :3] = True, True  # Dice 2 * 2 / 10; the other structure in neither
    a[1] = b[1] = True
    a[2, 0] = True  # Dice 0
    np.testing.assert_allclose(disagreement(a, b), [(1 - 0.4) / 2, 0, 0.5])


@pytest.fixture(scope="module")
def chosen(tiny):
    return {"parcels": tiny.parcels(), "white_boxes": (tiny.white_box("lv"),)}


def test_histograms_and_segments_of_a_pool_match_the_parcel_maps(discs, chosen):
    frames = open_frames(discs.data(), discs.loop(), discs.training())
    known = ParcelPool(frames.pool, chosen["parcels"], chosen["white_boxes"], ["lv"], 5)
    model, boxes = load_parcels(chosen["parcels"]), load_white_boxes(*chosen.values())
    images = frames.pool.read(range(len(frames.pool)))
    maps = model.maps(images).numpy()
    for row, one in zip(known.histograms, maps, strict=True):
        inside = one[one < model.n_parcels]
        np.testing.assert_allclose(row, [(inside == k).mean() for k in range(model.n_parcels)])
    network = untrained_segmenter(PLAIN, ["lv"])
    positions = np.array([3, 0, 7])
    with torch.no_grad():
        mine = network.masks(images[positions])["lv"].numpy()
    box = boxes.label(images[positions]).labels == 1
    assert box.any()
    expected = 1 - 2 * (mine & box).sum((1, 2)) / (mine.sum((1, 2)) + box.sum((1, 2)))
    np.testing.assert_allclose(known.disagreement(network, positions), expected)
    with pytest.raises(ParameterError, match="white_boxes segment lv, the network also myo"):
        ParcelPool(frames.pool, chosen["parcels"], chosen["white_boxes"], ["lv", "myo"], 5)
    with pytest.raises(ParameterError, match="white_boxes is empty"):
        _ = ParcelPool(frames.pool, chosen["parcels"], (), ["lv"], 5).masks


def test_loops_select_by_coverage_and_disagreement(discs, chosen, tmp_path):
    functions = ("random", "coverage", "disagreement")
    loop = discs.loop(functions=functions, targets=(0.01, 1.0), **chosen)
    training = discs.training(network=PLAIN)  # no dropout is asked for
    run = run_active(str(tmp_path / "run"), discs.data(), loop=loop, training=training)
    state = read_state(run)
    assert len({tuple(state.labelled(name, 0)) for name in functions}) == 3
    frames = open_frames(discs.data(), loop, training)
    known = ParcelPool(frames.pool, chosen["parcels"], chosen["white_boxes"], ["lv"], 4)
    first = state.loop("coverage", 0)[0]
    assert first.chosen == coverage(known.histograms, 3, np.array(state.initial[0])).tolist()
    network = train(training, frames.labelled(state.initial[0]), 0)
    rest = np.setdiff1d(np.arange(16), state.initial[0])
    farthest = rest[np.argsort(-known.disagreement(network, rest), kind="stable")[:3]]
    assert state.loop("disagreement", 0)[0].chosen == farthest.tolist()
    assert len(first.images) == 6
    assert np.nanmean(first.images) == pytest.approx(first.scores["val_iou"], abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"functions": ("coverage",)}, "parcels is null, but coverage and disagreement need"),
        ({"functions": ("disagreement",), "parcels": "x"}, "white_boxes is empty"),
    ],
)
def test_invalid_parcel_options_are_refused(options, message, discs, tmp_path):
    with pytest.raises(ParameterError, match=message):
        run_active(str(tmp_path / "run"), discs.data(), loop=discs.loop(**options), training=discs.training())
    assert not (tmp_path / "run").exists()
