"""Readers by kind, and readers of the user by the name of their class."""

import sys

import numpy as np
import pytest
from PIL import Image

from alan.cli.main import main
from alan.data import FrameStore, open_dataset
from alan.errors import DataError, ParameterError

READER = """
import numpy as np
from PIL import Image
from alan.data import EchoDataset, Record, Sample


class Clinic(EchoDataset):
    name = "Clinic"
    structures = ()

    def __init__(self, root, view: str = "A4C"):
        super().__init__(root, "pictures")
        files = sorted(self.root.glob("*.png"))
        records = [Record(id=file.stem, patient=file.stem, view=view) for file in files]
        self._set_records(records, [[file] for file in files], {"view": view})

    def _load(self, index):
        return Sample(self.records[index], np.asarray(Image.open(self._files[index][0]))[None])


class NoReader:
    pass
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a module of a reader and an archive of two pictures."""
    (tmp_path / "own_readers.py").write_text(READER)
    (tmp_path / "archive").mkdir()
    for n in range(2):
        Image.fromarray(np.full((40, 40), 50 + n, np.uint8)).save(tmp_path / "archive" / f"p{n}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_readers", raising=False)
    return tmp_path


def test_a_reader_in_the_working_folder_is_named_by_its_class(here):
    command = ["prepare", "--kind", "own_readers.Clinic", "--root", "archive", "--out", "a.h5", "--workers", "0"]
    assert main([*command, "--size", "32", "--options", '{"view": "A2C"}']) == 0
    store = FrameStore(here / "a.h5")
    assert [sequence.view for sequence in store.sequences] == ["A2C", "A2C"]
    assert main(["check", "--kind", "own_readers.Clinic", "--root", "archive"]) == 0


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("own_readers.Clinics", "has no attribute 'Clinics'"),
        ("missing_readers.Clinic", "No module named 'missing_readers'.*a module of this folder"),
        ("own_readers.NoReader", "give a subclass of alan.data.EchoDataset"),
        ("cammus", "did you mean 'camus'"),
    ],
)
def test_an_unknown_reader_is_refused(here, kind, message):
    sys.path.append(str(here))
    with pytest.raises(ParameterError, match=message):
        open_dataset(kind, "archive")


def test_an_option_of_a_reader_of_the_user_is_checked(here):
    sys.path.append(str(here))
    with pytest.raises(ParameterError, match="did you mean 'view'"):
        open_dataset("own_readers.Clinic", "archive", vieww="A4C")


def test_a_wrong_folder_is_refused_without_a_search_of_the_folder_above(tmp_path, monkeypatch):
    (tmp_path / "wrong").mkdir()
    monkeypatch.setattr(
        "alan.data.readers.base.unreachable_below", lambda root: pytest.fail(f"{root} is searched")
    )
    with pytest.raises(DataError, match="no patient folder found"):
        open_dataset("camus", tmp_path / "wrong")


def test_a_lost_folder_of_an_archive_is_named(tmp_path):
    (tmp_path / "database_nifti").symlink_to("../elsewhere")
    with pytest.raises(DataError, match="database_nifti cannot be read: get it"):
        open_dataset("camus", tmp_path)
