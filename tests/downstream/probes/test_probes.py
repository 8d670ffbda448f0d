"""Probes of frozen tokens, compared with scikit-learn, and the effect of each setting."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from alan.downstream.probes.base import class_shares, token_statistics
from alan.downstream.probes.decoder import DecoderProbe
from alan.downstream.probes.linear import LinearProbe
from alan.errors import CheckpointError, ParameterError

GRID, DIM = 6, 5
FAST = {"width": 8, "steps": 30, "batch_size": 2}


def scene(n=6, seed=0, side=24):
    """Noisy tokens that distinguish a square (1) and a bar (2) from the background, and their label maps."""
    rng = np.random.default_rng(seed)
    maps = np.zeros((n, side, side), np.int64)
    for one, row in zip(maps, rng.integers(0, 3, n), strict=True):
        one[4 * row : 4 * row + 8, 4:12] = 1
        one[16:20, 12:] = 2
    cells = maps[:, 2::4, 2::4]
    tokens = 3 + 2 * rng.normal(size=(n, GRID, GRID, DIM)).astype(np.float32)
    tokens[..., 0] += 8 * (cells == 1)
    tokens[..., 1] -= 8 * (cells == 2)
    return tokens, maps


@pytest.fixture(scope="module")
def data():
    return scene()


def accuracy(model, seed=1):
    tokens, maps = scene(seed=seed)
    return float((model.predict(tokens) == maps).mean())


def test_the_linear_probe_equals_scikit_learn_on_hard_targets(data):
    tokens, maps = data
    cells = maps[:, 2::4, 2::4]  # one class per cell: the scene is drawn on a grid of four pixels
    assert set(np.unique(class_shares(maps, (GRID, GRID), 3))) == {0.0, 1.0}
    l2 = 0.01
    mine = LinearProbe(l2, max_tokens=None, tol=1e-7).fit(tokens, maps)
    x = StandardScaler().fit_transform(tokens.reshape(-1, DIM).astype(np.float64))
    oracle = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-8, max_iter=1000).fit(x, cells.ravel())
    np.testing.assert_allclose(mine.coef_, oracle.coef_, atol=2e-3)
    np.testing.assert_allclose(
        mine.decision_function(tokens).reshape(-1, 3) - mine.intercept_ + oracle.intercept_,
        oracle.decision_function(x),
        atol=1e-2,
    )
    p = np.exp(mine.decision_function(tokens).reshape(-1, 3))
    np.testing.assert_allclose(p / p.sum(1, keepdims=True), oracle.predict_proba(x), atol=2e-3)


def test_soft_targets_are_weighted_samples(data):
    """A cell of which 3/4 is background counts as both classes, weighted: again scikit-learn's."""
    tokens, maps = data
    maps = np.roll(maps, 1, axis=2)  # cells are now mixed
    shares = class_shares(maps, (GRID, GRID), 3).numpy().reshape(-1, 3)
    assert ((shares > 0) & (shares < 1)).any()
    by_hand = np.stack([(maps == c).reshape(-1, GRID, 4, GRID, 4).mean((2, 4)) for c in range(3)], -1)
    np.testing.assert_allclose(shares, by_hand.reshape(-1, 3), atol=1e-6)
    l2 = 0.02
    mine = LinearProbe(l2, max_tokens=None, tol=1e-7).fit(tokens, maps)
    x = StandardScaler().fit_transform(tokens.reshape(-1, DIM).astype(np.float64))
    weighted = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-8, max_iter=1000)
    weighted.fit(np.tile(x, (3, 1)), np.repeat(np.arange(3), len(x)), shares.T.ravel())
    np.testing.assert_allclose(mine.coef_, weighted.coef_, atol=2e-3)


def test_linear_predictions_equal_the_argmax_of_upsampled_logits(data):
    import torch
    import torch.nn.functional as F

    tokens, maps = data
    model = LinearProbe(provenance="x").fit(tokens, maps)
    logits = torch.from_numpy(model.decision_function(tokens)).permute(0, 3, 1, 2)
    large = F.interpolate(logits, (24, 24), mode="bilinear", align_corners=False)
    np.testing.assert_array_equal(model.predict(tokens), large.argmax(1).numpy())
    assert model.predict(tokens).dtype == np.uint8
    assert LinearProbe(size=(30, 20)).fit(tokens, maps).predict(tokens).shape == (6, 30, 20)
    assert accuracy(model) > 0.85


def test_half_precision_and_pieces_change_little(data, monkeypatch):
    tokens, maps = data
    full = LinearProbe().fit(tokens, maps)
    half = LinearProbe().fit(tokens.astype(np.float16), maps)
    np.testing.assert_allclose(full.coef_, half.coef_, atol=5e-3)
    monkeypatch.setattr("alan.downstream.probes.base.PIECE", 4)
    np.testing.assert_allclose(LinearProbe().fit(tokens, maps).coef_, full.coef_, atol=1e-5)
    mean, std = token_statistics(tokens)
    np.testing.assert_allclose(mean, tokens.reshape(-1, DIM).mean(0), rtol=1e-5)
    np.testing.assert_allclose(std, tokens.reshape(-1, DIM).std(0), rtol=1e-5)


@pytest.mark.parametrize("change", [{"l2": 1.0}, {"max_tokens": 30}, {"max_iter": 1}, {"tol": 0.1}])
def test_each_setting_of_the_linear_probe_changes_the_result(data, change):
    usual = LinearProbe().fit(*data)
    other = clone(usual).set_params(**change).fit(*data)
    assert np.abs(other.coef_ - usual.coef_).max() > 1e-4
    assert np.array_equal(clone(usual).fit(*data).coef_, usual.coef_)


def test_the_drawn_tokens_depend_on_the_seed(data):
    some = [LinearProbe(max_tokens=60, seed=seed).fit(*data).coef_ for seed in (0, 0, 1)]
    assert np.array_equal(some[0], some[1])
    assert not np.array_equal(some[0], some[2])


def test_the_decoder_learns_and_is_reproducible(data):
    model = DecoderProbe(width=16, steps=80, batch_size=4).fit(*data)
    assert model.losses_[-1] < 0.5 * model.losses_[0]
    assert accuracy(model) > 0.9
    again = DecoderProbe(width=16, steps=80, batch_size=4).fit(*data)
    assert again.fingerprint() == model.fingerprint()
    assert model.decision_function(data[0]).shape == (6, GRID * 2, GRID * 2, 3)
    coarse = DecoderProbe(**FAST).fit(data[0], data[1][:, ::2, ::2])
    assert coarse.decision_function(data[0]).shape == (6, GRID, GRID, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"width": 16},
        {"dropout": 0.5},
        {"steps": 10},
        {"batch_size": 3},
        {"lr": 1e-2},
        {"weight_decay": 1.0},
        {"seed": 1},
    ],
)
def test_each_setting_of_the_decoder_changes_the_result(data, change):
    usual = DecoderProbe(**FAST).fit(*data)
    other = clone(usual).set_params(**change).fit(*data)
    assert not np.array_equal(other.decision_function(data[0]), usual.decision_function(data[0]))


def test_the_decoder_does_not_touch_the_global_generator(data):
    import torch

    torch.manual_seed(5)
    before = torch.get_rng_state()
    DecoderProbe(**FAST).fit(*data)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", [LinearProbe, DecoderProbe])
