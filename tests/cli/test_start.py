"""Verbs show help and refuse a wrong path before heavy libraries are imported."""

import json
import subprocess
import sys

import pytest

from alan.cli.inputs import check_inputs, training_values
from alan.cli.main import LIGHTNING, VERBS
from alan.errors import DataError

HEAVY = {
    *("torch", "lightning", "pandas", "sklearn", "skimage", "matplotlib", "timm", "torchvision", "optuna"),
    *("kornia", "segmentation_models_pytorch", "torchmetrics"),
}
#: Commands with a wrong path, and words of the message.
WRONG = [
    ("segment --input nowhere --out OUT", "nowhere: no such folder"),
    (
        "segment --input nowhere.h5 --out OUT",
        "nowhere.h5: no such frame store; write it with",
    ),
    ("segment --input . --network a.safetensors --out OUT", "a.safetensors: no such file; check the spelling"),
    ("segment --input . --white_boxes [lv.json] --out OUT", "lv.json: no such file"),
    ("parcels --store a.h5 --backbone alan-sim-small --out OUT", "a.h5: no such frame store; write it with"),
    ("name --parcels alan-sim-small-parcels --store a.h5 --out OUT", "a.h5: no such frame store"),
    ("name --parcels alan-sim-parcels --store no/where --out OUT", "no/where: no such frame store"),
    ("assemble --parcels no/where --white_boxes [a.json] --out OUT", "no/where: no such file or folder"),
    ("calibrate alan-sim --stores [a.h5] --out OUT", "a.h5: no such frame store; write it with"),
    ("calibrate nothing --stores [a.h5] --out OUT", "nothing: no such model; choose one of: alan-sim"),
    ("cache --config cache/tokens --out OUT", "data/echonet.h5: no such frame store"),
    ("ensemble --config ensemble/acdc_tiny --out OUT", ".h5: no such frame store"),
    ("search --config search/camus_tiny --out OUT", ".h5: no such frame store"),
    ("active run --config active/camus_tiny --out OUT", ".h5: no such frame store"),
    ("active suggest . --network a.safetensors --out OUT", "a.safetensors: no such file"),
    (
        "fit --config dino/tiny_demo --out OUT",
        "data/demo.h5: no such frame store; write it with `alan prepare`",
    ),
    ("fit --config nowhere.yaml --out OUT", "nowhere.yaml: no such file"),
    ("prepare --kind camus --root nowhere --out OUT/a.h5", "nowhere: no such folder"),
    ("report --run nowhere", "nowhere: no such folder"),
    ("analyze nowhere --out OUT", "nowhere: no such file or folder; check the spelling"),
    ("analyze . --model nothing --out OUT", "nothing: no such model; choose one of: alan-sim"),
    ("export nothing --out OUT", "nothing: no such model; choose one of: alan-sim"),
    ("ui --model alan-simm", "alan-simm: no such model; did you mean"),
    ("analyze . --reference nowhere.csv --out OUT", "nowhere.csv: no such file; check the spelling"),
]
#: Run commands one after the other, and print for each its exit code, its output and the heavy libraries so far.
SCRIPT = """
import contextlib, io, json, sys
from alan.cli.main import main
heavy, commands = json.loads(sys.argv[1])
for words in commands:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code
    print(json.dumps([code, shown.getvalue(), sorted({*heavy} & {*sys.modules})]))
"""


