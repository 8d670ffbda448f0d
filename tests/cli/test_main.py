"""The command line: help, misspelt names, one-line errors, exit codes, the options of every verb."""

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import pytest
from tqdm import tqdm

import alan
from alan.cli import main as cli
from alan.cli.console import show
from alan.errors import AlanError, AlanWarning, LockError, SkippedError
from alan.progress import quiet
from alan.shipped import shipped_configs


def run(capsys, *args):
    code = cli.main(list(args))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_names_every_verb(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for verb in [*cli.VERBS, *cli.LIGHTNING]:
        assert f"  {verb} " in out
    for code in (0, 1, 2, 129, 130, 143):
        assert re.search(rf"^  {code} ", out, re.MULTILINE)


def test_version_is_printed(capsys):
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert out.startswith("alan ")


def test_an_unsupported_system_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert run(capsys, "doctor") == (
        2,
        "",
        "alan: error: Windows is not supported: install ALAN in WSL 2 (wsl --install)\n",
    )


def test_an_unknown_verb_offers_the_nearest(capsys):
    code, _, err = run(capsys, "evalute")
    assert code == 2
    assert "did you mean 'evaluate'?" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("verb", ["simulate", "prepare", "cache", "evaluate", "report", "demo"])
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([verb, "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert f"alan {verb}" in out
    assert "--log-file FILE" in out
    assert "143  terminated by SIGTERM" in out


@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_the_help_of_a_training_names_the_public_classes(verb, capsys):
    code, out, _ = run(capsys, verb, "--config", "nowhere", "--help")
    assert (code, out.partition("\n")[0]) == (0, f"usage: alan {verb} --config CONFIG [--out OUT] [options]")
    for name in ("DINOModule", "RaptorModule", "SegmentationModule", "FrameDataModule", "TokenSequenceDataModule"):
        assert re.search(rf"^ +{name},?$", out, re.MULTILINE)


def test_a_misspelt_option_offers_the_nearest(capsys, tmp_path):
    code, _, err = run(capsys, "prepare", "--kind", "camus", "--roott", str(tmp_path), "--out", "x.h5")
    assert code == 2
    assert "did you mean 'root'?" in err
    assert err.count("\n") == 1


def test_a_misspelt_nested_option_offers_the_nearest(capsys, tmp_path):
    args = ["evaluate", "--out", str(tmp_path / "run"), "--segmentation.store", "s.h5"]
    code, _, err = run(capsys, *args, "--segmentation.per_phse", "true")
    assert code == 2
    assert "did you mean 'per_phase'" in err
    assert "NestedArg" not in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("verb", "given", "expected"),
    [
        ("analyze", "a b --out r", ['--inputs=["a", "b"]', "--out", "r"]),
        ("analyze", "--out r a b", ['--inputs=["a", "b"]', "--out", "r"]),
        ("analyze", "--out r a --stills=false b", ['--inputs=["a", "b"]', "--out", "r", "--stills=false"]),
        ("analyze", "a --outputs overlay png", ['--inputs=["a"]', "--outputs", "overlay", "png"]),  # refused later
        ("analyze", "--inputs a --out r", ["--inputs", "a", "--out", "r"]),
        ("report", "--title t run", ["--run=run", "--title", "t"]),
        ("report", "run other", ["run", "other"]),
        ("frames", "loops --out r", ["--root=loops", "--out", "r"]),
        ("prepare", "--out r camus", ["--out", "r", "camus"]),
    ],
)
def test_files_are_accepted_before_or_after_the_options(verb, given, expected):
    assert cli.name_files(verb, given.split()) == expected


@pytest.mark.parametrize("name", ["\U0001fac0 Übung", 'a"b: c', "a\x7f\ufffe", "[12]", "\\ud83e\\udec0"])
def test_files_may_have_any_name(capsys, tmp_path, name):
    code, _, err = run(capsys, "analyze", str(tmp_path / name), "--out", str(tmp_path / "r"))
    assert code == 2
    assert f"{name}: no such file or folder" in err


def test_a_name_that_is_not_in_utf8_is_refused(capsys, tmp_path):
    code, _, err = run(capsys, "analyze", os.fsdecode(b"\xfcbung"), "--out", str(tmp_path / "r"))
    assert code == 2
    assert err == "alan: error: '\\udcfcbung': its name is not in UTF-8: give the folder above it, or rename it\n"


def test_a_misspelt_key_in_a_config_offers_the_nearest(capsys, tmp_path):
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
        (["prepare", "--views", "A4C"], "views is A4C: give a list, such as '[A4C]'"),
        (["name", "--phases", "[EE]"], "phases is ['EE']: choose one of: ED, ES\n"),
        (["analyze", "--input", "a"], "option 'input' is not known: did you mean 'inputs'? (--help lists"),
        (["--quite", "doctor"], "unknown option '--quite': did you mean '--quiet'? choose one of: "),
        (["demo", "--patients", "2"], "patients is 2: give a whole number from 3 to 9999"),
        (["prepare", "--size", "big"], "size is big: give a whole number"),
        (["prepare", "--frames", "few"], "frames is few: choose one of: all, annotated"),
        (["segment", "--frames", "few"], "frames is few: choose one of: all, annotated; or give a whole number"),
        (["prepare", "camus"], "'camus' is not an option: options are written --name value (--help lists them)"),
        (["parcels", "--store=s", "--backbone=b", "--out=o", "--seed=-1"], "seed is -1: give 0 to 4294967295"),
        (["fit", "--trainer.precision", "bf17"], "trainer.precision is bf17: choose one of: "),
        (
            ["fit", "--model", "DINOModul"],
            "model is DINOModul: no class of that name; did you mean 'DINOModule'? ",
        ),
        (["fit", "--trainer.max_steps", "3"], "missing: data, model (--help lists the options)"),
        (["prepare", "--kind", "camus"], "missing: root, out (--help lists the options)"),
    ],
)
def test_a_value_of_the_wrong_type_is_explained(capsys, given, words):
    code, _, err = run(capsys, *given)
    assert code == 2
    assert err.startswith(f"alan: error: {words}")
    assert err.count("\n") == 1


