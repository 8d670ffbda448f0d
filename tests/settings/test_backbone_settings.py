"""Settings of backbones and of their trainings."""

from dataclasses import fields, replace

import pytest
import torch

from alan.backbone.checkpoint import export_backbone
from alan.backbone.conv import ConvBackbone, ConvSpec
from alan.backbone.dino.loss import DINOLoss, PatchLoss
from alan.backbone.dino.module import DINOModule
from alan.backbone.load import load_backbone, random_backbone
from alan.backbone.simulation.heads import TargetWeights
from alan.backbone.simulation.joint import JointModule
from alan.backbone.simulation.module import SimulationModule
from alan.backbone.simulation.objective import SimulationObjective
from alan.backbone.timm_vit import TimmSpec
from alan.backbone.vit import VitBackbone, VitSpec
from alan.data.augmentation.dense import DenseAugmentation
from alan.data.loaders.simulated import SimulatedDataModule

from ..backbone.dino import test_dino_module as dino
from ..backbone.simulation import test_simulation_module as simulation
from ..short_trainings import trainer
from ..varying import cases, name_of, other, study

OBJECTIVE = SimulationObjective(["lv", "myo", "la"])


def frames(size=32, n=3):
    images = torch.randint(1, 256, (n, size, size), generator=torch.Generator().manual_seed(0)).byte()
    images[:, :, :5] = 0  # outside the sector
    return images


def features(backbone, size=32):
    cls, tokens = backbone(frames(size))[:2]
    return cls, tokens


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("settings")


@pytest.fixture
def env(tiny, folder):
    tiny.settings = folder
    return tiny


@study(
    DINOModule,
    network=replace(dino.SPEC, dim=32),
    crops=replace(dino.CROPS, noise=0.0),
    drop_path=0.9,
    outputs=9,
    hidden=17,
    bottleneck=9,
    batch_norm=True,
    base_lr=0.3,
    final_lr=1e-2,
    warmup=0.9,
    weight_decay=(0.9, 0.9),
    momentum=0.5,
    student_temperature=0.5,
    teacher_temperature=(0.5, 0.5),
    teacher_warmup=other(0.1, teacher_temperature=(0.04, 0.5)),
    centre_momentum=0.1,
    freeze_last_layer=1.0,
    gradient_clip=0.01,
    patch_weight=0.5,
    patch_prototypes=7,
    patch_temperature=0.5,
    seed=1,
    untried={"init": "a file: tests/backbone/simulation/test_joint.py"},
)
def dino_training(env, **settings):
    model = dino.module(**settings)
    trainer(env.settings, 3).fit(model, dino.FakeData(n=12))
    return model.teacher


@study(DINOLoss, student_temperature=0.5, centre_momentum=0.1)
def dino_loss(env, **settings):
    loss = DINOLoss(6, **settings)
    student, teacher = (torch.rand(8, 6, generator=torch.Generator().manual_seed(i)) for i in range(2))
    loss.update_centre(teacher.mean(0))
    return loss(student, teacher, 4, 0.04)


@study(PatchLoss, prototypes=9, student_temperature=0.5, teacher_temperature=0.5, centre_momentum=0.1)
def patch_loss(env, **settings):
    loss = PatchLoss(**settings)
    shape = (4, 3, 3, loss.centre.numel())
    student, teacher = (torch.rand(shape, generator=torch.Generator().manual_seed(i)) for i in range(2))
    boxes = torch.tensor([[1.0, 1, 0, 0], [0.5, 0.5, 0.1, 0], [1, 1, 0, 0], [0.7, 0.7, 0, 0.2]])
    loss.update_centre(teacher.mean((0, 1, 2)))
    return loss(student, teacher, boxes, torch.ones(4, 3, 3, dtype=torch.bool))


def simulated(env, steps=3, **settings):
    model = simulation.module(**settings)
    data = simulation.FakeData(unlabelled=bool(model.unlabelled_weight))
    trainer(env.settings, steps).fit(model, data)
    return [*model.teacher.parameters()]


AGREEMENT = {"unlabelled_weight": 1.0, "unlabelled_ramp": 0.0}


def trained_conv(env, seed=5):
    path = env.settings / f"conv_{seed}.safetensors"
    if not path.exists():
        spec = replace(simulation.CONV, structures=tuple(simulation.NAMES))
        export_backbone(spec.build_seeded(seed), spec, path)
    return str(path)


#: Seeds of the networks that stand for a list of teachers.
TEACHERS = {"one file": (5,), "two files": (5, 6)}


class _Trained:
    """The file of a network that the environment makes."""

    def __init__(self, seed=5):
        self.seed = seed

    def __repr__(self):
        return f"trained {self.seed}"


def with_files(env, settings):
    return {
        name: trained_conv(env, value.seed)
        if isinstance(value, _Trained)
        else [trained_conv(env, seed) for seed in TEACHERS[value]]
        if name == "teachers"
        else value
        for name, value in settings.items()
    }


