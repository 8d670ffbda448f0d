"""Data module of dense training: content of a batch, and its dependence on seed and epoch only."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from alan.data.augmentation.dense import DenseAugmentation
from alan.data.loaders.simulated import SimulatedDataModule, phase_fraction
from alan.data.sample import VIEWS
from alan.data.splits import draw_patients
from alan.data.store.reader import FrameStore
from alan.errors import AlanError, DataError, ParameterError, SplitLeakError

#: An augmentation that changes nothing.
NOTHING = DenseAugmentation(**{f.name: 0 for f in fields(DenseAugmentation) if f.name != "blur_sigma"})


@pytest.fixture
def data(tiny):
    def make(**options):
        structures = options.pop("structures", ["lv", "myo", "la"])
        return SimulatedDataModule([tiny.store("camus")], structures, **{"batch_size": 4, **options})

    return make


def test_phase_targets_match_hand_computed_values():
    assert [phase_fraction(f, 2, 6) for f in (2, 3, 6)] == [0, 0.25, 1]
    assert phase_fraction(3, 4, 2) == 0.5  # the store's clip may begin at ES
    for frame, ed, es in ((1, 2, 6), (7, 2, 6), (3, None, 6), (3, 2, None), (2, 2, 2)):
        assert np.isnan(phase_fraction(frame, ed, es))


def test_a_batch_agrees_with_the_store(data, tiny):
    store = FrameStore(tiny.store("camus"))
    module = data(structures=["la", "lv"])
    module.setup()
    batch = next(iter(module.train_dataloader()))
    assert {name: tuple(x.shape) for name, x in batch.items()} == {
        "frames": (4, 112, 112),
        "labels": (4, 112, 112),
        "view": (4,),
        "phase": (4,),
        "index": (4,),
    }
    for row in range(4):
        frame = int(batch["index"][row])
        sequence = next(s for s in store.sequences if s.start <= frame < s.start + s.length)
        assert sequence.split == "train"
        assert VIEWS[batch["view"][row]] == sequence.view
        assert batch["phase"][row] == pytest.approx((frame - sequence.ed) / (sequence.es - sequence.ed))
        assert np.array_equal(batch["frames"][row].numpy(), store.frames([frame])[0])
        label = int(np.flatnonzero(store.label_frames == frame)[0])
        for value, name in enumerate(("la", "lv"), 1):
            assert np.array_equal(batch["labels"][row].numpy() == value, store.masks([label], name)[0])
    assert batch["labels"].max() == 2


def test_validation_uses_other_patients_evenly_spread(data, tiny):
    store = FrameStore(tiny.store("camus"))
    module = data(val_frames=3)
    (batch,) = list(module.val_dataloader())
    sides = {s.split for s in store.sequences for i in batch["index"] if s.start <= i < s.start + s.length}
    assert sides == {"val"}
    assert len(batch["frames"]) == 3
    assert len(data(val_frames=None).validation_frames) == len(store.labelled("val", None, None))
    assert data(val_split=None).val_dataloader() == []


def test_unlabelled_frames_depend_on_seed_epoch_and_batch(data, tiny):
    def drawn(epoch=0, **options):
        module = data(unlabelled=[tiny.store("echonet")], unlabelled_batch_size=5, **options)
        loader = module.train_dataloader()
        loader.sampler.set_epoch(epoch)
        return torch.stack([batch["unlabelled"] for batch in loader])

    first = drawn()
    assert first.shape[1:] == (5, 112, 112)
    assert torch.equal(first, drawn())
    assert not torch.equal(first, drawn(epoch=1))
    assert not torch.equal(first, drawn(seed=1))
    assert not torch.equal(first[0], first[1])
    store = FrameStore(tiny.store("echonet"))
    train = np.concatenate([store.frames(range(s.start, s.start + s.length)) for s in store.select("train")])
    known = {frame.tobytes() for frame in train}
    assert all(frame.numpy().tobytes() in known for frame in first.flatten(0, 1))


def test_changed_unlabelled_frames_are_the_same_in_every_epoch(data, tiny):
    store = FrameStore(tiny.store("echonet"))
    plain = np.concatenate([store.frames(range(s.start, s.start + s.length)) for s in store.select("train")])

    def drawn(epoch=0, changes=DenseAugmentation(), **options):  # noqa: B008 (frozen)
        unlabelled = {"unlabelled": [tiny.store("echonet")], "unlabelled_batch_size": len(plain)}
        loader = data(**unlabelled, unlabelled_changes=changes, **options).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return next(iter(loader))["unlabelled"].numpy()

    def bytes_of(frames):
        return {frame.tobytes() for frame in frames}

    first = bytes_of(drawn())
    assert len(first) == len(plain)
    assert first == bytes_of(drawn(epoch=1))
    assert first.isdisjoint(bytes_of(drawn(seed=1)))
    assert first.isdisjoint(bytes_of(plain))
    for frame in drawn(changes=NOTHING)[:3].astype(float):
        assert np.abs(plain - frame).max((1, 2)).min() <= 1


def test_strengths_take_turns_and_0_leaves_a_frame_unchanged(data, tiny):
    """Of four unlabelled frames every second one stays as it is."""
    options = {"unlabelled": [tiny.store("echonet")], "unlabelled_batch_size": 4, "unlabelled_frames": 4}
    drawn = {}
    for name, more in {"plain": {}, "turns": {"unlabelled_strengths": (0.0, 1.0)}}.items():
        changes = DenseAugmentation() if more else None
        module = data(**options, unlabelled_changes=changes, **more)
        drawn[name] = next(iter(module.train_dataloader()))["unlabelled"]
    same = (drawn["plain"] == drawn["turns"]).flatten(1).all(1)
    assert same.sum() == 2
    assert len({frame.numpy().tobytes() for frame in drawn["plain"]}) == 4
    with pytest.raises(ParameterError, match="unlabelled_strengths is empty: give at least one"):
        data(unlabelled_strengths=())


def test_views_choose_the_frames(data):
    module = data(views=["A2C"], val_split=None)
    assert set(module.train_frames.rows[:, 3]) == {VIEWS.index("A2C")}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ParameterError, "batch_size is 0"),
        ({"unlabelled_batch_size": 0}, ParameterError, "unlabelled_batch_size is 0"),
        ({"unlabelled_strengths": [2.0]}, ParameterError, "unlabelled_strengths"),
        ({"val_frames": 0}, ParameterError, "val_frames is 0"),
        ({"structures": []}, ParameterError, "give at least one"),
        ({"structures": ["lv", "lv"]}, ParameterError, "given twice in lv, lv: give it once"),
        ({"structures": ["lv", "rv"]}, DataError, "no masks of 'rv'"),
        ({"val_split": "train"}, SplitLeakError, "give each its own split"),
        ({"train_split": "trian"}, ParameterError, "did you mean 'train'"),
    ],
)
def test_invalid_arguments_are_refused(data, options, error, message):
    with pytest.raises(error, match=message) as caught:
        data(**options).setup()
    assert isinstance(caught.value, AlanError)


def test_labels_are_those_of_the_patients_drawn(data, tiny):
    """The draw is that of every protocol, and of the training split alone."""
    store = FrameStore(tiny.store("camus"))

    def patients(frames):
        held = {int(row) for row in frames.rows[:, 1]}
        return {s.patient for s in store.sequences if held & {*range(s.start, s.start + s.length)}}

    everyone = [s.patient for s in store.select("train")]
    for n, seed in ((1, 0), (2, 0), (2, 1)):
        module = data(label_patients=n, seed=seed, batch_size=64)
        assert patients(module.train_frames) == {*draw_patients(everyone, n, seed)}
        assert len(next(iter(module.train_dataloader()))["frames"]) == len(module.train_frames)
        assert len(module.validation_frames) == len(data().validation_frames)
    with pytest.raises(ParameterError, match="label_patients is 99: give 1 to"):
        data(label_patients=99).setup()
