import logging
from itertools import pairwise

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file
from torch import nn

from alan.errors import CheckpointError, ParameterError
from alan.supervised.networks import (
    PaddedNetwork,
    UNet,
    build_network,
    network_minimum,
    network_stride,
    pad_to_stride,
)
from alan.supervised.settings import NetworkSpec


def build(decoder, encoder, classes=1, **options):
    return build_network(NetworkSpec(decoder, encoder, **options), classes)


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("in_channels", "published"), [(1, 31_036_481), (3, 31_037_633)])
def test_the_published_unet_has_the_published_parameters(in_channels, published):
    """The counts that public implementations of this network state, with one class."""
    assert count(build("unet_acdc", None, in_channels=in_channels)) == published


@pytest.mark.parametrize("widths", [(4, 8), (3, 5, 7), (4, 8, 16, 32)])
def test_the_number_of_unet_parameters_matches_hand_computed_values(widths):
    def double(a, b):
        return 9 * a * b + 9 * b * b + 4 * b  # two convolutions without bias, two batch norms

    down = sum(double(a, b) for a, b in zip((3, *widths[:-1]), widths, strict=True))
    up = sum(4 * b * a + a + double(2 * a, a) for a, b in pairwise(widths))
    assert count(UNet(3, 5, widths)) == down + up + 5 * widths[0] + 5


def test_the_unet_has_the_documented_levels():
    network = build("unet_acdc", None, classes=4).eval()
    shapes = []
    for block in network.encoder:
        block.register_forward_hook(lambda m, i, o: shapes.append(tuple(o.shape[1:])))
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 64, 32)).shape == (1, 4, 64, 32)
    assert shapes == [(64, 64, 32), (128, 32, 16), (256, 16, 8), (512, 8, 4), (1024, 4, 2)]
    assert network_stride(network) == 16


def test_invalid_unet_widths_are_refused():
    with pytest.raises(ParameterError, match="widths is"):
        UNet(1, 1, (8,))


@pytest.mark.parametrize(
    ("decoder", "encoder", "depth"),
    [
        ("Unet", "resnet18", 4),
        ("unet++", "resnet18", 3),
        ("manet", "resnet18", 5),
        ("linknet", "timm-skresnet18", 4),
        ("fpn", "mobilenet_v2", 4),
        ("fpn", "mobilenet_v2", 3),
        ("pspnet", "resnet18", 4),
        ("deeplabv3", "resnet18", 5),
        ("deeplabv3+", "resnet18", 4),
        ("pan", "resnet18", 5),
        ("upernet", "resnet18", 5),
        ("segformer", "mit_b0", 5),
        ("unet", "tu-regnety_002", 5),
        ("unet", "timm-regnety_002", 4),
    ],
)
@pytest.mark.parametrize("in_channels", [1, 3])
def test_every_encoder_decoder_pair_runs(decoder, encoder, depth, in_channels):
    network = build(decoder, encoder, depth=depth, in_channels=in_channels, classes=2)
    assert network.training
    side = network_minimum(network)
    assert side % network_stride(network) == 0
    with torch.no_grad():
        assert network.eval()(torch.zeros(1, in_channels, side, 2 * side)).shape == (1, 2, side, 2 * side)


@pytest.mark.parametrize(
    ("decoder", "encoder", "options", "message"),
    [
        ("unett", "resnet18", {}, "unknown decoder 'unett': did you mean 'unet'"),
        ("unet", "resnet43", {}, "unknown encoder 'resnet43': did you mean resnet34"),
        ("unet", "tu-regnety_02", {}, "did you mean tu-.*tu-regnety_002"),
        ("unet", None, {}, "encoder is null"),
        ("unet_acdc", "resnet18", {}, "unet_acdc has no encoder"),
        ("unet", "resnet18", {"in_channels": 2}, "in_channels is 2"),
        ("unet", "resnet18", {"classes": 0}, "classes is 0: give a whole number of at least 1"),
        ("unet", "resnet18", {"dropout": 1.0}, "dropout is 1.0: give a number of at least 0 and below 1"),
        ("unet", "resnet18", {"dropout_at": "first"}, "dropout_at is 'first': "),
        ("fpn", "resnet18", {"decoder_channels": (8, 4)}, "fpn has no decoder_channels"),
        ("unet", "resnet18", {"decoder_channels": (8, 4)}, "give 5 decoder_channels"),
        ("unet", "resnet18", {"depth": 6}, "depth 5 would work"),
        ("segformer", "resnet18", {"depth": 2}, "depth 5 would work"),
        ("dpt", "tu-vit_tiny_patch16_224", {}, "depth 4 would work"),
        ("unetplusplus", "mit_b0", {}, "no depth works"),
        ("deeplabv3", "densenet121", {}, "no depth works"),
        ("unet", "resnet18", {"encoder_weights": "imagnet"}, "no weights 'imagnet': did you mean 'imagenet'"),
    ],
)
def test_pairs_that_cannot_be_built_are_refused(decoder, encoder, options, message):
    with pytest.raises(ParameterError, match=message) as caught:
        build(decoder, encoder, **options)
    assert "\n" not in str(caught.value)


