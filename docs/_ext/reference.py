"""Write the reference pages from the code: command line, public names, configurations and licences.

Nothing here is kept in the repository; the pages are written when Sphinx starts.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import re
import textwrap
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import jsonargparse
from packaging.requirements import Requirement
from sphinx.pycode import ModuleAnalyzer

import alan
from alan.cli.examples import EXAMPLES
from alan.cli.fit import run_lightning
from alan.cli.help import annotation, default_words, type_words
from alan.cli.main import COMMON, EXIT_CODES, LIGHTNING, VERBS
from alan.cli.parsing import function_parser
from alan.shipped import shipped_configs, summary

PACKAGE = Path(alan.__file__).parent


def write_all(folder: Path) -> None:
    """Write every generated page below ``folder`` (the folder ``reference`` of the documentation)."""
    pages = {**cli_pages(), **api_pages(), "configurations.rst": configurations(), "_licences.rst": licences()}
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # else Sphinx would read it again
            path.write_text(text, encoding="utf-8")


def heading(text: str, mark: str = "=") -> str:
    return f"{text}\n{mark * len(text)}\n\n"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return an RST list table."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [header, *rows]:
        lines += [f"   {'*' if column == 0 else ' '} - {cell}" for column, cell in enumerate(row)]
    return "\n".join(lines) + "\n\n"


# Command line --------------------------------------------------------------------------------------------------


class _Parsed(BaseException):
    """Carries the parser of Lightning out of the command line."""


def parser_of(verb: str) -> Any:
    """Return the parser that the command line builds for a verb."""
    if verb in VERBS:
        module, _, name = VERBS[verb][0].partition(":")
        return function_parser(getattr(importlib.import_module(module), name), verb, "")

    def caught(self: Any, *_: Any, **__: Any) -> None:
        raise _Parsed(self)

    with mock.patch.object(jsonargparse.ArgumentParser, "parse_args", caught):
        try:
            run_lightning([verb])
        except _Parsed as parsed:
            return parsed.args[0]._subcommands_action.choices[verb]


def cli_pages() -> dict[str, str]:
    verbs = {**{verb: text for verb, (_, text) in VERBS.items()}, **LIGHTNING}
    index = heading("Command line") + (
        "``alan VERB --help`` prints the same texts. Options are written ``--name value``; ``--config`` reads "
        "them from a YAML file or an :doc:`installed configuration <../configurations>`, and the command line has "
        "precedence.\n\n"
    )
    index += table(
        ["verb", "purpose"], [[f":doc:`alan {v} <{v.replace(' ', '-')}>`", text] for v, text in verbs.items()]
    )
    for text in (COMMON, EXIT_CODES):
        index += ".. code-block:: text\n\n" + textwrap.indent(text, "   ") + "\n\n"
    index += ".. toctree::\n   :hidden:\n\n" + "".join(f"   {verb.replace(' ', '-')}\n" for verb in verbs)
    pages = {"cli/index.rst": index}
    for verb, text in verbs.items():
        pages[f"cli/{verb.replace(' ', '-')}.rst"] = verb_page(verb, text)
    return pages


def verb_page(verb: str, text: str) -> str:
    page = heading(f"alan {verb}")
    if verb in VERBS:
        module, _, name = VERBS[verb][0].partition(":")
        docstring = getattr(importlib.import_module(module), name).__doc__
        page += re.split(r"\n +(?:Args|Returns|Raises):", docstring)[0].replace("\n    ", "\n").strip() + "\n\n"
    else:
        page += f"{text[0].upper()}{text[1:]}.\n\n"
    page += ".. code-block:: sh\n\n" + textwrap.indent(EXAMPLES[verb], "   ") + "\n\n"
    page += f".. program:: alan {verb}\n\n"
    for action in parser_of(verb)._actions:
        names = [name for name in action.option_strings if name.startswith("--") and not name.endswith(".help")]
        if not names or action.dest in {"help", "print_config"} or action.help == "==SUPPRESS==":
            continue
        page += option(names[0], action)
    return page


def option(name: str, action: Any) -> str:
    kind = annotation(action)
    text = " ".join((action.help or "").split()).replace("%(default)s", str(action.default))
    text = re.sub(r":paramref:`[~\w.]*\.(\w+)`", r"``\1``", text)
    text = re.sub(r"(?<=[^.:;!?])$", ".", text) if text else ""
    if action.required:
        text += " Required."
    elif name != "--config" and "Default:" not in text and action.default != "==SUPPRESS==":
        text += f" Default: ``{default_words(action.default)}``."
    for public in filter(None, map(public_name, classes(kind))):
        text += f" See :class:`{public}`."
    return f".. option:: {name} <{'FILE' if kind is None else type_words(kind)}>\n\n   {text}\n\n"


def classes(kind: Any) -> list[type]:
    """Return the classes in an annotation."""
    return [kind] if isinstance(kind, type) else [found for part in get_args(kind) for found in classes(part)]


# Public names --------------------------------------------------------------------------------------------------


def public_packages() -> list[str]:
    """Return the packages with a stub of public names."""
    stubs = PACKAGE.rglob("__init__.pyi")
    return sorted(".".join(path.parent.relative_to(PACKAGE.parent).parts) for path in stubs)


def api_pages() -> dict[str, str]:
    packages = public_packages()
    index = heading("Python") + (
        "These names are public: later versions keep them, while modules inside the packages may move.\n\n"
    )
    rows = [
        [
            f":doc:`{package}`",
            " ".join((importlib.import_module(package).__doc__ or "").partition("\n\n")[0].split()),
        ]
        for package in packages
    ]
    index += table(["package", "contents"], rows)
    index += ".. toctree::\n   :hidden:\n\n" + "".join(f"   {package}\n" for package in [*packages, "alan.errors"])
    pages = {
        "api/index.rst": index,
        "api/alan.errors.rst": heading("alan.errors") + ".. automodule:: alan.errors\n",
    }
    return pages | {f"api/{package}.rst": package_page(package) for package in packages}


def package_page(package: str) -> str:
    module = importlib.import_module(package)
    page = heading(package) + f".. module:: {package}\n\n{(module.__doc__ or '').strip()}\n\n"
    names = [name for name in module.__all__ if not name.startswith("_")]
    if package == "alan":
        rows = [
            [f"``alan.{name}``", f":{role(module, name)}:`{public_name(getattr(module, name))}`"] for name in names
        ]
        return page + table(["name", "is"], rows)
    data = [name for name in names if role(module, name) == "data"]
    names = [name for name in names if name not in data]
    page += ".. autosummary::\n   :nosignatures:\n\n" + "".join(f"   {name}\n" for name in names) + "\n"
    page += "".join(f".. py:data:: {name}\n\n   {comment(module, name)}\n\n" for name in data)
    directives = {"class": "autoclass", "func": "autofunction"}
    return page + "".join(f".. {directives[role(module, name)]}:: {name}\n\n" for name in names)


def comment(package: Any, name: str) -> str:
    """Return the comment of a public constant in the module that defines it."""
    stub = ast.parse(Path(package.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    source = next(node.module for node in imports if name in [alias.name for alias in node.names])
    found = ModuleAnalyzer.for_module(f"{package.__name__}.{source}").find_attr_docs()
    return " ".join(found["", name])


def role(module: Any, name: str) -> str:
    value = getattr(module, name)
    return "class" if isinstance(value, type) else "func" if callable(value) else "data"


def public_name(value: Any) -> str | None:
    """Return the public name of an object of a package below ``alan``."""
    name = getattr(value, "__name__", "")
    packages = [importlib.import_module(package) for package in public_packages() if package != "alan"]
    return next((f"{p.__name__}.{name}" for p in packages if getattr(p, name, None) is value), None)


# Configurations and licences -----------------------------------------------------------------------------------


def configurations() -> str:
    page = heading("Configurations") + (
        "Configurations are installed with the package. ``--config`` finds them by name: ``sim/small``.\n\n"
    )
    rows = [[f"``{name}``", summary(path).replace("`", "``")] for name, path in shipped_configs().items()]
    return page + table(["name", "contents"], rows)


def licence(name: str) -> str:
    """Return the licence that an installed distribution states."""
    about = metadata(name)
    stated = about.get("License-Expression") or ""
    classifiers = [
        c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or [] if c.startswith("License ::")
    ]
    text = (about.get("License") or "").strip()
    return stated or ", ".join(classifiers) or (text if len(text) < 60 else "") or "see its licence file"


def licences() -> str:
    """Return a table of the direct dependencies that are installed."""
    rows = []
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {
        name: lines for name, lines in project["optional-dependencies"].items() if name not in {"dev", "docs"}
    }
    for extra, lines in {"": project["dependencies"], **extras}.items():
        for name in sorted((Requirement(line).name for line in lines), key=str.lower):
            with contextlib.suppress(PackageNotFoundError):
                rows.append([f"``{name}``", extra, licence(name)])
    return table(["package", "extra", "licence that it states"], rows)
