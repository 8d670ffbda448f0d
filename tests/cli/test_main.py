"""The command line: help, misspelt names, one-line errors with exit code 2."""

import errno
import os
import re
import subprocess
import sys

import pytest

from alan.cli import main as cli
from alan.errors import AlanError


def run(capsys, *args):
    code = cli.main(list(args))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_names_every_verb(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for verb in [*cli.VERBS, *cli.LIGHTNING]:
        assert f"  {verb} " in out


def test_version(capsys):
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert out.startswith("alan ")


def test_unknown_verb_offers_the_nearest(capsys):
    code, _, err = run(capsys, "evalute")
    assert code == 2
    assert "did you mean 'evaluate'?" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("verb", ["simulate", "prepare", "cache", "evaluate", "report", "demo"])
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([verb, "--help"])
    assert stopped.value.code == 0
    assert f"alan {verb}" in capsys.readouterr().out


def test_misspelt_option_offers_the_nearest(capsys, tmp_path):
    code, _, err = run(capsys, "prepare", "--kind", "camus", "--roott", str(tmp_path), "--out", "x.h5")
    assert code == 2
    assert "did you mean 'root'?" in err
    assert err.count("\n") == 1


def test_misspelt_option_below_another_offers_the_nearest_in_plain_words(capsys, tmp_path):
    args = ["evaluate", "--out", str(tmp_path / "run"), "--segmentation.store", "s.h5"]
    code, _, err = run(capsys, *args, "--segmentation.per_phse", "true")
    assert code == 2
    assert "did you mean 'per_phase'" in err
    assert "NestedArg" not in err
    assert err.count("\n") == 1


def test_misspelt_key_in_a_config_offers_the_nearest(capsys, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        "model:\n  class_path: alan.backbone.DINOModule\n  init_args: {freeze_last_layer_epoch: 1}\n"
    )
    code, _, err = run(capsys, "fit", "--config", str(config), "--out", str(tmp_path / "run"))
    assert code == 2
    assert "did you mean 'freeze_last_layer'?" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["prepare", "--views", "A4C"], "views is A4C: give a list, such as '[one, another]'"),
        (["prepare", "--size", "big"], "size is big: give a whole number"),
        (["prepare", "--frames", "few"], "frames is few: choose one of: all, annotated"),
        (["segment", "--frames", "few"], "frames is few: choose one of: all, annotated; give a whole number"),
        (["prepare", "camus"], "'camus' is not an option: options are written --name value (--help lists them)"),
        (["parcels", "--store=s", "--backbone=b", "--out=o", "--seed=-1"], "seed is -1: give 0 to 4294967295"),
        (
            ["fit", "--trainer.precision", "bf17"],
            "trainer.precision is bf17: give a whole number; choose one of: ",
        ),
    ],
)
def test_a_value_of_the_wrong_type_is_answered_in_words(capsys, given, words):
    code, _, err = run(capsys, *given)
    assert code == 2
    assert err.startswith(f"alan: error: {words}")
    assert err.count("\n") == 1


def test_a_config_that_is_no_yaml_is_named(capsys, tmp_path):
    (tmp_path / "notes.md").write_text("# Notes\n\n**bold**\n", encoding="utf-8")
    code, _, err = run(capsys, "prepare", "--config", str(tmp_path / "notes.md"))
    assert code == 2
    assert f"{tmp_path / 'notes.md'}: not a YAML file of options" in err
    assert err.count("\n") == 1


def test_a_report_of_no_run_names_what_writes_one(capsys, tmp_path):
    code, _, err = run(capsys, "report", "--run", str(tmp_path))
    assert code == 2
    assert "results.json: no such file; a report needs the finished run of alan evaluate" in err


def test_missing_config_file(capsys, tmp_path):
    code, _, err = run(capsys, "fit", "--config", str(tmp_path / "none.yaml"))
    assert code == 2
    assert "none.yaml" in err
    assert err.count("\n") == 1


def test_missing_root(capsys, tmp_path):
    root = tmp_path / "nowhere"
    code, _, err = run(capsys, "prepare", "--kind", "camus", "--root", str(root), "--out", str(tmp_path / "x.h5"))
    assert code == 2
    assert str(root) in err
    assert not list(tmp_path.iterdir())


def test_unknown_kind_offers_the_nearest(capsys, tmp_path):
    code, _, err = run(capsys, "prepare", "--kind", "camsu", "--root", str(tmp_path), "--out", "x.h5")
    assert code == 2
    assert "camus" in err


def test_full_disk_is_one_line(capsys, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device", "out.h5")

    monkeypatch.setattr(cli, "_run", full)
    code, _, err = run(capsys, "demo")
    assert code == 2
    assert "no space left" in err
    assert "out.h5" in err


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("simulate", ["--layout=tmed", "--n_patients=3", "--n_frames=1", "--root"]),
        ("demo", ["--patients=3", "--out"]),
    ],
)
def test_a_place_below_a_file_is_one_line(capsys, tmp_path, verb, options):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    code, _, err = run(capsys, verb, *options, str(tmp_path / "file" / "below"))
    assert code == 2
    assert re.search(rf"{tmp_path / 'file'}.*: not a directory; .* give another place\n", err)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EISDIR])
def test_a_place_that_cannot_be_written_is_one_line(capsys, monkeypatch, number):
    def refused(_):
        raise OSError(number, os.strerror(number), "there/out.h5")

    monkeypatch.setattr(cli, "_run", refused)
    code, _, err = run(capsys, "demo")
    assert code == 2
    assert err.startswith(f"alan: error: there/out.h5: {os.strerror(number).lower()}; ")
    assert err.count("\n") == 1


def test_the_verbs_that_read_and_write_archives_wait_for_no_training_library():
    modules = {module for verb, (module, _, _) in cli.VERBS.items() if verb in {"frames", "prepare", "report"}}
    heavy = {"torch", "lightning", "timm", "torchvision", "sklearn", "skimage", "matplotlib"}
    assert modules == {"alan.data.extract", "alan.cli.prepare", "alan.cli.report"}
    code = f"import sys, alan.cli.parsing, {', '.join(modules)}; print(*{heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_simulator_waits_for_no_training_library():
    code = "import sys, alan.cli.parsing, alan.data.simulator.archive; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_other_os_errors_are_not_hidden(monkeypatch):
    def broken(_):
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(cli, "_run", broken)
    with pytest.raises(OSError, match="I/O"):
        cli.main(["demo"])


def test_an_error_of_the_package_is_folded_into_one_line(capsys, monkeypatch):
    def fails(_):
        raise AlanError("first\nsecond")

    monkeypatch.setattr(cli, "_run", fails)
    code, _, err = run(capsys, "demo")
    assert (code, err) == (2, "alan: error: first second\n")


def test_interrupt(capsys, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", stop)
    assert run(capsys, "demo")[0] == 130


def test_python_dash_m():
    done = subprocess.run([sys.executable, "-m", "alan", "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("alan ")