def test_the_suggested_depth_works():
    build("segformer", "resnet18", depth=5)
    assert build("unet", "resnet18", 4, depth=3)(torch.zeros(2, 1, 8, 8)).shape == (2, 4, 8, 8)


@pytest.mark.parametrize(("decoder", "encoder"), [("unet_acdc", None), ("unet", "resnet18")])
def test_dropout_is_inserted_at_the_given_places(decoder, encoder):
    widths = (4, 8) if encoder is None else None
    plain = build(decoder, encoder, decoder_channels=widths)
    networks = {
        place: build(decoder, encoder, decoder_channels=widths, dropout=0.5, dropout_at=place)
        for place in ("last", "decoder")
    }
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    inner = sum(isinstance(m, nn.Conv2d) for m in plain.decoder.modules())
    for place, layers in (("last", 1), ("decoder", inner)):
        network = networks[place]
        network.load_state_dict(plain.state_dict())  # dropout changes no name
        dropouts = [m for m in network.modules() if isinstance(m, nn.Dropout)]
        assert len(dropouts) == layers
        with torch.no_grad():
            assert torch.equal(network.eval()(images), plain.eval()(images))
            for dropout in dropouts:
                dropout.train()  # Monte-Carlo: batch norm stays in eval mode
            torch.manual_seed(0)
            first, second = network(images), network(images)
        assert not torch.equal(first, second)
        if place == "last":  # half of the logits are zero, the others doubled
            assert 0.4 < (first == 0).float().mean() < 0.6
            kept = first != 0
            assert torch.allclose(first[kept], 2 * plain(images)[kept], atol=1e-5)


@pytest.fixture(scope="module")
def colour_encoder():
    return smp.create_model("unet", "resnet18", encoder_weights=None, in_channels=3).encoder.state_dict()


@pytest.mark.parametrize("form", ["pth", "safetensors", "whole", "nested"])
def test_encoder_weights_load_from_a_file(colour_encoder, tmp_path, form):
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        save_file(colour_encoder, path)
    elif form == "whole":
        torch.save({**{f"encoder.{k}": v for k, v in colour_encoder.items()}, "head.weight": torch.ones(1)}, path)
    elif form == "nested":
        torch.save({"state_dict": {**colour_encoder, "fc.weight": torch.ones(2, 2)}}, path)
    else:
        torch.save(colour_encoder, path)
    own = build("fpn", "resnet18", encoder_weights=str(path)).encoder.state_dict()
    for name, tensor in colour_encoder.items():
        expected = tensor.sum(1, keepdim=True) if name == "conv1.weight" else tensor
        assert torch.equal(own[name], expected), name


def test_encoder_weights_load_from_timm(tmp_path):
    source = build("unet", "tu-regnety_002").encoder.model.state_dict()
    torch.save(source, tmp_path / "w.pth")
    own = build("unet", "tu-regnety_002", encoder_weights=str(tmp_path / "w.pth")).encoder.model.state_dict()
    assert all(torch.equal(own[name], source[name]) for name in source)


