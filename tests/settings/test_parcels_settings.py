"""Settings of parcel heads, their trainings and what is measured of them."""

from functools import cache

import numpy as np
import pytest
import torch

from alan.backbone.load import load_backbone
from alan.data.store.reader import FrameStore
from alan.parcels.guided import GuidedFilter
from alan.parcels.heads import KMeansHead, RaptorHead, SmooSegHead
from alan.parcels.kmeans import KMeansParcels, fit_kmeans
from alan.parcels.losses import LossWeights, correspondence_loss, raptor_loss
from alan.parcels.maps import logits_to_maps
from alan.parcels.model import ParcelModel, load_parcels
from alan.parcels.quality import parcel_quality
from alan.parcels.raptor import RaptorModule
from alan.parcels.smooseg import SmooSegModule
from alan.parcels.training import HeadModule

from ..parcels.training_runs import clips, fit
from ..varying import cases, name_of, other, study


def trained(module, env, settings):
    model = module(env.backbone(), **{"n_parcels": 4, **settings})
    fit(model, steps=3)
    return {name: x for name, x in model.state_dict().items() if name not in ("head.mean", "head.std")}


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@study(
    HeadModule,
    sector_only=True,
    standardise=False,
    statistics_batches=1,
    input_size=40,
    stride=4,
    cache_features=True,  # as half precision
    seed=1,
    same={"cache_gb": 1e-6},
)
def head_training(env, **settings):
    return trained(RaptorModule, env, settings)


@study(
    RaptorModule,
    n_parcels=5,
    dropout=0.0,
    lr=1e-3,
    shift_self=0.5,
    shift_similar=0.5,
    shift_contrast=0.5,
    weight_self=0.0,
    weight_similar=0.0,
    weight_contrast=0.0,
)
def raptor(env, **settings):
    return trained(RaptorModule, env, settings)


@study(
    SmooSegModule,
    n_parcels=5,
    n_codes=8,
    dropout=0.5,
    temperature=0.5,
    student_temperature=0.1,
    momentum=0.5,
    lr=1e-2,
    lr_prototypes=1e-2,
    shift_self=0.3,
    shift_similar=other(0.4, weight_similar=1.0),
    shift_contrast=0.1,
    weight_self=0.3,
    weight_similar=1.0,
    weight_contrast=0.0,
    weight_data=0.3,
)
def smooseg(env, **settings):
    return trained(SmooSegModule, env, settings)


@study(RaptorHead, n_parcels=5, dropout=0.5, untried={"generator": "draws the initial weights"})
def raptor_head(env, **settings):
    torch.manual_seed(0)
    return RaptorHead(16, **settings, generator=torch.Generator().manual_seed(0)).train()(random(7, 16))


@study(SmooSegHead, n_parcels=5, n_codes=8, dropout=0.5, temperature=0.5, untried={"generator": "initial weights"})
def smooseg_head(env, **settings):
    torch.manual_seed(0)
    return SmooSegHead(16, **settings, generator=torch.Generator().manual_seed(0)).train()(random(7, 16))


@study(KMeansHead, n_components=3, spherical=True)
def kmeans_head(env, **settings):
    head = KMeansHead(16, 4, **settings)
    with torch.no_grad():
        for seed, buffer in enumerate(head.buffers()):
            buffer.copy_(random(*buffer.shape, seed=seed))
    return head(random(7, 16, seed=9))


@study(
    KMeansParcels,
    n_parcels=5,
    n_components=3,
    whiten=other(True, n_components=3),
    spherical=True,
    random_state=1,
    max_samples=50,
    base={"n_parcels": 6},
)
def kmeans(env, **settings):
    x = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32) * np.arange(1, 9)
    return KMeansParcels(**settings).fit(x).transform(x)


@cache
def textures():
    return clips().flatten(0, 1)


@study(
    fit_kmeans,
    n_parcels=5,
    n_components=3,
    whiten=other(True, n_components=3),
    spherical=True,
    sector_only=True,
    seed=1,
    max_samples=100,
    refine=GuidedFilter(radius=2),
    same={"batch_size": 7, "source": "a name"},
    base={"n_parcels": 6},
)
def kmeans_of_frames(env, **settings):
    frames = textures()
    return fit_kmeans(load_backbone(env.backbone()), frames.numpy(), **settings).maps(frames)


@study(ParcelModel, sector_only=True, refine=GuidedFilter(radius=2), same={"source": "a name"})
def parcel_model(env, **settings):
    model = load_parcels(env.parcels())
    return ParcelModel(model.backbone, model.head, **settings).maps(textures())


@study(GuidedFilter, radius=16, eps=0.2, subsample=4)
def guided(env, **settings):
    return GuidedFilter(**settings)(textures()[:2], random(2, 3, 8, 8), (32, 32))


@study(
    logits_to_maps,
    refine=GuidedFilter(radius=2),
    untried={"frames": "guide of the filter", "inside": "changes no id that is needed"},
)
def upsampled(env, **settings):
    return logits_to_maps(random(2, 4, 8, 8), 32, textures()[:2], **settings)


@study(
    parcel_quality,
    split="test",
    structures=("lv",),
    slack=0.0,
    same={"batch_size": 1},
)
def quality(env, **settings):
    return parcel_quality({"one": load_parcels(env.parcels())}, FrameStore(env.store("camus")), **settings)


@study(correspondence_loss, w_a=random(2, 9, seed=4), w_b=random(2, 9, seed=5), base={"shift": 0.1})
def correspondence(env, shift, **settings):
    tokens = [random(2, 9, 5, seed=seed) for seed in range(4)]
    return correspondence_loss(*tokens, shift, **settings)


@study(
    raptor_loss,
    shifts=LossWeights(0.1, 0.3, 0.3),
    weights=LossWeights(1.0, 0.5, 0.1),
    token_weights=random(4, 2, 9, seed=3),
)
def raptor_terms(env, **settings):
    tokens, codes = random(4, 2, 9, 6), random(4, 2, 9, 5, seed=1)
    return raptor_loss(tokens, codes, generator=torch.Generator().manual_seed(0), **settings)


@pytest.mark.parametrize(("study", "name"), cases(__name__), ids=name_of)
def test_each_setting_changes_the_result(tiny, study, name):
    study.check(tiny, name)
