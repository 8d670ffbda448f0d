"""Help of the verbs: options with their types and defaults in the words of YAML, without markup."""

from __future__ import annotations

import inspect
import re
import types
from argparse import Action, RawDescriptionHelpFormatter
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import DefaultHelpFormatter, Namespace

from alan.bounds import bound_words


def type_words(kind: Any) -> str:
    """Return an annotation in the words of YAML, with its bounds and without modules."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind in {None, type(None)}:
        return "null"
    if origin is Annotated:
        return f"{type_words(parts[0])} {bound_words(kind.__metadata__)}".rstrip()
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in {Union, types.UnionType}:
        return " | ".join(type_words(part) for part in parts if get_origin(part) is not PathLike)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "names and values"
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return f"list of {type_words(parts[0])}"
    return str(getattr(kind, "__name__", kind))


def remember(actions: Iterable[Action], function: Any, prefix: str = "") -> None:
    """Remember the function whose parameters are the options, and what precedes their names."""
    for action in actions:
        action.origin = (function, prefix)  # type: ignore[attr-defined]


def annotation(action: Action) -> Any:
    """Return the annotation of an option, with the bounds that jsonargparse drops, see :func:`remember`."""
    kind = getattr(action, "_typehint", action.type)
    target: Any
    target, prefix = getattr(action, "origin", (object.__init__, ""))
    for name in action.dest.removeprefix(prefix).split("."):
        found = get_type_hints(target, include_extras=True).get(name)
        target = next(
            (part.__init__ for part in (found, *get_args(found)) if inspect.isclass(part)), object.__init__
        )
    return kind if kind is None or found is None else found


def default_words(value: Any) -> str:
    """Return a default as it is written in YAML."""
    text = yaml.safe_dump(value, default_flow_style=True) if isinstance(value, (dict, list, tuple)) else str(value)
    return {"None": "null", "True": "true", "False": "false", "": "''"}.get(text, text).strip().partition("\n")[0]


def _plain(text: str) -> str:
    """Remove the markup of a docstring."""
    return re.sub(r":\w+:`~?([^`]+)`|``", r"\1", text)


class HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Formatter of the help; texts above and below the options keep their lines."""

    def start_section(self, heading: str | None) -> None:
        """Begin a group of options."""
        super().start_section(_plain(heading or ""))

    def _get_help_string(self, action: Action) -> str:
        if action.dest == "print_config":
            return "Print the options as YAML, and exit."
        return super()._get_help_string(action)

    def _get_type_str(self, action: Action) -> str | None:
        kind = annotation(action)
        choices = action.choices is not None or kind is bool or get_origin(kind) is Literal
        shown = kind is not None and not choices and not action.dest.endswith(".help")
        return type_words(kind) if shown else None

    def _expand_help(self, action: Action) -> str:
        default = action.default
        if isinstance(default, (bool, dict, list, tuple, Namespace)):
            action.default = default_words(default.as_dict() if isinstance(default, Namespace) else default)
        try:
            return _plain(super()._expand_help(action))
        finally:
            action.default = default

    def _format_action_invocation(self, action: Action) -> str:
        names = action.option_strings
        action.option_strings = [name for name in names if not name.endswith("+")]
        try:
            return super()._format_action_invocation(action)
        finally:
            action.option_strings = names
