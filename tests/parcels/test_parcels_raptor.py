"""RaptorModule: training, exact resuming, the locked backbone and invalid input."""

import logging
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers.logger import Logger

from alan.backbone.load import random_backbone
from alan.errors import CheckpointError, ParameterError
from alan.parcels.model import load_parcels
from alan.parcels.raptor import RaptorModule
from alan.parcels.smooseg import SmooSegModule

RUNS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("training_runs.py"))))
SPEC, ClipModule, TokenClips = RUNS.SPEC, RUNS.ClipModule, RUNS.TokenClips
clips, fit, weights, equal = RUNS.clips, RUNS.fit, RUNS.weights, RUNS.equal
CLASSES = {
    "alan.parcels.RaptorModule": RaptorModule,
    "alan.parcels.SmooSegModule": SmooSegModule,
}
CONFIGS = Path(__file__).parents[2] / "configs" / "raptor"


class Rows(Logger):
    """What a logger is given."""

    name = version = ""

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_hyperparams(self, *_):
        pass

    def log_metrics(self, metrics, step=None):
        self.rows.append(metrics)


def test_training_lowers_the_loss_and_keeps_the_backbone(backbone):
    module = RaptorModule(backbone, n_parcels=6, shift_self=0.1, shift_similar=0.1, shift_contrast=0.1)
    before = {name: tensor.clone() for name, tensor in module.backbone.state_dict().items()}
    rows, _ = fit(module, steps=40)
    assert {"loss", "loss_self", "loss_similar", "loss_contrast", "parcels_in_use", "parcel_perplexity"} <= set(
        rows[0]
    )
    for row in rows:
        total = row["loss_self"] + 0.5 * row["loss_similar"] + row["loss_contrast"]
        assert row["loss"] == pytest.approx(total, rel=1e-4, abs=1e-6)
        assert 1 <= row["parcels_in_use"] <= 6
    first, last = (sum(row["loss"] for row in part) for part in (rows[:5], rows[-5:]))
    assert last < first
    assert equal(before, dict(module.backbone.state_dict()))
    assert not any(parameter.requires_grad for parameter in module.backbone.parameters())
    assert all(name.startswith("head.") for name in module.state_dict())


@pytest.mark.parametrize("sector_only", [False, True])
def test_statistics_come_from_the_training_tokens(backbone, sector_only):
    module = RaptorModule(backbone, n_parcels=4, sector_only=sector_only)
    fit(module, steps=1)
    frames = clips().flatten(0, 1)
    tokens = module.backbone(frames).tokens
    rows = tokens[module.backbone.sector(frames)] if sector_only else tokens.flatten(0, 2)
    torch.testing.assert_close(module.head.mean, rows.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module.head.std, rows.std(0, correction=0), rtol=1e-4, atol=1e-5)
    few = RaptorModule(backbone, n_parcels=4, sector_only=sector_only, statistics_batches=1)
    fit(few, steps=1)
    assert not torch.equal(few.head.mean, module.head.mean)
    plain = RaptorModule(backbone, n_parcels=4, standardise=False)
    fit(plain, steps=1)
    assert plain.head.mean.eq(0).all()
    assert plain.head.std.eq(1).all()


def test_the_head_depends_on_the_seed_only(backbone):
    results = []
    for global_seed, seed in ((0, 0), (1, 0), (0, 1)):
        torch.manual_seed(global_seed)
        module = RaptorModule(backbone, n_parcels=4, seed=seed)
        fit(module, steps=3)
        results.append(weights(module))
    assert equal(results[0], results[1])
    assert not equal(results[0], results[2])


def test_a_resumed_run_equals_the_uninterrupted_one(backbone, tmp_path):
    whole = RaptorModule(backbone, n_parcels=4, sector_only=True)
    fit(whole, steps=6)
    keep = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0, every_n_train_steps=1)
    first = RaptorModule(backbone, n_parcels=4, sector_only=True)
    fit(first, steps=4, callbacks=[keep])
    second = RaptorModule(backbone, n_parcels=4, sector_only=True)
    fit(second, steps=6, ckpt_path=tmp_path / "last.ckpt")
    assert equal(weights(whole), weights(second))

    model = load_parcels(tmp_path / "last.ckpt")
    assert model.fingerprint == first.parcels().fingerprint
    assert model.background_id == 4
    first.export(tmp_path / first.export_name)
    assert load_parcels(tmp_path / "parcels.safetensors").fingerprint == model.fingerprint
    assert first.head.blocks[0].linear.weight.requires_grad  # the export locked a copy
    with pytest.raises(CheckpointError, match="trained on the backbone"):
        load_parcels(tmp_path / "last.ckpt", random_backbone(SPEC, 1))
    with pytest.raises(CheckpointError, match=r"the checkpoint: trained on the backbone"):
        fit(RaptorModule(backbone, n_parcels=4, stride=4), ckpt_path=tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="checkpoint's head"):
        fit(RaptorModule(backbone, n_parcels=5), ckpt_path=tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="not one of a RAPTOR training"):
        second.on_load_checkpoint({})