def test_a_config_that_is_not_yaml_is_refused_by_name(capsys, tmp_path):
    (tmp_path / "notes.md").write_text("# Notes\n\n**bold**\n", encoding="utf-8")
    code, _, err = run(capsys, "prepare", "--config", str(tmp_path / "notes.md"))
    assert code == 2
    assert f"{tmp_path / 'notes.md'}: not a YAML file of options" in err
    assert err.count("\n") == 1


def test_a_report_without_a_run_names_the_verbs_that_write_runs(capsys, tmp_path):
    code, _, err = run(capsys, "report", "--run", str(tmp_path))
    assert code == 2
    assert "results.json: no such file; a report needs the finished run of alan evaluate" in err


def test_a_report_removes_leftovers_but_not_files_of_a_run_in_progress(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("alan.report.html.write_report", lambda folder: Path(folder, "report.html").touch())
    (tmp_path / "results.json").write_text('{"schema": "alan-evaluation/1"}', encoding="utf-8")
    (tmp_path / ".report.html.7.part").touch()
    assert run(capsys, "report", "--run", str(tmp_path))[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "results.json"]

    def locked(_):
        raise LockError("process 7 is writing to it")

    monkeypatch.setattr("alan.report.rewrite.lock_folder", locked)
    assert run(capsys, "report", "--run", str(tmp_path))[0] == 2


def test_a_missing_config_file_is_refused(capsys, tmp_path):
    code, _, err = run(capsys, "fit", "--config", str(tmp_path / "none.yaml"))
    assert code == 2
    assert "none.yaml" in err
    assert err.count("\n") == 1


def test_a_missing_root_is_refused(capsys, tmp_path):
    root = tmp_path / "nowhere"
    code, _, err = run(capsys, "prepare", "--kind", "camus", "--root", str(root), "--out", str(tmp_path / "x.h5"))
    assert code == 2
    assert str(root) in err
    assert not list(tmp_path.iterdir())


def test_an_unknown_kind_offers_the_nearest(capsys, tmp_path):
    code, _, err = run(capsys, "prepare", "--kind", "camsu", "--root", str(tmp_path), "--out", "x.h5")
    assert code == 2
    assert "camus" in err


def test_a_full_disk_is_reported_in_one_line(capsys, monkeypatch):
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
        ("simulate", ["--layout=tmed", "--n_patients=3", "--n_frames=1", "--out"]),
        ("demo", ["--patients=3", "--out"]),
    ],
)
def test_an_output_below_a_file_is_refused_in_one_line(capsys, tmp_path, verb, options):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    code, _, err = run(capsys, verb, *options, str(tmp_path / "file" / "below"))
    assert code == 2
    assert re.search(rf"{tmp_path / 'file'}.*: not a directory; .* give another place\n", err)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EISDIR])
