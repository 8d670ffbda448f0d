import pytest

from alan.errors import SplitLeakError
from alan.evaluation.splits import check_disjoint


def test_splits_that_share_a_patient_are_refused():
    check_disjoint({"train": [("a", "1"), ("b", "1")], "test": [("c", "1")]})  # "study 1" of different patients
    with pytest.raises(SplitLeakError, match=r"'a'.*'train' and 'test'"):
        check_disjoint({"train": [("a", "1")], "test": [("a", "2")]})
