"""Imports flow one way."""

import importlib
from pathlib import Path

import alan


def test_import_linter_contract_holds():
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    root = Path(__file__).parents[1]
    assert lint_imports(config_filename=str(root / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS


def test_public_names_are_importable_from_the_top():
    for name in alan.__all__:
        assert getattr(alan, name) is not None
    assert set(alan._HOME) | {"__version__"} == set(alan.__all__)


def test_importing_alan_does_not_import_torch():
    import subprocess
    import sys

    code = "import sys, alan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_module_imports():
    root = Path(alan.__file__).parent
    for path in root.rglob("*.py"):
        name = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        if not name.endswith(("__main__", "__init__")):
            importlib.import_module(name)
