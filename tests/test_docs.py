"""Every code block of the README and of the documentation runs, on small data."""

import ast
import contextlib
import doctest
import importlib.util
import inspect
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import yaml

import alan as package
from alan.cli.demo import demo
from alan.cli.main import EXIT_CODES, LIGHTNING, VERBS, main
from alan.data.store.reader import FrameStore
from alan.extras import DISTRIBUTION
from alan.parcels.model import load_parcels
from alan.shipped import shipped_configs

from .sandbox import Command, Sandbox

ROOT = Path(__file__).parents[1]
CONFIGS = shipped_configs()
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *ROOT.glob("checkpoints/*.md"),
    *ROOT.glob("docs/[!_]*/**/*.md"),
]
PAGES = sorted(page.relative_to(ROOT).as_posix() for page in [*PAGES, ROOT / "docs" / "index.md"])
#: Pages that Sphinx does not read, beside the cards of the shipped models.
OUTSIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Programs that a shell block may call; their words are written down instead.
PROGRAMS = ("alan", "git", "make", "mv", "pip", "pre-commit", "python", "sbatch", "srun", "uv")
STUB = '#!/bin/sh\n{ printf \'%s\\037\' "${0##*/}" "$@"; printf \'\\036\'; } >> "$CALLS"\n'
#: Verbs whose commands by a shipped configuration alone are those of tests/test_configs.py.
BY_NAME = {"fit", "evaluate", "search", "ensemble", "active run"}
#: Fewer rows in an evaluation of parcels; tests/test_configs.py has all of them.
FEW = ("--segmentation.rules=[greedy, beta]", "--segmentation.kmeans=[]", "--segmentation.random_vit=false")
#: Frames of the stores of pages have fewer pixels.
SMALL_FRAMES = ("--size=64",)
#: Commands that ran on any page, by everything but their values.
DONE = set()