def test_a_probe_survives_its_file(data, kind, tmp_path):
    model = kind(provenance="abc", **(FAST if kind is DecoderProbe else {}))
    with pytest.raises(NotFittedError):
        model.save(tmp_path / "r.safetensors")
    model.fit(*data).save(tmp_path / "r.safetensors")
    loaded = kind.load(tmp_path / "r.safetensors", provenance="abc")
    np.testing.assert_array_equal(loaded.predict(data[0]), model.predict(data[0]))
    assert (loaded.get_params(), loaded.fingerprint()) == (model.get_params(), model.fingerprint())
    with pytest.raises(CheckpointError, match=r"tokens of abc, given those of other"):
        kind.load(tmp_path / "r.safetensors", provenance="other")
    another = DecoderProbe if kind is LinearProbe else LinearProbe
    with pytest.raises(CheckpointError, match=f"expected {another.__name__}"):
        another.load(tmp_path / "r.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "r.safetensors").read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="truncated"):
        kind.load(tmp_path / "cut.safetensors")
    with pytest.raises(CheckpointError, match="no such file"):
        kind.load(tmp_path / "nowhere.safetensors")


def test_a_changed_file_is_refused(data, tmp_path):
    from safetensors import safe_open

    path = tmp_path / "r.safetensors"
    LinearProbe().fit(*data).save(path)
    with safe_open(path, "np") as handle:
        metadata = handle.metadata()
    tensors = load_file(path)
    tensors["intercept"] = tensors["intercept"] + 1
    save_file(tensors, path, metadata)
    with pytest.raises(CheckpointError, match="changed after"):
        LinearProbe.load(path)
    save_file({"coef": tensors["coef"]}, path, metadata)
    with pytest.raises(CheckpointError, match="do not fit together"):
        LinearProbe.load(path)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (LinearProbe, {"l2": -1.0}, "l2 is -1"),
        (LinearProbe, {"max_iter": 0}, "max_iter is 0"),
        (LinearProbe, {"max_tokens": 0}, "max_tokens is 0"),
        (LinearProbe, {"n_classes": 1}, "n_classes is 1"),
        (LinearProbe, {"n_classes": 2}, "label_maps contain 0 to 2: give labels from 0 to 1"),
        (LinearProbe, {"size": (0, 3)}, "size"),
        (DecoderProbe, {"width": 12}, "multiple of 8"),
        (DecoderProbe, {"steps": 0}, "steps is 0"),
        (DecoderProbe, {"dropout": 1.0}, "dropout is 1.0"),
        (DecoderProbe, {"width": 240, "steps": 1}, "width is 240, which makes .* weights"),
        (DecoderProbe, {"lr": 1e30, **FAST}, "lower lr"),
    ],
)
def test_invalid_parameters_are_refused(data, kind, options, message):
    with pytest.raises(ParameterError, match=message):
        kind(**options).fit(*data)


def test_invalid_arrays_are_refused(data):
    tokens, maps = data
    model = LinearProbe()
    for wrong, labels, message in (
        (tokens[0], maps, "floating point"),
        (tokens.astype(int), maps, "floating point"),
        (tokens, maps[:3], "for 6 frames"),
        (tokens, maps.astype(float), "integers"),
        (tokens, maps - 1, "contain -1"),
    ):
        with pytest.raises(ParameterError, match=message):
            model.fit(wrong, labels)
    with pytest.raises(ParameterError, match="width of 4"):
        model.fit(tokens, maps).predict(tokens[..., :4])


@pytest.mark.parametrize("kind", [LinearProbe, DecoderProbe])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_tokens_that_are_not_finite_are_refused(data, kind, value):
    """Otherwise the fit of the linear probe would end with weights of 0 and predict background everywhere."""
    broken = data[0].copy()
    broken[1, 2, 3, 0] = value
    model = kind(**(FAST if kind is DecoderProbe else {}))
    with pytest.raises(ParameterError, match="tokens are not all finite"):
        model.fit(broken, data[1])
    model.fit(*data)
    for ask in (model.predict, model.decision_function):
        with pytest.raises(ParameterError, match="tokens are not all finite"):
            ask(broken)


@pytest.mark.parametrize("kind", [LinearProbe, DecoderProbe])
@pytest.mark.parametrize("name", ["n_classes", "dim"])
def test_a_header_of_huge_size_is_refused_before_anything_is_allocated(data, tmp_path, kind, name):
    path = tmp_path / "probe.safetensors"
    kind(**(FAST if kind is DecoderProbe else {})).fit(*data).save(path)
    with safe_open(path, "np") as file:
        entry = json.loads(file.metadata()["alan_probe"])
    state = load_file(path)
    entry["fitted"][name] = 10**13
    save_file(state, path, metadata={"alan_probe": json.dumps(entry)})
    with pytest.raises(CheckpointError, match="do not fit together"):
        kind.load(path)