@study(
    SimulationModule,
    network=replace(simulation.CONV, widths=(4, 8)),
    lr=0.02,
    final_lr=0.005,
    warmup=1.0,
    weight_decay=0.9,
    network_lr=0.5,
    trained_blocks=other(0, network=replace(simulation.VIT, depth=2)),
    adapter_rank=other(2, network=simulation.VIT),
    momentum=0.1,
    unlabelled_weight=other(2.0, **AGREEMENT),
    unlabelled_ramp=other(1.0, **AGREEMENT),
    confidence=other(0.3, **AGREEMENT),
    teachers=other("one file", **AGREEMENT),
    teacher_weights=other((1.0, 3.0), teachers="two files", **AGREEMENT),
    features_weight=other(1.0, init=_Trained()),
    features_of=other(_Trained(6), features_weight=1.0, init=_Trained()),
    alignment=other(0.0, **AGREEMENT),
    init=_Trained(),
    seed=1,
)
def simulation_training(env, **settings):
    return simulated(env, **with_files(env, settings))


@study(SimulationObjective, weights=TargetWeights(tissue=0.5), augmentation=simulation.STILL)
def objective(env, **settings):
    return simulated(env, **settings)


@study(TargetWeights, tissue=0.0, distance=0.0, coordinates=0.0, view=0.0, phase=0.0, small=1.0, clip=3.0)
def target_weights(env, **settings):
    return simulated(env, weights=TargetWeights(**settings))


@study(JointModule, simulation_weight=0.0)
def joint(env, **settings):
    from ..backbone.simulation import test_joint

    data = SimulatedDataModule(
        [env.store("camus")],
        ["lv", "myo", "la"],
        batch_size=2,
        val_split=None,
        unlabelled=[env.store("echonet")],
        unlabelled_batch_size=2,
    )
    model = JointModule(objective=OBJECTIVE, **test_joint.DINO, **settings)
    trainer(env.settings, 2).fit(model, data)
    return model.teacher.network


@study(
    VitSpec,
    image_size=48,
    patch_size=16,
    in_chans=3,
    dim=32,
    depth=2,
    heads=4,
    mlp_ratio=2.0,
    normalisation="sector",
    initialisation="xavier",
    base={"image_size": 32, "patch_size": 8, "in_chans": 1, "dim": 16, "depth": 1, "heads": 2},
)
def vit(env, **settings):
    return features(random_backbone(VitSpec(**settings)))


@study(
    ConvSpec,
    image_size=48,
    widths=(4, 8),
    stem_stride=2,
    in_chans=3,
    normalisation="imagenet",
    feature_levels=(0,),
    token_stride=4,
    structures=("lv",),
    base={"image_size": 32, "widths": (4, 6, 8)},
)
def conv(env, **settings):
    return features(random_backbone(ConvSpec(**settings)))


TIMM = {"depth": 1, "embed_dim": 16, "num_heads": 2}


@study(
    TimmSpec,
    image_size=64,
    in_chans=1,
    normalisation="sector",
    options=TIMM | {"init_values": 1e-5, "reg_tokens": 2},
    base={"image_size": 32, "options": TIMM},
)
def timm(env, **settings):
    return features(random_backbone(TimmSpec("vit_tiny_patch16_224", **settings)))


@study(VitBackbone, input_size=40, stride=4)
def locked_vit(env, **settings):
    return features(VitBackbone(simulation.VIT.build_seeded(0), simulation.VIT, **settings))


@study(ConvBackbone, input_size=40, stride=4)
def locked_conv(env, **settings):
    return features(ConvBackbone(simulation.CONV.build_seeded(0), simulation.CONV, **settings))


@study(random_backbone, seed=1, input_size=40, stride=4)
def random_weights(env, **settings):
    return features(random_backbone(simulation.VIT, **settings))


@study(load_backbone, input_size=40, stride=4, untried={"weights": "a file for a name of timm"})
def loaded(env, **settings):
    return features(load_backbone(env.backbone(), **settings))


@study(export_backbone, provenance={"training": "none"})
def exported(env, **settings):
    path = env.settings / "exported.safetensors"
    export_backbone(simulation.VIT.build_seeded(0), simulation.VIT, path, **settings)
    return path


@study(
    DenseAugmentation,
    **{f.name: 0.0 for f in fields(DenseAugmentation) if f.name != "blur_sigma"},
    blur_sigma=(3.0, 4.0),
)
def dense(env, **settings):
    draw, generator = DenseAugmentation(**settings), torch.Generator().manual_seed(0)
    images = frames(32, 4)[:, None] / 255
    return draw.draw_grid(4, 32, generator), draw.change(images, images > 0, generator)


@pytest.mark.parametrize(("study", "name"), cases(__name__), ids=name_of)
def test_each_setting_changes_the_result(env, study, name):
    study.check(env, name)
