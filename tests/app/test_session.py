"""Files of the page: uploads are read once and deleted, nothing else is read."""

import shutil
from types import SimpleNamespace

import pytest

from alan.app.session import PageClosedError, Uploads
from alan.errors import DataError, ParameterError


@pytest.fixture
def uploads(tmp_path):
    (tmp_path / "root").mkdir()
    return Uploads(tmp_path / "root")


def test_an_upload_is_read_under_a_neutral_name_and_deleted(uploads):
    file = uploads.root / "abc" / "Jane.Doe.NII.gz"
    file.parent.mkdir()
    file.write_text("scan")
    with uploads.taking(str(file)) as taken:
        assert taken.name == "upload.nii.gz"
        assert taken.read_text() == "scan"
        assert not file.exists()
    assert not taken.exists()


def test_an_upload_is_deleted_after_an_error(uploads):
    file = uploads.root / "Doe.mp4"
    file.write_text("scan")
    with pytest.raises(ValueError, match="broken"), uploads.taking(str(file)) as taken:
        raise ValueError("broken")
    assert not taken.exists()


def test_other_files_are_refused(uploads, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    (uploads.root / "link").symlink_to(secret)
    for path in (secret, uploads.root / ".." / "secret.txt", uploads.root / "link", uploads.root, "nowhere"):
        with pytest.raises(DataError, match="not an upload of this page"), uploads.taking(str(path)):
            pass
    assert secret.read_text() == "secret"


def test_closing_the_last_page_deletes_all_files(uploads):
    uploads.opened("one")
    uploads.opened("two")
    written = uploads.write("lv-opinion.json", "{}")
    (uploads.root / "picture.png").write_text("picture")
    uploads.closed("one")
    assert written.read_text() == "{}"
    uploads.closed("two")
    assert list(uploads.root.iterdir()) == []


def test_a_task_ends_when_its_page_is_closed(uploads):
    told = []
    progress = uploads.watched("one", lambda *step: told.append(step))
    progress(0.5, "decoding")
    uploads.opened("two")
    uploads.closed("one")
    with pytest.raises(PageClosedError):
        progress(0.6, "decoding")
    assert told == [(0.5, "decoding")]
    again = uploads.watched("one", lambda *step: None)
    again(0.0, "decoding")  # a page that was only disconnected
    uploads.end()  # by the end of the command
    with pytest.raises(PageClosedError):
        again(0.1, "decoding")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, "the page was closed"),
        (OSError(28, "No space left", "/x"), "the files of the page cannot be written: No space left"),
    ],
)
def test_an_analysis_that_ends_early_leaves_no_file(uploads, loop, error, reason):
    pytest.importorskip("gradio")
    from alan.app.analyze_tab import AnalyzeTab

    tab = AnalyzeTab("alan-sim", uploads)
    uploads.opened("another")

    def progress(share, desc):
        uploads.closed("mine")
        if error is not None:
            raise error

    tab.gr = SimpleNamespace(Progress=lambda: progress, Warning=print, update=dict)
    file = shutil.copy(loop, uploads.root / "Jane_Doe.mp4")
    *_, doubts = tab._analyze("mine", str(file), "recognise", None, False)
    assert doubts == f"**{reason}**"
    assert [path for path in uploads.root.rglob("*") if path.is_file()] == []


def test_the_device_of_the_page_runs_all_its_networks(uploads, loop, monkeypatch):
    pytest.importorskip("gradio")
    from alan.app import page
    from alan.app.analyze_tab import AnalyzeTab

    options = {"model": "alan-sim", "parcels": "", "white_boxes": (), "size": 112}
    with pytest.raises(ParameterError, match="device is 'abacus', which cannot be used here"):
        page.build_page(uploads, **options, networks=(), device="abacus")
    tab = AnalyzeTab("alan-sim", uploads, "abacus")
    tab.gr = SimpleNamespace(Progress=lambda: lambda *args, **options: None, Warning=print, update=dict)
    *_, doubts = tab._analyze("mine", str(shutil.copy(loop, uploads.root / "a.mp4")), "recognise", None, False)
    assert "device is 'abacus'" in doubts
    moved, given = [], []
    monkeypatch.setattr("alan.app.models_tab.NetworkLabeller", lambda path, device: given.append(device) or tab)
    tab.structures = ()
    monkeypatch.setattr("alan.app.models_tab.ModelsTab", lambda models, uploads: tab)
    monkeypatch.setattr("alan.analysis.AnalysisModel.to", lambda self, device: moved.append(device.type) or self)
    tab.build = lambda: None
    page.build_page(uploads, **options, networks=["a"], device="meta")
    assert (moved, given) == (["meta"], ["meta"])
