"""Settings of white boxes, probes and neighbours."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

from alan.downstream.neighbors import WeightedKNNClassifier
from alan.downstream.probes.decoder import DecoderProbe
from alan.downstream.probes.linear import LinearProbe
from alan.downstream.soft_parcels import ParcelMember
from alan.downstream.whitebox.fitting import LabelledMaps, count_prior, fit_white_box
from alan.downstream.whitebox.opinion import ExpertOpinion, Opinion
from alan.downstream.whitebox.prior import ParcelPrior
from alan.downstream.whitebox.sampling import credible_interval, sample_areas
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.selection import ParcelSelector
from alan.downstream.whitebox.several import WhiteBoxes
from alan.downstream.whitebox.steps import PostProcessing
from alan.parcels.model import load_parcels

from ..downstream.probes.test_probes import scene
from ..varying import cases, name_of, other, study

K = 16


@pytest.fixture
def env(tiny, slow):
    return SimpleNamespace(tiny=tiny, slow=slow)


@pytest.fixture(scope="session")
def slow():
    """Made-up parcel maps, see the tests of the white boxes."""
    from ..downstream.whitebox import slow_reference

    return slow_reference


@cache
def labelled(make):
    """Ragged maps of 16 parcels of 12 images of 4 patients, their masks and patients."""
    maps, masks = make(0, 12, K, (56, 56), 0.6)
    maps[6:][maps[6:] == 3] = 4  # a parcel of half of the images
    return maps, masks, np.repeat(np.arange(4), 3)


@cache
def prior(make):
    maps, masks, _ = labelled(make)
    return count_prior(PARCELS, "lv", LabelledMaps(maps[::2], masks[::2], np.arange(6)))


PARCELS = SimpleNamespace(n_parcels=K, background_id=None, fingerprint="")
BETA = {"rule": "beta", "min_parcels": 0}
GREEDY = {"rule": "greedy"}
OPINION = ExpertOpinion("lv", "", {parcel: Opinion(0.9, 50.0) for parcel in range(6)})


@study(
    ParcelSelector,
    rule="greedy",
    overlap=0.3,
    consistency=0.2,
    presence=1.0,
    presence_of=other("inside", presence=0.9),
    min_pixels=60,
    min_share_of_target=0.15,
    exterior_overlap=0.999,
    exterior_consistency=0.2,
    exterior_presence=1.0,
    valve_consistency=0.9,
    valve_presence=1.0,
    n_folds=other(2, **GREEDY),
    min_gain=other(0.05, **GREEDY),
    guard=other("patients", **GREEDY),
    guard_errors=other(3.0, **GREEDY, guard="patients"),
    prior=other("prior", **BETA),
    prior_strength=other(0.5, **BETA, prior="prior"),
    opinion=other(OPINION, **BETA),
    correlation=other(0.9, **BETA),
    share_above=other(0.45, **BETA),
    level=other(0.8, **BETA),
    n_parcels=40,
    min_parcels=8,
    background_id=7,
    provenance="a fingerprint",
    base={"min_parcels": 2},
)
def selector(env, prior=None, **settings):
    maps, masks, patients = labelled(env.slow.parcel_maps_and_masks)
    known = globals()["prior"](env.slow.parcel_maps_and_masks) if prior else None
    found = ParcelSelector(**settings, prior=known).fit(maps, masks, patients)
    chosen = [found.interior_, found.exterior_, found.valve_, found.n_parcels_, found.provenance_["parcels"]]
    return *chosen, found.cv_dice_, found.table_["why"].tolist()


@study(
    PostProcessing,
    component=False,
    enclaves=other(False, closing_radius=0, fill=False, contour=False),
    enclave_regions=other(0, closing_radius=0, fill=False, contour=False),
    closing_radius=2,
    fill=other(False, closing_radius=0, enclaves=False, contour=False),
    contour=False,
    contour_sigma=8.0,
    contour_beta=9.0,
    contour_gamma=2.0,
    contour_edge=9.0,
    contour_iterations=1,
    median_radius=6,
)
def steps(env, **settings):
    maps, _, _ = labelled(env.slow.parcel_maps_and_masks)
    process = PostProcessing(**settings)
    # a union with a hole, an enclave and a second component
    unions = np.isin(maps, [1, 2, 3, 5, 8, 9, 12])
    unions[:, 20:36, 20:36] = True
    unions[:, 26:30, 26:30] = False
    return [process(union, parcel_map) for union, parcel_map in zip(unions, maps, strict=True)]


def soft_scores(maps):
    rng = np.random.default_rng(0)
    scores = 0.8 * np.eye(K, dtype=np.float32)[maps].transpose(0, 3, 1, 2) + 0.2 * rng.random(
        (len(maps), K, 56, 56)
    )
    return (scores / scores.sum(1, keepdims=True)).astype(np.float32)


@study(
    ParcelSegmenter,
    selector=ParcelSelector("relaxed", min_parcels=6),
    steps=PostProcessing(closing_radius=0),
    soft="union",
    soft_above=other(0.6, soft="union"),
    size=(28, 28),
    base={"selector": ParcelSelector("beta", min_parcels=4)},
)
def segmenter(env, **settings):
    maps, masks, patients = labelled(env.slow.parcel_maps_and_masks)
    model = ParcelSegmenter(**settings).fit(maps, masks, patients)
    return model.predict(maps, soft_scores(maps) if settings.get("soft") else None)


@study(fit_white_box, phases=("ED", "ES"), priors={"": "prior"})
def white_box(env, priors=None, **settings):
    maps, masks, patients = labelled(env.slow.parcel_maps_and_masks)
    phases = np.array(["ED", "ES"] * 6)
    labels = LabelledMaps(maps, masks & ((phases == "ED")[:, None, None] | (maps % 2 == 0)), patients, phases)
    known = priors and {"": prior(env.slow.parcel_maps_and_masks)}
    box = fit_white_box(
        PARCELS, "lv", labels, ParcelSelector("beta"), steps=PostProcessing(), priors=known, **settings
    )
    return [one.to_json() for one in box.segmenters.values()]


@study(LabelledMaps, untried={"phases": "labels of the phases, see fit_white_box"})
def labelled_maps(env): ...


@study(ParcelPrior, structure="lv", provenance="f" * 64)
def saved_prior(env, **settings):
    return ParcelPrior(np.ones(3), np.ones(3), 4, **settings).to_json()


@study(ExpertOpinion, phase="ED", steps={"closing_radius": 0})
def saved_opinion(env, **settings):
    return ExpertOpinion("lv", "", {1: Opinion(0.9, 8.0)}, **settings).to_json()


@study(sample_areas, correlation=0.1, evidence_weight=2.0)
def areas(env, **settings):
    maps, masks, patients = labelled(env.slow.parcel_maps_and_masks)
    model = ParcelSegmenter(ParcelSelector("beta")).fit(maps, masks, patients)
    return sample_areas(model, maps[:2], 8, np.random.default_rng(0), **settings)


@study(credible_interval, level=0.5)
def interval(env, **settings):
    return credible_interval(np.random.default_rng(0).random((200, 3)), **settings)


@study(WeightedKNNClassifier, n_neighbors=3, temperature=1.0)
def neighbours(env, **settings):
    rng = np.random.default_rng(0)
    model = WeightedKNNClassifier(**settings).fit(rng.normal(size=(60, 6)), rng.integers(0, 3, 60))
    return model.predict_proba(rng.normal(size=(20, 6)))


def probe(model):
    tokens, maps = scene()
    maps = np.roll(maps, 1, axis=2)
    return model.fit(tokens, maps).decision_function(tokens)


@study(
    LinearProbe,
    l2=0.5,
    max_tokens=50,
    max_iter=2,
    tol=0.1,
    n_classes=4,
    seed=other(1, max_tokens=50),
    untried={"size": "of masks: below", "provenance": "recorded in the file"},
)
def linear(env, **settings):
    return probe(LinearProbe(**settings))


@study(
    DecoderProbe,
    width=16,
    dropout=0.6,
    steps=4,
    batch_size=3,
    lr=0.1,
    weight_decay=9.0,
    n_classes=4,
    seed=1,
    base={"width": 8, "steps": 5, "batch_size": 2},
    untried={"size": "of masks: below", "provenance": "recorded in the file"},
)
def decoder(env, **settings):
    return probe(DecoderProbe(**settings))


@pytest.mark.parametrize("model", [LinearProbe(size=(12, 12)), DecoderProbe(8, steps=1, size=(12, 12))])
def test_the_option_size_sets_the_size_of_predicted_masks(model):
    tokens, maps = scene()
    assert model.fit(tokens, maps).predict(tokens).shape == (6, 12, 12)


@study(ParcelMember, temperature=9.0)
def soft_member(env, **settings):
    model = load_parcels(env.tiny.parcels())
    frames = np.random.default_rng(0).integers(1, 255, (2, 32, 32)).astype(np.uint8)
    return ParcelMember(model, {"lv": range(4)}, **settings).probabilities(frames)


@study(WhiteBoxes, temperature=0.05)
def several(env, **settings):
    model = load_parcels(env.tiny.parcels())
    box = ParcelSegmenter.from_json(env.tiny.white_box("lv"))
    box.set_params(soft="union", steps=PostProcessing(contour=False, closing_radius=0))
    box.selector_.interior_ = np.arange(5)
    frames = np.random.default_rng(0).integers(1, 255, (2, 32, 32)).astype(np.uint8)
    return WhiteBoxes(model, {"lv": box}, **settings).label(frames).labels


@pytest.mark.parametrize(("study", "name"), cases(__name__), ids=name_of)
def test_each_setting_changes_the_result(env, study, name):
    study.check(env, name)
