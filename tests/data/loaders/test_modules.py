from collections import Counter

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from alan.data.loaders.modules import FrameDataModule, SequenceDataModule, StoreSet
from alan.errors import AlanWarning, DataError, ParameterError, SplitLeakError


@pytest.fixture
def store(memory):
    return memory.store(lengths=(5, 9, 3, 12, 6, 8))  # starts 0, 5, 14, 17, 29, 35; train: the first 29


def epochs(loader, n):
    out = []
    for epoch in range(n):
        loader.sampler.set_epoch(epoch)
        out.append(list(loader))
    return out


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_frame_appears_once_per_epoch(store, num_workers):
    module = FrameDataModule([str(store.path)], batch_size=4, num_workers=num_workers, drop_last=False)
    loader = module.train_dataloader()
    orders = []
    for batches in epochs(loader, 3):
        assert [len(batch["index"]) for batch in batches] == [4] * 7 + [1]
        orders.append(torch.cat([batch["index"] for batch in batches]).tolist())
        for batch in batches:
            assert (batch["frames"].dtype, batch["index"].dtype) == (torch.uint8, torch.int64)
            assert np.array_equal(batch["frames"].numpy(), store.frames(batch["index"].numpy()))
    assert all(sorted(order) == list(range(29)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    expected = np.random.default_rng([0, 2]).permutation(29).tolist()
    assert orders[2] == expected


def test_order_depends_on_the_seed_only(store):
    def order(seed):
        module = FrameDataModule([str(store.path)], batch_size=4, seed=seed)
        return [batch["index"].tolist() for batch in epochs(module.train_dataloader(), 2)[1]]

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = order(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert order(3) == first
    assert order(4) != first
    assert [len(index) for index in first] == [4] * 7  # drop_last


def test_views_and_split_choose_the_frames(store):
    module = FrameDataModule([str(store.path)], "test", ["A4C"], batch_size=2)
    assert module.dataset.rows.tolist() == list(range(29, 35))
    assert len(FrameDataModule([str(store.path)], None).dataset) == 43
    with pytest.raises(ParameterError, match="unknown split 'trian'"):
        FrameDataModule([str(store.path)], "trian").setup()
    with pytest.raises(DataError, match="split 'val' is empty"):
        FrameDataModule([str(store.path)], "val").setup()


def test_several_stores_are_read_as_one(store, memory):
    other = memory.store("b.h5", lengths=(2, 3))
    module = FrameDataModule([str(store.path), str(other.path)], None, batch_size=48)
    assert len(module.dataset) == 48
    batch = next(iter(module.train_dataloader()))
    both = np.concatenate([store.frames(range(43)), other.frames(range(5))])
    assert np.array_equal(batch["frames"].numpy(), both[batch["index"].numpy()])
    pairs = SequenceDataModule([str(store.path), str(other.path)], None, n_frames=None, batch_size=7)
    with pytest.warns(AlanWarning, match="skipped 1 of 8 sequences without ED and ES frames"):
        pairs.setup()
    found = sorted(map(tuple, next(iter(pairs.train_dataloader()))["index"].tolist()))
    assert found == [(0, 4), (5, 13), (17, 28), (29, 34), (35, 42), (43, 44), (45, 47)]


def test_incompatible_stores_are_refused(store, memory):
    bigger = memory.store("b.h5", size=24)
    with pytest.raises(DataError, match=r"frames of 24 px.*of 16 px: prepare both with the same size"):
        FrameDataModule([str(store.path), str(bigger.path)]).setup()
    splits = ["train", "train", "test", "test"]
    split = memory.store("c.h5", lengths=(5, 4, 3, 2), splits=splits)
    with pytest.raises(SplitLeakError, match=r"patient 'p1' of Memory is in 'train' in .* and in 'test' in"):
        FrameDataModule([str(store.path), str(split.path)]).setup()
    nowhere = memory.store("d.h5", lengths=(5, 4, 3, 2), splits=[""] * 4)  # a store without splits hides nothing
    with pytest.raises(SplitLeakError, match=r"patient 'p1' of Memory is in 'train' in .* and in 'test' in"):
        StoreSet([nowhere.path, store.path, split.path])
    with pytest.raises(DataError, match="given twice"):
        FrameDataModule([str(store.path), str(store.path)]).setup()
    with pytest.raises(ParameterError, match="stores is empty"):
        FrameDataModule([]).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 30}, "batch_size is 30 on 1 process.*only 29 samples"),
        ({"batch_size": 0}, "batch_size is 0: give a whole number of at least 1"),
        ({"num_workers": -1}, "num_workers is -1: give a whole number of at least 0"),
        ({"seed": -1}, "seed is -1: give a whole number from 0"),
    ],
)
def test_invalid_values_are_refused(store, options, message):
    with pytest.raises(ParameterError, match=message):
        FrameDataModule([str(store.path)], **options).train_dataloader()


