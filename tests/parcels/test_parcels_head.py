"""Parcel heads: RAPTOR, compared with its formula, and k-means logits with distances."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

from alan.errors import CheckpointError, ParameterError
from alan.parcels.heads import HEADS, KMeansHead, RaptorHead, build_head


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def raptor(dim=12, n_parcels=5, dropout=0.2, seed=0):
    return RaptorHead(dim, n_parcels, dropout, generator(seed))


def by_hand(head, tokens):
    """The formula of the head, written out with its tensors."""
    state = head.state_dict()
    x = (tokens - state["mean"]) / state["std"]
    for i, (activation, skip) in enumerate(((F.gelu, True), (F.relu, True), (lambda v: v, False))):
        name = f"blocks.{i}."
        centred = x - x.mean(-1, keepdim=True)
        normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        normed = normed * state[name + "norm.weight"] + state[name + "norm.bias"]
        y = activation(normed @ state[name + "linear.weight"].T + state[name + "linear.bias"])
        x = x + y if skip else y
    return x


def test_raptor_equals_its_formula():
    head = raptor().eval()
    head.set_statistics(torch.randn(12, generator=generator(1)), torch.rand(12, generator=generator(2)) + 0.5)
    tokens = torch.randn(2, 3, 4, 12, generator=generator(3))
    logits = head(tokens)
    assert logits.shape == (2, 3, 4, 5)
    torch.testing.assert_close(logits, by_hand(head, tokens))


def test_initial_weights_have_the_published_spread():
    head = raptor(dim=200, n_parcels=100)
    bounds = [math.sqrt(6 / 400), math.sqrt(6 / 200), math.sqrt(6 / 300)]  # Xavier, Kaiming, Xavier (uniform)
    for block, bound in zip(head.blocks, bounds, strict=True):
        largest = block.linear.weight.abs().max().item()
        assert 0.98 * bound < largest <= bound
        assert not block.linear.bias.any()


def test_dropout_is_active_only_in_training():
    tokens = torch.randn(50, 12, generator=generator())
    head = raptor(dropout=0.5)
    assert not torch.equal(head.train()(tokens), head(tokens))
    assert (head(tokens) == 0).float().mean() > 0.3  # dropped logits of the third block
    torch.testing.assert_close(head.eval()(tokens), head(tokens), rtol=0, atol=0)
    without = raptor(dropout=0.0).train()
    torch.testing.assert_close(without(tokens), without(tokens), rtol=0, atol=0)


def test_statistics_change_the_logits_and_are_saved():
    tokens = torch.randn(50, 12, generator=generator())
    head = raptor().eval()
    before = head(tokens)
    head.set_statistics(torch.ones(12), torch.full((12,), 2.0))
    assert not torch.allclose(before, head(tokens))
    again = build_head(head.settings(), head.state_dict()).eval()
    torch.testing.assert_close(again(tokens), head(tokens), rtol=0, atol=0)


def test_a_constant_channel_is_only_centred():
    head = raptor(dim=2)
    head.set_statistics(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 2.0]))
    torch.testing.assert_close(head.standardise(torch.tensor([3.5, 4.0])), torch.tensor([0.5, 2.0]))


@pytest.mark.parametrize("n_components", [None, 3])
def test_kmeans_logits_are_minus_squared_distances(n_components):
    head = KMeansHead(6, 4, n_components)
    head.set_statistics(torch.randn(6, generator=generator()), torch.rand(6, generator=generator()) + 0.5)
    head.centres.copy_(torch.randn(head.centres.shape, generator=generator(1)))
    if head.projection is not None:
        head.projection.copy_(torch.randn(6, 3, generator=generator(2)))
    tokens = torch.randn(7, 5, 6, generator=generator(3))
    x = (tokens - head.mean) / head.std
    x = x if head.projection is None else x @ head.projection
    expected = -(x[..., None, :] - head.centres).square().sum(-1)
    torch.testing.assert_close(head(tokens), expected, rtol=1e-4, atol=1e-4)
    again = build_head(head.settings(), head.state_dict())
    torch.testing.assert_close(again(tokens), head(tokens), rtol=0, atol=0)


@pytest.mark.parametrize("n_parcels", [1, 0, -3, 255])
def test_a_number_of_parcels_out_of_range_is_refused(n_parcels):
    with pytest.raises(ParameterError, match=f"n_parcels is {n_parcels}.*2 to 254"):
        RaptorHead(8, n_parcels)


def test_invalid_input_and_settings_are_refused():
    with pytest.raises(ParameterError, match="dropout is 1"):
        RaptorHead(8, 4, dropout=1.0)
    with pytest.raises(ParameterError, match="7 channels, the head expects 12"):
        raptor()(torch.zeros(3, 7))
    with pytest.raises(CheckpointError, match="did you mean 'raptor'"):
        build_head({"kind": "raptr", "dim": 3, "n_parcels": 2}, {})
    with pytest.raises(CheckpointError, match="do not fit"):
        build_head(raptor().settings(), raptor(dim=13).state_dict())
    # a header that claims much is refused before anything of that size is allocated
    for name in ("dim", "n_parcels"):
        with pytest.raises(CheckpointError, match=f"{name} is 1000000000000000"):
            build_head({**raptor().settings(), name: 10**15}, raptor().state_dict())


def test_settings_rebuild_every_registered_head():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(5, 12, generator=generator)
    for kind, head_type in HEADS.items():
        head = head_type(12, 4)
        again = build_head(json.loads(json.dumps(head.settings())), head.state_dict())
        assert head.settings()["kind"] == kind == again.kind
        assert again.settings() == head.settings()
        torch.testing.assert_close(again.eval()(tokens), head.eval()(tokens), rtol=0, atol=0)
