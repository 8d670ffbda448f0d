"""Files are written completely or not at all, with the permissions of the umask."""

import errno
import os

import pytest

from alan.errors import DataError
from alan.files import (
    atomic,
    check_schema,
    files_below,
    parse_yaml,
    read_json,
    redact,
    short_name,
    unreachable_below,
    write_json,
    write_text,
)


@pytest.fixture
def umask():
    old = os.umask(0o027)
    yield
    os.umask(old)


@pytest.mark.usefixtures("umask")
def test_file_modes_follow_the_umask(tmp_path):
    target = tmp_path / "deep" / "file"
    with atomic(target) as temporary:
        temporary.unlink(missing_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_failed_write_leaves_no_file(tmp_path):
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


def test_content_is_flushed_before_the_rename(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("os.fsync", lambda _: calls.append("fsync"))
    replace = os.replace
    monkeypatch.setattr("os.replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    write_text(tmp_path / "file", "text")
    assert calls == ["fsync", "replace"]


def test_names_of_255_bytes_are_written(tmp_path):
    name = "ä" * 127
    write_text(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ada:s3cret@db:5432/alan", "postgresql://ada:***@db:5432/alan"),
        ("postgresql+psycopg2://ada:p@ss:/w'ord@db/alan", "postgresql+psycopg2://ada:***@db/alan"),
        ("redis://:s3cret@db", "redis://:***@db"),
        ('{"a": "mysql://u:s3cret@db/x", "b": "me@home"}', '{"a": "mysql://u:***@db/x", "b": "me@home"}'),
        ("postgresql:///x?user=ada&password=s3cret&host=db", "postgresql:///x?user=ada&password=***&host=db"),
        ("sqlite:///runs/search/study.db", "sqlite:///runs/search/study.db"),
        ("postgresql://ada@db/alan and me@home", "postgresql://ada@db/alan and me@home"),
    ],
)
def test_passwords_are_not_shown(text, shown):
    assert redact(text) == shown


def test_passwords_are_not_written_to_json(tmp_path):
    write_json(tmp_path / "a.json", {"storage": "mysql://u:s3cret@db/x"})
    assert read_json(tmp_path / "a.json") == {"storage": "mysql://u:***@db/x"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_errors_of_libraries_that_cannot_write_name_the_file(tmp_path, number):
    def fail(error):
        with atomic(tmp_path / "file"):
            raise error

    for error in (RuntimeError(f"I/O error: {os.strerror(number)} (os error {number})"), OSError(number, "x")):
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            fail(error)
        assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "file"))
    with pytest.raises(RuntimeError, match="other"):
        fail(RuntimeError("other"))


def test_files_of_linked_folders_are_found_once(tmp_path):
    inside, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for path in (inside / "b" / "2.png", inside / "1.png", inside / ".hidden" / "x.png", elsewhere / "3.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (inside / ".thumbnail.png").touch()
    for folder in ("@eaDir/1.png", "__MACOSX", "$RECYCLE.BIN"):
        (inside / folder).mkdir(parents=True)
        (inside / folder / "SYNOPHOTO_THUMB_M.png").touch()
    (inside / "a").symlink_to(elsewhere)
    (inside / "c").symlink_to(elsewhere)
    (inside / "b" / "up").symlink_to(inside)
    (inside / "broken.png").symlink_to(tmp_path / "nowhere.png")
    found = [path.relative_to(inside).as_posix() for path in files_below(inside)]
    assert found == ["1.png", "a/3.png", "b/2.png"]
    assert files_below(tmp_path / "nowhere") == []


def test_unreachable_files_are_listed_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / "a" / "locked").mkdir(parents=True)
    (tmp_path / "a" / "file").touch()
    for name in ("file", "nowhere", "loop"):
        (tmp_path / f"to {name}").symlink_to({"file": "a/file", "loop": "to loop"}.get(name, name))
    os.mkfifo(tmp_path / "pipe")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = [
        (path.relative_to(tmp_path).as_posix(), why.partition(":")[0]) for path, why in unreachable_below(tmp_path)
    ]
    link, special = "a link to a file that is missing", "a pipe, a socket or a device, not a file"
    folder, pipe = (
        ("a/locked", "a folder that cannot be read"),
        ("pipe", special),
    )
    assert found == [folder, pipe, ("to loop", link), ("to nowhere", link)]


def test_long_names_are_shortened_and_stay_distinct():
    assert short_name("p1_a4c") == "p1_a4c"
    assert short_name("x" * 200) == "x" * 200
    names = [short_name(f"{'é' * 150}{end}") for end in "ab"]
    assert names[0] != names[1]
    for name in names:
        assert len(name.encode()) <= 200
        assert name.startswith("é" * 93 + "~")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_json_is_read_in_every_encoding_of_unicode(tmp_path, encoding):
    (tmp_path / "a.json").write_bytes('{"é": 1}'.encode(encoding))
    assert read_json(tmp_path / "a.json") == {"é": 1}


def test_a_repeated_key_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('[{"a": 1, "b": 2, "a": 3}]')
    with pytest.raises(DataError, match=r"a.json: not a JSON file \(the key 'a' occurs twice: keep one\)"):
        read_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match="the key 'b' occurs twice"):
        parse_yaml("a: {b: 1, b: 2}")
    assert parse_yaml("x: &x {a: 1}\ny: {<<: *x, a: 2}") == {"x": {"a": 1}, "y": {"a": 2}}  # merged, not repeated


@pytest.mark.parametrize("entry", [{"schema": "net/1"}, {}, ["net/2"], None])
def test_json_of_another_schema_is_refused(entry):
    assert check_schema({"schema": "net/2"}, "net/2", "", "write it again", DataError) == {"schema": "net/2"}
    found = "'net/1'" if entry == {"schema": "net/1"} else "None"
    with pytest.raises(DataError, match=f"^a.json: schema is {found} where 'net/2' is expected: write it again"):
        check_schema(entry, "net/2", "a.json: ", "write it again", DataError)
