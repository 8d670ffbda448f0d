"""Settings of supervised networks, their trainings and their ensembles."""

from dataclasses import replace

import pytest
import torch

from alan.supervised.ensemble import EnsembleSegmenter
from alan.supervised.module import SegmentationModule
from alan.supervised.networks import UNet, build_network
from alan.supervised.segmenter import Segmenter, save_segmenter
from alan.supervised.settings import NetworkSpec, TrainingSettings
from alan.supervised.training import train

from ..discs import SMALL, picture, untrained_segmenter
from ..varying import cases, name_of, other, study

STRUCTURES = ("lv", "la")


def images(n=2, size=64):
    return torch.stack([torch.from_numpy(picture(seed, size)[0]) for seed in range(n)])


def weights(model):
    return [parameter.detach() for parameter in model.parameters()]


@study(
    SegmentationModule,
    network=replace(SMALL, decoder_channels=(8, 16, 24)),
    optimiser=other("adamw", weight_decay=0.9),
    lr=0.02,
    weight_decay=0.1,
    schedule="cosine",
    average=0.9,
    normalisation="sector",
    augmentation="segformer",
    seed=1,
)
def module(env, **settings):
    model = env.module(**settings)
    env.trainer(max_steps=2, max_epochs=-1, limit_val_batches=0).fit(model, env.data())
    return weights(model.segmenter().model)


FAST = {
    "network": SMALL,
    "losses": {"cross_entropy": 1.0},
    "lr": 1e-2,
    "batch_size": 4,
    "steps": 2,
    "accelerator": "cpu",
}


@study(
    TrainingSettings,
    network=replace(SMALL, decoder_channels=(8, 16, 24)),
    losses={"cross_entropy": 1.0, "dice": 1.0},
    optimiser=other("adamw", weight_decay=0.9),
    lr=0.02,
    weight_decay=0.1,
    schedule="polynomial",
    average=0.9,
    normalisation="imagenet",
    augmentation="echo",
    batch_size=3,
    epochs=other(2, steps=None, epochs=1),
    steps=3,
    precision="bf16-mixed",
    same={"accelerator": "auto", "num_workers": 1},
    base=FAST,
)
def training(env, **settings):
    return weights(train(TrainingSettings(**settings), env.data(STRUCTURES).train_frames, 0).model)


@study(
    train,
    start="file",
    same={"val": "frames", "val_every": other(2, val="frames"), "desc": "a bar"},
    untried={"on_validation": "a function that is called"},
)
def training_in_python(env, start=None, val=None, **settings):
    data = env.data(STRUCTURES)
    if start:
        start = env.store.replace("plain.h5", "start.safetensors")
        save_segmenter(untrained_segmenter(SMALL, STRUCTURES, seed=9), start)
    val = data.val_frames if val else None
    return weights(train(TrainingSettings(**FAST), data.train_frames, 0, start=start, val=val, **settings).model)


SMP = {"decoder": "unet", "encoder": "mobilenet_v2", "depth": 3, "decoder_channels": (8, 8, 8)}


@study(
    NetworkSpec,
    decoder="fpn",
    encoder="resnet18",
    in_channels=3,
    depth=other(4, decoder="fpn"),
    decoder_channels=(8, 8, 4),
    dropout=0.5,
    dropout_at=other("decoder", dropout=0.5),
    norm=other("instance", decoder="unet_acdc", encoder=None, decoder_channels=(4, 8)),
    base=SMP,
    untried={"encoder_weights": "a file: tests/supervised/test_supervised_networks.py"},
)
def network(env, **settings):
    if settings["decoder"] == "fpn":
        settings["decoder_channels"] = None
    spec = NetworkSpec(**settings)
    torch.manual_seed(0)
    model = build_network(spec).train()
    return model(torch.rand(2, spec.in_channels, 64, 64, generator=torch.Generator().manual_seed(0)))


@study(build_network, classes=3)
def built(env, **settings):
    torch.manual_seed(0)
    return build_network(SMALL, **settings)


@study(UNet, in_channels=3, classes=2, widths=(4, 8, 16), base={"widths": (4, 8)})
def unet(env, **settings):
    torch.manual_seed(0)
    return UNet(**settings)


@study(Segmenter, size=64, flips=True, same={"provenance": {"seed": 0}})
def segmenter(env, **settings):
    raw = untrained_segmenter(SMALL, STRUCTURES)
    return Segmenter(raw.model, raw.spec, raw.structures, **settings).probabilities(images(size=32))


@study(EnsembleSegmenter, weights={"a": 3.0, "b": 1.0}, average="logits", same={"provenance": {"seed": 0}})
def ensemble(env, **settings):
    members = {name: untrained_segmenter(SMALL, STRUCTURES, seed=seed) for seed, name in enumerate("ab")}
    return EnsembleSegmenter(members, **settings).probabilities(images(size=32))


@pytest.mark.parametrize(("study", "name"), cases(__name__), ids=name_of)
def test_each_setting_changes_the_result(discs, study, name):
    study.check(discs, name)
