"""Defer the import of a module that a library needs only for functions that a verb does not call."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


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
        self._names.discard(fullname)  # the next line asks every finder, this one included
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec
