"""Agreement of ejection fractions with a reference."""

import numpy as np
import pandas as pd
import pytest

from alan.analysis import Measure
from alan.analysis.reference import read_agreement, read_reference, write_agreement
from alan.data.pseudonyms import patient_key
from alan.errors import AlanWarning, DataError

from .made import made_patient


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_patients_are_matched_by_key_or_by_identifier(tmp_path):
    patients = [
        made_patient("p1", ef_percent=Measure(50.0)),
        made_patient(patient_key("MRN 7"), ef_percent=Measure(30.0)),
        made_patient("p3", ef_percent=Measure()),
        made_patient("p4", ef_percent=Measure(70.0)),
    ]
    reference = write(tmp_path / "ef.csv", "patient,ef_percent,note\np1,54,a\nMRN 7,28,b\np3,60,c\np9,,d\n")
    with pytest.warns(AlanWarning, match=r"1 of 3 patients have no measured ejection fraction here \(p3\)"):
        assert write_agreement(tmp_path, patients, reference) == 2
    assert "MRN" not in (tmp_path / "agreement.csv").read_text(encoding="utf-8")
    table, groups = read_agreement(tmp_path)
    ((count, statistics),) = groups.values()
    assert count == 2
    assert table["error"].tolist() == [-4, 2]
    assert statistics["mean_bias"]["value"] == -1
    assert statistics["mean_absolute_error"]["value"] == 3
    spread = 1.96 * np.std([-4, 2], ddof=1)
    assert statistics["upper_limit_of_agreement"]["value"] == pytest.approx(-1 + spread)


@pytest.mark.parametrize(
    ("given", "known"),
    [("39", "patient0039"), ("patient0039", "39"), ("PATIENT0039", "patient0039"), ("7b", "007b")],
)
def test_another_spelling_of_a_patient_is_proposed(tmp_path, given, known):
    patients = [made_patient(patient_key(known), ef_percent=Measure(50.0)), made_patient("p2")]
    reference = write(tmp_path / "ef.csv", f"patient,ef_percent\n{given},54\n")
    with pytest.warns(AlanWarning, match=rf"\({given}: did you mean {known}\?\)"):
        assert write_agreement(tmp_path, patients, reference) == 0
    key = patient_key(known)
    write(reference, f"patient,ef_percent\n{key[:-1]},54\n")
    with pytest.warns(AlanWarning, match=rf"did you mean {key}\?"):
        write_agreement(tmp_path, patients, reference)


def test_patients_of_good_quality_have_statistics_of_their_own(tmp_path):
    values = [("a", 50.0, "good"), ("b", 60.0, "good"), ("c", 90.0, "doubtful")]
    patients = [made_patient(name, ef_percent=Measure(ef), quality=quality) for name, ef, quality in values]
    reference = write(tmp_path / "ef.csv", "patient,ef_percent\na,52\nb,61\nc,40\n")
    assert write_agreement(tmp_path, patients, reference) == 3
    table = pd.read_csv(tmp_path / "agreement_statistics.csv")
    assert set(table["measure"]) == {"ef_percent"}
    error = table[table["statistic"] == "mean_absolute_error"].set_index("quality")
    assert error["value"].to_dict() == pytest.approx({"all": 53 / 3, "good": 1.5}, rel=1e-4)
    assert error["patients"].to_dict() == {"all": 3, "good": 2}
    assert list(table.columns) == ["measure", "quality", "patients", "statistic", "value", "low", "high"]


def test_biplane_patients_are_compared_with_one_length_of_the_axis_too(tmp_path):
    values = [("a", 60.0, 52.0), ("b", 50.0, 43.0), ("c", 40.0, float("nan"))]
    patients = [
        made_patient(name, ef_percent=Measure(ef), ef_shared_length_percent=one) for name, ef, one in values
    ]
    reference = write(tmp_path / "ef.csv", "patient,ef_percent\na,51\nb,44\nc,40\n")
    assert write_agreement(tmp_path, patients, reference) == 3
    _, groups = read_agreement(tmp_path)
    found = {group: (count, one["mean_bias"]["value"]) for group, (count, one) in groups.items()}
    assert found == {("ef_percent", "all"): (3, 5.0), ("ef_shared_length_percent", "all"): (2, 0.0)}


def test_a_reference_without_common_patients_is_refused(tmp_path):
    reference = write(tmp_path / "ef.csv", "patient,ef_percent\nq,54\n")
    with pytest.warns(AlanWarning, match=r"1 of 1 patients are not among these results \(q\)"):
        assert write_agreement(tmp_path, [made_patient()], reference) == 0
    assert read_agreement(tmp_path) is None
    assert pd.read_csv(tmp_path / "agreement.csv").columns[0] == "patient"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient,ef\np1,50\n", "column 'ef_percent' is missing"),
        ("patient,ef_percent\np1,50\np2,150\n", "patient 'p2': ef_percent is 150: give 1 to 100 %"),
        ("patient,ef_percent\np1,-5\n", "patient 'p1': ef_percent is -5: give 1 to 100 %"),
        ("patient,ef_percent\np1,0.55\n", "ef_percent is 0.55: give 1 to 100 %, not a fraction"),
        ("patient,ef_percent\np1,fifty\n", "patient 'p1': column 'ef_percent' must hold numbers"),
        ("patient,ef_percent\np1,50\n p1,51\n", "patient 'p1' occurs twice; give one row per patient"),
        ("", "column 'patient' is missing"),
    ],
)
def test_bad_reference_is_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_reference(write(tmp_path / "ef.csv", text))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_references_saved_by_other_programs_are_read(tmp_path, encoding):
    path = tmp_path / "ef.csv"
    path.write_bytes("patient;ef_percent\r\nJosé;54,5\r\nq;nan\r\n".encode(encoding))
    assert read_reference(path) == {"José": 54.5}


def test_missing_reference_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_reference(tmp_path / "ef.csv")
