import numpy as np
import pandas as pd
import pytest
from PIL import Image

from alan.data.readers.tmed import Tmed2
from alan.errors import AlanWarning, DataError, ParameterError, SplitLeakError


def published(path, archives):
    rows = [
        ("10s1_0.png", "PLAX", "train"),
        ("31s1_12.png", "A2C", "train"),
        ("10s1_3.png", "A2C", "val"),
        ("10s1_3.png", "A4C", "val"),
        ("207s1_1.png", "PSAX", "val"),
    ]
    archives.csv(path, ("Name", "Class", "Type"), rows, delimiter=";")
    return path


def test_names_views_and_splits_are_read(tmp_path, archives):
    data = Tmed2(archives.tmed(tmp_path))
    assert [(r.id, r.patient, r.study, r.view, r.split) for r in data.records] == [
        ("10s1_0", "10", "10s1", "PLAX", "train"),
        ("10s1_3", "10", "10s1", "A4C", "train"),
        ("10s2_0", "10", "10s2", "", "train"),
        ("207s1_1", "207", "207s1", "PSAX", "val"),
        ("31s1_12", "31", "31s1", "A2C", "test"),
    ]
    assert data.records[0].attributes == {"diagnosis_label": "no_AS", "diagnosis_classifier_split": "train"}
    assert data.leaks == ""
    path = tmp_path / "other" / "folder" / "31s1_12.png"
    assert np.array_equal(data[4].frames, np.asarray(Image.open(path))[None])
    assert data[4].masks == {}


def test_colour_stills_are_converted_to_grey(tmp_path, archives):
    root = archives.tmed(tmp_path)
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(np.repeat(grey[..., None], 3, 2)).save(root / "labeled" / "10s1_0.png")
    assert np.array_equal(Tmed2(root)[0].frames[0], grey)


def test_views_only_keeps_rows_with_a_view(tmp_path, archives):
    data = Tmed2(archives.tmed(tmp_path), views_only=True)
    assert [record.view for record in data.records] == ["PLAX", "A4C", "PSAX", "A2C"]


@pytest.mark.parametrize(
    ("key", "what"), [("10s1_9.png", "study '10s1'|patient '10'"), ("10s3_9.png", "patient '10'")]
)
def test_the_study_split_is_checked(tmp_path, archives, key, what):
    rows = [("10s1_0.png", "a", "PLAX", "train", "", ""), (key, "a", "PLAX", "test", "", "")]
    with pytest.raises(SplitLeakError, match=what):
        Tmed2(archives.tmed(tmp_path, rows))


def test_the_published_split_is_marked_as_leaking(tmp_path, archives):
    root = archives.tmed(tmp_path / "tmed")
    path = published(tmp_path / "image_labels.csv", archives)
    with pytest.warns(AlanWarning, match="1 of 2 test images come from a study that is also in training"):
        data = Tmed2(root, split="published", published_list=path)
    assert "leaks" in data.leaks
    sides = {record.id: (record.view, record.split) for record in data.records}
    assert sides == {
        "10s1_0": ("PLAX", "train"),
        "10s1_3": ("A2C", "test"),  # the first of its two lines
        "10s2_0": ("", ""),
        "207s1_1": ("PSAX", "test"),
        "31s1_12": ("A2C", "train"),
    }
    assert data.fingerprint() != Tmed2(root).fingerprint()


def test_the_published_split_needs_its_list(tmp_path, archives):
    root = archives.tmed(tmp_path)
    with pytest.raises(ParameterError, match="go together"):
        Tmed2(root, split="published")
    with pytest.raises(ParameterError, match="go together"):
        Tmed2(root, published_list=tmp_path / "list.csv")
    with pytest.raises(ParameterError, match="did you mean 'published'"):
        Tmed2(root, split="publised")
    with pytest.raises(DataError, match=r"list.csv: no such file"):
        Tmed2(root, split="published", published_list=tmp_path / "list.csv")


def test_rows_that_cannot_be_used_are_counted(tmp_path, archives):
    root = archives.tmed(tmp_path)
    (root / "labeled" / "10s1_3.png").unlink()
    table = pd.read_csv(root / "labels.csv")
    table.loc[0, "query_key"] = "frame7.png"
    table.to_csv(root / "labels.csv", index=False)
    with pytest.warns(AlanWarning) as caught:
        data = Tmed2(root)
    assert len(caught) == 2
    assert data.skipped == {"rows whose query_key is not like 1009s2_10.png": 1, "rows without an image": 1}
    assert len(data) == 3


@pytest.mark.parametrize("column", ["query_key", "SourceFolder", "view_label", "view_classifier_split"])
def test_a_missing_column_is_refused(tmp_path, archives, column):
    root = archives.tmed(tmp_path)
    pd.read_csv(root / "labels.csv").drop(columns=column).to_csv(root / "labels.csv", index=False)
    with pytest.raises(DataError, match=rf"labels.csv: column '{column}' is missing"):
        Tmed2(root)


def test_the_table_can_be_chosen(tmp_path, archives):
    root = archives.tmed(tmp_path)
    archives.csv(root / "notes.csv", ("a", "b"), [(1, 2)])
    assert len(Tmed2(root)) == 5  # only one has the columns
    archives.csv(root / "DEV" / "fold1.csv", archives.table, [("10s1_0.png", "labeled", "PLAX", "test", "", "")])
    with pytest.raises(DataError, match=r"2 of 3 CSV files .*DEV/fold1.csv, labels.csv"):
        Tmed2(root)
    data = Tmed2(root, labels="DEV/fold1.csv")
    assert [(record.id, record.split) for record in data.records] == [("10s1_0", "test")]
    with pytest.raises(DataError, match=r"fold9.csv: no such file"):
        Tmed2(root, labels="fold9.csv")


def test_unlabelled_rows_are_in_no_split(tmp_path, archives):
    rows = [("1s1_0.png", "a", "PLAX", "unlabeled", "", ""), ("1s1_1.png", "a", "A2C", "train", "", "")]
    assert [record.split for record in Tmed2(archives.tmed(tmp_path, rows)).records] == ["", "train"]


def test_views_are_found_whatever_their_case(tmp_path, archives):
    rows = [("10s1_0.png", "a", " plax", "train", "", ""), ("11s1_0.png", "a", "a4c", "train", "", "")]
    assert [record.view for record in Tmed2(archives.tmed(tmp_path / "1", rows)).records] == ["PLAX", "A4C"]
    rows = [("10s1_0.png", "a", "4 chamber", "train", "", "")]
    with pytest.warns(AlanWarning, match="no image has a view: the labels are 4 chamber; give A2C, A4C"):
        Tmed2(archives.tmed(tmp_path / "2", rows))
