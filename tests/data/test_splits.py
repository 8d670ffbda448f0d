from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alan.data.splits import (
    assign_splits,
    check_different,
    check_split,
    draw_patients,
    expand_ids,
    read_split,
    split_patients,
)
from alan.errors import DataError, ParameterError, SplitLeakError

NAMES = [f"patient{number:04d}" for number in range(1, 21)]


class TestCheckSplit:
    def test_a_shared_patient_is_refused_by_name(self):
        with pytest.raises(SplitLeakError, match="patient 'b' is in two splits, 'train' and 'test'"):
            check_split(["a", "b", "b"], ["val", "train", "test"])

    def test_a_shared_study_is_refused_by_name(self):
        with pytest.raises(SplitLeakError, match="study 's' is in two splits"):
            check_split(["a", "b"], ["val", "train"], ["s", "s"])

    @pytest.mark.parametrize(("one", "other"), [("P1", "p1 "), ("M\u00fcller", "Mu\u0308ller"), ("a  b", "A b")])
    def test_two_spellings_of_a_patient_in_two_splits_are_refused(self, one, other):
        with pytest.raises(SplitLeakError, match=r"also spelt .* is in two splits, 'train' and 'test'"):
            check_split([one, other], ["train", "test"])
        check_split([one, other], ["train", "train"])

    def test_disjoint_splits_are_accepted(self):
        check_split(["a", "a", "b", "b"], ["train", "train", "test", ""], ["s", "t", "", ""])

    def test_samples_without_name_or_split_are_ignored(self):
        check_split(["", "", "c", "c"], ["train", "test", "", "val"])

    def test_entries_of_different_length_are_refused(self):
        with pytest.raises(ParameterError, match="1 entries for study but 2 splits"):
            check_split(["a", "b"], ["val", "train"], ["s"])

    @given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["train", "val", ""])), max_size=8))
    @settings(max_examples=60)
    def test_shared_patients_equal_a_loop_over_pairs(self, rows):
        leak = any(p == q and s and t and s != t for p, s in rows for q, t in rows)
        patients, splits = [p for p, _ in rows], [s for _, s in rows]
        if leak:
            with pytest.raises(SplitLeakError):
                check_split(patients, splits)
        else:
            check_split(patients, splits)


class TestSplitPatients:
    def test_fractions_are_rounded_by_largest_remainder(self):
        splits = split_patients(NAMES[:11] * 3, {"train": 0.7, "val": 0.15, "test": 0.15}, seed=0)
        assert Counter(splits.values()) == {"train": 8, "val": 2, "test": 1}  # 7.7, 1.65, 1.65
        assert list(splits) == NAMES[:11]

    def test_patients_beyond_the_counts_get_no_split(self):
        splits = split_patients(NAMES, {"train": 5, "test": 3}, seed=0)
        assert Counter(splits.values()) == {"train": 5, "test": 3, "": 12}

    def test_splits_depend_on_the_seed_not_on_the_order(self):
        shares = {"train": 0.5, "test": 0.5}
        first = split_patients(NAMES, shares, seed=1)
        assert split_patients(reversed(NAMES), shares, seed=1) == first
        assert split_patients(NAMES, shares, seed=2) != first

    @pytest.mark.parametrize(
        ("shares", "words"),
        [
            ({"train": 0.5, "test": 0.4}, "add up to 0.9"),
            ({"train": 15, "test": 6}, "the split needs 21 patients: give at most 20"),
            ({"train": 0.99, "test": 0.01}, "'test' gets 0 of 20"),
            ({"train": 20, "test": 0}, "'test' gets 0 of 20"),
            ({"training": 1.0}, "did you mean 'train'"),
            ({}, "the split is empty"),
        ],
    )
    def test_invalid_splits_are_refused(self, shares, words):
        with pytest.raises(ParameterError, match=words):
            split_patients(NAMES, shares, seed=0)


