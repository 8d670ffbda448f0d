"""DINOModule: recipe, one teacher update per step, exact resuming, export and configurations."""

import inspect
import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import Dataset

import alan.trainer
from alan.backbone.dino.module import DINOModule
from alan.backbone.load import load_backbone
from alan.backbone.vit import VitSpec
from alan.data.augmentation.multicrop import MultiCrop
from alan.data.loaders.sampling import resumable_loader
from alan.errors import AlanError, CheckpointError, ParameterError

from ...short_trainings import saving, state, trainer

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "dino").glob("*.yaml"))
SPEC = VitSpec(
    image_size=16,
    patch_size=8,
    in_chans=1,
    dim=16,
    depth=2,
    heads=2,
    normalisation="sector",
    initialisation="xavier",
)
CROPS = MultiCrop(global_size=16, local_size=8, n_local=2, gamma=0.5, field=0.2, noise=0.05)


class Frames(Dataset):
    """Random frames with a black border, read one batch at a time."""

    def __init__(self, n, size=24):
        self.frames = torch.randint(1, 256, (n, size, size), generator=torch.Generator().manual_seed(0)).byte()
        self.frames[:, :2] = 0

    def __len__(self):
        return len(self.frames)

    def __getitems__(self, indices):
        index = torch.tensor(indices) % len(self)
        return {"frames": self.frames[index], "index": index}


class FakeData(LightningDataModule):
    def __init__(self, n=16, batch_size=4):
        super().__init__()
        self.n, self.batch_size = n, batch_size

    def train_dataloader(self):
        return resumable_loader(Frames(self.n), self.batch_size, seed=0, drop_last=True, num_workers=0)


def module(**changes):
    settings = {
        "network": SPEC,
        "crops": CROPS,
        "outputs": 8,
        "hidden": 16,
        "bottleneck": 8,
        "base_lr": 0.1,
        "momentum": 0.9,
        "patch_weight": 1.0,
        "patch_prototypes": 6,
    }
    return DINOModule(**{**settings, **changes})


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, accumulate):
    """Six uninterrupted steps equal three steps, a stop within an epoch, and three resumed steps, bit by bit."""
    data, changes = FakeData(n=20 * accumulate, batch_size=4), {"batch_norm": True, "drop_path": 0.3}
    torch.manual_seed(7)
    straight, run = module(**changes), trainer(tmp_path, 6, accumulate_grad_batches=accumulate)
    run.fit(straight, data)
    expected = state(straight, run)

    torch.manual_seed(8)
    saves = saving(tmp_path)
    cut = module(**changes)
    cut.total_steps = lambda: 6  # the schedules know of six, the trainer stops after three
    trainer(tmp_path, 3, accumulate_grad_batches=accumulate, callbacks=[saves]).fit(cut, data)
    torch.rand(3)
    resumed, run = module(**changes), trainer(tmp_path, 6, accumulate_grad_batches=accumulate)
    run.fit(resumed, data, ckpt_path=tmp_path / "last.ckpt")
    assert run.global_step == 6
    result = state(resumed, run)
    assert set(result) == set(expected)
    assert not [name for name, x in expected.items() if not torch.equal(x, result[name])]
    assert {"dino_loss.centre", "patch_loss.centre", "optimizer.0.exp_avg", "teacher.network.cls_token"} <= set(
        result
    )


def test_weights_and_crops_depend_on_the_seed_only(tmp_path):
    def final(seed, other):
        torch.manual_seed(other)
        model = module(seed=seed, drop_path=0.3)
        run = trainer(tmp_path, 2)
        run.fit(model, FakeData())
        return torch.cat([p.flatten() for p in model.teacher.parameters()])

    assert torch.equal(final(0, 1), final(0, 2))
    assert not torch.equal(final(0, 1), final(1, 1))


