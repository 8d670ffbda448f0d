import json

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from alan.errors import CheckpointError, ConfigError, ParameterError
from alan.supervised.segmenter import load_segmenter, save_segmenter
from alan.supervised.settings import NetworkSpec

from ..discs import SMALL, picture, untrained_segmenter

DROPOUT = NetworkSpec("unet_acdc", None, decoder_channels=(4, 8), dropout=0.2, dropout_at="decoder")


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.model.parameters()])


def frames(n=2, size=32):
    return torch.from_numpy(np.stack([picture(seed, size)[0] for seed in range(n)]))


@pytest.fixture(scope="module")
def trained(discs):
    """A few epochs on the discs, and the trainer."""
    module = discs.module(losses={"cross_entropy": 1.0, "dice": 1.0}, augmentation="echo", normalisation="sector")
    trainer = discs.trainer(max_epochs=25, check_val_every_n_epoch=25)
    trainer.fit(module, discs.data())
    return module, trainer


def test_training_lowers_the_loss(trained):
    _, trainer = trained
    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert scores["val_dice"] > 0.85
    assert scores["val_iou_lv"] == pytest.approx(scores["val_dice_lv"] / (2 - scores["val_dice_lv"]), abs=0.03)
    assert scores["val_accuracy"] > 0.9
    assert np.isfinite(scores["val_loss"])


class Crash(Callback):
    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.steps:
            raise RuntimeError("power cut")


