"""Command-line parsers whose errors are one line and offer the nearest right name."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser

from alan.errors import AlanError, ConfigError, nearest

_REJECTED = re.compile(r"Option '([^']+)' is not accepted|does not accept option '([^']+)'|arguments: (\S+)")
#: A key with a value of the wrong type, a choice, and a type in a parser's message.
_KEY = re.compile(
    r'^(?P<inner>(?:[\w.]+: )?)Parser key "(?P<key>[^"]+)": (?P<reason>.+?)\. Got value: (?P<value>.*)$'
)
_CHOICE = re.compile(r"Expected a typing\.Literal\[([^\]]*)\]")
_TYPE = re.compile(r"Expected a <class '([\w.]+)'>")
_GIVEN = re.compile(r"\n\s*Given value: (.*)", re.DOTALL)
_WORDS = {
    "int": "give a whole number",
    "float": "give a number",
    "bool": "give true or false",
    "str": "give a text",
    "list": "give a list, such as '[one, another]'",
    "Sequence": "give a list, such as '[one, another]'",
    "tuple": "give a list, such as '[one, another]'",
    "dict": "give names and values, such as '{name: value}'",
    "Mapping": "give names and values, such as '{name: value}'",
}
#: What each type of a union says of a value, in the parser's message, and what says nothing new.
_UNION = re.compile(r'^Parser key "(?P<key>[^"]+)":.*?\n\s*Errors:\n(?P<reasons>.*?)\n\s*Given value', re.DOTALL)
_IDLE = ("Expected a <class 'NoneType'>", "Not a valid subclass", "a class path", "a dict with")


def one_line(message: str) -> str:
    """Shorten a parser's multi-line message to what is wrong with the value."""
    union = _UNION.search(message)
    if union is None:
        return _in_words(" ".join(message.split())[:400])
    reasons = [" ".join(text.split()) for text in re.split(r"(?:^|\n)\s*- ", union["reasons"])]
    telling = [text for text in reasons if text and not text.startswith(_IDLE)]
    given = _GIVEN.search(message)
    # an option below the key is told by the reasons; the parser's own wrapping of it says nothing
    nested = given is None or given[1].startswith("NestedArg(")
    value = "" if given is None or nested else f" is {' '.join(given[1].split())[:100]}"
    return _in_words(f"{union['key']}{value}: {'; '.join(telling)}"[:400])


def _in_words(message: str) -> str:
    """A parser's message with what is asked for in place of names of Python types."""
    message = _KEY.sub(r"\g<inner>\g<key> is \g<value>: \g<reason>", message)
    message = _CHOICE.sub(lambda found: f"choose one of: {found[1].replace(chr(39), '')}", message)
    return _TYPE.sub(lambda found: _WORDS.get(found[1].rpartition(".")[2], f"a {found[1]} is expected"), message)


def _own_cause(error: BaseException | None) -> AlanError | None:
    """The error of ALAN's own behind another one."""
    while error is not None and not isinstance(error, AlanError):
        error = error.__cause__ or error.__context__
    return error


def _class_paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            yield value["class_path"]
        for part in value.values():
            yield from _class_paths(part)
    elif isinstance(value, list):
        for part in value:
            yield from _class_paths(part)


def _arguments_of(class_path: str) -> set[str]:
    module, _, name = class_path.rpartition(".")
    try:
        return set(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    except (ImportError, AttributeError, ValueError, TypeError):
        return set()


def _known_keys(parser: ArgumentParser, args: list[str]) -> set[str]:
    keys: set[str] = set()
    parsers = [parser]
    for action in parser._actions:
        choices = getattr(action, "choices", None)
        if isinstance(choices, dict):
            parsers += [choice for name, choice in choices.items() if name in args]
    for one in parsers:
        keys |= {part for action in one._actions for part in str(action.dest).split(".")}
    for arg in args:
        path = Path(arg.partition("=")[2] or arg)
        if path.suffix in {".yaml", ".yml", ".json"} and path.is_file():
            for class_path in _class_paths(yaml.safe_load(path.read_text(encoding="utf-8"))):
                keys |= _arguments_of(class_path)
    return {key for key in keys if key and key != "help"}


def _names_config(arg: str) -> bool:
    return arg.partition("=")[0] in {"--config", "-c"}


class OneLineErrors(ArgumentParser):
    """A parser that raises :class:`ConfigError` in one line, with the nearest right key for a misspelt one."""

    seen: list[str]

    def parse_args(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        """Parse, and remember the arguments for the hints of :meth:`error`."""
        self.seen = [str(arg) for arg in args or []]
        return super().parse_args(args, *rest, **options)

    def instantiate_classes(self, *args: Any, **options: Any) -> Any:
        """Build the classes; an error of ALAN's own comes out as it was raised, not wrapped in the parser's."""
        try:
            return super().instantiate_classes(*args, **options)
        except Exception as error:
            own = _own_cause(error)
            if own is None:
                raise
            raise own from None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise :class:`ConfigError` in place of printing the usage."""
        rejected = _REJECTED.search(message)
        if rejected is None:
            if "parsing config" in message:
                seen = getattr(self, "seen", [])
                files = [
                    arg.partition("=")[2] or after for arg, after in pairwise([*seen, ""]) if _names_config(arg)
                ]
                message = f"{', '.join(files) or 'config'}: not a YAML file of options: {message}"
            raise ConfigError(one_line(message)) from ex
        given = next(filter(None, rejected.groups()))
        name = given.lstrip("-").partition("=")[0]
        if rejected[3] and not given.startswith("-"):
            raise ConfigError(
                f"{given!r} is not an option: options are written --name value (--help lists them)"
            ) from ex
        known = _known_keys(self, getattr(self, "seen", []))
        wrong = next((part for part in name.split(".") if part not in known), name)
        hint = nearest(wrong, known).partition("choose one of")[0].rstrip("? ")
        raise ConfigError(
            f"option {name!r} is not known{': ' + hint + '?' if hint else ''} (--help lists the options)"
        ) from ex


class Parser(OneLineErrors):
    """For the verbs that are plain functions."""
