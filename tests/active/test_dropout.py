"""Monte-Carlo dropout: it depends on the seed only, not on the batch size, and keeps batch norm fixed."""

import pytest
import torch
from torch import nn

from alan.active.dropout import MonteCarloDropout, dropout_layers
from alan.active.pool import StorePool, score_pool
from alan.data.store.reader import FrameStore
from alan.errors import ParameterError
from alan.supervised.settings import NetworkSpec

from ..discs import untrained_segmenter

SIZE = 32
SPECS = {
    "plain": NetworkSpec("unet_acdc", None, decoder_channels=(4, 8), dropout=0.3, dropout_at="decoder"),
    "last": NetworkSpec("unet_acdc", None, decoder_channels=(4, 8), dropout=0.3, dropout_at="last"),
    "unet": NetworkSpec("unet", "mobilenet_v2", dropout=0.3, dropout_at="decoder"),
    "fpn, its own": NetworkSpec("fpn", "mobilenet_v2"),
    "deeplabv3plus": NetworkSpec("deeplabv3plus", "mobilenet_v2", dropout=0.3, dropout_at="last"),
}


def segmenter(name="plain", structures=("lv",)):
    model = untrained_segmenter(SPECS[name], structures, size=SIZE)
    for module in model.modules():  # running statistics that are not those of any batch
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(0))
    return model