@pytest.mark.parametrize("steps", [2, 4])
def test_a_resumed_run_equals_the_uninterrupted_one(discs, tmp_path, steps):
    """Three steps per epoch; augmentation, dropout, cosine and order go on as if nothing had happened."""
    options = {"network": DROPOUT, "augmentation": "ednas", "schedule": "cosine"}
    straight = discs.module(**options)
    discs.trainer(max_epochs=2).fit(straight, discs.data())
    saver = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0, every_n_train_steps=1)
    with pytest.raises(RuntimeError, match="power cut"):
        discs.trainer(max_epochs=2, callbacks=[saver, Crash(steps)]).fit(discs.module(**options), discs.data())
    resumed = discs.module(**options)
    torch.manual_seed(steps)  # the global generator does not matter
    discs.trainer(max_epochs=2).fit(resumed, discs.data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert torch.equal(weights(resumed), weights(straight))


def test_the_learning_rate_follows_the_cosine(discs):
    seen = []

    class Rates(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    discs.trainer(max_epochs=2, callbacks=[Rates()], limit_val_batches=0).fit(
        discs.module(schedule="cosine", lr=1.0), discs.data()
    )
    assert seen == pytest.approx([0.5 * (1 + np.cos(np.pi * step / 6)) for step in range(6)])


def test_the_best_weights_are_exported(discs, tmp_path):
    class Spoil(Callback):
        """After the first validation the network forgets."""

        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 1:
                for parameter in module.model.parameters():
                    parameter.data.zero_()

    module = discs.module()
    metric, mode = module.monitor
    best = ModelCheckpoint(tmp_path, "best", monitor=metric, mode=mode, save_weights_only=True)
    trainer = discs.trainer(max_epochs=2, check_val_every_n_epoch=1, callbacks=[best, Spoil()])
    trainer.fit(module, discs.data())
    state = torch.load(best.best_model_path, weights_only=True)["state_dict"]
    segmenter = module.segmenter()
    for name, tensor in segmenter.model.state_dict().items():
        assert torch.equal(tensor, state[f"model.{name}"])
    assert segmenter.provenance["val_dice"] == pytest.approx(float(best.best_model_score))
    assert not torch.equal(torch.cat([p.flatten() for p in segmenter.model.parameters()]), weights(module))
    (tmp_path / "best.ckpt").unlink()
    with pytest.raises(CheckpointError, match="best checkpoint of this run is missing"):
        module.segmenter()


def test_an_exported_segmenter_loads_unchanged(trained, discs, tmp_path):
    module, _ = trained
    module.export(tmp_path / module.export_name)
    loaded = load_segmenter(tmp_path / "segmenter.safetensors")
    own = module.segmenter()
    assert loaded.fingerprint == own.fingerprint
    assert loaded.structures == ("lv", "myo", "la")
    assert loaded.size == 32
    assert loaded.provenance == own.provenance
    assert loaded.provenance["label_patients"] == 6
    assert {"stores", "preprocessing", "command", "steps"} <= set(loaded.provenance)
    x = frames(4)
    probabilities = loaded.probabilities(x)
    assert torch.equal(probabilities, own.probabilities(x))
    assert torch.allclose(probabilities, module.eval()(x).softmax(1))
    assert probabilities.shape == (4, 4, 32, 32)
    assert torch.allclose(probabilities.sum(1), torch.ones(4, 32, 32), atol=1e-5)
    masks = loaded.masks(x)
    assert list(masks) == ["lv", "myo", "la"]
    assert not (masks["lv"] & masks["myo"]).any()
    truth = np.stack([picture(seed)[1]["lv"] for seed in range(4)])
    both = (masks["lv"].numpy() & truth).sum()
    assert 2 * both / (masks["lv"].sum() + truth.sum()) > 0.8


def test_lightning_reads_checkpoints_and_predicts(trained, discs, tmp_path):
    module, trainer = trained
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    settings = {"losses": {"cross_entropy": 1.0, "dice": 1.0}, "augmentation": "echo", "normalisation": "sector"}
    loaded = type(module).load_from_checkpoint(
        tmp_path / "c.ckpt", structures=["lv", "myo", "la"], network=module.spec, **settings
    )
    assert torch.equal(weights(loaded), weights(module))
    found = loaded.eval().predict_step({"frames": frames(3)}, 0)
    assert torch.equal(found, module.eval()(frames(3)).argmax(1))


def test_a_segmenter_is_locked(trained):
    segmenter = trained[0].segmenter()
    before = {name: x.clone() for name, x in segmenter.state_dict().items()}
    segmenter.train()
    assert not any(part.training for part in segmenter.modules())
    assert not any(p.requires_grad for p in segmenter.parameters())
    segmenter.probabilities(frames())
    assert all(torch.equal(x, before[name]) for name, x in segmenter.state_dict().items())


def test_frames_of_another_size_are_segmented():
    segmenter = untrained_segmenter(SMALL, ["lv"], size=32)
    large = frames(size=48)
    probabilities = segmenter.probabilities(large)
    assert probabilities.shape == (2, 1, 48, 48)
    assert segmenter.classes == 1
    assert torch.equal(segmenter.masks(large)["lv"], probabilities[:, 0] > 0.5)
    free = untrained_segmenter(SMALL, ["lv"])  # takes them as they come
    assert not torch.allclose(free.probabilities(large), probabilities)
    assert torch.equal(free.probabilities(frames()), segmenter.probabilities(frames()))
    assert torch.equal(segmenter.probabilities(large.numpy()), probabilities)  # as a frame store gives them
    with pytest.raises(ParameterError, match=r"uint8 of shape \(B, H, W\)"):
        segmenter.probabilities(large.float())


def test_different_segmenters_have_different_fingerprints():
    base = untrained_segmenter(SMALL, ["lv"], size=32)
    others = [
        untrained_segmenter(SMALL, ["lv"], size=32, seed=1),
        untrained_segmenter(SMALL, ["la"], size=32),
        untrained_segmenter(SMALL, ["lv"], "sector", size=32),
        untrained_segmenter(SMALL, ["lv"], size=48),
    ]
    assert untrained_segmenter(SMALL, ["lv"], size=32).fingerprint == base.fingerprint
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_invalid_files_are_refused(tmp_path):
    path = tmp_path / "s.safetensors"
    with pytest.raises(CheckpointError, match="no such segmenter"):
        load_segmenter(path)
    save_segmenter(untrained_segmenter(NetworkSpec("fpn", "resnet18", depth=3), ["lv", "la"]), path)
    load_segmenter(path)
    with safe_open(path, "pt") as handle:
        entry = json.loads(handle.metadata()["alan"])
    tensors = load_file(path)

    def refused(match, tensors=tensors, **change):
        save_file(tensors, path, metadata={"alan": json.dumps({**entry, **change})})
        with pytest.raises(CheckpointError, match=match):
            load_segmenter(path)

    refused("schema is 'other/1'", schema="other/1")
    refused("do not belong together", structures=["lv"])
    refused("do not belong together", network={**entry["network"], "depht": 3})
    refused("changed after it was written", normalisation="sector")
    first = next(iter(tensors))
    refused("changed after it was written", tensors={**tensors, first: tensors[first] + 1})
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="truncated"):
        load_segmenter(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr is 0.0: give a number above 0"),
        ({"optimiser": "adm"}, "optimiser is 'adm': did you mean 'adam'"),
        ({"schedule": "cosin"}, "schedule is 'cosin'"),
        ({"augmentation": "echoo"}, "unknown augmentation"),
        ({"structures": ()}, "structures is empty"),
    ],
)
def test_invalid_settings_are_refused(discs, options, message):
    with pytest.raises(ParameterError, match=message):
        discs.module(**options)