def test_a_read_only_output_is_refused_in_one_line(capsys, monkeypatch, number):
    def refused(_):
        raise OSError(number, os.strerror(number), "there/out.h5")

    monkeypatch.setattr(cli, "_run", refused)
    code, _, err = run(capsys, "demo")
    assert code == 2
    assert err.startswith(f"alan: error: there/out.h5: {os.strerror(number).lower()}; ")
    assert err.count("\n") == 1


def test_archive_verbs_import_no_training_library():
    modules = {cli.VERBS[verb][0].partition(":")[0] for verb in ("frames", "prepare", "report")}
    heavy = {"torch", "lightning", "timm", "torchvision", "sklearn", "skimage", "matplotlib"}
    assert modules == {"alan.data.extract", "alan.cli.prepare", "alan.report.rewrite"}
    code = f"import sys, alan.cli.parsing, {', '.join(modules)}; print(*{heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_simulator_imports_no_training_library():
    code = "import sys, alan.cli.parsing, alan.data.simulator.archive; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_other_os_errors_are_raised(monkeypatch):
    def broken(_):
        raise OSError(errno.EBADF, "I/O error")

    monkeypatch.setattr(cli, "_run", broken)
    with pytest.raises(OSError, match="I/O"):
        cli.main(["demo"])


def test_a_package_error_is_reported_in_one_line(capsys, monkeypatch):
    def fails(_):
        raise AlanError("first\nsecond")

    monkeypatch.setattr(cli, "_run", fails)
    code, _, err = run(capsys, "demo")
    assert (code, err) == (2, "alan: error: first second\n")


