"""Training on simulation: exact resuming, moving average, agreement, export and invalid input."""

import math
from dataclasses import fields, replace

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from alan.backbone.conv import ConvSpec
from alan.backbone.load import load_backbone
from alan.backbone.simulation.heads import features_loss
from alan.backbone.simulation.module import SimulationModule
from alan.backbone.simulation.network import TeacherEnsemble
from alan.backbone.simulation.objective import SimulationObjective, frame_dice
from alan.backbone.vit import VitSpec
from alan.data.augmentation.dense import DenseAugmentation, warp
from alan.data.loaders.sampling import resumable_loader, whole
from alan.errors import AlanError, CheckpointError, ConfigError, ParameterError

from ...short_trainings import saving, state, trainer

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ["lv", "myo", "la"]
CONV = ConvSpec(image_size=32, widths=(4, 6), token_stride=2)
VIT = VitSpec(image_size=32, patch_size=8, in_chans=1, dim=16, depth=1, heads=2, normalisation="sector")
STILL = DenseAugmentation(**{f.name: 0.0 for f in fields(DenseAugmentation) if f.name != "blur_sigma"})


class Hearts(Dataset):
    """Noisy frames whose structures differ in brightness, with the labels of a simulator."""

    def __init__(self, n, unlabelled):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.zeros(n, 32, 32, dtype=torch.uint8)
        for row in range(n):
            x = 6 + 2 * (row % 4)
            self.labels[row, 4:18, x : x + 12], self.labels[row, 18:28, x : x + 12] = 1, 3
            self.labels[row, 4:18, x - 4 : x] = 2
        noise = torch.randint(0, 40, (n, 32, 32), generator=generator)
        self.frames = (40 + 50 * self.labels.int() + noise).byte()
        self.unlabelled = unlabelled

    def __len__(self):
        return len(self.frames)

    def __getitems__(self, items):
        index = torch.tensor(items) % len(self)
        batch = {
            "frames": self.frames[index],
            "labels": self.labels[index],
            "view": index % 2,
            "phase": torch.where(index % 3 == 0, math.nan, (index % 5) / 4.0),
            "index": index,
        }
        return batch | ({"unlabelled": 255 - self.frames[(index + 1) % len(self)]} if self.unlabelled else {})


class FakeData(LightningDataModule):
    def __init__(self, n=20, batch_size=4, unlabelled=False):
        super().__init__()
        self.n, self.batch_size, self.structures, self.unlabelled = n, batch_size, tuple(NAMES), unlabelled

    def train_dataloader(self):
        data = Hearts(self.n, self.unlabelled)
        return resumable_loader(data, self.batch_size, seed=0, drop_last=True, num_workers=0)

    def val_dataloader(self):
        return DataLoader(Hearts(6, False), batch_size=4, collate_fn=whole)


def module(**changes):
    """A module; ``weights`` and ``augmentation`` are those of its objective."""
    own = {name: changes.pop(name) for name in ("weights", "augmentation") if name in changes}
    settings = {"objective": SimulationObjective(NAMES, **own), "network": CONV, "lr": 0.01, "momentum": 0.5}
    return SimulationModule(**{**settings, **changes})


def fitted(folder, steps=2, **changes):
    model = module(**changes)
    trainer(folder, steps).fit(model, FakeData(unlabelled=bool(model.unlabelled_weight)))
    return model


def weights(model):
    return torch.cat([p.flatten() for p in model.teacher.parameters()])


@pytest.mark.parametrize(
    "changes",
    [{}, {"unlabelled_weight": 1.0}, {"network": VIT, "adapter_rank": 2, "unlabelled_weight": 1.0}],
    ids=["conv", "agreement", "adapted transformer"],
)
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, changes):
    """Seven uninterrupted steps equal three steps, a stop within an epoch, and four resumed steps, bit by bit."""
    data = FakeData(unlabelled="unlabelled_weight" in changes)

    torch.manual_seed(7)
    straight, run = module(**changes), trainer(tmp_path, 7)
    run.fit(straight, data)
    expected = state(straight, run)
    torch.manual_seed(8)
    saves = saving(tmp_path)
    cut = module(**changes)
    cut.total_steps = lambda: 7
    trainer(tmp_path, 3, callbacks=[saves]).fit(cut, data)
    torch.rand(3)
    resumed, run = module(**changes), trainer(tmp_path, 7)
    run.fit(resumed, data, ckpt_path=tmp_path / "last.ckpt")
    result = state(resumed, run)
    assert set(result) == set(expected)
    assert not [name for name, x in expected.items() if not torch.equal(x, result[name])]


def test_training_depends_on_the_seed_only(tmp_path):
    torch.manual_seed(1)
    one = weights(fitted(tmp_path))
    torch.manual_seed(2)
    assert torch.equal(weights(fitted(tmp_path)), one)
    assert not torch.equal(weights(fitted(tmp_path, seed=1)), one)


