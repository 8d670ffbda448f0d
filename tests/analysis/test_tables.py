"""Tables of an analysis."""

import numpy as np
import pandas as pd
import pytest

from alan.analysis import LoopResult, export_loop, read_loops, write_tables
from alan.analysis.evidence import ParcelEvidence
from alan.analysis.reference import write_agreement
from alan.analysis.results import RATE_SOURCES
from alan.analysis.tables import COLUMNS, TABLES, read_patients
from alan.errors import AlanWarning, DataError
from alan.runs import report_failures

from .made import MadeLoop, made_labels, made_patient, made_result


@pytest.fixture
def folder(tmp_path):
    left_out = LoopResult("loop2", "p1", "left out", reason="spectral Doppler, not a B-mode loop")
    write_tables(tmp_path, iter([made_result(), left_out]), iter([made_patient()]))
    return tmp_path


def read(folder, name):
    return pd.read_csv(folder / name, keep_default_na=False, na_values=[""])


def test_every_column_is_in_the_dictionary(folder):
    assert {path.name for path in folder.iterdir()} == set(TABLES)
    dictionary = read(folder, "columns.csv")
    assert dictionary[["file", "column", "description"]].notna().all(None)
    for name in TABLES[:-1]:
        assert list(read(folder, name).columns) == list(dictionary.loc[dictionary["file"] == name, "column"])


def test_the_dictionary_names_every_origin_of_a_heart_rate():
    (entry,) = (entry for entry in COLUMNS["loops.csv"] if entry.column == "rate_source")
    assert all(source in entry.description for source in RATE_SOURCES)


def test_the_dictionary_has_the_tables_that_other_modules_write(folder, tmp_path):
    reference = tmp_path / "reference.csv"
    reference.write_text("patient,ef_percent\np1,58\n")
    write_agreement(folder, [made_patient()], reference)
    loop = MadeLoop()
    evidence = ParcelEvidence(np.zeros((20, 112, 112), np.uint8), {})
    export_loop(folder, loop, made_labels(), made_result(loop), ["overlay"], evidence=evidence)
    with pytest.warns(AlanWarning, match="skipped 1 of 3"):
        report_failures(folder / "failures.csv", [("file_1", "not a loop")], 3, strict=False)
    dictionary = read(folder, "columns.csv")
    for name, path in (
        ("agreement.csv", folder / "agreement.csv"),
        ("failures.csv", folder / "failures.csv"),
        ("loops/*/parcels.csv", folder / "loops" / "loop1" / "parcels.csv"),
    ):
        assert list(pd.read_csv(path).columns) == list(dictionary.loc[dictionary["file"] == name, "column"])


def test_table_values_match_the_results(folder):
    patient = read(folder, "patients.csv").iloc[0]
    assert patient[["patient", "quality", "method", "loops", "used_loops", "beats"]].tolist() == [
        "p1", "doubtful", "single plane A4C", 2, "loop1", 1,
    ]  # fmt: skip
    assert patient[["ef_percent", "ef_percent_low", "ef_percent_high", "edv_ml"]].tolist() == [60, 55, 65, 100]
    assert pd.isna(patient["lv_mass_g"])
    assert patient["reasons"] == "2 of 3 neighbours"
    loops = read(folder, "loops.csv").set_index("loop")
    named = ["view", "box_top", "box_width", "row_mm", "beats"]
    assert loops.loc["loop1", named].tolist() == ["A4C", 10, 128, 0.5, 2]
    assert loops.loc["loop2", "reason"] == "spectral Doppler, not a B-mode loop"
    assert loops.loc["loop2"].drop(["patient", "status", "reason", "frames", "beats"]).isna().all()
    beats = read(folder, "beats.csv")
    assert beats[["ed_frame", "es_frame", "end_frame"]].iloc[0].tolist() == [2, 8, 14]
    assert beats["complete"].tolist() == [True, False]
    assert pd.isna(beats["end_frame"].iloc[1])
    frames = read(folder, "frames.csv")
    assert len(frames) == 20
    assert frames["lv_area_px"].tolist()[:2] == [400, 401]
    assert frames["frame"][frames["repaired"]].tolist() == [4]
    assert frames["la_area_cm2"].isna().all()
    assert frames["rv_area_px"].isna().all()


def test_interrupted_tables_leave_no_files(tmp_path):
    def loops():
        yield made_result()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tables(tmp_path, loops(), [])
    assert not list(tmp_path.iterdir())


def test_loops_are_read_back_in_the_order_of_their_names(tmp_path):
    for name in ("loop9", "loop10"):
        made_result(name=name).to_json(tmp_path / "loops" / name / "result.json")
    assert [loop.loop for loop in read_loops(tmp_path)] == ["loop10", "loop9"]


def test_patients_are_read_back(folder):
    (back,) = read_patients(folder)
    wanted = made_patient()
    for name in ("patient", "method", "loops", "n_loops", "n_beats", "ef_percent", "edv_ml", "quality", "flags"):
        assert getattr(back, name) == getattr(wanted, name)
    assert not back.lv_mass_g.known


def test_damaged_patients_are_refused(tmp_path):
    (tmp_path / "patients.csv").write_text("patient,quality\np1,good\n", encoding="utf-8")
    with pytest.raises(DataError, match="run alan analyze again"):
        read_patients(tmp_path)
