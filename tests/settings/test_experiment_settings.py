"""Settings of evaluations, ensembles, searches and active learning."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from alan.active.dropout import MonteCarloDropout
from alan.active.loop import run_active
from alan.active.settings import ActiveLoop, PoolData
from alan.active.suggest import open_pool, suggest_images
from alan.data.store.reader import FrameStore
from alan.downstream.probes.decoder import DecoderProbe
from alan.downstream.probes.linear import LinearProbe
from alan.downstream.whitebox.opinion import ExpertOpinion, Opinion
from alan.downstream.whitebox.steps import PostProcessing
from alan.evaluation.ensemble import run_ensemble
from alan.evaluation.intervals import bootstrap_interval
from alan.evaluation.label_efficiency.measure import measure_efficiency
from alan.evaluation.label_efficiency.methods import NetworkMethod, RuleMethod
from alan.evaluation.label_efficiency.probes import DecoderMethod, LinearMethod, SoftLinearMethod
from alan.evaluation.label_efficiency.protocol import LabelEfficiencyProtocol
from alan.evaluation.protocols import SegmentationProtocol, ViewProtocol
from alan.evaluation.segmentation import measure_segmentation
from alan.evaluation.views import measure_views
from alan.parcels.model import load_parcels
from alan.supervised.segmenter import Segmenter, save_segmenter
from alan.supervised.settings import TrainingSettings

from ..active.conftest import discs as active_discs  # noqa: F401 (a fixture)
from ..discs import SMALL, untrained_segmenter
from ..evaluation.conftest import lab  # noqa: F401 (a fixture)
from ..varying import cases, name_of, other, study

NOTHING = PostProcessing(component=False, enclaves=False, closing_radius=0, fill=False, contour=False)


@pytest.fixture(scope="session")
def env(tiny, lab, active_discs, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("experiments")
    for seed in range(2):
        raw = untrained_segmenter(SMALL, ("lv", "la"), size=32, seed=seed)
        for layer in raw.model.modules():  # outputs that differ from pixel to pixel
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.mul_(3)
        origin = {"stores": [FrameStore(lab / "store.h5").fingerprint], "train_split": "train", "val_split": "val"}
        segmenter = Segmenter(raw.model, raw.spec, raw.structures, 32, origin)
        save_segmenter(segmenter, folder / f"network{seed}.safetensors")
    parcels = load_parcels(lab / "parcels.safetensors")
    ExpertOpinion("lv", parcels.fingerprint, {parcel: Opinion(0.0, 500.0) for parcel in range(6)}).to_json(
        folder / "opinion.json"
    )
    dropout = untrained_segmenter(replace(SMALL, dropout=0.3, dropout_at="decoder"), ("lv",), size=32)
    files = {
        "STORE": str(lab / "store.h5"),
        "PRIOR": str(lab / "leaking.h5"),
        "PARCELS": str(lab / "parcels.safetensors"),
        "BACKBONE": str(lab / "backbone.safetensors"),
        "NETWORK": str(folder / "network0.safetensors"),
        "OTHER": str(folder / "network1.safetensors"),
        "OPINION": str(folder / "opinion.json"),
    }
    new = (str(folder / f"run{number}") for number in itertools.count())
    return SimpleNamespace(files=files, new=lambda: next(new), active=active_discs, dropout=dropout)


def filled(env, value):
    """A setting with the names of files replaced by files."""
    match value:
        case str():
            return env.files.get(value, value)
        case dict():
            return {key: filled(env, item) for key, item in value.items()}
        case tuple():
            return tuple(filled(env, item) for item in value)
    return value


BETA = {"rules": ("beta",)}
NETWORK = {"networks": {"network": "NETWORK"}, "parcels": {}, "label_split": None}


@study(
    SegmentationProtocol,
    parcels={"again": "PARCELS"},
    networks={"network": "NETWORK"},
    structures=("lv",),
    rules=("paper",),
    opinions=other(("OPINION",), **BETA),
    label_split=other("train", train_split=None, label_patients=1),
    label_patients=1,
    test_split=other("train", train_split=None),
    views=("A4C",),
    phases=("ED",),
    per_phase=True,
    kmeans=(8,),
    kmeans_frames=other(3, kmeans=(8,)),
    random_vit=other(True, kmeans=(8,)),
    atlas=True,
    volumes=True,
    flips=other(True, **NETWORK),
    postprocessing=NOTHING,
    seed=other(1, kmeans=(8,)),
    same={"published": "camus", "batch_size": 5},
    untried={
        "train_split": "what must not be measured; k-means is fitted on it",
        "prior": "on these frames it chooses the same parcels: tests/evaluation/test_run.py",
    },
    base={
        "parcels": {"parcels": "PARCELS"},
        "rules": ("greedy",),
        "kmeans": (),
        "random_vit": False,
        "atlas": False,
    },
)
def segmentation(env, **settings):
    result = measure_segmentation(
        SegmentationProtocol(env.files["STORE"], **filled(env, settings)), Path(env.new())
    )
    return result.cases, result.volumes


@study(
    ViewProtocol,
    views=("A4C",),
    k=(3,),
    temperature=other(5.0, k=(4,)),
    test_split=other("val", views=("A4C",)),
    random_vit=True,
    pixels=False,
    seed=other(1, random_vit=True),
    same={"batch_size": 2},
    untried={
        "published": "rows of the paper, for TMED-2",
        "train_split": "the store has no third split of two views",
    },
    base={"views": ("A2C", "A4C"), "k": (2,), "random_vit": False},
)
def views(env, **settings):
    result = measure_views(ViewProtocol(env.files["STORE"], env.files["BACKBONE"], **settings))
    return result.cases, json.dumps(result.summary)


FAST = TrainingSettings(
    network=SMALL, losses={"cross_entropy": 1.0}, lr=1e-2, steps=2, batch_size=4, accelerator="cpu"
)


FEW = DecoderProbe(width=8, steps=3)


def efficiency(env, method, **settings):
    base = {"structures": ("lv", "la"), "label_patients": (2,), "seeds": (0,), "postprocessing": NOTHING}
    protocol = LabelEfficiencyProtocol(env.files["STORE"], [method], **{**base, **settings})
    return measure_efficiency(protocol, Path(env.new())).cases.drop(columns=["seconds"], errors="ignore")


@study(
    LabelEfficiencyProtocol,
    structures=("lv",),
    label_split="val",
    test_split="val",
    label_patients=(1, 2),
    seeds=(0, 1),
    views=("A4C",),
    phases=("ED",),
    postprocessing=PostProcessing(),
    same={"batch_size": 3, "workers": 2},
    untried={
        "work": "a folder that keeps cells",
        "largest_component": "these outputs have one: tests/evaluation/label_efficiency",
    },
)
def protocol(env, **settings):
    method = RuleMethod("rule", parcels=env.files["PARCELS"], rule="greedy")
    return efficiency(env, method, **settings)


@study(RuleMethod, prior="PRIOR", per_phase=True, base={"rule": "beta"})
def rule(env, **settings):
    return efficiency(env, RuleMethod("method", parcels=env.files["PARCELS"], **filled(env, settings)))


@study(
    LinearMethod,
    input_size=40,
    stride=2,
    linear=LinearProbe(l2=9.0),
    untried={"feature_levels": "of a convolutional backbone"},
)
def linear(env, **settings):
    return efficiency(env, LinearMethod("method", backbone=env.files["BACKBONE"], **settings))


@study(
    DecoderMethod,
    input_size=40,
    stride=2,
    decoder=DecoderProbe(width=16, steps=3),
    base={"decoder": FEW},
    untried={"feature_levels": "of a convolutional backbone"},
)
def decoder(env, **settings):
    return efficiency(env, DecoderMethod("method", backbone=env.files["BACKBONE"], **settings))


@study(SoftLinearMethod, linear=LinearProbe(l2=9.0))
def soft(env, **settings):
    return efficiency(env, SoftLinearMethod("method", parcels=env.files["PARCELS"], **settings))


@study(NetworkMethod, init="NETWORK")
def network(env, **settings):
    return efficiency(env, NetworkMethod("method", network=FAST, **filled(env, settings)))


@study(bootstrap_interval, groups=np.arange(20) // 2, level=0.5, n_resamples=100, seed=1)
def interval(env, **settings):
    return bootstrap_interval(np.random.default_rng(0).random(20), **settings)


@study(
    run_ensemble,
    weights="equal",
    objective="dice",
    trials=3,
    average="logits",
    phases=("ED",),
    seed=1,
    sampler="tpe",
    same={"views": ("A4C",), "batch_size": 3, "overwrite": True},
    untried={"folds": "networks of all folds: tests/evaluation", "split": "not the training or the test split"},
    base={"trials": 30},
)
def ensemble(env, **settings):
    members = {"one": env.files["NETWORK"], "two": env.files["OTHER"]}
    path = run_ensemble(env.new(), env.files["STORE"], members, **settings)
    return pd.read_csv(Path(path).parent / "history.csv").drop(columns=["seconds"], errors="ignore")


LEARNING = {"training": {"steps": 20, "lr": 0.05}}


def loop_of(env, data=None, training=None, **settings):
    loop = {"functions": ("mfe",), "initial": 3, "per_phase": 2, "phases": 2, "passes": 2}
    folder = run_active(
        env.new(),
        env.active.data(**(data or {})),
        loop=ActiveLoop(**loop | filled(env, settings)),
        training=env.active.training(**training or {"steps": 2}),
    )
    table = pd.read_csv(folder / "phases.csv")
    return table.drop(columns=[name for name in table if "seconds" in name])


@study(
    ActiveLoop,
    functions=("std",),
    seeds=(1,),
    initial=4,
    per_phase=3,
    phases=3,
    unit="patient",
    warm_start=other(True, **LEARNING),
    two_networks=other(False, training={"steps": 30, "lr": 0.03}),
    budget=4,
    passes=3,
    diversity="encoder",
    candidates=other(1, diversity="encoder"),
    same={"targets": (0.5,), "batch_size": 3},
    untried={
        "stop_iou": "these networks learn too little: tests/active/test_loop.py",
        "parcels": "of coverage and disagreement: tests/active",
        "white_boxes": "of disagreement: tests/active",
    },
)
def active_loop(env, **settings):
    return loop_of(env, **settings)


@study(
    PoolData,
    structures=("myo",),
    pool_split="test",
    val_split="test",
    test_split="test",
    phases=("ED",),
    untried={"views": "the store of these tests has one"},
)
def pool(env, **settings):
    return loop_of(env, settings, initial=2, per_phase=1)


@study(MonteCarloDropout, passes=3, seed=1, base={"passes": 2})
def dropout(env, **settings):
    frames = torch.randint(0, 255, (2, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
    return MonteCarloDropout(env.dropout, **settings).statistics(frames).scores("mfe")


@study(open_pool, split="val", include_labelled=True, untried={"views": "the store of these tests has one"})
def opened_pool(env, **settings):
    pool = open_pool(env.active.store, 32, **settings)
    return len(pool)


@study(
    suggest_images,
    n=3,
    function="std",
    passes=3,
    seed=1,
    diversity="encoder",
    candidates=other(1, diversity="encoder"),
    shown=2,
    same={"batch_size": 3},
    untried={"partial": "a file of the scores so far"},
    base={"n": 4, "passes": 2},
)
def suggestion(env, **settings):
    found = suggest_images(env.dropout, open_pool(env.active.store, 32, include_labelled=True), **settings)
    return found.table.round(3), found.labels


@pytest.mark.parametrize(("study", "name"), cases(__name__), ids=name_of)
def test_each_setting_changes_the_result(env, study, name):
    study.check(env, name)
