import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alan.downstream.whitebox.prior import ParcelPrior
from alan.downstream.whitebox.segmenter import ParcelSegmenter, soft_union
from alan.downstream.whitebox.selection import ParcelSelector
from alan.downstream.whitebox.steps import PostProcessing
from alan.errors import ParameterError

OFF = PostProcessing(component=False, enclaves=False, closing_radius=0, fill=False, contour=False)


@pytest.fixture(scope="module")
def data():
    """Twelve frames, 20 parcels at 14 x 14, the target a disk that moves between tokens."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:14, :14] + 0.5
    seeds = rng.uniform(0, 14, (20, 2))
    logits, masks = [], []
    fine = (np.mgrid[:56, :56] + 0.5) / 4
    for _ in range(12):
        shift = rng.normal(0, 0.6, 2)
        place = seeds + shift
        distance = (rows - place[:, 0, None, None]) ** 2 + (columns - place[:, 1, None, None]) ** 2
        logits.append(-distance)
        masks.append(((fine - (7 + shift)[:, None, None]) ** 2).sum(0) < 9)
    scores = torch.tensor(np.array(logits)).float().div(2).softmax(1)
    maps = F.interpolate(scores, (56, 56), mode="bilinear").argmax(1).numpy()
    return maps, np.array(masks), scores.numpy()


def test_sums_of_scores_equal_torch(data):
    _, _, scores = data
    weights = np.random.default_rng(1).uniform(0, 1, 20)
    summed = torch.einsum("k,nkhw->nhw", torch.tensor(weights).float(), torch.tensor(scores))
    enlarged = F.interpolate(summed[:, None], (56, 56), mode="bilinear", align_corners=False)[:, 0].numpy()
    near = np.abs(enlarged - 0.5) < 1e-5
    ours = soft_union(scores, weights, 0.5, (56, 56))
    assert ((ours == (enlarged >= 0.5)) | near).all()
    assert not soft_union(scores, np.zeros(3), 0.0, (56, 56)).any()  # missing weights are 0, and 0 is nowhere


def test_shares_are_more_accurate_than_the_hard_union(slow, data):
    maps, masks, scores = data
    results = {}
    for soft in (None, "union", "share"):
        model = ParcelSegmenter(ParcelSelector("beta", n_parcels=20), OFF, soft=soft).fit(maps[:6], masks[:6])
        found = model.predict(maps[6:], scores=scores[6:])
        results[soft] = np.mean([slow.dice(a, b) for a, b in zip(found, masks[6:], strict=True)])
    assert results["share"] > results[None]
    assert len(set(results.values())) == 3


def test_the_level_changes_the_area(data):
    maps, masks, scores = data
    sizes = [
        ParcelSegmenter(ParcelSelector("beta"), OFF, soft="share", soft_above=level)
        .fit(maps, masks)
        .predict(maps, scores=scores)
        .sum()
        for level in (0.2, None, 0.6)
    ]
    assert sizes[0] > sizes[1] > sizes[2]


def test_soft_settings_survive_a_json_round_trip(data):
    maps, masks, scores = data
    model = ParcelSegmenter(ParcelSelector("beta"), OFF, soft="share", soft_above=0.35).fit(maps, masks)
    again = ParcelSegmenter.from_json(model.to_json())
    assert (again.soft, again.soft_above) == ("share", 0.35)
    np.testing.assert_array_equal(again.predict(maps, scores=scores), model.predict(maps, scores=scores))


def test_segments_stay_inside_the_sector(data):
    maps, masks, scores = data
    cut = maps.copy()
    cut[:, :, 28:] = 20
    selector = ParcelSelector("beta", n_parcels=21, background_id=20)
    model = ParcelSegmenter(selector, OFF, soft="share").fit(cut, masks)
    out = model.predict(cut, scores=scores)
    assert out[:, :, :28].any()
    assert not out[:, :, 28:].any()


@pytest.mark.parametrize(
    ("params", "given", "message"),
    [
        ({"soft": "shar"}, {}, "did you mean 'share'"),
        ({"soft": "share"}, {}, "give predict the scores"),
        ({"soft_above": 2}, {}, "soft_above is 2"),
        ({"soft": "share"}, {"scores": np.zeros((12, 20, 14))}, "give floats"),
        ({"soft": "share"}, {"scores": np.zeros((12, 40, 2, 2))}, "scores have 40 parcels, n_parcels is 20"),
        ({"soft": "share"}, {"scores": np.full((12, 20, 2, 2), -3.0)}, "give the softmax"),
    ],
)
def test_invalid_input_is_refused(data, params, given, message):
    maps, masks, _ = data
    with pytest.raises(ParameterError, match=message):
        ParcelSegmenter(ParcelSelector("beta", n_parcels=20), **params).fit(maps, masks).predict(maps, **given)


def test_a_prior_alone_gives_the_shares(data):
    maps, masks, scores = data
    prior = ParcelPrior.count(maps[:6], masks[:6], n_parcels=20)
    model = ParcelSegmenter(ParcelSelector("beta", prior=prior), OFF, soft="share").fit_prior()
    assert model.predict(maps[6:], scores=scores[6:]).any((1, 2)).all()