def start(*commands):
    """Run commands in one new process."""
    given = [[*HEAVY], [[*map(str, command)] for command in commands]]
    command = [sys.executable, "-c", SCRIPT, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def helped():
    """Exit code, output and heavy libraries of the help of each verb, all in one process."""
    verbs = [*VERBS, *LIGHTNING]
    return dict(zip(verbs, start(*([*verb.split(), "--help"] for verb in verbs)), strict=True))


@pytest.mark.parametrize("verb", [*VERBS, *LIGHTNING])
def test_help_imports_no_heavy_library(verb, helped):
    """The first verb that fails is the one that imports it."""
    code, shown, heavy = helped[verb]
    assert code == 0
    assert f"alan {verb}" in shown
    assert heavy == []


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """The same of each wrong command, and of ``alan doctor`` after them; and the folder of their results."""
    folder = tmp_path_factory.mktemp("wrong")
    commands = [args.replace("OUT", str(folder / str(n))).split() for n, (args, _) in enumerate(WRONG)]
    return folder, start(*commands, ["doctor"])


@pytest.mark.parametrize("number", range(len(WRONG)), ids=lambda number: WRONG[number][0])
def test_a_wrong_path_is_refused_before_heavy_libraries_are_imported(number, refused):
    folder, results = refused
    code, shown, heavy = results[number]
    assert code == 2, shown
    assert WRONG[number][1] in shown
    assert shown.count("\n") == 1
    assert heavy == []
    assert not (folder / str(number)).exists()


def test_heavy_imports_are_detected(refused):
    assert "torch" in refused[1][-1][2]


def test_too_many_labelled_patients_are_refused_before_networks_are_imported(tiny, tmp_path):
    config, out = tmp_path / "e.yaml", tmp_path / "out"
    config.write_text(f"segmentation: {{store: {tiny.store('camus')}, label_patients: 99}}")
    ((code, shown, heavy),) = start(["evaluate", "--config", config, "--out", out])
    assert (code, heavy) == (2, ["pandas"])
    assert "label_patients is 99: give 1 to 2" in shown
    assert not out.exists()


def test_an_import_is_deferred_until_the_module_is_used():
    """``alan segment`` imports scikit-learn without the statistics of SciPy."""
    code = """
import sys
from alan.extras import defer_imports
defer_imports("scipy.stats")
import alan.downstream.segmentation
import alan.downstream.sheet
assert "sklearn" in sys.modules
assert "scipy.stats._stats_py" not in sys.modules
import scipy.stats
assert scipy.stats.norm.cdf(0) == 0.5
assert "scipy.stats._stats_py" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_misspelt_option_is_left_to_the_parser(tmp_path):
    """Otherwise the store of the configuration, which the option should replace, would be reported as missing."""
    config = tmp_path / "fit.yaml"
    config.write_text("{data: {init_args: {stores: [a.h5], batch_size: 4}}}")
    words = ["--config", str(config), "--data.init_args.batch_size", "8"]
    assert training_values(words) == {"data.stores": ["a.h5"], "data.batch_size": 8}
    assert training_values([*words, "--data.init_args.stors", "[b.h5]"]) == {}


def test_inputs_of_a_replaced_class_are_not_checked(tmp_path):
    config = tmp_path / "fit.yaml"
    config.write_text("{model: {init_args: {backbone: b.safetensors}}, data: {init_args: {stores: [a.h5]}}}")
    words = ["--config", str(config), "--data", "TokenSequenceDataModule", "--data.init_args.cache", "c.h5"]
    assert training_values(words) == {"model.backbone": "b.safetensors", "data.cache": "c.h5"}
    assert training_values(words[:2])["data.stores"] == ["a.h5"]


def test_weights_after_the_name_of_a_network_are_looked_for_as_a_file(tmp_path):
    backbone = f"vit_tiny_patch16_224?weights={tmp_path / 'w.safetensors'}&in_chans=1"
    with pytest.raises(DataError, match=f"^{tmp_path / 'w.safetensors'}: no such file; check the spelling$"):
        check_inputs({"backbone": backbone})
    (tmp_path / "w.safetensors").touch()
    check_inputs({"backbone": backbone, "model": {"init": backbone}})
    with pytest.raises(DataError, match=r"^other\.safetensors: no such file"):
        check_inputs({"backbone": "other.safetensors?heads=6"})


def test_files_that_exist_are_not_looked_up_among_those_that_are_installed(tmp_path, monkeypatch):
    (tmp_path / "a.avi").touch()
    monkeypatch.setattr("alan.cli.inputs.shipped", lambda suffix="": pytest.fail("looked up"))
    check_inputs({"paths": [str(tmp_path / "a.avi")]})


def test_a_training_without_metrics_is_told_from_a_wrong_path(tmp_path):
    curves = {"curves": {"DINO": str(tmp_path / "metrics.jsonl")}}
    with pytest.raises(DataError, match="check the spelling"):
        check_inputs(curves)
    (tmp_path / "run.json").touch()
    with pytest.raises(DataError, match=r"fewer steps than trainer\.log_every_n_steps: leave it out"):
        check_inputs(curves)
