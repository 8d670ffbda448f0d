"""Imports flow one way."""

import importlib
import subprocess
import sys
from pathlib import Path

import alan


def python(code):
    """Exit status of a process of its own: import-linter, for one, silences all loggers of its process."""
    root = Path(__file__).parents[1]
    return subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode


def test_import_linter_contract_holds():
    assert python("from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))") == 0


def test_public_names_are_importable_from_the_top():
    for name in alan.__all__:
        assert getattr(alan, name) is not None


def test_importing_alan_does_not_import_torch():
    assert python("import sys, alan; sys.exit('torch' in sys.modules)") == 0


def test_a_convolutional_backbone_does_without_timm():
    code = "import sys, alan; alan.load_parcels('alan-sim-small-parcels'); sys.exit('timm' in sys.modules)"
    assert python(code) == 0


def test_every_module_imports():
    root = Path(alan.__file__).parent
    for path in root.rglob("*.py"):
        name = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        if not name.endswith(("__main__", "__init__")):
            importlib.import_module(name)
