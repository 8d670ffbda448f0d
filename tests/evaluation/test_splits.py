import pytest

from alan.errors import SplitLeakError
from alan.evaluation.splits import check_disjoint


def test_splits_that_share_a_patient_are_refused():
    check_disjoint({"train": [("a", "1"), ("b", "1")], "test": [("c", "1")]})  # "study 1" of different patients
    with pytest.raises(SplitLeakError, match=r"'a'.*'train' and 'test'"):
        check_disjoint({"train": [("a", "1")], "test": [("a", "2")]})


def test_a_study_of_an_unknown_patient_in_two_splits_is_refused():
    check_disjoint({"train": [("a", "1"), ("", "2")], "test": [("", "1"), ("", "")]})
    with pytest.raises(SplitLeakError, match="study '1' is in two splits, 'train' and 'test'"):
        check_disjoint({"train": [("", "1")], "test": [("", "1")]})
