"""Files are written whole or not at all, and for all whom the umask allows."""

import os

import pytest

from alan.files import atomic


@pytest.fixture
def umask():
    old = os.umask(0o027)
    yield
    os.umask(old)


@pytest.mark.usefixtures("umask")
def test_mode_follows_the_umask_whatever_the_library_sets(tmp_path):
    target = tmp_path / "deep" / "file"
    with atomic(target) as temporary:
        temporary.unlink(missing_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does
    assert target.stat().st_mode & 0o777 == 0o640


def test_nothing_stays_of_a_failed_write(tmp_path):
    target = tmp_path / "file"
    target.write_text("before")

    def fail():
        with atomic(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]
