"""Training on simulation before DINO, and both objectives in one run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from alan.backbone.checkpoint import export_backbone
from alan.backbone.dino.module import DINOModule
from alan.backbone.load import load_backbone
from alan.backbone.simulation.heads import TargetWeights
from alan.backbone.simulation.joint import JointModule
from alan.backbone.simulation.objective import SimulationObjective
from alan.backbone.vit import VitSpec
from alan.data.augmentation.multicrop import MultiCrop
from alan.data.loaders.simulated import SimulatedDataModule
from alan.errors import CheckpointError, ConfigError, ParameterError

from ...short_trainings import saving, trainer

SPEC = VitSpec(
    image_size=112,
    patch_size=28,
    in_chans=1,
    dim=16,
    depth=1,
    heads=2,
    normalisation="sector",
    initialisation="xavier",
)
DINO = {
    "network": SPEC,
    "crops": MultiCrop(global_size=56, local_size=28, n_local=1),
    "outputs": 8,
    "hidden": 16,
    "bottleneck": 8,
    "momentum": 0.9,
    "base_lr": 0.1,
}
NAMES = ["lv", "myo", "la"]
OBJECTIVE = SimulationObjective(NAMES)


@pytest.fixture
def data(tiny):
    def make(**options):
        settings = {"val_split": None, "unlabelled": [tiny.store("echonet")], "unlabelled_batch_size": 2}
        return SimulatedDataModule([tiny.store("camus")], NAMES, batch_size=2, **{**settings, **options})

    return make


def weights(model):
    return torch.cat([p.flatten() for p in model.teacher.network.parameters()])


def test_dino_starts_from_a_trained_network(tmp_path):
    vit, path = SPEC.build_seeded(5), tmp_path / "b.safetensors"
    export_backbone(vit, SPEC, path)
    model, fresh = DINOModule(**DINO, init=str(path)), DINOModule(**DINO)
    for branch in (model.student, model.teacher):
        assert all(torch.equal(x, vit.state_dict()[name]) for name, x in branch.network.state_dict().items())
    heads = fresh.student.head.state_dict()
    assert all(torch.equal(x, heads[name]) for name, x in model.student.head.state_dict().items())
    other = VitSpec(image_size=112, patch_size=28, in_chans=1, dim=16, depth=2, heads=2, normalisation="sector")
    with pytest.raises(CheckpointError, match="depth 1 where the config has 2"):
        DINOModule(**{**DINO, "network": other}, init=str(path))


def test_both_losses_train_the_network(tmp_path, data):
    def final(**changes):
        model = JointModule(**{"objective": OBJECTIVE, **DINO, **changes})
        trainer(tmp_path, 2).fit(model, data())
        return weights(model)

    both = final()
    assert torch.equal(both, final())
    assert not torch.equal(both, final(simulation_weight=2.0))
    assert not torch.equal(both, final(objective=replace(OBJECTIVE, weights=TargetWeights(distance=0.0))))
    alone = DINOModule(**DINO)

    class Unlabelled(LightningDataModule):
        def train_dataloader(self):
            batches = [{"frames": batch["unlabelled"]} for batch in data().train_dataloader()]
            return DataLoader(batches, batch_size=None)

    trainer(tmp_path, 2).fit(alone, Unlabelled())
    torch.testing.assert_close(final(simulation_weight=0.0), weights(alone), rtol=0, atol=0)


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, data):
    straight = JointModule(objective=OBJECTIVE, **DINO)
    trainer(tmp_path, 4).fit(straight, data())
    cut = JointModule(objective=OBJECTIVE, **DINO)
    cut.total_steps = lambda: 4
    saves = saving(tmp_path)
    trainer(tmp_path, 3, callbacks=[saves]).fit(cut, data())
    resumed, run = JointModule(objective=OBJECTIVE, **DINO), trainer(tmp_path, 4)
    run.fit(resumed, data(), ckpt_path=Path(tmp_path) / "last.ckpt")
    expected = straight.state_dict()
    assert not [name for name, x in resumed.state_dict().items() if not torch.equal(x, expected[name])]
    resumed.export(tmp_path / "b.safetensors")
    run.save_checkpoint(tmp_path / "end.ckpt")
    assert (
        load_backbone(tmp_path / "b.safetensors").fingerprint == load_backbone(tmp_path / "end.ckpt").fingerprint
    )


def test_invalid_arguments_are_refused(tmp_path, data):
    with pytest.raises(ParameterError, match="simulation_weight is -1"):
        JointModule(objective=OBJECTIVE, simulation_weight=-1, **DINO)
    with pytest.raises(ParameterError, match="coordinates need the structure 'lv'"):
        SimulationObjective(["la"])
    with pytest.raises(ConfigError, match="unlabelled frames"):
        trainer(tmp_path, 1).fit(JointModule(objective=OBJECTIVE, **DINO), data(unlabelled=None))
    with pytest.raises(ConfigError, match="set both to the same"):
        trainer(tmp_path, 1).fit(JointModule(objective=SimulationObjective(["lv", "la"]), **DINO), data())


def test_stochastic_depth_depends_on_the_seed(tmp_path, data):
    found = []
    for state in (1, 2):
        model = JointModule(objective=OBJECTIVE, **{**DINO, "network": replace(SPEC, depth=2), "drop_path": 0.5})
        torch.manual_seed(state)
        trainer(tmp_path, 2).fit(model, data())
        found.append(weights(model))
    assert torch.equal(*found)
