"""Run folders: opened for one configuration, resumed, replaced, cleaned, marked complete; skipped files listed."""

import csv
import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest

import alan
from alan.cli.main import VERBS
from alan.errors import AlanWarning, ConfigError, DataError, SkippedError
from alan.runs import open_run, plain, provenance, report_failures, sweep
from alan.training_run import RunFolder

CONFIG = {"seed": 0, "data": {"store": "a.h5"}}


def opened(folder, config=CONFIG, overwrite=False, contents=("out.txt",), write=None):
    """Open a run, write a file, and say whether it was resumed."""
    with open_run(folder, "segment", config, overwrite, contents) as run:
        if write:
            (folder / write).write_text("text", encoding="utf-8")
        return run.resumed


def fail(folder, error, keep=False):
    with open_run(folder, "segment", CONFIG, False, ("out.txt",)) as run:
        (folder / "out.txt").touch()
        run.keep = keep
        raise error("stopped")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_run_is_resumed_by_the_same_configuration_only(tmp_path):
    folder = tmp_path / "run"
    assert not opened(folder, write="out.txt")
    assert opened(folder)
    with pytest.raises(ConfigError, match=r"another configuration \(data.store\): give another folder"):
        opened(folder, {"seed": 0, "data": {"store": "b.h5"}})
    assert names(folder) == ["config.yaml", "out.txt"]


