"""Check that every declared setting changes the result, or is listed as one that does not.

:func:`study` takes a class or function, another value for each of its settings, and a small run::

    @study(ParcelModel, sector_only=True, refine=GuidedFilter(), same={"source": "a name"})
    def maps(env, **settings): ...  # returns arrays, tables, models, files

A setting that is declared and not listed fails; so does one that is listed under the wrong heading.
"""

import hashlib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch


@dataclass(frozen=True)
class Other:
    """Another value, and the settings of both runs without which it does not count."""

    value: Any
    given: Mapping[str, Any]


def other(value, **given):
    return Other(value, given)


def digest(result):
    """A short text that is equal for equal results: arrays, tensors, tables, modules, files."""
    hashed = hashlib.sha256()
    _update(hashed, result)
    return hashed.hexdigest()


def _update(hashed, value):
    match value:
        case torch.nn.Module():
            _update(hashed, value.state_dict())
        case torch.Tensor():
            _update(hashed, value.detach().cpu().numpy())
        case np.ndarray() if value.dtype != object:
            hashed.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
        case pd.DataFrame():
            hashed.update(value.to_csv().encode())
        case os.PathLike():
            hashed.update(Path(value).read_bytes())
        case Mapping():
            _update(hashed, [*value.items()])
        case list() | tuple() | np.ndarray():
            hashed.update(f"{len(value)}".encode())
            for item in value:
                _update(hashed, item)
        case _ if is_dataclass(value):
            _update(hashed, [getattr(value, field.name) for field in fields(value)])
        case str() | bytes() | int() | float() | None | np.generic():
            hashed.update(repr(value).encode())
        case _:
            raise TypeError(f"{type(value).__name__} has no digest: return its arrays")


@dataclass
class Study:
    """Runs of one class or function with its settings varied one at a time.

    Attributes:
        target: the class or function.
        run: takes an environment and settings, and returns a result.
        changes: setting to another value, which changes the result.
        same: setting to another value, which does not: it is about speed, memory or what is shown.
        untried: setting to the reason why no run here can show it.
        base: settings of every run.
    """

    target: Callable
    run: Callable
    changes: Mapping
    same: Mapping
    untried: Mapping
    base: Mapping

    def __post_init__(self):
        self._known: dict[str, str] = {}
        self._repeated = False

    def result(self, env, settings):
        """Digest of a run; equal settings run once."""
        key = repr(sorted(settings.items(), key=lambda item: item[0]))
        if key not in self._known:
            self._known[key] = digest(self.run(env, **settings))
        return self._known[key]

    def check(self, env, name):
        """Run without and with the other value of a setting, and compare."""
        change = (self.changes | self.same)[name]
        change = change if isinstance(change, Other) else Other(change, {})
        given = self.base | change.given
        before, after = self.result(env, given), self.result(env, given | {name: change.value})
        if name in self.same:
            assert after == before, f"{name} changes the result"
        else:
            assert after != before, f"{name} changes nothing"
        if not self._repeated:
            self._repeated = True
            assert digest(self.run(env, **given)) == before, "two equal runs differ, so that nothing is shown"


def settings_of(target):
    """Settings that a class or function declares: its parameters with a default."""
    parameters = inspect.signature(target).parameters.values()
    return {p.name for p in parameters if p.default is not p.empty and not p.name.startswith("_")}


#: Every study of the modules imported so far.
STUDIES: list[Study] = []


def study(target, /, same=None, untried=None, base=None, **changes):
    """Declare a study; the arguments are the attributes of :class:`Study`."""

    def decorate(run):
        made = Study(target, run, changes, same or {}, untried or {}, base or {})
        STUDIES.append(made)
        return made

    return decorate


def cases(module):
    """Arguments of a parametrised test: each study of a module with each of its settings."""
    own = [one for one in STUDIES if one.run.__module__ == module]
    return [(one, name) for one in own for name in (*one.changes, *one.same)]


def name_of(value):
    return value.target.__name__ if isinstance(value, Study) else value
