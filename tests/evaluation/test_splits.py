import pytest

from alan.data.store.reader import FrameStore
from alan.errors import SplitLeakError
from alan.evaluation.splits import check_disjoint, check_unseen, read_splits


def test_splits_that_share_a_patient_are_refused():
    check_disjoint({"train": [("a", "1"), ("b", "1")], "test": [("c", "1")]})  # "study 1" of different patients
    with pytest.raises(SplitLeakError, match=r"'a'.*'train' and 'test'"):
        check_disjoint({"train": [("a", "1")], "test": [("a", "2")]})


def test_a_study_of_an_unknown_patient_in_two_splits_is_refused():
    check_disjoint({"train": [("a", "1"), ("", "2")], "test": [("", "1"), ("", "")]})
    with pytest.raises(SplitLeakError, match="study '1' is in two splits, 'train' and 'test'"):
        check_disjoint({"train": [("", "1")], "test": [("", "1")]})


@pytest.fixture
def store(tiny):
    return FrameStore(tiny.store("camus"))


def patients(store, split):
    return {sequence.patient for sequence in store.select(split=split)}


def test_label_and_test_frames_are_those_of_their_splits(store):
    common = {"views": ["A4C"], "phases": ["ED"], "test_split": "test", "seed": 0}
    splits = read_splits(store, train_split="train", label_split="val", label_patients=None, **common)
    assert {*splits.label["patient"]} == patients(store, "val")
    assert {*splits.test["patient"]} == patients(store, "test")
    for table in (splits.label, splits.test):
        assert (set(table["view"]), set(table["phase"])) == ({"A4C"}, {"ED"})
    assert splits.train_patients == len(patients(store, "train"))
    splits = read_splits(store, train_split=None, label_split="train", label_patients=3, **common)
    assert splits.label["patient"].nunique() == 3
    assert {*splits.label["patient"]} < patients(store, "train")
    assert splits.train_patients == 0
    assert not len(read_splits(store, train_split="train", label_split=None, label_patients=None, **common).label)


@pytest.mark.parametrize(
    ("changes", "chosen", "refused"),
    [
        ({}, True, True),
        ({"train_split": "val", "val_split": "test"}, True, True),
        ({"train_split": "val", "val_split": "test"}, False, False),
        ({"train_split": "val", "val_split": None}, True, False),
        ({"stores": ["another"]}, True, False),
        ({"stores": None}, True, False),
    ],
)
def test_a_network_that_learned_from_the_split_is_refused(store, changes, chosen, refused):
    origin = {"stores": ["another", store.fingerprint], "train_split": "test", "val_split": "val"} | changes
    if refused:
        with pytest.raises(SplitLeakError, match=r"a\.safetensors learned from split 'test' of this store"):
            check_unseen(origin, "a.safetensors", store, "test", chosen=chosen)
    else:
        check_unseen(origin, "a.safetensors", store, "test", chosen=chosen)