class Collect(LightningModule):
    def predict_step(self, batch):
        return batch["index"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_prediction_keeps_the_order_of_frames(store, num_workers):
    module = FrameDataModule([str(store.path)], None, batch_size=8, num_workers=num_workers)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    batches = trainer.predict(Collect(), module)
    assert torch.cat(batches).tolist() == list(range(43))


def runs(module, n=40):
    """Index rows of n epochs, by sequence."""
    rows = torch.cat([batch["index"] for batches in epochs(module.train_dataloader(), n) for batch in batches])
    return [tuple(row) for row in rows.tolist()]


def test_runs_have_the_given_period_and_any_start(store):
    module = SequenceDataModule([str(store.path)], n_frames=3, period=2, batch_size=2)
    rows = runs(module, 100)
    every = {
        *((0, 2, 4),),
        *((s, s + 2, s + 4) for s in range(5, 10)),
        (14, 15, 16),  # three frames only: the period shrinks to 1
        *((s, s + 2, s + 4) for s in range(17, 25)),
    }
    assert set(rows) == every
    counts = Counter(rows)
    assert counts[0, 2, 4] == counts[14, 15, 16] == 100
    assert sum(counts[s, s + 2, s + 4] for s in range(17, 25)) == 100
    assert min(counts[s, s + 2, s + 4] for s in range(17, 25)) >= 3


def test_period_and_length_change_the_runs(store):
    steps = {}
    for n_frames, period in ((3, 1), (3, 4), (3, 9)):
        module = SequenceDataModule([str(store.path)], n_frames=n_frames, period=period, batch_size=2)
        steps[period] = {row[1] - row[0] for row in runs(module) if row[0] >= 17}
    assert steps == {1: {1}, 4: {4}, 9: {5}}  # 12 frames hold three frames at a distance of 5, not of 9


def test_runs_are_batched(store):
    module = SequenceDataModule([str(store.path)], n_frames=4, batch_size=3)
    with pytest.warns(AlanWarning, match="skipped 1 of 4 sequences without 4 frames"):
        module.setup()
    (batch,) = epochs(module.train_dataloader(), 1)[0]
    assert batch["frames"].shape == (3, 4, 16, 16)
    assert batch["index"].shape == (3, 4)
    assert (batch["frames"].dtype, batch["index"].dtype) == (torch.uint8, torch.int64)
    flat = store.frames(batch["index"].numpy().ravel())
    assert np.array_equal(batch["frames"].numpy().reshape(flat.shape), flat)


def test_ed_and_es_form_a_sequence_of_two(memory):
    store = memory.store()
    module = SequenceDataModule([str(store.path)], None, n_frames=None, batch_size=5)
    with pytest.warns(AlanWarning, match="skipped 1 of 6 sequences without ED and ES frames"):
        module.setup()
    assert set(runs(module, 2)) == {(0, 4), (5, 8), (10, 16), (17, 19), (20, 25)}


def test_start_frames_depend_on_seed_epoch_and_sequence_only(store):
    def drawn(**options):
        module = SequenceDataModule([str(store.path)], n_frames=3, batch_size=2, **options)
        return {epoch: sorted(map(tuple, torch.cat([b["index"] for b in batches]).tolist()))
                for epoch, batches in enumerate(epochs(module.train_dataloader(), 6))}  # fmt: skip

    first = drawn()
    assert drawn(num_workers=2) == first
    assert drawn(seed=1) != first
    assert len({tuple(rows) for rows in first.values()}) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 1}, "batch_size is 1: give a whole number of at least 2"),
        ({"n_frames": 1}, "n_frames is 1: give a whole number of at least 2"),
        ({"period": 0}, "period is 0: give a whole number of at least 1"),
    ],
)
def test_invalid_runs_are_refused(options, message):
    with pytest.raises(ParameterError, match=message):
        SequenceDataModule(["a.h5"], **options)


def test_too_short_sequences_are_refused(store):
    with pytest.raises(DataError, match="none of 4 sequences has 16 frames; lower n_frames"):
        SequenceDataModule([str(store.path)]).setup()
