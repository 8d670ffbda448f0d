"""Training inside an experiment: the same weights as a plain Lightning run, bounds, validations, starts."""

import inspect
from dataclasses import fields, replace

import pytest
import torch

from alan.errors import CheckpointError, ParameterError
from alan.supervised.module import SegmentationModule
from alan.supervised.segmenter import load_segmenter, save_segmenter
from alan.supervised.settings import TrainingSettings
from alan.supervised.training import start_from, train

from ..discs import SMALL, untrained_segmenter

STRUCTURES = ("lv", "la")
SETTINGS = TrainingSettings(
    network=SMALL,
    losses={"cross_entropy": 1.0},
    lr=1e-2,
    augmentation="echo",
    batch_size=4,
    steps=5,
    accelerator="cpu",  # weights are compared bit by bit
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, "lr is 0.0: give a number above 0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0: give a number of at least 0"),
        ({"losses": {"dice": 0.0}}, r"losses\[dice\] is 0.0: give a number above 0"),
        ({"batch_size": 0}, "batch_size is 0: give a whole number of at least 1"),
        ({"epochs": 0}, "epochs is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"optimiser": "adamm"}, "optimiser is 'adamm': did you mean 'adam"),
        ({"schedule": "cosin"}, "schedule is 'cosin': did you mean 'cosine'"),
        ({"precision": "bf16"}, "precision is 'bf16': did you mean 'bf16-mixed'"),
    ],
)
def test_invalid_settings_are_refused(change, message):
    with pytest.raises(ParameterError, match=message):
        replace(SETTINGS, **change)


def test_defaults_equal_those_of_the_module():
    module = inspect.signature(SegmentationModule).parameters
    shared = [field.name for field in fields(TrainingSettings) if field.name in module]
    assert {"network", *TrainingSettings().module_options()} == set(shared)
    for name in set(shared) - {"losses"}:  # the module has no default of it
        assert getattr(TrainingSettings(), name) == module[name].default, name


@pytest.mark.parametrize(
    "change", [{}, {"steps": None, "epochs": 2, "schedule": "cosine"}], ids=["steps", "epochs"]
)
def test_weights_equal_those_of_a_plain_lightning_run(discs, change):
    settings, data = replace(SETTINGS, **change), discs.data(STRUCTURES, seed=7)
    segmenter = train(settings, data.train_frames, 7)
    module = SegmentationModule.from_settings(settings, STRUCTURES, 7)
    length = {"max_steps": 5} if settings.steps else {"max_epochs": 2}
    discs.trainer(**length).fit(module, discs.data(STRUCTURES, seed=7))
    expected = module.segmenter()
    assert (segmenter.fingerprint, segmenter.size) == (expected.fingerprint, 32)
    assert train(settings, data.train_frames, 8).fingerprint != segmenter.fingerprint


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"steps": 5}, [1, 2]), ({"steps": None, "epochs": 4}, [1, 2]), ({"steps": 1}, [])],
    ids=["steps", "epochs", "short"],
)
def test_validations_are_reported_without_changing_the_weights(discs, change, expected):
    data, seen = discs.data(STRUCTURES), []
    options = {"val": data.val_frames, "val_every": 2}
    segmenter = train(
        replace(SETTINGS, **change), data.train_frames, 0, **options, on_validation=lambda *call: seen.append(call)
    )
    assert [number for number, _ in seen] == expected
    assert all({"val_iou", "val_dice", "val_iou_lv", "val_loss"} <= set(scores) for _, scores in seen)
    without = train(replace(SETTINGS, **change), data.train_frames, 0)
    assert segmenter.fingerprint == without.fingerprint  # validation does not change the weights


def test_a_callback_can_end_the_training(discs):
    def end(number, scores):
        raise KeyboardInterrupt

    data = discs.data(STRUCTURES)
    with pytest.raises(KeyboardInterrupt):
        train(SETTINGS, data.train_frames, 0, val=data.val_frames, on_validation=end)


def test_dropout_can_be_removed_from_settings():
    settings = replace(SETTINGS, network=replace(SMALL, dropout=0.3))
    assert settings.without_dropout() == SETTINGS


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A segmenter that has more structures, in another order."""
    path = tmp_path_factory.mktemp("source") / "segmenter.safetensors"
    save_segmenter(untrained_segmenter(SMALL, ("la", "myo", "lv"), "unit", 32, seed=3), path)
    return str(path)


def test_a_training_starts_from_weights_of_the_same_structures(source, discs):
    module = SegmentationModule.from_settings(SETTINGS, STRUCTURES, 0)
    start_from(module, load_segmenter(source), source)
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        mine, theirs = module.model.eval()(images), load_segmenter(source).model(images)
    torch.testing.assert_close(mine, theirs[:, [0, 3, 1]])  # background, lv, la out of background, la, myo, lv
    slow = replace(SETTINGS, lr=1e-9, steps=1)
    started = train(slow, discs.data(STRUCTURES).train_frames, 0, start=source)
    torch.testing.assert_close(
        started.model.network.segmentation_head[-1].weight, module.model.network.segmentation_head[-1].weight
    )


@pytest.mark.parametrize(
    ("change", "structures", "message"),
    [
        ({"network": replace(SMALL, decoder_channels=(8, 16))}, STRUCTURES, "its network is"),
        ({"normalisation": "sector"}, STRUCTURES, "its normalisation is unit, not sector"),
        ({}, ("lv", "rv"), "it segments la, myo, lv, asked for are lv, rv"),
        ({"losses": {"dice": 1.0}}, ("lv",), "asked for are lv"),
    ],
)
def test_unsuitable_initial_weights_are_refused(source, change, structures, message):
    module = SegmentationModule.from_settings(replace(SETTINGS, **change), structures, 0)
    with pytest.raises(CheckpointError, match=message):
        start_from(module, load_segmenter(source), source)