class TestAssignSplits:
    @pytest.mark.parametrize(
        ("entry", "ids"),
        [
            ("1-3", {"1", "2", "3"}),
            ("2 - 3, 007,  patient0400,", {"2", "3", "7", "patient0400"}),
            (5, {"5"}),
            (["1-2", 9, ["x"]], {"1", "2", "9", "x"}),
            ("", set()),
        ],
    )
    def test_ranges_are_expanded(self, entry, ids):
        assert expand_ids(entry) == ids

    @pytest.mark.parametrize(
        ("entry", "words"), [("5-3", "runs backwards"), (1.5, "cannot read 1.5"), (None, "None")]
    )
    def test_invalid_ranges_are_refused(self, entry, words):
        with pytest.raises(ParameterError, match=words):
            expand_ids(entry)

    def test_numbers_match_patient_names(self):
        names = ["patient0001", "patient0010", "test-patient0001", "1009", "other"]
        assert assign_splits(names, {"train": "1, 1009", "val": "other", "test": "test-patient0001"}) == {
            "patient0001": "train",
            "patient0010": "",
            "test-patient0001": "test",
            "1009": "train",
            "other": "val",
        }

    def test_invalid_splits_are_refused(self):
        with pytest.raises(SplitLeakError, match="patient0002"):
            assign_splits(NAMES, {"train": "1-2", "val": "patient0002"})
        with pytest.raises(DataError, match="split 'val' is empty"):
            assign_splits(NAMES, {"train": "1-2", "val": "500-600"})
        with pytest.raises(ParameterError, match="unknown split 'tset'"):
            assign_splits(NAMES, {"tset": "1-2"})

    def test_missing_patients_are_counted(self, caplog):
        with caplog.at_level("INFO"):
            assign_splits(["patient0001", "x"], {"train": "1-5, x, y"})
            assign_splits(["patient0001", "x"], {"train": "1", "val": "x"})
        (message,) = caplog.messages
        assert message == "split train: 5 of 7 patients missing: 2, 3, 4, ..."


def test_a_split_file_is_read(tmp_path):
    path = tmp_path / "split.yaml"
    path.write_text("train: 1-300\nval: [301, 302]\n")
    assert read_split(path) == {"train": "1-300", "val": [301, 302]}
    for text, words in (("- 1\n", "maps train"), ("a: [\n", "not a YAML"), ("", "maps train")):
        path.write_text(text)
        with pytest.raises(DataError, match=words):
            read_split(path)
    with pytest.raises(DataError, match="no such split file"):
        read_split(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_split_files_of_other_programs_are_read(tmp_path, encoding):
    (tmp_path / "split.json").write_bytes('{\n\t"train": "1-3",\n\t"test": [4]\n}\n'.encode(encoding))
    assert read_split(tmp_path / "split.json") == {"train": "1-3", "test": [4]}


@pytest.mark.parametrize(
    ("name", "text"), [("a.yaml", "train: 1\ntrain: 2\n"), ("a.json", '{"train": 1, "train": 2}')]
)
def test_a_split_with_a_repeated_key_is_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="the key 'train' occurs twice: keep one"):
        read_split(tmp_path / name)


class TestDrawPatients:
    def test_a_smaller_draw_is_part_of_a_larger_one(self):
        drawn = {n: draw_patients(NAMES * 2, n, 4) for n in (1, 2, 3, 20, None)}
        for few, many in ((1, 2), (2, 3), (3, 20)):
            assert drawn[many][:few] == drawn[few]
        assert drawn[None] == drawn[20]
        assert sorted(drawn[None]) == NAMES
        assert draw_patients(NAMES[::-1], 3, 4) == drawn[3]

    def test_the_draw_depends_on_the_seed(self):
        assert len({tuple(draw_patients(NAMES, 3, seed)) for seed in range(5)}) > 1

    @pytest.mark.parametrize(
        ("n", "seed", "message"),
        [(21, 0, "label_patients is 21: give 1 to 20"), (0, 0, "is 0"), (1, -1, "seed is -1")],
    )
    def test_invalid_numbers_and_seeds_are_refused(self, n, seed, message):
        with pytest.raises(ParameterError, match=message):
            draw_patients(NAMES, n, seed)


def test_one_split_for_two_uses_is_refused():
    check_different(train_split="train", val_split=None, test_split="test", label_split=None)
    with pytest.raises(SplitLeakError, match="train_split and test_split are both 'a': give each its own split"):
        check_different(train_split="a", val_split="b", test_split="a")