def test_skipped_input_gives_exit_code_1(capsys, monkeypatch):
    def skips(_):
        raise SkippedError("skipped 1 of 2 files")

    monkeypatch.setattr(cli, "_run", skips)
    assert run(capsys, "demo") == (1, "", "alan: error: skipped 1 of 2 files\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_gives_one_line_and_its_exit_code(capsys, monkeypatch, number, code):
    before = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    outer = signal.signal(number, before)  # a job of nohup ignores SIGHUP
    try:
        monkeypatch.setattr(cli, "_run", lambda _: signal.raise_signal(number))
        found, _, err = run(capsys, "demo")
        assert (found, err.count("\n")) == (code, 1)
        assert f"alan: interrupted ({number.name}); the same command continues" in err
        assert signal.getsignal(number) == before
    finally:
        signal.signal(number, outer)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_library_that_exits_on_a_signal_does_not_hide_the_signal(capsys, monkeypatch, number, code):
    """Lightning exits with code 1 after Ctrl-C and with code 0 after SIGTERM."""

    def exits(_):
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            sys.exit(None)

    monkeypatch.setattr(cli, "_run", exits)
    assert run(capsys, "demo")[0] == code


@pytest.mark.parametrize("error", [KeyError("thread"), RuntimeError("DataLoader worker (pid 7) is killed")])
def test_an_error_after_a_signal_counts_as_the_interruption(capsys, monkeypatch, error):
    """A library may raise because its work, or its worker processes, received the signal."""

    def fails(_):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise error

    monkeypatch.setattr(cli, "_run", fails)
    found, _, err = run(capsys, "demo")
    assert (found, err.count("\n")) == (130, 1)
    assert "alan: interrupted (SIGINT)" in err


def test_a_full_disk_after_a_signal_is_reported(capsys, monkeypatch):
    def fails(_):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise OSError(errno.ENOSPC, "No space left on device", "last.ckpt")

    monkeypatch.setattr(cli, "_run", fails)
    assert run(capsys, "demo") == (2, "", "alan: error: last.ckpt: no space left on disk; free some, run again\n")


def test_an_ignored_signal_stays_ignored(capsys, monkeypatch):
    """Background jobs of a script ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        monkeypatch.setattr(cli, "_run", lambda _: signal.raise_signal(signal.SIGINT))
        assert run(capsys, "demo")[0] == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_forked_worker_ends_silently_at_a_signal(capfd, monkeypatch):
    def forks(_):
        child = os.fork()
        if not child:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM

    monkeypatch.setattr(cli, "_run", forks)
    assert cli.main(["demo"]) == 0
    assert capfd.readouterr().err == ""


def test_the_log_file_contains_all_messages_with_the_time(capsys, monkeypatch, tmp_path):
    def works(_):
        cli.logging.getLogger("alan.somewhere").info("half of it is done")
        warnings.warn("a file was skipped", AlanWarning, stacklevel=1)
        raise AlanError("cannot reach mysql://ada:s3cret@db/x")

    monkeypatch.setattr(cli, "_run", works)
    path = tmp_path / "logs" / "alan.log"
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        for _ in range(2):
            assert run(capsys, "demo", f"--log-file={path}")[0] == 2
        code, _, err = run(capsys, "demo", "--quiet", "--log-file", str(path))
    assert (code, err) == (2, "alan: note: a file was skipped\nalan: error: cannot reach mysql://ada:***@db/x\n")
    lines = path.read_text(encoding="utf-8").splitlines()
    words = [line.split(maxsplit=2)[2] for line in lines]
    assert words == 3 * [
        f"DEBUG alan {alan.__version__}: demo",
        "INFO half of it is done",
        "WARNING alan: note: a file was skipped",
        "ERROR alan: error: cannot reach mysql://ada:***@db/x",
        "DEBUG exit code 2",
    ]
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", lines[0])


def test_the_log_file_contains_an_unexpected_error(monkeypatch, tmp_path):
    def breaks(_):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(cli, "_run", breaks)
    with pytest.raises(ZeroDivisionError):
        cli.main(["demo", "--log-file", str(tmp_path / "log")])
    assert "Traceback" in (tmp_path / "log").read_text(encoding="utf-8")


@pytest.mark.parametrize("args", [["--log-file"], ["--log-file="], ["--log-file", "--quiet"]])
def test_a_log_file_without_a_name_is_refused(capsys, args):
    assert run(capsys, "demo", *args) == (2, "", "alan: error: --log-file needs a file: give --log-file FILE\n")


def test_a_log_file_on_a_full_disk_is_reported(capsys):
    code, _, err = run(capsys, "prepare", "--log-file", "/dev/full")
    assert code == 2
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "alan: error: output: no space left on disk; free some, run again"


def test_an_unwritable_log_file_is_refused(capsys, tmp_path):
    code, _, err = run(capsys, "configs", "--log-file", str(tmp_path))
    assert (code, err.count("\n")) == (2, 1)
    assert f"{tmp_path}: is a directory" in err


def test_quiet_hides_progress_bars_of_one_call_only(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "_run", lambda args: seen.append((quiet(), args)))
    for args in (["demo"], ["demo", "--quiet", "--fast=true"], ["demo"]):
        assert run(capsys, *args)[0] == 0
    assert seen == [(False, ["demo"]), (True, ["demo", "--fast=true"]), (False, ["demo"])]


def test_a_line_is_not_appended_to_a_progress_bar(capsys, monkeypatch):
    def interrupted(args):
        with tqdm(total=2, file=sys.stderr) as bar:
            bar.update()
            show("a note")

    monkeypatch.setattr(cli, "_run", interrupted)
    lines = run(capsys, "demo")[2].replace("\r", "\n").splitlines()
    assert "alan: a note" in lines
    assert any("1/2" in line for line in lines)


def test_quiet_hides_the_progress_bar_of_prepare(capsys, tiny, tmp_path):
    args = ["prepare", "--kind=camus", "--root", tiny.archive("camus"), "--size=32", "--workers=0"]
    assert run(capsys, *args, "--out", str(tmp_path / "a.h5"), "--quiet") == (0, "", "")
    assert "sample/s]" in run(capsys, *args, "--out", str(tmp_path / "b.h5"))[2]


def test_quiet_hides_the_progress_bar_of_simulate(capsys, tmp_path):
    args = ["simulate", "--n_patients=3", "--views=[A4C]", "--size=32", "--n_frames=8", "--quiet"]
    assert run(capsys, *args, "--out", str(tmp_path / "archive")) == (0, "", "")


@pytest.mark.parametrize(
    ("filename", "category", "shown"),
    [
        ("/lib/PIL/Image.py", UserWarning, True),
        ("/lib/pydicom/valuerep.py", UserWarning, True),
        ("/lib/pydicom/valuerep.py", DeprecationWarning, False),
        ("/lib/torch/nn/modules.py", UserWarning, False),
        ("/home/me/script.py", AlanWarning, True),
    ],
)
def test_warnings_about_input_files_are_shown(capsys, monkeypatch, filename, category, shown):
    def warns(_):
        warnings.warn_explicit("odd", category, filename, 1)

    monkeypatch.setattr(cli, "_run", warns)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run(capsys, "demo")[2] == ("alan: note: odd\n" if shown else "")


def test_configs_lists_every_configuration_with_its_first_sentence(capsys):
    code, out, _ = run(capsys, "configs")
    assert code == 0
    lines = out.splitlines()
    for name, path in shipped_configs().items():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        shown = line.split(maxsplit=1)[1]
        comment = " ".join(part.lstrip("# ") for part in path.read_text(encoding="utf-8").split("\n#")[:4])
        assert " ".join(comment.split()).startswith(shown)
        assert shown.endswith(".")
        assert ". " not in shown
    assert "sim: alan fit --config NAME" in lines
    assert "active: alan active run --config NAME" in lines


def test_doctor_lists_versions_hardware_files_and_extras(capsys):
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    assert re.search(r"^  python +\d+\.\d+", out, re.MULTILINE)
    assert re.search(r"^  memory +[\d.]+ GiB in all", out, re.MULTILINE)
    assert re.search(r"^  cores +\d+ of \d+ usable", out, re.MULTILINE)
    assert re.search(r"^  decoders .*h264", out, re.MULTILINE)
    assert re.search(r"^  [0-9a-f]{16} .*alan-sim-small-parcels.safetensors$", out, re.MULTILINE)
    assert re.search(r"^  model alan-sim: A4C, A2C", out, re.MULTILINE)
    assert "  model alan-sim-small: A4C\n" in out


def test_doctor_reads_requirements_and_extras_from_the_distribution(capsys, monkeypatch):
    required = ["numpy>=2.0", "no-such-thing>=1", 'pydicom>=3; extra == "dicom"', "also-missing; extra == 'dicom'"]
    monkeypatch.setattr("alan.cli.doctor.metadata.requires", lambda _: required)
    extras = {"Provides-Extra": ["dicom", "dev"]}
    monkeypatch.setattr("alan.cli.doctor.metadata.metadata", lambda _: Extras(extras))
    _, out, _ = run(capsys, "doctor")
    assert re.search(r"^  numpy +\d", out, re.MULTILINE)
    assert re.search(r"^  no-such-thing +not installed: pip install alan-echo$", out, re.MULTILINE)
    assert re.search(
        r"^  dicom +pydicom [\d.]+, also-missing missing: pip install 'alan-echo\[dicom\]'$", out, re.MULTILINE
    )
    assert not re.search(r"^  dev ", out, re.MULTILINE)


class Extras(dict):
    get_all = dict.get


def test_installed_configurations_are_found_by_name(capsys, tmp_path):
    args = ["--root", str(tmp_path / "nowhere"), "--out", str(tmp_path / "x.h5")]
    for given in (["--config", "prepare/camus_a4c"], ["--config=configs/prepare/camus_a4c.yaml"]):
        code, _, err = run(capsys, "prepare", *given, *args)
        assert code == 2
        assert f"{tmp_path / 'nowhere'}" in err


def test_a_misspelt_configuration_offers_the_nearest(capsys):
    code, _, err = run(capsys, "fit", "--config", "dino/tiny_demos")
    assert code == 2
    assert "did you mean 'dino/tiny_demo'? 'alan configs' lists them" in err


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        ("dino/tiny_demo", ["--data.stores=[a.h5,b.h5]"], "frame store; write it with `alan prepare`"),
        (
            "raptor/raptor_demo",
            ["--data.init_args.cache", "a.h5", f"--data.store={__file__}", f"--model.backbone={__file__}"],
            "feature cache; write it with `alan cache`",
        ),
    ],
)
def test_a_training_without_data_is_refused_before_libraries_are_imported(config, options, words):
    code = f"""
import sys
from alan.cli.main import main
code = main(["fit", "--config", "{config}", *{options}])
sys.exit(9 if "torch" in sys.modules else code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"alan: error: a.h5: no such {words}\n"


def test_a_config_with_a_repeated_key_is_refused(capsys, tmp_path):
    (tmp_path / "a.yaml").write_text("kind: camus\nroot: a\nroot: b\n")
    code, _, err = run(capsys, "prepare", "--config", str(tmp_path / "a.yaml"))
    assert code == 2
    assert "a.yaml: the key 'root' occurs twice: keep one" in err


def test_a_config_of_exploding_aliases_is_refused(capsys, tmp_path):
    names = [f"a{n}" for n in range(12)]
    lines = [f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in pairwise(names)]
    for text in ("\n".join([f"{names[0]}: &{names[0]} [x]", *lines]), "a: &a [*a]", "[" * 5000):
        (tmp_path / "a.yaml").write_text(text)
        for verb in ("frames", "fit"):
            code, _, err = run(capsys, verb, "--config", str(tmp_path / "a.yaml"), "--out", str(tmp_path / "out"))
            assert (code, err.count("\n")) == (2, 1)
            assert "a.yaml: its aliases or nested values stand for more than 100000 values" in err


def test_closed_output_streams_are_tolerated(tmp_path):
    script = (
        f"exec {sys.executable} -m alan prepare --kind camus --root nowhere --out a.h5 --log-file log <&- >&- 2>&-"
    )
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "alan: error: nowhere: no such folder" in (tmp_path / "log").read_text()


def test_python_dash_m_alan_runs_a_verb():
    done = subprocess.run([sys.executable, "-m", "alan", "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("alan ")


@pytest.mark.parametrize("arguments", [["configs"], ["--help"], ["check", "--help"]])
def test_a_closed_pipe_ends_the_program(monkeypatch, capsys, arguments):
    """As ``| head -1``: no traceback, and the exit code of programs that SIGPIPE ends."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main(arguments) == 128 + signal.SIGPIPE
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["configs"]])
def test_a_full_disk_behind_the_output_is_one_line(monkeypatch, capsys, arguments):
    with Path("/dev/full").open("w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main(arguments) == 2
    assert re.fullmatch("alan: error: .*no space left.*\n", capsys.readouterr().err)