def test_data_of_other_structures_are_refused(discs):
    with pytest.raises(
        ConfigError, match=r"data have labels of 2 structure\(s\) \(lv, la\), the network is for 3"
    ):
        discs.trainer(max_epochs=1).fit(discs.module(), discs.data(structures=("lv", "la")))


def test_labels_beyond_the_structures_are_refused(discs):
    module = discs.module(structures=("lv",))
    batch = {"frames": frames(), "labels": torch.full((2, 32, 32), 2, dtype=torch.uint8)}
    with pytest.raises(ParameterError, match=r"hold the label 2, the network has 1 structure\(s\)"):
        module.training_step(batch, 0)


def test_a_cosine_schedule_needs_a_number_of_steps(discs):
    with pytest.raises(ParameterError, match=r"set trainer.max_epochs or max_steps"):
        discs.trainer(max_epochs=-1).fit(discs.module(schedule="cosine"), discs.data())


def test_divergence_is_reported(discs):
    module = discs.module()
    for parameter in module.model.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(ParameterError, match="the loss is nan at step 0: lower the learning rate"):
        discs.trainer(max_epochs=1, num_sanity_val_steps=0).fit(module, discs.data())


def test_a_batch_of_one_is_refused_with_batch_norm(discs):
    module = discs.module(network=NetworkSpec("deeplabv3", "resnet18"))
    with pytest.raises(ParameterError, match="deeplabv3 cannot be trained with batches of one frame"):
        discs.trainer(max_epochs=1, num_sanity_val_steps=0).fit(module, discs.data(batch_size=1))


def test_a_checkpoint_of_another_network_is_refused(discs):
    module, other = discs.module(), discs.module(network=DROPOUT)
    checkpoint = {}
    other.on_save_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match=r"another network: decoder_channels \(4, 8\) where"):
        module.on_load_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match="not one of a segmentation"):
        module.on_load_checkpoint({})


def test_the_learning_rate_follows_the_polynomial(discs):
    """nnU-Net's: lr (1 - t / T)^0.9."""
    module = discs.module(schedule="polynomial", lr=0.1)
    rates = []

    class Note(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    discs.trainer(max_steps=4, callbacks=[Note()]).fit(module, discs.data())
    assert rates == pytest.approx([0.1 * (1 - t / 4) ** 0.9 for t in range(4)])


def test_the_moving_average_matches_hand_computed_values(discs):
    """After each step it moves by 1 - momentum towards the weights, and is what is validated and exported."""
    module, steps = discs.module(average=0.3, network=NetworkSpec("unet_acdc", None, decoder_channels=(4, 8))), []

    class Note(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            steps.append({name: x.clone() for name, x in module.model.state_dict().items()})

    slow = {name: x.clone() for name, x in module.model.state_dict().items()}
    discs.trainer(max_steps=5, callbacks=[Note()]).fit(module, discs.data())
    for step, fast in enumerate(steps):
        momentum = min(0.3, (1 + step) / (10 + step))
        for name, value in slow.items():
            slow[name] = (
                momentum * value + (1 - momentum) * fast[name] if value.is_floating_point() else fast[name]
            )
    exported = module.segmenter().model.state_dict()
    for name, value in slow.items():
        torch.testing.assert_close(exported[name], value)
    assert not torch.equal(
        exported["network.segmentation_head.0.weight"], steps[-1]["network.segmentation_head.0.weight"]
    )
    logits = module.eval()(frames())
    torch.testing.assert_close(logits, module.teacher(frames()[:, None].float() / 255))


def test_a_resumed_moving_average_equals_the_uninterrupted_one(discs, tmp_path):
    options = {"average": 0.9, "schedule": "polynomial", "augmentation": "cardiac_mr"}
    straight = discs.module(**options)
    discs.trainer(max_epochs=2).fit(straight, discs.data())
    keep = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1, save_top_k=0)
    cut = discs.trainer(max_epochs=2, callbacks=[keep, Crash(4)])
    with pytest.raises(RuntimeError, match="power cut"):
        cut.fit(discs.module(**options), discs.data())
    resumed = discs.module(**options)
    discs.trainer(max_epochs=2).fit(resumed, discs.data(), ckpt_path=tmp_path / "last.ckpt")
    assert resumed.segmenter().fingerprint == straight.segmenter().fingerprint
