import hashlib
import hmac
import subprocess
import sys

import pytest

from alan.data import pseudonyms
from alan.data.pseudonyms import SECRET, patient_key
from alan.errors import AlanWarning


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv(SECRET, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    pseudonyms._stored_secret.cache_clear()
    yield tmp_path / "config" / "alan" / "pseudonym-secret"
    pseudonyms._stored_secret.cache_clear()


def test_a_key_is_a_keyed_hash_of_the_identifier(monkeypatch):
    monkeypatch.setenv(SECRET, "s3cret")
    expected = hmac.digest(b"s3cret", b"12345", hashlib.sha256).hex()[:16]
    assert patient_key("12345") == patient_key(" 12345 ") == patient_key("", None, "12345") == f"p{expected}"
    monkeypatch.setenv(SECRET, "another")
    assert patient_key("12345") != f"p{expected}"


def test_patients_without_an_identifier_have_no_key(home):
    assert patient_key("", None, " ") == ""
    assert not home.exists()


def test_the_secret_is_created_once_and_readable_by_its_owner(home):
    key = patient_key("12345")
    assert home.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in home.parent.iterdir()] == [home.name]
    code = "from alan.data.pseudonyms import patient_key; print(patient_key('12345'))"
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert again.stdout.strip() == key
    home.write_text("f" * 64)
    pseudonyms._stored_secret.cache_clear()
    assert patient_key("12345") != key


def test_keys_without_a_stored_secret_last_for_the_process(home):
    home.parent.parent.write_text("a file")
    with pytest.warns(AlanWarning, match=f"set {SECRET}"):
        first = patient_key("1")
    assert patient_key("1") == first != patient_key("2")


def test_an_empty_secret_is_none(home):
    home.parent.mkdir(parents=True)
    home.touch()
    with pytest.warns(AlanWarning, match="it is empty"):
        key = patient_key("1")
    pseudonyms._stored_secret.cache_clear()
    with pytest.warns(AlanWarning, match="it is empty"):
        assert patient_key("1") != key