def test_the_teacher_is_updated_once_per_optimiser_step(tmp_path):
    """With two batches per step the teacher moves once, by hand: t <- m t + (1 - m) s."""
    model = module(momentum=0.9)
    seen = []
    move = model.move_teacher

    def spy(momentum):
        before = model.teacher.network.norm.weight.clone()
        move(momentum)
        expected = momentum * before + (1 - momentum) * model.student.network.norm.weight
        torch.testing.assert_close(model.teacher.network.norm.weight, expected)
        seen.append(momentum)

    model.move_teacher = spy
    run = trainer(tmp_path, 2, accumulate_grad_batches=2)
    run.fit(model, FakeData(n=16, batch_size=4))
    assert len(seen) == 2
    assert seen[0] == pytest.approx(0.9)
    assert seen[1] == pytest.approx(0.95)  # half a cosine from 0.9 to 1 in two steps
    assert model._batches == 4


def test_learning_rate_scales_with_the_batch_size(tmp_path):
    def rate(accumulate, batch):
        model = module(base_lr=0.1, warmup=0.0)
        run = trainer(tmp_path, 1, accumulate_grad_batches=accumulate)
        run.fit(model, FakeData(n=16, batch_size=batch))
        return run.optimizers[0].param_groups[0]["lr"]

    assert rate(1, 4) == pytest.approx(0.1 * 4 / 256)
    assert rate(2, 8) == pytest.approx(0.1 * 16 / 256)


def test_biases_and_norms_have_no_weight_decay():
    model = module(batch_norm=True)
    decayed, bare = (group["params"] for group in model.configure_optimizers().param_groups)
    names = {id(p): name for name, p in model.student.named_parameters()}
    assert {"network.norm.weight", "network.blocks.0.attn.qkv.bias", "head.mlp.1.weight"} <= {
        names[id(p)] for p in bare
    }
    assert {"network.blocks.0.attn.qkv.weight", "head.last_layer.weight"} <= {names[id(p)] for p in decayed}
    assert len(decayed) + len(bare) == len(names)
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_last_layer_is_frozen_at_first_and_gradients_are_clipped(tmp_path):
    model = module(freeze_last_layer=0.5, gradient_clip=1e-3, warmup=0.0)
    drawn = [h.last_layer.weight.clone() for h in (model.student.head, model.student.patch_head)]
    record = []
    move = model.move_teacher

    def watch(momentum):
        norms = [p.grad.norm().item() for p in model.student.parameters() if p.grad is not None]
        heads = (model.student.head, model.student.patch_head)
        moved = [not torch.equal(h.last_layer.weight, w) for h, w in zip(heads, drawn, strict=True)]
        record.append((max(norms), any(moved)))
        move(momentum)

    model.move_teacher = watch
    trainer(tmp_path, 4).fit(model, FakeData())
    assert all(norm <= 1e-3 + 1e-6 for norm, _ in record)
    assert [moved for _, moved in record] == [False, False, True, True]


def test_defaults_equal_those_of_the_paper():
    config = yaml.safe_load(next(p for p in CONFIGS if p.stem == "vits4_echonet").read_text())["model"][
        "init_args"
    ]
    for name, parameter in inspect.signature(DINOModule).parameters.items():
        if name in config:
            value, default = config[name], parameter.default
            if name in ("network", "crops"):
                for key, entry in value.items():
                    wanted = getattr(default, key)
                    assert (tuple(entry) if isinstance(entry, list) else entry) == wanted, key
            else:
                assert (tuple(value) if isinstance(value, list) else value) == default, name


class Patterns(Frames):
    """Frames that differ by their pattern of 3 x 3 grey fields."""

    def __init__(self, n):
        fields = torch.randint(1, 256, (n, 3, 3), generator=torch.Generator().manual_seed(0)).byte()
        self.frames = fields.repeat_interleave(8, 1).repeat_interleave(8, 2)