def test_cached_features_give_the_same_training(backbone):
    plain, cached = RaptorModule(backbone, n_parcels=4), RaptorModule(backbone, n_parcels=4, cache_features=True)
    rows, kept = fit(plain)[0], fit(cached)[0]
    for one, other in zip(rows, kept, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-3)
    assert len(cached._memory) == 24  # every frame, once
    assert len(plain._memory) == 0


@pytest.mark.parametrize("sector_only", [False, True])
def test_training_on_tokens_equals_training_on_frames(backbone, sector_only):
    from_frames, from_tokens = (RaptorModule(backbone, n_parcels=4, sector_only=sector_only) for _ in range(2))
    rows, other = fit(from_frames)[0], fit(from_tokens, TokenClips())[0]
    for one, two in zip(rows, other, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-4)


def test_tokens_of_another_backbone_are_refused(backbone):
    data = TokenClips()
    data.cache = SimpleNamespace(manifest=SimpleNamespace(backbone=random_backbone(SPEC, 1).fingerprint))
    with pytest.raises(CheckpointError, match=f"given the backbone {random_backbone(SPEC, 1).fingerprint[:12]}"):
        fit(RaptorModule(backbone, n_parcels=4), data)
    data.cache.manifest.backbone = random_backbone(SPEC).fingerprint
    fit(RaptorModule(backbone, n_parcels=4), data, steps=1)


def test_two_frames_form_a_sequence(backbone):
    module = RaptorModule(backbone, n_parcels=4)
    rows, _ = fit(module, ClipModule(frames=clips(n_frames=2)), steps=2)
    assert len(rows) == 2


def test_parcels_in_use_are_logged_every_n_steps(backbone):
    logger = Rows()
    fit(RaptorModule(backbone, n_parcels=4), logger=logger, log_every_n_steps=3)
    assert len(logger.rows) == 2
    assert all({"loss", "parcels_in_use", "parcel_perplexity"} <= set(row) for row in logger.rows)


def test_a_collapse_gives_one_warning(backbone, caplog, monkeypatch):
    monkeypatch.setattr("alan.parcels.training._GRACE", 1)
    module = RaptorModule(backbone, n_parcels=100, lr=1e-9)
    with torch.no_grad():
        module.head.blocks[2].linear.bias[7] = 1e3
    with caplog.at_level(logging.WARNING, logger="alan.parcels.training"):
        fit(module, steps=4)
    found = [record.message for record in caplog.records if "parcels are in use" in record.message]
    assert len(found) == 1
    assert "1 of 100 parcels are in use" in found[0]


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (ClipModule(batch_size=1), {}, "1 sequence in the batch"),
        (TokenClips(sector=False), {"sector_only": True}, "without their sector"),
        (ClipModule(frames=torch.zeros(4, 2, 32, 32, dtype=torch.uint8)), {"sector_only": True}, "no token lies"),
    ],
)
def test_unsuitable_batches_are_refused(backbone, data, options, message):
    with pytest.raises(ParameterError, match=message):
        fit(RaptorModule(backbone, n_parcels=4, **options), data)


def test_arguments_out_of_range_are_refused(backbone):
    for options, message in (
        ({"n_parcels": 1}, "n_parcels is 1"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"weight_self": -1.0}, "weight_self is -1.0"),
        ({"statistics_batches": 0}, "statistics_batches is 0"),
        ({"cache_gb": 0.0}, "cache_gb is 0.0"),
    ):
        with pytest.raises(ParameterError, match=message):
            RaptorModule(backbone, **options)
    with pytest.raises(CheckpointError, match="no such file"):
        RaptorModule("nowhere.safetensors")
    with pytest.raises(ParameterError, match="frames and index, or tokens"):
        RaptorModule(backbone)._read({"images": torch.zeros(1)})


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_trains_one_step(path, backbone):
    config = yaml.safe_load(path.read_text())
    assert config["model"]["class_path"] in CLASSES
    module = CLASSES[config["model"]["class_path"]](**config["model"]["init_args"] | {"backbone": backbone})
    rows, _ = fit(module, steps=1)
    assert rows[0]["parcels_in_use"] >= 1
