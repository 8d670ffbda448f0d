import json

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone

from alan.downstream.whitebox.counting import Counts, count
from alan.downstream.whitebox.greedy import greedy_union
from alan.downstream.whitebox.prior import ParcelPrior, effective_pixels, posterior
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.selection import ParcelSelector
from alan.errors import DataError, ParameterError, SelectionError

PUBLISHED = {"overlap": 0.75, "min_pixels": 10, "min_share_of_target": 0.02, "exterior_overlap": 0.95}


@pytest.fixture(scope="module")
def data(slow):
    return slow.parcel_maps_and_masks(0, 24)


@pytest.fixture(scope="module")
def simulated(slow):
    return slow.parcel_maps_and_masks(0, 40)  # the same parcels as data: their places depend on the seed


@pytest.fixture(scope="module")
def prior(simulated):
    return ParcelPrior.count(*simulated, n_parcels=64, structure="lv", provenance="abc")


def effective_slowly(maps, masks, groups, k, rho):
    """Patient by patient and parcel by parcel."""
    inside, outside = np.zeros(k), np.zeros(k)
    for patient in sorted(set(groups)):
        own = np.array([g == patient for g in groups])
        for parcel in range(k):
            where = maps[own] == parcel
            n, hit = int(where.sum()), int((where & masks[own]).sum())
            if n:
                weight = n / (1 + (n - 1) * rho)
                inside[parcel] += weight * hit / n
                outside[parcel] += weight * (n - hit) / n
    return inside, outside


@pytest.mark.parametrize("rho", [0, 0.1, 1])
def test_effective_pixels_equal_a_plain_loop(data, rho):
    maps, masks = data[0][:6], data[1][:6]
    groups = ["b", "a", "a", "c", "c", "c"]
    counted = ParcelPrior.count(maps, masks, groups=groups, n_parcels=64, correlation=rho)
    inside, outside = effective_slowly(maps, masks, groups, 64, rho)
    np.testing.assert_allclose(counted.inside, inside)
    np.testing.assert_allclose(counted.outside, outside)


def test_effective_pixels_match_hand_computed_values():
    area, overlap = np.array([[4, 1], [6, 0]]), np.array([[4, 1], [1, 0]])
    found = effective_pixels(area, overlap, np.array([7, 7]), 1.0)
    np.testing.assert_allclose(found.inside, [0.5, 1])  # one patient is one observation: 5 of 10 pixels, 1 of 1
    np.testing.assert_allclose(found.outside, [0.5, 0])
    found = effective_pixels(area, overlap, np.array([7, 8]), 0.0)
    np.testing.assert_allclose(found.inside, [5, 1])


def test_the_posterior_is_a_beta_distribution(data, prior):
    counts = count(*data, n_parcels=64, **PUBLISHED)
    groups = np.arange(24) // 2
    known = posterior(counts, groups, prior, correlation=0.1, prior_strength=4.0)
    found = effective_pixels(counts.area, counts.overlap, groups, 0.1)
    low, high = known.interval(0.8)
    for k in np.flatnonzero(known.known)[:20]:
        weight = min(4.0, prior.inside[k] + prior.outside[k])
        a = 0.5 + found.inside[k] + weight * np.nan_to_num(prior.share[k])
        b = 0.5 + found.outside[k] + weight * (1 - np.nan_to_num(prior.share[k]))
        assert known.share[k] == pytest.approx(a / (a + b))
        assert known.exceeds(0.4)[k] == pytest.approx(stats.beta.sf(0.4, a, b))
        assert [low[k], high[k]] == pytest.approx(stats.beta.ppf([0.1, 0.9], a, b))


def test_the_beta_rule_matches_hand_computed_values():
    """Parcel 1 lies wholly inside, 2 by half, 3 was never seen; parcel 0 is the rest."""
    maps, masks = np.zeros((1, 10, 10), int), np.zeros((1, 10, 10), bool)
    maps[0, :4, :5], maps[0, 4:8, :5] = 1, 2
    masks[0, :6, :5] = True
    options = {"correlation": 1.0, "n_parcels": 4}
    model = ParcelSelector("beta", share_above=0.6, **options).fit(maps, masks)
    assert model.interior_.tolist() == [1]
    np.testing.assert_allclose(model.share_, [0.25, 0.75, 0.5, 0])  # (0.5 + 1) / 2, (0.5 + 0.5) / 2, nothing
    assert model.table_.why[3] == "absent from the labelled images and from the prior"
    assert "share in the target 50% (1.0 effective pixels" in model.table_.why[2]
    assert ParcelSelector("beta", share_above=0.4, **options).fit(maps, masks).interior_.tolist() == [1, 2]
    chance = stats.beta.sf(0.6, 1.5, 0.5)
    with pytest.raises(SelectionError, match=r"parcel 1 came closest: .* lower share_above or level"):
        ParcelSelector("beta", share_above=0.6, level=chance + 0.01, **options).fit(maps, masks)
    forced = ParcelSelector("beta", share_above=0.6, level=0.99, min_parcels=1, **options).fit(maps, masks)
    assert forced.interior_.tolist() == [1]


