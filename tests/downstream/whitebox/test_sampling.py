import numpy as np
import pytest
from scipy import stats

from alan.downstream import ParcelPrior, ParcelSegmenter, ParcelSelector, PostProcessing
from alan.downstream.whitebox.sampling import credible_interval, sample_areas, sample_masks, sample_shares
from alan.errors import ParameterError

NOTHING = PostProcessing(component=False, enclaves=False, closing_radius=0, fill=False, contour=False)


@pytest.fixture(scope="module")
def segmenter():
    """Parcels of shares 0.5, 0.25, 1, 0 and one without evidence; 8 effective pixels each."""
    share = np.array([0.5, 0.25, 1.0, 0.0, 0.0])
    weight = np.array([8, 8, 8, 8, 0])
    prior = ParcelPrior(weight * share, weight * (1 - share), 8)
    return ParcelSegmenter(ParcelSelector("beta", prior=prior), NOTHING).fit_prior()


def test_shares_follow_the_beta_distributions(segmenter):
    drawn = sample_shares(
        segmenter.selector_, 4000, np.random.default_rng(0), correlation=0.3, evidence_weight=0.5
    )
    assert drawn.shape == (4000, 5)
    for parcel, (a, b) in enumerate([(2, 2), (1, 3)]):
        assert stats.kstest(drawn[:, parcel], stats.beta(a, b).cdf).pvalue > 0.01
    assert (drawn[:, 2] == 1).all()
    assert (drawn[:, 3:] == 0).all()


@pytest.mark.parametrize("correlation", [0.0, 0.4, 1.0])
def test_draws_have_the_given_correlation(segmenter, correlation):
    drawn = sample_shares(
        segmenter.selector_, 4000, np.random.default_rng(1), correlation=correlation, evidence_weight=1
    )
    scores = np.stack(
        [stats.norm.ppf(stats.beta(4, 4).cdf(drawn[:, 0])), stats.norm.ppf(stats.beta(2, 6).cdf(drawn[:, 1]))]
    )
    assert np.corrcoef(scores)[0, 1] == pytest.approx(correlation, abs=0.04)


def test_more_evidence_narrows_the_draws(segmenter):
    spread = [
        sample_shares(segmenter.selector_, 500, np.random.default_rng(2), evidence_weight=w)[:, 0].std()
        for w in (0.1, 1, 10)
    ]
    assert spread[0] > 2 * spread[1] > 4 * spread[2] / 1.5


def test_equal_seeds_give_equal_deviations(segmenter):
    one, other = (sample_shares(segmenter.selector_, 5, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_the_background_is_never_drawn():
    prior = ParcelPrior(np.full(3, 4.0), np.full(3, 4.0), 8)
    selector = ParcelSelector("beta", prior=prior, background_id=1).fit_prior()
    drawn = sample_shares(selector, 50, np.random.default_rng(0))
    assert (drawn[:, 1] == 0).all()
    assert (drawn[:, [0, 2]] > 0).any(0).all()


def test_masks_are_unions_of_the_drawn_parcels(segmenter):
    maps = np.random.default_rng(4).integers(0, 5, (2, 16, 16))
    shares = np.array([[0.9, 0, 0, 0, 0], [0, 0.41, 0.4, 0, 0.5], [0, 0, 0, 0, 0], [0.6, 0, 0, 0, 0]])
    found = list(sample_masks(segmenter, maps, shares))
    np.testing.assert_array_equal(found, [maps == 0, np.isin(maps, [1, 4]), np.zeros_like(maps, bool), maps == 0])
    assert segmenter.selector_.interior_.tolist() == [0, 2]  # unchanged


def test_areas_match_hand_computed_sums(segmenter):
    # parcel 2 is certain (10 pixels); parcel 0 (6 pixels) exceeds 0.4 with P(Beta(0.8, 0.8) > 0.4)
    maps = np.full((1, 4, 4), 2)
    maps[0, :2, :3] = 0
    areas = sample_areas(segmenter, maps, 3000, np.random.default_rng(5), evidence_weight=0.2)
    assert set(areas.ravel().tolist()) == {10, 16}
    assert (areas == 16).mean() == pytest.approx(stats.beta(0.8, 0.8).sf(0.4), abs=0.03)


def test_intervals_match_hand_computed_values():
    low, high = credible_interval(np.arange(101.0), 0.9)
    assert (low, high) == pytest.approx((5, 95))
    assert np.isnan(credible_interval(np.full((4, 2), np.nan))).all()
    assert credible_interval(np.array([np.nan, 1.0, 3.0]), 0.5).tolist() == [1.5, 2.5]


def test_parameters_out_of_bounds_are_refused(segmenter):
    for options in ({"correlation": 1.5}, {"evidence_weight": 0}):
        with pytest.raises(ParameterError, match=next(iter(options))):
            sample_shares(segmenter.selector_, 2, np.random.default_rng(0), **options)