def test_the_teacher_is_the_moving_average(tmp_path):
    seen = []

    class Watched(SimulationModule):
        def move_teacher(self, momentum):
            before = {name: x.clone() for name, x in self.teacher.state_dict().items()}
            super().move_teacher(momentum)
            now = self.student.state_dict()
            for name, x in self.teacher.state_dict().items():
                if x.is_floating_point():
                    torch.testing.assert_close(x, momentum * before[name] + (1 - momentum) * now[name])
                else:
                    assert torch.equal(x, now[name])
            seen.append((momentum, len([name for name in before if "running" in name])))

    model = Watched(objective=SimulationObjective(NAMES), network=CONV, lr=0.01, momentum=0.25)
    trainer(tmp_path, 4).fit(model, FakeData())
    assert [momentum for momentum, _ in seen] == [1 / 10, 2 / 11, 3 / 12, 0.25]
    assert seen[0][1] > 0
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_teacher_predictions_are_warped_like_the_student_frames():
    model = module(network=replace(CONV, normalisation="unit"), alignment=0.0)
    frames = Hearts(3, False).frames
    grid = torch.nn.functional.affine_grid(
        torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]]).expand(3, -1, -1), [3, 1, 32, 32], align_corners=False
    )
    tissue, distance = model._teacher_predictions(frames, grid)
    plain = model.teacher(frames[:, None].float() / 255)
    torch.testing.assert_close(tissue, plain.tissue.softmax(1).flip(3), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(distance, plain.distance.flip(3), rtol=1e-3, atol=1e-4)
    seen = warp(frames[:, None].float(), grid)
    torch.testing.assert_close(seen, frames[:, None].float().flip(3), rtol=1e-4, atol=1e-3)


def saved(folder, **changes):
    """Checkpoint of a training of two steps, with its heads."""
    saves = saving(folder, every=2)
    model = module(**changes)
    trainer(folder, 2, callbacks=[saves]).fit(model, FakeData())
    return model, folder / "last.ckpt"


def test_predictions_of_several_teachers_are_averaged(tmp_path):
    """Two teachers of different architecture and size give one prediction, cached at the size of the student."""
    vit, one = saved(tmp_path / "vit", network=replace(VIT, image_size=64))
    conv, two = saved(tmp_path / "conv")
    frames = Hearts(3, False).frames
    ensemble = TeacherEnsemble([one, two], 3)
    tissue, distance = ensemble(frames, 16)
    expected = []
    for model in (vit, conv):
        model.teacher.eval()
        with torch.no_grad():
            outputs = model.teacher(model.spec.normalise(frames[:, None].float() / 255))
        planes = torch.cat([outputs.tissue.softmax(1), outputs.distance], 1)
        expected.append(torch.nn.functional.interpolate(planes, (16, 16), mode="bilinear", antialias=True))
    mean = sum(expected) / 2
    torch.testing.assert_close(torch.cat([tissue, distance], 1), mean, rtol=2e-3, atol=2e-3)
    weighted = torch.cat(TeacherEnsemble([one, two], 3, [1.0, 3.0])(frames, 16), 1)
    torch.testing.assert_close(weighted, (expected[0] + 3 * expected[1]) / 4, rtol=2e-3, atol=2e-3)
    for weights in ([1.0], [1.0, -1.0], [0, 0]):
        with pytest.raises(ParameterError, match=r"teacher_weights is .* for 2 teachers: give one number"):
            TeacherEnsemble([one, two], 3, weights)
    for network in ensemble.networks:
        network.forward = None
    assert torch.equal(ensemble(frames[[2, 0]], 16)[0], tissue[[2, 0]])


def test_a_student_learns_from_its_teachers(tmp_path):
    _, file = saved(tmp_path / "teacher", seed=5)
    base = {"unlabelled_weight": 1.0, "unlabelled_ramp": 0.0}
    alone, distilled = fitted(tmp_path, 3, **base), fitted(tmp_path, 3, teachers=[file], **base)
    assert not torch.equal(weights(alone), weights(distilled))
    assert not [name for name in distilled.state_dict() if name.startswith("_teachers")]


def test_a_transformer_adapts_to_unlabelled_frames_by_its_own_average(tmp_path):
    """It starts from a checkpoint with heads; frozen blocks stay, the trained one and the heads move."""
    deep = replace(VIT, depth=2)
    _, file = saved(tmp_path / "start", network=deep)
    settings = {"network": deep, "init": str(file), "trained_blocks": 1, "unlabelled_ramp": 0.0}
    alone, adapted = (fitted(tmp_path, 3, unlabelled_weight=weight, **settings) for weight in (0.0, 1.0))
    old, new = (dict(model.teacher.named_parameters()) for model in (alone, adapted))
    changed = {name for name in new if not torch.equal(old[name], new[name])}
    assert {name.split(".")[0] for name in changed} == {"network", "heads"}
    assert not [name for name in changed if name.startswith("network.blocks.0.")]


def test_features_weight_keeps_the_vector_of_the_frame_near_the_initial_one(tmp_path):
    """The network that the vector is compared with is not part of the run's state."""
    _, file = saved(tmp_path / "start", seed=5)
    free, kept = (fitted(tmp_path, 8, init=str(file), features_weight=w, momentum=0.0) for w in (0.0, 30.0))
    images = CONV.normalise(Hearts(6, False).frames[:, None].float() / 255)
    start, *moved = (model.teacher.eval()(images).features for model in (module(init=str(file)), free, kept))
    assert features_loss(moved[1], start) < 0.7 * features_loss(moved[0], start)
    assert set(kept.state_dict()) == set(free.state_dict())
    with pytest.raises(ParameterError, match=r"features_weight is 1\.0, but there is no network to agree with"):
        module(features_weight=1.0)


def test_a_backbone_without_heads_cannot_be_a_teacher(tmp_path):
    fitted(tmp_path, network=VIT).export(tmp_path / "vit.safetensors")
    with pytest.raises(CheckpointError, match=r"needs heads; give the last\.ckpt"):
        module(unlabelled_weight=1.0, teachers=[tmp_path / "vit.safetensors"])


def test_only_the_last_blocks_are_trained(tmp_path):
    deep = replace(VIT, depth=3)
    before, after = module(network=deep), fitted(tmp_path, network=deep, trained_blocks=1, momentum=0.0)
    changed = {
        name
        for (name, old), new in zip(
            before.student.network.named_parameters(), after.student.network.parameters(), strict=True
        )
        if not torch.equal(old, new)
    }
    assert changed
    assert all(name.startswith(("blocks.2.", "norm.")) for name in changed)
    with pytest.raises(ParameterError, match="trained_blocks is 4: the network has 3 blocks"):
        module(network=deep, trained_blocks=4)
    with pytest.raises(ParameterError, match="trained_blocks is 1: the network has 0 blocks"):
        module(trained_blocks=1)


def test_only_adapters_heads_and_the_norm_are_trained(tmp_path):
    """Adapters add nothing at the start; merged they give the same outputs, and the exported network has none."""
    deep = replace(VIT, depth=3)
    settings = {"network": deep, "trained_blocks": 2, "adapter_rank": 3}
    images = VIT.normalise(Hearts(6, False).frames[:, None].float() / 255)
    before, start = module(network=deep), module(**settings)
    assert torch.equal(start.student.eval()(images).tissue, before.student.eval()(images).tissue)
    after = fitted(tmp_path, momentum=0.0, **settings)
    old, new = (dict(m.student.network.named_parameters()) for m in (start, after))
    changed = {name for name in new if not torch.equal(old[name], new[name])}
    assert {name for name in changed if not name.startswith("norm.")} == {
        f"blocks.{block}.attn.{layer}.parametrizations.weight.0.{side}"
        for block in (1, 2)
        for layer in ("qkv", "proj")
        for side in ("up", "down")
    }
    found, merged = (network.eval()(images).tissue for network in (after.student, after.teacher))
    assert torch.allclose(found, merged, atol=1e-5)
    assert not torch.allclose(merged, before.teacher.eval()(images).tissue, atol=1e-3)
    after.export(tmp_path / "merged.safetensors")
    again = module(network=deep, init=str(tmp_path / "merged.safetensors")).student.network.state_dict()
    assert all(torch.equal(again[name], x) for name, x in after.teacher.network.state_dict().items())
    with pytest.raises(ParameterError, match="adapter_rank is 2, but the network has no transformer blocks"):
        module(adapter_rank=2)


def test_the_backbone_uses_its_share_of_the_learning_rate(tmp_path):
    """Adam's first step moves every weight by the learning rate."""
    before, after = module(), fitted(tmp_path, 1, network_lr=0.1, weight_decay=0.0, warmup=0.0, momentum=0.0)

    def step(part):
        old, new = (dict(getattr(m.student, part).named_parameters()) for m in (before, after))
        return max(float((old[name].detach() - new[name].detach()).abs().max()) for name in old)

    assert step("network") == pytest.approx(0.1 * 0.01, rel=0.02)
    assert step("heads") == pytest.approx(0.01, rel=0.02)


def test_labels_of_unlabelled_frames_are_not_read(tmp_path):
    """Without the weight unlabelled frames change nothing."""
    model = module()
    trainer(tmp_path, 2).fit(model, FakeData(unlabelled=True))
    assert torch.equal(weights(model), weights(fitted(tmp_path)))


def test_training_lowers_the_loss_and_validates(tmp_path):
    model = module(lr=0.05, momentum=0.9, augmentation=STILL)
    run = trainer(tmp_path, 60, limit_val_batches=1.0, val_check_interval=5)
    run.fit(model, FakeData())
    scores = {name: float(x) for name, x in run.callback_metrics.items() if name.startswith("val")}
    assert set(scores) == {"val_dice", "val_dice_lv", "val_dice_myo", "val_dice_la"}
    assert scores["val_dice"] == pytest.approx(sum(scores[f"val_dice_{n}"] for n in NAMES) / 3, abs=1e-5)
    assert scores["val_dice"] > 0.5


def test_frame_dice_matches_hand_computed_values():
    found, labels = torch.tensor([[[1, 1, 0, 2]]]), torch.tensor([[[1, 0, 0, 0]]])
    dice = frame_dice(found, labels, 3)[0]
    assert dice[0].item() == pytest.approx(2 / 3)
    assert dice[1] == 0
    assert dice[2].isnan()


@pytest.mark.parametrize("changes", [{}, {"network": VIT}], ids=["conv", "vit"])
def test_export_and_checkpoint_hold_the_teacher(tmp_path, changes):
    model = module(**changes)
    run = trainer(tmp_path, 3)
    run.fit(model, FakeData())
    model.export(tmp_path / "b.safetensors")
    run.save_checkpoint(tmp_path / "last.ckpt")
    expected = model.spec.lock(model.teacher.network)
    frames = Hearts(2, False).frames
    for name in ("b.safetensors", "last.ckpt"):
        backbone = load_backbone(tmp_path / name)
        assert backbone.fingerprint == expected.fingerprint
        torch.testing.assert_close(backbone(frames).tokens, expected(frames).tokens, rtol=0, atol=0)
    with pytest.raises(CheckpointError, match="another network: "):
        trainer(tmp_path, 4).fit(
            module(network=replace(CONV, widths=(4, 8))), FakeData(), ckpt_path=tmp_path / "last.ckpt"
        )


def test_training_starts_from_a_run_or_a_backbone(tmp_path):
    model = module(seed=3)
    run = trainer(tmp_path, 2)
    run.fit(model, FakeData())
    model.export(tmp_path / "b.safetensors")
    run.save_checkpoint(tmp_path / "last.ckpt")
    whole_run = module(init=str(tmp_path / "last.ckpt"))
    for branch in (whole_run.student, whole_run.teacher):
        assert all(torch.equal(x, model.teacher.state_dict()[name]) for name, x in branch.state_dict().items())
    backbone = module(init=str(tmp_path / "b.safetensors"))
    trained = model.teacher.network.state_dict()
    assert all(torch.equal(x, trained[name]) for name, x in backbone.student.network.state_dict().items())
    assert torch.equal(backbone.student.heads.frame.weight, module().student.heads.frame.weight)
    with pytest.raises(CheckpointError, match="widths"):
        module(network=replace(CONV, widths=(4, 8)), init=str(tmp_path / "b.safetensors"))
    with pytest.raises(CheckpointError, match="no such file"):
        module(init=str(tmp_path / "none.ckpt"))


def test_training_starts_from_shipped_weights_by_name():
    spec = replace(load_backbone("alan-sim-small").spec, structures=())
    model = SimulationModule(objective=SimulationObjective(NAMES), network=spec, init="alan-sim-small")
    shipped = load_backbone("alan-sim-small").network.state_dict()
    assert all(torch.equal(x, shipped[name]) for name, x in model.teacher.network.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0}, "lr is 0: give a number above 0"),
        ({"momentum": 1.5}, "momentum is 1.5"),
        ({"confidence": 1.0}, "below 1"),
        ({"alignment": 1.5}, "alignment is 1.5: give a number from 0 to 1"),
        ({"unlabelled_weight": -1}, "unlabelled_weight is -1: give a number of at least 0"),
    ],
)
def test_invalid_arguments_are_refused(changes, message):
    with pytest.raises(ParameterError, match=message) as error:
        module(**changes)
    assert isinstance(error.value, AlanError)


def test_unsuitable_data_are_refused(tmp_path):
    with pytest.raises(ParameterError, match="coordinates need the structure 'la'"):
        SimulationObjective(["lv", "myo"])
    with pytest.raises(ConfigError, match="set both to the same"):
        trainer(tmp_path).fit(module(objective=SimulationObjective(["lv", "la"])), FakeData())
    with pytest.raises(ConfigError, match="no unlabelled frames"):
        trainer(tmp_path).fit(module(unlabelled_weight=1.0), FakeData())
