"""Optional imports, with a hint where the package is missing, and imports deferred to the first use."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from alan.errors import ConfigError

#: Name of the distribution; on PyPI ``alan`` is another project.
DISTRIBUTION = "alan-echo"


def install_hint(extra: str) -> str:
    """Return the command that installs an extra, such as ``pip install 'alan-echo[dicom]'``."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def third_party(name: str, extra: str = "supervised") -> Any:
    """Import a module of an optional dependency.

    Args:
        name: The module, such as ``kornia.augmentation``.
        extra: The extra of this package that installs it.

    Raises:
        ConfigError: The module is not installed; the message gives the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        raise ConfigError(f"{package} is not installed: {install_hint(extra)}") from error


def defer_imports(*names: str) -> None:
    """Let modules be executed when one of their attributes is first used, rather than when they are imported.

    Args:
        *names: Full names of the modules. Those that are imported already stay as they are.
    """
    if missing := {*names} - sys.modules.keys():
        sys.meta_path.insert(0, _Finder(missing))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, names: set[str]) -> None:
        self._names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._names:
            return None
        self._names.discard(fullname)  # the next line calls every finder, this one included
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec
