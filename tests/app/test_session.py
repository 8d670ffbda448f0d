"""Files of the page: uploads are read once and deleted, nothing else is read."""

import pytest

from alan.app.session import Uploads
from alan.errors import DataError


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