def test_unsuitable_encoder_weights_are_refused(colour_encoder, tmp_path):
    path = tmp_path / "weights.pth"

    def refused(match):
        with pytest.raises(CheckpointError, match=match):
            build("unet", "resnet18", encoder_weights=str(path))

    refused("no such file")
    torch.save({k: v for k, v in colour_encoder.items() if k != "layer1.0.bn1.weight"}, path)
    refused("not weights of resnet18: 'layer1.0.bn1.weight' is missing")
    torch.save({**colour_encoder, "bn1.weight": torch.ones(3)}, path)
    refused(r"'bn1.weight' is \(3,\), not \(64,\)")
    path.write_bytes(path.read_bytes()[:1000])
    refused("truncated")
    torch.save({"conv1.weight": nn.Linear(1, 1)}, path)
    refused("could run code")
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"nothing")
    refused("truncated or not a safetensors file")


@pytest.mark.parametrize("encoder", ["resnet18", "tu-regnety_002"])
def test_an_unreachable_hub_is_reported(monkeypatch, encoder):
    make = smp.create_model
    asked = []

    def create_model(*args, encoder_weights, **options):
        if encoder_weights is not None:
            asked.append(encoder_weights)
            raise OSError("no\nroute")
        return make(*args, encoder_weights=None, **options)

    monkeypatch.setattr(smp, "create_model", create_model)
    with pytest.raises(CheckpointError, match=r"'imagenet' of .* from the hub \(no route\): give a file instead"):
        build("unet", encoder, encoder_weights="imagenet")
    assert asked == ["imagenet" if encoder == "resnet18" else True]


def test_frames_are_padded_to_the_stride():
    images = torch.rand(2, 3, 50, 64)
    padded = pad_to_stride(images, 16)
    assert padded.shape == (2, 3, 64, 64)
    assert torch.equal(padded[:, :, :50], images)
    assert not padded[:, :, 50:].any()
    assert pad_to_stride(padded, 16) is padded
    assert pad_to_stride(images, 16, 128).shape == (2, 3, 128, 128)


@pytest.mark.parametrize("normalisation", ["unit", "sector", "imagenet"])
def test_a_padded_network_returns_the_original_size(caplog, normalisation):
    spec = NetworkSpec("unet_acdc", None, decoder_channels=(4, 4, 4))
    network = PaddedNetwork(spec, 2, normalisation).eval()
    images = torch.rand(2, 1, 30, 41)
    whole = torch.zeros(2, 1, 32, 44)
    whole[..., :30, :41] = images
    with caplog.at_level(logging.WARNING), torch.no_grad():
        logits = network(images)
        assert torch.equal(logits, network(whole)[..., :30, :41])
        assert logits.shape == (2, 2, 30, 41)
        network(images)
    assert caplog.messages == [
        "images of 30 x 41 px are padded to 32 x 44 px: the network takes multiples of 4 px"
    ]


def test_pan_gets_its_minimum_size():
    network = PaddedNetwork(NetworkSpec("pan", "resnet18"), 1, "unit").eval()
    with torch.no_grad():
        assert network(torch.rand(1, 1, 112, 112)).shape == (1, 1, 112, 112)


@pytest.mark.parametrize(
    ("decoder", "encoder", "options"),
    [("unet_acdc", None, {"decoder_channels": (4, 8)}), ("unet", "resnet18", {"depth": 3})],
)
def test_instance_norm_replaces_batch_norm(decoder, encoder, options):
    """No batch norm and no plain ReLU is left, and in training mode an image does not depend on its batch."""
    network = build(decoder, encoder, norm="instance", **options)
    kinds = {type(module) for module in network.modules()}
    assert {torch.nn.InstanceNorm2d, torch.nn.LeakyReLU} <= kinds
    assert not kinds & {torch.nn.BatchNorm2d, torch.nn.ReLU}
    images = torch.rand(3, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(images)[:1], network(images[:1]), rtol=1e-3, atol=1e-4)
    plain = build(decoder, encoder, **options)
    count = sum(p.numel() for p in network.parameters())
    assert count == sum(p.numel() for p in plain.parameters())
    assert (
        "norm" not in NetworkSpec(decoder, encoder, **options).to_dict()
    )  # the default leaves older fingerprints unchanged
    assert NetworkSpec(decoder, encoder, norm="instance", **options).to_dict()["norm"] == "instance"


def test_a_lack_of_memory_is_not_blamed_on_the_network(monkeypatch):
    def full(*_):
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr("alan.supervised.networks._try_build", full)
    with pytest.raises(RuntimeError, match="could not create a primitive"):
        build_network(NetworkSpec("unet", "resnet18", depth=3), 1)