def blocks(page):
    """Code blocks of a page: language, text, line number."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\S*)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        language = "python" if found[1] == "{code-cell}" else found[1]
        if not language.startswith("{"):
            yield SimpleNamespace(language=language, text=found[2], line=text[: found.start(2)].count("\n"))


@pytest.fixture
def page_runner(tiny, tmp_path, monkeypatch, capsys):
    return PageRunner(tiny, tmp_path, monkeypatch, capsys)


class PageRunner:
    """Runs the blocks of one page in one folder and one namespace."""

    def __init__(self, tiny, folder, monkeypatch, capsys) -> None:
        self.stubs, self.capsys = folder / "programs", capsys
        self.stubs.mkdir()
        for name in PROGRAMS:
            (self.stubs / name).write_text(STUB, encoding="utf-8")
            (self.stubs / name).chmod(0o755)
        (folder / "work").mkdir()
        monkeypatch.chdir(folder / "work")
        monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
        self.sandbox = Sandbox(folder / "work", tiny, size=64)
        self.names = examples(tiny)
        self.done = set()

    def run(self, page):
        for block in blocks(page):
            try:
                getattr(self, f"run_{block.language}")(block)
            except Exception as error:
                error.add_note(f"{page}:{block.line}\n{block.text}\n{self.capsys.readouterr().err[-2000:]}")
                raise

    def run_text(self, block):
        """Output, or commands that take hours: their options must exist."""
        if re.search(r"^ *alan [a-z ]+ --config", block.text, re.MULTILINE):
            for program, args in self.calls(block):
                assert program == "alan"
                if not self.ran_before(Command(args)):
                    with pytest.raises(SystemExit, match=r"^0$"):
                        self.sandbox(*args, small=["--print_config"])

    def run_yaml(self, block):
        assert yaml.safe_load(block.text)

    def run_python(self, block):
        text = re.sub(r"^(:.*\n)+", "", block.text)  # options of a cell
        tree = ast.parse("\n" * block.line + text)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                self.sandbox.provide(node.value)
        exec(compile(tree, "block", "exec"), self.names)

    def run_sh(self, block):
        for program, args in self.calls(block):
            getattr(self, f"call_{program.replace('-', '_')}")(args)

    def calls(self, block):
        """Programs that a shell block calls, with their words."""
        log = self.stubs / "calls"
        log.unlink(missing_ok=True)
        env = {"PATH": str(self.stubs), "CALLS": str(log), "SLURM_ARRAY_TASK_ID": "0"}
        script = "set -eu\ncd() { :; }\n" + block.text
        subprocess.run([shutil.which("bash"), "-c", script], env=env, check=True)
        calls = log.read_text(encoding="utf-8").split("\x1e")[:-1] if log.exists() else []
        for call in calls:
            program, *args = call.split("\x1f")[:-1]
            yield program, args

    def call_alan(self, args):
        args = [arg.removeprefix("/") for arg in args]  # absolute paths of a page lie in the sandbox
        if args[0].startswith("-"):
            assert main(args) == 0
        elif not self.ran_before(Command(args)):
            few = FEW if "evaluate" in args and "evaluate/camus_a4c" in args else ()
            assert self.sandbox(*args, small=SMALL_FRAMES if args[0] in ("prepare", "simulate") else few) == 0

    def ran_before(self, command):
        """Whether such a command ran: in a loop, on another page, or in the test of its configuration."""
        verb, name, *options = signature = command.signature
        if verb == "demo":
            return True  # tests/cli/test_demo.py runs it
        if verb == "ui":
            return True  # tests/app serves it
        if verb in BY_NAME and name in CONFIGS and set(options) <= {"config", "out", "study.storage"}:
            return not name.startswith("sim/vit")  # trainings start from these
        before = DONE if verb in BY_NAME else self.done  # files of other commands are needed on each page
        ran = signature in before
        DONE.add(signature)
        self.done.add(signature)
        return ran

    def call_srun(self, args):
        assert args[0] == "alan"
        self.call_alan(args[1:])

    def call_make(self, args):
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(args) <= set(targets)

    def call_mv(self, args):
        source, target = args
        shutil.rmtree(target, ignore_errors=True)
        if Path(source).exists():
            shutil.move(source, target)

    def call_pip(self, args):
        """Requirements name this distribution and extras that it has."""
        for distribution, extras in re.findall(r"(alan[\w-]*)(?:\[([\w,]+)\])?", " ".join(args)):
            assert distribution == DISTRIBUTION
            assert set(extras.split(",")) - {""} <= set(PROJECT["optional-dependencies"])

    def call_uv(self, args):
        assert args[0] == "pip"
        self.call_pip(args[1:])

    def call_python(self, args):
        if args[0] == "-m" and args[1].startswith("alan."):
            self.run_module(args[1], args[2:])
        else:  # a benchmark takes minutes: its options must exist
            text = (ROOT / args[0]).read_text(encoding="utf-8")
            assert all(word.removeprefix("--") in text for word in args[1:] if word.startswith("--"))

    def run_module(self, module, args):
        for arg in args:
            self.sandbox.provide(arg)
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(SystemExit):
            patch.setattr(sys, "argv", [module, *args])
            runpy.run_module(module, run_name="__main__", alter_sys=True)

    def call_nothing(self, args):
        """Nothing to be tried."""

    call_git = call_pre_commit = call_sbatch = call_nothing


def examples(tiny):
    """Arrays and models that Python blocks may name without making them."""
    store = FrameStore(tiny.store("camus"))
    labelled = store.labelled()
    model = load_parcels(tiny.parcels())
    frames = store.frames(labelled.frame)
    lv = store.masks(labelled.label, "lv")
    tokens = np.random.default_rng(0).normal(size=(len(frames), 14, 14, 5)).astype(np.float32)
    names = {"store": store, "labelled": labelled, "frames": frames, "new_frames": frames[:4]}
    names |= {"maps": model.maps(frames), "masks": lv, "patients": labelled.patient}
    names |= {
        "tokens": tokens,
        "other_tokens": tokens[:2],
        "label_maps": store.label_maps(labelled.label, ("lv", "myo", "la")),
    }
    return {"__name__": "block", **names}


@pytest.mark.parametrize("page", PAGES)
def test_every_code_block_of_a_page_runs(page, page_runner):
    page_runner.run(page)


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def test_links_lead_to_existing_sections():
    """Of files that Sphinx does not read; it checks the others."""
    cards = [page for page in PAGES if page.startswith("checkpoints/")]
    for page in (*OUTSIDE, *cards):
        for target in re.findall(r"\]\(([^)]+)\)", read(page)):
            if "://" not in target:
                path, _, section = target.partition("#")
                linked = (ROOT / page).parent.joinpath(path) if path else ROOT / page
                assert linked.exists(), f"{page}: {target}"
                assert not section or section in sections(linked), f"{page}: {target}"


@pytest.mark.parametrize("page", sorted({*PAGES, *OUTSIDE}))
def test_prose_is_wrapped(page):
    """Tables, headings, pictures and code blocks keep their lines."""
    prose = re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)
    long = [line for line in prose.splitlines() if len(line) > 115]
    assert not [line for line in long if not line.startswith(("|", "#", "![", "<", " <"))]


def sections(page):
    """Anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_pages_that_code_and_configurations_name_exist():
    files = [path for folder in ("alan", "configs", "tests") for path in (ROOT / folder).rglob("*.[py]*")]
    for path in [*files, *ROOT.glob("checkpoints/*.md"), ROOT / "Makefile"]:
        if path.suffix in {"", ".py", ".pyi", ".yaml", ".md"}:
            for page in re.findall(r"\bdocs/[\w/-]+\.md", path.read_text(encoding="utf-8")):
                assert (ROOT / page).exists(), f"{path}: {page}"