@pytest.mark.parametrize(
    "change",
    [{"prior": None}, {"prior_strength": 200.0}, {"correlation": 1.0}, {"share_above": 0.5}, {"level": 0.7}],
)
def test_every_parameter_of_the_beta_rule_changes_the_choice(slow, data, change):
    other = ParcelPrior.count(*slow.parcel_maps_and_masks(3, 20), n_parcels=64)  # other parcels: a wrong prior
    base = ParcelSelector("beta", n_parcels=64, prior=other, share_above=0.3).fit(data[0][:2], data[1][:2])
    changed = clone(base).set_params(**change).fit(data[0][:2], data[1][:2])
    assert changed.share_.tolist() != base.share_.tolist() or changed.interior_.tolist() != base.interior_.tolist()
    if "prior" in change or "prior_strength" in change or "share_above" in change:
        assert changed.interior_.tolist() != base.interior_.tolist()


def test_many_labels_outweigh_the_prior(slow, data):
    wrong = ParcelPrior.count(data[0], ~data[1], n_parcels=64)
    free = ParcelSelector("beta", n_parcels=64).fit(*data).interior_.tolist()
    told = ParcelSelector("beta", n_parcels=64, prior=wrong, prior_strength=1.0).fit(*data).interior_.tolist()
    assert len(set(free) ^ set(told)) <= 1


def test_a_prior_alone_chooses_parcels(slow, data, prior):
    maps, masks = data
    model = ParcelSegmenter(ParcelSelector("beta", prior=prior, n_parcels=64)).fit_prior()
    selector = model.selector_
    assert selector.n_images_ == 0
    assert selector.provenance_["labels"] == "none"
    informed = ParcelSegmenter(ParcelSelector("beta", n_parcels=64)).fit(maps, masks)
    reached = [
        np.mean([slow.dice(a, b) for a, b in zip(one.predict(maps), masks, strict=True)])
        for one in (model, informed)
    ]
    assert reached[0] > reached[1] - 0.05
    again = ParcelSegmenter.from_json(model.to_json())
    np.testing.assert_array_equal(again.predict(maps), model.predict(maps))
    assert again.selector_.fit_prior().interior_.tolist() == selector.interior_.tolist()


def test_a_prior_survives_its_file(tmp_path, data, prior):
    path = tmp_path / "prior.json"
    prior.to_json(path)
    again = ParcelPrior.from_json(path)
    assert again.structure == "lv"
    assert again.n_images == 40
    np.testing.assert_allclose(again.inside, prior.inside, atol=1e-4)
    by_path = ParcelSelector("beta", prior=path, n_parcels=64).fit(*data)
    by_value = ParcelSelector("beta", prior=prior, n_parcels=64).fit(*data)
    assert by_path.interior_.tolist() == by_value.interior_.tolist()
    restored = ParcelSelector.from_json(by_path.to_json())
    assert isinstance(restored.prior, ParcelPrior)
    assert restored.to_json() == by_path.to_json()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"schema": "x"}, "'alan-parcel-prior/1' is expected"),
        ({"parcels": []}, "ids 0, 1, 2"),
        ({"parcels": [{"id": 1, "inside": 1, "outside": 1}]}, "ids 0, 1, 2"),
        ({"parcels": [{"id": 0, "inside": -1, "outside": 1}]}, "give numbers of at least 0"),
        ({"parcels": [{"id": 0, "inside": 1}]}, "malformed"),
        ({"images": "many"}, "malformed"),
    ],
)
def test_malformed_prior_files_are_refused(prior, edit, message):
    with pytest.raises(ParameterError, match=message):
        ParcelPrior.from_json(json.dumps(prior.to_dict() | edit))


