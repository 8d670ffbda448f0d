import numpy as np
import pytest
import torch

from alan.data.loaders.labelled import LabelledFrameDataModule
from alan.data.store.reader import FrameStore
from alan.errors import DataError, ParameterError, SplitLeakError


def patients(data):
    return set(data.train_frames.table["patient"])


def test_batches_hold_frames_and_labels(discs):
    data = discs.data(structures=("myo", "lv"))
    data.setup()
    store = FrameStore(discs.store)
    seen = []
    for batch in data.train_dataloader():
        assert batch["frames"].dtype == batch["labels"].dtype == torch.uint8
        index = batch["index"].numpy()
        assert np.array_equal(batch["frames"].numpy(), store.frames(index))
        labels = np.searchsorted(store.label_frames, index)
        for value, name in ((1, "myo"), (2, "lv")):
            assert np.array_equal(batch["labels"].numpy() == value, store.masks(labels, name))
        assert batch["labels"].max() == 2  # la is background
        seen += index.tolist()
    assert sorted(seen) == list(range(12))
    order = [batch["index"].tolist() for batch in data.val_dataloader()]
    assert order == [[12, 13, 14, 15]]


def test_a_union_of_structures_is_one_class(discs):
    data = discs.data(structures=("lv+myo",))
    data.setup()
    store = FrameStore(discs.store)
    batch = data.val_frames.__getitems__([0, 1])
    rows = data.val_frames.table["label"].to_numpy()[:2]
    assert np.array_equal(batch["labels"].numpy() == 1, store.masks(rows, "lv") | store.masks(rows, "myo"))


def test_two_stores_are_combined(discs, tmp_path):
    """Indices count through the stores; labels come from the right one."""
    other = discs.make("other", splits=["train", "val", "val"])
    data = LabelledFrameDataModule([discs.store, other], ["lv"], batch_size=64)
    with pytest.raises(SplitLeakError):
        data.setup()  # p1 is train in one and val in the other
    same = discs.make("same", splits=["train", "train", "train"] + ["val"] * 0)
    data = LabelledFrameDataModule([discs.store, same], ["lv"], val_split="val", batch_size=64)
    with pytest.raises(DataError, match="split 'val' is empty"):
        data.setup()


def test_the_labelled_patients_of_a_smaller_number_are_among_those_of_a_larger_one(discs):
    chosen = {n: patients(discs.data(label_patients=n)) for n in (1, 2, 4, 6)}
    assert [len(names) for names in chosen.values()] == [1, 2, 4, 6]
    assert chosen[1] < chosen[2] < chosen[4] < chosen[6] == patients(discs.data())
    assert len(discs.data(label_patients=2).train_frames) == 4  # ED and ES of each
    draws = {frozenset(patients(discs.data(label_patients=2, seed=seed))) for seed in range(8)}
    assert len(draws) > 1
    one = discs.data(label_patients=1)  # fewer frames than a batch: all of them
    assert [len(batch["index"]) for batch in one.train_dataloader()] == [2]


def test_each_patient_validates_in_one_fold(discs):
    """Each patient of both splits validates once and trains in all other folds."""
    folds = [discs.data(fold=(number, 3)) for number in range(3)]
    held_out = [set(data.val_frames.table["patient"]) for data in folds]
    assert sorted(patient for names in held_out for patient in names) == [f"p{i}" for i in range(8)]
    for number, data in enumerate(folds):
        data.setup()
        assert patients(data) == {f"p{i}" for i in range(8)} - held_out[number]
        assert data.provenance()["fold"] == [number, 3]
    assert "fold" not in discs.data().provenance()
    with pytest.raises(ParameterError, match=r"fold is \[3, 3\]: give a number below 3"):
        discs.data(fold=(3, 3))
    with pytest.raises(ParameterError, match="folds is 9: give 2 to 8, the number of patients"):
        discs.data(fold=(0, 9)).setup()


def test_phases_choose_the_frames(discs):
    assert len(discs.data(phases=("ED",)).train_frames) == 6
    assert len(discs.data(phases=None).train_frames) == 12


def test_the_loader_resumes_exactly(discs):
    straight = [batch["index"].tolist() for batch in discs.data().train_dataloader()]
    loader = discs.data().train_dataloader()
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    other = discs.data().train_dataloader()
    other.load_state_dict(state)
    assert [batch["index"].tolist() for batch in other] == straight[1:]
    with pytest.raises(ParameterError, match="cannot resume within an epoch"):
        discs.data(structures=("lv",)).train_dataloader().load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"structures": ("lv", "rv")}, DataError, "no masks of 'rv'; it holds lv, myo, la"),
        ({"structures": ("lv+rv",)}, DataError, "no masks of 'rv'"),
        ({"val_split": "nowhere"}, ParameterError, "unknown split"),
        ({"views": ["A2C"]}, DataError, "no view A2C"),
        ({"label_patients": 7}, ParameterError, "label_patients is 7: give 1 to 6"),
    ],
)
def test_unsuitable_stores_are_refused_at_setup(discs, options, error, message):
    with pytest.raises(error, match=message):
        discs.data(**options).setup()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"structures": ()}, ParameterError, "structures is empty"),
        ({"structures": ("lv", "lv+myo")}, ParameterError, "'lv' is given twice"),
        ({"structures": ("lv+",)}, ParameterError, "has an empty name"),
        ({"label_patients": 0}, ParameterError, "label_patients is 0"),
        ({"batch_size": 0}, ParameterError, "batch_size is 0"),
        ({"val_split": "train"}, SplitLeakError, "are both 'train'"),
    ],
)
def test_invalid_options_are_refused_at_construction(discs, options, error, message):
    with pytest.raises(error, match=message):
        discs.data(**options)


def test_a_patient_in_two_splits_is_refused(discs):
    splits = ["train"] * 6 + ["val"] * 2 + ["test"] * 2 + ["val"]  # s10 is p0 again
    leaky = discs.make("leaky", splits=splits, leaks="a patient in two splits")
    with pytest.raises(SplitLeakError, match="'Discs/p0' is in 'train' and in 'val'"):
        LabelledFrameDataModule([leaky], ["lv"]).setup()