def test_overwriting_removes_what_the_run_wrote_and_nothing_else(tmp_path):
    opened(tmp_path, write="out.txt")
    (tmp_path / "mine.txt").touch()
    assert not opened(tmp_path, {"seed": 1}, overwrite=True)
    assert names(tmp_path) == ["config.yaml", "mine.txt"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_of_another_command_is_refused_even_if_it_may_be_overwritten(tmp_path, overwrite):
    opened(tmp_path, write="out.txt")
    words = "holds a run of alan segment, which alan analyze does not replace: give another folder, or delete this"
    with (
        pytest.raises(DataError, match=words),
        open_run(tmp_path, "analyze", {"seed": 1}, overwrite, ("loops.csv",)),
    ):
        pass
    with pytest.raises(DataError, match="alan segment, which alan fit does not replace"):
        RunFolder(tmp_path).open({"seed": 1}, overwrite=overwrite)
    assert names(tmp_path) == ["config.yaml", "out.txt"]
    assert opened(tmp_path)  # untouched


def test_a_run_of_an_earlier_version_that_does_not_name_its_command_is_resumed(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 0\ndata:\n  store: a.h5\n", encoding="utf-8")
    assert opened(tmp_path)


def test_run_folders_name_verbs():
    source = "".join(path.read_text(encoding="utf-8") for path in Path(alan.__file__).parent.rglob("*.py"))
    commands = re.findall(r'with open_run\(\s*[\w()]+, "([a-z ]+)"', source)
    assert len(commands) == source.count("with open_run(")
    assert set(commands) <= set(VERBS)


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(DataError, match="it is not a run of this command"):
        opened(tmp_path, overwrite=True)
    assert names(tmp_path) == ["mine.txt"]


def test_temporary_files_may_disappear_meanwhile(tmp_path, monkeypatch):
    for name in (".a.png.12.part", ".b.png.12.part"):
        (tmp_path / name).touch()
    walk = os.walk

    def slow(folder):
        for place, folders, names in walk(folder):
            (tmp_path / ".a.png.12.part").rename(tmp_path / "a.png")
            yield place, folders, sorted(names)

    monkeypatch.setattr(os, "walk", slow)
    sweep(tmp_path)
    assert names(tmp_path) == ["a.png"]


def test_young_temporary_files_of_a_shared_folder_are_kept(tmp_path):
    for name, seconds in ((".a.json.1.part", 700), (".b.json.2.part", 500)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - seconds,) * 2)
    sweep(tmp_path, age=600)
    assert names(tmp_path) == [".b.json.2.part"]


def test_a_run_killed_in_its_first_write_is_resumed(tmp_path):
    (tmp_path / ".config.yaml.4711.part").touch()
    (tmp_path / ".lock").touch()
    assert not opened(tmp_path)
    assert names(tmp_path) == ["config.yaml"]


def test_temporary_files_of_killed_processes_are_removed(tmp_path):
    opened(tmp_path)
    (tmp_path / "masks").mkdir()
    for name in (".a.png.12.part", "b.h5.part", ".mine.part"):
        (tmp_path / "masks" / name).touch()
    (tmp_path / "masks" / ".frames.12.part").mkdir()
    os.utime(tmp_path / "masks" / ".a.png.12.part", (4e9, 4e9))  # the clock was set back since
    assert opened(tmp_path)
    assert names(tmp_path / "masks") == [".mine.part", "b.h5.part"]


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [", "a: \x00", b"\xff\xfe\x00"])
def test_a_damaged_configuration_can_be_overwritten(text, tmp_path):
    opened(tmp_path)
    (tmp_path / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=r"config.yaml: damaged.*--overwrite true") as error:
        opened(tmp_path)
    assert "\n" not in str(error.value)
    assert not opened(tmp_path, overwrite=True)


@pytest.mark.parametrize(("resumed", "keep", "error"), [(0, 0, DataError), (1, 0, DataError), (0, 1, DataError)])
def test_a_new_run_with_invalid_input_leaves_no_files(resumed, keep, error, tmp_path):
    folder = tmp_path / "run"
    if resumed:
        opened(folder)
    with pytest.raises(error):
        fail(folder, error, bool(keep))
    assert folder.exists() == bool(resumed or keep)


@pytest.mark.parametrize("error", [SkippedError, OSError, KeyboardInterrupt])
def test_files_written_before_an_interruption_are_kept(error, tmp_path):
    with pytest.raises(error):
        fail(tmp_path, error)
    assert names(tmp_path) == ["config.yaml", "out.txt"]


def test_a_finished_run_is_marked_complete(tmp_path):
    with open_run(tmp_path, "segment", CONFIG, False, ()) as run:
        assert not run.finished
        run.finish()
    with open_run(tmp_path, "segment", CONFIG, False, ()) as run:
        assert run.finished
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["versions"]["alan"]
    with open_run(tmp_path, "segment", CONFIG, True, ()) as run:
        assert not run.finished
    assert names(tmp_path) == ["config.yaml"]


def test_a_run_without_its_output_is_not_finished(tmp_path):
    with open_run(tmp_path, "segment", CONFIG, False, ()) as run:
        (tmp_path / "table.csv").touch()
        run.finish()
        assert run.finished
        for name in ("table.csv", "run.json"):
            (tmp_path / name).unlink()
            assert not run.finished
        for text in ("{", "[]", '{"outputs": 1}'):
            (tmp_path / "run.json").write_text(text)
            assert not run.finished


def test_passwords_reach_neither_the_configuration_nor_the_provenance(tmp_path, monkeypatch):
    url = "postgresql://ada:s3cret@db/alan"
    opened(tmp_path, {"storage": url})
    assert opened(tmp_path, {"storage": "postgresql://ada:changed@db/alan"})
    assert "s3cret" not in (tmp_path / "config.yaml").read_text(encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["alan", "search", f"--study.storage={url}"])
    assert provenance({})["command"] == "alan search --study.storage=postgresql://ada:***@db/alan"


def test_skipped_files_are_listed_and_warned_of_once(tmp_path):
    path, failures = tmp_path / "failures.csv", [("a.png", "truncated, 3 bytes"), ("b.png", "not a picture")]
    with pytest.warns(AlanWarning, match="skipped 2 of 5 files.*a.png: truncated") as caught:
        report_failures(path, failures, 5, strict=False)
    assert len(caught) == 1
    with path.open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["file", "reason"], *map(list, failures)]
    with pytest.warns(AlanWarning, match="skipped 1 of 5 files and found 1 other problem, listed in"):
        report_failures(path, failures, 5, strict=False, skipped=1)
    with pytest.raises(SkippedError, match="skipped 2 of 5 files"):
        report_failures(path, failures, 5, strict=True)
    report_failures(path, [], 5, strict=True)
    assert not path.exists()


def test_problems_of_files_that_were_used_are_not_called_skipped(tmp_path):
    failures = [("a", "hidden"), ("b", "hidden")]
    with pytest.warns(AlanWarning, match="^found 2 problems in 3 files, listed in"):
        report_failures(tmp_path / "failures.csv", failures, 3, strict=False, skipped=0)


def test_the_list_of_a_folder_keeps_the_rows_of_its_other_files(tmp_path):
    path = tmp_path / "failures.csv"

    def listed():
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.reader(file))

    report_failures(path, [], 5, strict=True, output="one.h5")  # there is no list yet
    assert not path.exists()
    for output, reason in (("one.h5", "truncated"), ("two.h5", "empty"), ("one.h5", "damaged")):
        with pytest.raises(SkippedError):
            report_failures(path, [("a.png", reason)], 5, strict=True, output=output)
    head, two = ["file", "reason", "output"], ["a.png", "empty", "two.h5"]
    assert listed() == [head, two, ["a.png", "damaged", "one.h5"]]
    report_failures(path, [], 5, strict=True, output="one.h5")
    assert listed() == [head, two]
    report_failures(path, [], 5, strict=True, output="two.h5")
    assert not path.exists()


def test_values_are_reduced_to_what_strict_json_holds():
    values = {1: (1.5, np.float32(0.5), float("nan"), -np.inf), "path": Path("a") / "b", "ids": np.arange(3)}
    assert plain(values) == {"1": [1.5, 0.5, None, None], "path": "a/b", "ids": [0, 1, 2]}
