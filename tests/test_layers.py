"""Imports follow the layers and have no cycle."""

import ast
import collections
import graphlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import alan


def python(code):
    """Run Python in a separate process, because import-linter silences all loggers, and return its exit code."""
    root = Path(__file__).parents[1]
    return subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode


def test_the_import_linter_contract_holds():
    assert python("from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))") == 0


def test_public_names_are_importable_from_the_top():
    for name in alan.__all__:
        assert getattr(alan, name) is not None


def test_packages_are_attributes_of_the_top():
    assert python("import alan; assert alan.parcels.RaptorModule.__name__ == 'RaptorModule'") == 0
    assert {"backbone", "data", "evaluation", "parcels"} <= {*dir(alan)}


def test_importing_alan_does_not_import_torch():
    assert python("import sys, alan; sys.exit('torch' in sys.modules)") == 0


def test_a_convolutional_backbone_does_not_import_timm():
    code = "import sys, alan; alan.load_parcels('alan-sim-small-parcels'); sys.exit('timm' in sys.modules)"
    assert python(code) == 0


def test_every_module_can_be_imported():
    root = Path(alan.__file__).parent
    for path in root.rglob("*.py"):
        name = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        if not name.endswith(("__main__", "__init__")):
            importlib.import_module(name)


ROOT = Path(alan.__file__).parent


def module_name(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree, package):
    """Names of all imports of a module: also those inside functions, and for type checkers alone."""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom():
                above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
                base = ".".join(filter(None, (*above, node.module)))
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)


def import_graph(files):
    """Module to the modules that it imports."""
    names = {module_name(path): path for path in files}
    graph = {}
    for name, path in names.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found = imports(ast.parse(path.read_text(encoding="utf-8")), package)
        graph[name] = {other for other in found if other in names} - {name}
    return graph


def test_imports_have_no_cycle():
    graph = import_graph(ROOT.rglob("*.py"))
    assert "alan.errors" in graph["alan.files"]
    assert "alan.backbone.training" in graph["alan.backbone.dino.module"]
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_an_import_cycle_is_detected(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path / "alan")
    (tmp_path / "alan").mkdir()
    for name, text in {"a": "from alan import b", "b": "import alan.c", "c": "from .a import x"}.items():
        (tmp_path / "alan" / f"{name}.py").write_text(text, encoding="utf-8")
    (tmp_path / "alan" / "d.py").write_text("def f():\n    import alan.a\n", encoding="utf-8")
    graph = import_graph((tmp_path / "alan").glob("*.py"))
    assert graph == {"alan.a": {"alan.b"}, "alan.b": {"alan.c"}, "alan.c": {"alan.a"}, "alan.d": {"alan.a"}}
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(graph).prepare()


#: Functions that may share their name: entry points of processes, and verbs, which are named on the command line.
ENTRY_POINTS = ("main", "alan.cli.prepare.prepare")


def public_names(files):
    """Public class, function or type of a module to the modules that define it."""
    defined = collections.defaultdict(list)
    for path in files:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            match node:
                case ast.ClassDef() | ast.FunctionDef():
                    names = [node.name]
                case ast.Assign():  # a constant has the name of its module in front where it is used
                    names = [one.id for one in node.targets if isinstance(one, ast.Name) and not one.id.isupper()]
                case _:
                    names = []
            for name in names:
                full = f"{module_name(path)}.{name}"
                if not name.startswith("_") and not {name, full} & set(ENTRY_POINTS):
                    defined[name].append(full)
    return defined


def test_every_public_name_has_one_definition():
    """No two public classes, functions or types share a name."""
    shared = {name: places for name, places in public_names(ROOT.rglob("*.py")).items() if len(places) > 1}
    assert not shared


def test_a_name_with_two_definitions_is_detected(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path / "alan")
    (tmp_path / "alan").mkdir()
    for name, text in {
        "a": "def main(): ...\nclass Cell: ...",
        "b": "Cell = int\nSIZE = 1",
        "c": "SIZE = 2",
    }.items():
        (tmp_path / "alan" / f"{name}.py").write_text(text, encoding="utf-8")
    names = public_names((tmp_path / "alan").glob("*.py"))
    assert {name: sorted(places) for name, places in names.items()} == {"Cell": ["alan.a.Cell", "alan.b.Cell"]}