def test_a_small_training_lowers_the_loss_and_logs(tmp_path, monkeypatch):
    """Both losses fall well below those of an uninformed student, and the features stay spread."""
    monkeypatch.setitem(globals(), "Frames", Patterns)
    crops = MultiCrop(
        global_size=16,
        local_size=8,
        n_local=2,
        global_scale=(0.7, 1.0),
        local_scale=(0.4, 0.7),
        flip=0,
        jitter=0,
        blur=(0, 0, 0),
        solarise=(0, 0, 0),
        noise=0.02,
    )
    model = module(outputs=16, batch_norm=True, base_lr=0.05, warmup=0.1, drop_path=0.0, crops=crops)
    run = trainer(tmp_path, 100)
    run.fit(model, FakeData(n=32, batch_size=16))
    logged = run.callback_metrics
    assert logged["dino_loss"] < math.log(16) - 0.3
    assert logged["patch_loss"] < math.log(6) - 0.3
    assert logged["spread"] > 0.3
    expected = {"loss", "teacher_entropy", "mean_entropy", "lr", "momentum", "teacher_temperature", "weight_decay"}
    assert expected <= set(logged)


def test_export_and_checkpoint_hold_the_teacher(tmp_path):
    model = module()
    saves = saving(tmp_path, every=1)
    trainer(tmp_path, 2, callbacks=[saves]).fit(model, FakeData())
    model.export(tmp_path / model.export_name)
    exported, checkpoint = (load_backbone(tmp_path / name) for name in ("backbone.safetensors", "last.ckpt"))
    assert exported.fingerprint == checkpoint.fingerprint
    assert exported.spec == SPEC
    own = model.teacher.network.state_dict()
    assert all(torch.equal(x, own[name]) for name, x in exported.network.state_dict().items())


def test_losses_stay_float32_under_bf16(tmp_path):
    model = module()
    kinds = []
    forward = model.dino_loss.forward
    model.dino_loss.forward = lambda *a: kinds.append(a[0].dtype) or forward(*a)
    run = trainer(tmp_path, 2, precision="bf16-mixed")
    run.fit(model, FakeData())
    assert kinds[0] == torch.bfloat16
    assert run.callback_metrics["dino_loss"].dtype == torch.float32
    assert model.dino_loss.centre.dtype == torch.float32


def test_a_collapse_gives_one_warning(tmp_path, caplog):
    model = module(warmup=0.0, teacher_temperature=(1e3, 1e3))
    with caplog.at_level(logging.WARNING, logger="alan"):
        trainer(tmp_path, 4).fit(model, FakeData())
    assert sum("uniform" in record.message for record in caplog.records) == 1


def test_wrong_checkpoints_and_values_are_refused(tmp_path):
    class Other(LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

        def training_step(self, batch, batch_idx):
            return self.layer.weight.sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    for other, name in ((Other(), "other"), (module(network=replace(SPEC, depth=1)), "shallow")):
        saves = saving(tmp_path / name, every=1)
        trainer(tmp_path, 1, callbacks=[saves]).fit(other, FakeData())
    with pytest.raises(CheckpointError, match="not one of a DINO training"):
        trainer(tmp_path, 2).fit(module(), FakeData(), ckpt_path=tmp_path / "other" / "last.ckpt")
    with pytest.raises(CheckpointError, match="depth 1 where the config has 2"):
        trainer(tmp_path, 2).fit(module(), FakeData(), ckpt_path=tmp_path / "shallow" / "last.ckpt")
    with pytest.raises(ParameterError, match=r"set trainer\.max_epochs or max_steps"):
        trainer(tmp_path, -1).fit(module(), FakeData())
    for changes in ({"warmup": 2.0}, {"base_lr": 0.0}, {"crops": replace(CROPS, local_size=12)}):
        with pytest.raises(AlanError, match=r"warmup|base_lr|local_size 12"):
            module(**changes)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_parse_and_build(path):
    """Every key is known and every value of its type; the network is built for the small ones only."""
    cli_class = type("Parse", (LightningCLI,), {"instantiate_classes": lambda self: None})
    cli = cli_class(
        LightningModule,
        LightningDataModule,
        trainer_class=alan.trainer.Trainer,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=None,
        run=False,
        args=[f"--config={path}"],
    )
    arguments = (
        cli.parser.instantiate_classes(cli.config.clone(with_meta=False)).model if "tiny" in path.stem else None
    )
    if arguments is not None:
        assert isinstance(arguments, DINOModule)
        assert arguments.patch_weight == 1
    assert cli.config.data.init_args.split == "train"