def test_facts_of_the_demonstration_agree():
    """Its report and its duration are the same wherever they are named."""
    pages = [*PAGES, "Makefile"]
    out = inspect.signature(demo).parameters["out"].default
    reports = {found for page in pages for found in re.findall(rf"{out}\S*\.html", read(page))}
    assert reports == {f"{out}/loops/report.html", f"{out}/report/report.html"}
    numbers = "five|six|seven|eight|nine|ten|eleven|twelve"
    parts = [part for page in pages for part in re.split(r"\n\n|(?<=[.]) ", read(page))]
    parts = [part for part in parts if re.search("demo|whole chain|two CPU cores", part)]
    durations = [found for part in parts for found in re.findall(rf"({numbers})\s+minutes", part)]
    assert set(durations) == {"nine"}
    assert len(durations) >= 3
    measured = {found for page in PAGES for found in re.findall(r"9\.\d minutes", read(page))}
    assert len(measured) == 1


def test_documented_exit_codes_are_those_of_the_program():
    codes = set(re.findall(r"^  (\d+) ", EXIT_CODES, re.MULTILINE))
    assert set(re.findall(r"^\| (\d+)\b", read("docs/reference/problems.md"), re.MULTILINE)) == codes


def test_quoted_messages_are_those_of_the_program():
    """What the page quotes is what the program says."""
    source = " ".join(path.read_text(encoding="utf-8") for path in Path(package.__file__).parent.rglob("*.py"))
    table = read("docs/reference/problems.md").partition("| the line says |")[2].partition("##")[0]
    quoted = re.findall(r"^\| `([^`]*)`", table, re.MULTILINE)
    assert len(quoted) == 5
    for words in quoted:
        assert words in source


def test_documented_extras_exist():
    table = re.findall(r"^\| (`.*?) \|", read("docs/start/install.md"), re.MULTILINE)
    named = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    assert named == set(PROJECT["optional-dependencies"])


def test_citation_and_licences_agree_with_the_project():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert (citation["version"], citation["license"]) == (package.__version__, PROJECT["license"])
    assert citation["references"][0]["authors"][0]["family-names"] == "Majchrowska"
    gpl = {"libx264", "libx265"} & set(av.codecs_available)  # in the PyAV wheel of this environment
    for name in gpl:
        assert name.removeprefix("lib") in read("docs/reference/licences.md")


@pytest.fixture(scope="module")
def reference():
    """The module that writes the reference pages."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "_ext" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_verb_has_a_reference_page(reference):
    """Every verb has a page with its options and their defaults."""
    pages = reference.cli_pages()
    for verb in [*VERBS, *LIGHTNING]:
        assert f"<{verb.replace(' ', '-')}>" in pages["cli/index.rst"]
        assert f".. program:: alan {verb}" in pages[f"cli/{verb.replace(' ', '-')}.rst"]
    segment = pages["cli/segment.rst"]
    assert re.search(r"option:: --input <str>\n\n   .*Required\.", segment)
    assert re.search(r"option:: --sheet <int >= 0>\n\n   .*Default: ``24``\.", segment)
    assert re.search(r"option:: --segmentation <SegmentationProtocol \| null>", pages["cli/evaluate.rst"])
    assert "--trainer.max_steps" in pages["cli/fit.rst"]


def test_every_name_and_configuration_is_listed(reference):
    """Every public name and every configuration is listed, and the licences are those of the environment."""
    pages = reference.api_pages()
    for name in package.__all__:
        assert f"``alan.{name}``" in pages["api/alan.rst"] or name.startswith("_")
    assert ".. autoclass:: DINOModule" in pages["api/alan.backbone.rst"]
    assert ".. autofunction:: load_parcels" in pages["api/alan.parcels.rst"]
    table = reference.configurations()
    assert all(f"``{name}``" in table for name in CONFIGS)
    assert re.search(r"``av``\n +- *\n +- BSD", reference.licences())


def modules_with_examples():
    folder = Path(package.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        if ">>> " in path.read_text():
            yield ".".join(path.relative_to(folder.parent).with_suffix("").parts)


@pytest.mark.parametrize("module", modules_with_examples())
def test_docstring_examples_run(module):
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted
    assert not found.failed


def public_names():
    folder = Path(package.__file__).parent
    for stub in sorted(folder.rglob("__init__.pyi")):
        module = importlib.import_module(".".join(stub.parent.relative_to(folder.parent).parts))
        for name in module.__all__:
            yield pytest.param(module, name, id=f"{module.__name__}.{name}")


@pytest.mark.parametrize(("module", "name"), public_names())
def test_public_names_are_documented(module, name):
    """Each can be imported and has a docstring of its own; a function explains its parameters."""
    value = getattr(module, name)
    if not callable(value):
        return
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}(")  # what a dataclass writes by itself
    if inspect.isfunction(value) and len(inspect.signature(value).parameters) > 1:
        assert "Args:" in value.__doc__