def frames(n=5, seed=0):
    return torch.randint(0, 256, (n, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def passes(model, images, n=4, **options):
    return torch.stack(list(MonteCarloDropout(model, n, **options).draw(images)))


def by_hand(model, images, n, seed):
    """Compute every pass completely, with functional dropout of the same draws."""
    from alan.seeding import step_generator

    out = []
    for number in range(n):
        generator = step_generator(torch.device("cpu"), seed, number)
        handles = []
        for layer in dropout_layers(model):

            def drop(layer, _, output, generator=generator):
                channels = isinstance(layer, nn.Dropout2d)
                shape = (1, output.shape[1], 1, 1) if channels else (1, *output.shape[1:])
                return output * (torch.rand(shape, generator=generator) >= layer.p) / (1 - layer.p)

            handles.append(layer.register_forward_hook(drop))
        out.append(model.probabilities(images))
        for handle in handles:
            handle.remove()
    return torch.stack(out)


@pytest.mark.parametrize("name", SPECS)
def test_passes_match_functional_dropout(name):
    """Computing the deterministic layers once changes neither the result nor the network."""
    model, images = segmenter(name, ("lv", "myo")), frames(2)
    before = model.probabilities(images)
    drawn = passes(model, images, 3, seed=1)
    assert drawn.shape == (3, 2, 3, SIZE, SIZE)
    assert torch.allclose(drawn, by_hand(model, images, 3, 1), atol=1e-6)
    assert drawn.std(0).max() > 1e-4
    assert torch.equal(model.probabilities(images), before)
    assert torch.equal(passes(model, images, 3, seed=1), drawn)


@pytest.mark.parametrize("name", ["plain", "last"])
def test_each_flip_of_a_network_with_flips_has_its_own_features(name):
    model, images = segmenter(name).with_flips(), frames(2)
    assert torch.allclose(passes(model, images, 3, seed=1), by_hand(model, images, 3, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "times"), [("plain", {"encoder": 1, "decoder": 6}), ("last", {"encoder": 1, "decoder": 1})]
)
def test_layers_before_dropout_are_computed_once(name, times):
    model = segmenter(name)
    network, calls = model.model.network, dict.fromkeys(times, 0)

    def count(part):
        calls[part] += 1

    for part, module in (("encoder", network.encoder[0][0]), ("decoder", network.decoder[-1][0])):
        module.register_forward_hook(lambda *_, part=part: count(part))
    passes(model, frames(2), 6)
    assert calls == times


def test_passes_depend_on_the_seed_but_not_on_the_batch_size():
    model, images = segmenter(), frames()
    whole = passes(model, images)
    cut = torch.cat([passes(model, images[:2]), passes(model, images[2:3]), passes(model, images[3:])], 1)
    assert torch.allclose(whole, cut, atol=1e-6)
    assert torch.allclose(passes(model, images.flip(0)).flip(1), whole, atol=1e-6)
    assert not torch.allclose(passes(model, images, seed=1), whole, atol=1e-3)
    assert torch.equal(passes(model, images, 6)[:4], whole)  # more passes begin with the same
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(passes(model, images), whole)
    assert torch.equal(torch.get_rng_state(), state)


def test_two_draws_do_not_disturb_each_other():
    model, images = segmenter(), frames()
    together = zip(
        MonteCarloDropout(model, 3).draw(images), MonteCarloDropout(model, 3).draw(255 - images), strict=True
    )
    first, second = (torch.stack(drawn) for drawn in zip(*together, strict=True))
    assert torch.equal(first, passes(model, images, 3))
    assert torch.equal(second, passes(model, 255 - images, 3))


def test_batch_norm_statistics_do_not_change():
    model = segmenter("unet")
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [m.running_mean.clone() for m in norms]
    generator = MonteCarloDropout(model, 2).draw(frames())
    next(generator)
    assert not any(m.training for m in model.modules())
    next(generator)
    assert all(torch.equal(m.running_mean, x) for m, x in zip(norms, before, strict=True))
    images = frames()
    alone = torch.stack(list(MonteCarloDropout(model, 2).draw(images[:1])))
    others = torch.stack(list(MonteCarloDropout(model, 2).draw(torch.cat([images[:1], 255 - images[1:]]))))
    assert torch.allclose(alone[:, 0], others[:, 0], atol=1e-5)


def test_the_mean_of_many_passes_is_unbiased():
    """Dropout before a linear layer keeps the mean of the logits."""
    layer = nn.Dropout(0.4)
    network = nn.Sequential(layer)
    model = MonteCarloDropout.__new__(MonteCarloDropout)
    model._layers = [layer]
    layer.eval()
    total = torch.zeros(1, 3, 50, 50)
    for number in range(200):
        with model._dropping(torch.Generator().manual_seed(number)):
            total += network(torch.ones(1, 3, 50, 50))
    assert float(total.mean() / 200) == pytest.approx(1, abs=0.01)
    assert torch.equal(network(torch.ones(1, 1, 2, 2)), torch.ones(1, 1, 2, 2))


def test_higher_dropout_probability_gives_more_spread():
    low, high = (
        untrained_segmenter(NetworkSpec("unet_acdc", None, decoder_channels=(4, 8), dropout=p), ["lv"], size=SIZE)
        for p in (0.05, 0.6)
    )
    assert passes(high, frames(), 8).std(0).mean() > 2 * passes(low, frames(), 8).std(0).mean()


def test_networks_without_dropout_are_refused():
    bare = untrained_segmenter(NetworkSpec("unet_acdc", None, decoder_channels=(4, 8)), ["lv"])
    with pytest.raises(ParameterError, match=r"no dropout to draw from: train it with network\.dropout above 0"):
        MonteCarloDropout(bare)
    with pytest.raises(ParameterError, match="passes is 1: give a whole number of at least 2"):
        MonteCarloDropout(segmenter(), 1)


def test_pool_scores_do_not_depend_on_the_batch_size(discs):
    import numpy as np

    store = FrameStore(discs.store)
    pool = StorePool(store, np.arange(9))
    sampler = MonteCarloDropout(segmenter(), 3)
    found = [score_pool(sampler, pool, ["mfe", "mi"], size) for size in (2, 9)]
    assert set(found[0]) == {"mfe", "mi"}
    for name in found[0]:
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-4)
    part = score_pool(sampler, pool.part(np.array([7, 2])), ["mfe"], 4)["mfe"]
    assert part == pytest.approx(found[0]["mfe"][[7, 2]], rel=1e-4)
