import pandas as pd
import pytest

from alan.errors import ParameterError, SplitLeakError
from alan.evaluation.cases import check_apart, draw_patients


def test_drawn_patients_come_whole_and_by_seed():
    table = pd.DataFrame({"patient": ["a", "a", "b", "b", "c", "c", "d", "d"], "frame": range(8)})
    drawn = draw_patients(table, 2, seed=0)
    assert drawn["patient"].value_counts().tolist() == [2, 2]
    shuffled = draw_patients(table.sample(frac=1, random_state=1), 2, seed=0)
    assert set(shuffled["patient"]) == set(drawn["patient"])
    assert len({tuple(sorted(set(draw_patients(table, 2, seed)["patient"]))) for seed in range(20)}) > 1
    assert len(draw_patients(table, None, 0)) == 8
    with pytest.raises(ParameterError, match="label_patients=5: choose 1 to 4"):
        draw_patients(table, 5, 0)


def test_sides_that_share_a_patient_are_refused():
    check_apart({"train": [("a", "1"), ("b", "1")], "test": [("c", "1")]})  # "study 1" of different patients
    with pytest.raises(SplitLeakError, match=r"'a'.*'train' and 'test'"):
        check_apart({"train": [("a", "1")], "test": [("a", "2")]})
