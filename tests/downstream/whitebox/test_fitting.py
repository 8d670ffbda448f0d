"""Fitting of white boxes: one list or one per phase, from labels, priors or both."""

from types import SimpleNamespace

import numpy as np
import pytest

from alan.downstream import FittedWhiteBox, LabelledMaps, count_prior, fit_white_box
from alan.downstream.whitebox.prior import ParcelPrior
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.selection import ParcelSelector
from alan.downstream.whitebox.steps import PostProcessing
from alan.errors import ParameterError

PARCELS = SimpleNamespace(n_parcels=6, background_id=6, fingerprint="f" * 64)
STEPS = PostProcessing(closing_radius=0, contour=False)


@pytest.fixture(scope="module")
def labels():
    """Parcel 1 is the structure at ED, parcels 1 and 2 at ES; five patients, and background outside."""
    maps = np.zeros((10, 24, 24), np.uint8)
    maps[:, 4:20, 4:12], maps[:, 4:20, 12:20], maps[:, :, 22:] = 1, 2, 6
    phases = np.array(["ED", "ES"] * 5)
    masks = (maps == 1) | ((maps == 2) & (phases == "ES")[:, None, None])
    return LabelledMaps(maps, masks, np.repeat(np.arange(5), 2), phases)


def fit(labels, rule="greedy", **options):
    return fit_white_box(PARCELS, "lv", labels, ParcelSelector(rule), steps=STEPS, **options)


def test_one_list_equals_a_segmenter_fitted_by_hand(labels):
    box = fit(labels)
    assert isinstance(box, FittedWhiteBox)
    assert box.complete
    selector = ParcelSelector("greedy", n_parcels=7, background_id=6, provenance="f" * 64)
    by_hand = ParcelSegmenter(selector, STEPS).fit(labels.maps, labels.masks, labels.patients)
    assert box.segmenters[""].to_json() == by_hand.to_json()
    np.testing.assert_array_equal(box.predict(labels.maps), by_hand.predict(labels.maps))


def test_each_phase_gets_a_list_of_its_own(labels):
    box = fit(labels, phases=("ED", "ES"))
    assert box.segmenters["ED"].selector_.interior_.tolist() == [1]
    assert box.segmenters["ES"].selector_.interior_.tolist() == [1, 2]
    np.testing.assert_array_equal(box.predict(labels.maps, labels.phases), labels.masks)
    swapped = box.predict(labels.maps, labels.phases[::-1])
    assert (swapped != labels.masks).any()
    with pytest.raises(ParameterError, match="phases are missing"):
        box.predict(labels.maps)
    with pytest.raises(ParameterError, match="phases are missing"):
        fit(labels._replace(phases=None), phases=("ED",))


def test_each_phase_keeps_its_own_reason(labels):
    nothing = labels._replace(masks=np.zeros_like(labels.masks))
    half = nothing._replace(maps=np.where((labels.phases == "ES")[:, None, None], 0, labels.maps))
    box = fit(half, "paper", phases=("ED", "ES", "MID"))
    assert not box.complete
    assert list(box.reasons) == ["ED", "ES", "MID"]
    assert "no labelled frame has the phase 'MID'" in box.reasons["MID"]
    assert not box.predict(labels.maps, labels.phases).any()
    assert not box.segmenters


def test_frames_of_a_phase_without_a_list_are_empty(labels):
    masks = labels.masks & (labels.phases == "ED")[:, None, None]
    box = fit(labels._replace(masks=masks), phases=("ED", "ES"))
    assert list(box.segmenters) == ["ED"]
    assert list(box.reasons) == ["ES"]
    np.testing.assert_array_equal(box.predict(labels.maps, labels.phases), masks)


def test_priors_choose_parcels_with_and_without_labels(labels):
    phases = ("ED", "ES")
    priors = {phase: count_prior(PARCELS, "lv", labels.of_phase(phase)) for phase in phases}
    assert (priors["ED"].structure, priors["ED"].provenance) == ("lv", "f" * 64)
    alone = fit(None, "beta", phases=phases, priors=priors)
    assert [alone.segmenters[phase].selector_.interior_.tolist() for phase in phases] == [[1], [1, 2]]
    assert alone.segmenters["ED"].selector_.n_images_ == 0
    updated = fit(labels, "beta", phases=phases, priors=priors)
    assert (updated.segmenters["ES"].selector_.share_ != alone.segmenters["ES"].selector_.share_).any()
    with pytest.raises(ParameterError, match="only rule='beta' with a prior"):
        fit(None)
    own = ParcelSelector("beta", prior=priors["ED"])
    kept = fit_white_box(PARCELS, "lv", None, own, steps=STEPS)
    assert isinstance(kept.segmenters[""].selector_.prior, ParcelPrior)
    assert own.n_parcels is None  # the given selector is left as it is
