"""Verbs show their help, and refuse a wrong path, before the heavy libraries are imported."""

import json
import subprocess
import sys

import pytest

from alan.cli.main import LIGHTNING, VERBS

HEAVY = {
    *("torch", "lightning", "pandas", "sklearn", "skimage", "matplotlib", "timm", "torchvision", "optuna"),
    *("SimpleITK", "kornia", "segmentation_models_pytorch", "torchmetrics"),
}
#: Run a verb and print its exit code and the heavy libraries that are imported then.
SCRIPT = """
import contextlib, io, json, sys
from alan.cli.main import main
shown = io.StringIO()
with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
    try:
        code = main(sys.argv[2:])
    except SystemExit as stop:
        code = stop.code
print(json.dumps([code, shown.getvalue(), sorted({*sys.argv[1].split(",")} & {*sys.modules})]))
"""


def start(*args):
    command = [sys.executable, "-c", SCRIPT, ",".join(HEAVY), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("verb", [*VERBS, *LIGHTNING])
def test_the_help_of_a_verb_imports_nothing_heavy(verb):
    code, shown, heavy = start(*verb.split(), "--help")
    assert code == 0
    assert f"alan {verb}" in shown
    assert heavy == []


def test_the_script_sees_heavy_libraries():
    assert "torch" in start("doctor")[2]