def test_invalid_priors_are_refused(data, prior, tmp_path):
    with pytest.raises(ParameterError, match="without labels only rule='beta' with a prior"):
        ParcelSelector("greedy", prior=prior).fit_prior()
    with pytest.raises(ParameterError, match="prior missing"):
        ParcelSelector("beta").fit_prior()
    with pytest.raises(ParameterError, match="the prior has 64 parcels, the maps 20"):
        ParcelSelector("beta", prior=prior, n_parcels=20).fit(data[0] % 20, data[1])
    with pytest.raises(ParameterError, match="counted on parcels abc"):
        ParcelSelector("beta", prior=prior, n_parcels=64, provenance="xyz").fit(*data)
    with pytest.raises(DataError, match="no such file"):
        ParcelSelector("beta", prior=tmp_path / "none.json").fit(*data)
    with pytest.raises(ParameterError, match="correlation is 2"):
        ParcelPrior.count(*data, correlation=2)
    empty = ParcelPrior.count(data[0], np.zeros_like(data[1]), n_parcels=64)
    with pytest.raises(SelectionError, match="chose no parcel"):
        ParcelSelector("beta", prior=empty).fit_prior()
    with pytest.raises(ParameterError, match="prior_strength is -1"):
        ParcelSelector("beta", prior_strength=-1).fit(*data)
    with pytest.raises(ParameterError, match="did you mean 'patients'"):
        ParcelSelector("greedy", guard="patient").fit(*data)


def test_background_has_no_evidence():
    maps, masks = np.full((1, 4, 4), 2), np.ones((1, 4, 4), bool)
    maps[0, :2] = 0
    prior = ParcelPrior.count(maps, masks, n_parcels=3, background_id=2)
    assert prior.outside.tolist() == [0, 0, 0]
    assert prior.inside.tolist() == [1, 0, 0]
    assert np.isnan(prior.share[1:]).all()


def guarded_slowly(area, overlap, target, patients, *, errors, min_gain=0.001):
    """Step by step over plain sets."""
    chosen = []
    names = sorted(set(patients))

    def each(ids):
        scores = [
            2 * sum(overlap[n][k] for k in ids) / (target[n] + sum(area[n][k] for k in ids))
            for n in range(len(target))
        ]
        return np.array([np.mean([s for s, p in zip(scores, patients, strict=True) if p == one]) for one in names])

    while True:
        best, sure = None, min_gain
        for k in range(area.shape[1]):
            if k in chosen or not area[:, k].any():
                continue
            gain = each([*chosen, k]) - each(chosen)
            low = gain.mean() - (errors * gain.std(ddof=1) / np.sqrt(len(names)) if len(names) > 1 else 0)
            if low > sure + 1e-12:
                best, sure = k, low
        if best is None:
            return chosen
        chosen.append(best)


@pytest.mark.parametrize("errors", [0.0, 1.0])
def test_the_guard_over_patients_equals_a_slow_loop(data, errors):
    counts = count(*data, n_parcels=64, **PUBLISHED)
    patients = np.repeat(np.arange(8), 3)
    union = greedy_union(
        counts.area, counts.overlap, counts.target, patients, guard="patients", guard_errors=errors
    )
    assert union.order == guarded_slowly(
        counts.area, counts.overlap, counts.target, patients.tolist(), errors=errors
    )


def test_a_stricter_guard_takes_no_more_parcels(data):
    sizes = [
        len(ParcelSelector("greedy", guard="patients", guard_errors=z).fit(*data).interior_) for z in (0, 2, 6)
    ]
    assert sizes[0] >= sizes[1] >= sizes[2] >= 1
    assert sizes[0] > sizes[2]


def test_a_single_patient_selects_parcels_mostly_inside():
    area, overlap, target = np.array([[50, 100, 30]]), np.array([[40, 45, 2]]), np.array([90])
    union = greedy_union(area, overlap, target, np.zeros(1), guard="patients")
    assert union.order == [0]  # parcel 1 would raise the Dice, but lies outside by more than half
    assert greedy_union(area, overlap, target, np.zeros(1)).order == [0, 1]
    assert greedy_union(area, overlap, np.array([0]), np.zeros(1), guard="patients").order == []


def test_counts_without_images_are_empty():
    counts = Counts.none(3)
    assert counts.present.shape == (0, 3)
    assert np.isnan(counts.mean_overlap).all()
