"""Parsers of the command line, whose errors are one line and offer the nearest right name.

jsonargparse reports errors as text for the terminal. :func:`one_line` shortens it, by the wording of the versions
that ``pyproject.toml`` allows; tests hold the messages of the oldest and of the installed version.
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
import re
import typing
from argparse import SUPPRESS
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace

from alan.cli.help import HelpFormatter, remember
from alan.errors import AlanError, ConfigError, nearest
from alan.files import check_yaml_keys
from alan.shipped import config_file

_CONFIG = ("--config", "-c")
_MOST = 100_000  # values of a configuration
_UNKNOWN = re.compile(
    r"Option '([^']+)' is not accepted|does not accept option '([^']+)'|unrecognized arguments: (\S+)"
)
_AMBIGUOUS = re.compile(r"ambiguous option: (\S+) could match (--\w+)")
_VERB = re.compile(r"\b(fit|validate|test|predict)\.")
_MISSING = re.compile(r"the following arguments are required: (.+)")
_NO_VALUE = re.compile(r"argument --(\S+): expected one argument")
#: Words where a list is expected, which the remedy repeats as a list.
_WORDS_ALONE = re.compile(r"^(\S+ is )([\w./-]+(?:, ?[\w./-]+)*)(: .*\bgive a list, such as )'\[one, another\]'$")
#: A key with a value of the wrong type, a choice, a type and a class in a parser's message.
_KEY = re.compile(r'^Parser key "([^"]+)": (.+?)\. Got value: (.*)$')
_CHOICE = re.compile(r"Expected a typing\.Literal\[([^\]]*)\]")
_TYPE = re.compile(r"Expected a <class '([\w.]+)'>")
_TUPLE = re.compile(r"Expected a tuple with (\d+) elements")
_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
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
#: Reasons of the types of a union in the parser's message, and reasons that add nothing.
_UNION = re.compile(r'^Parser key "(?P<key>[^"]+)":.*?\n\s*Errors:\n(?P<reasons>.*?)\n\s*Given value', re.DOTALL)
_GOT = re.compile(r"\. Got value: .*$")
_IDLE = ("Expected a <class 'NoneType'>", "Not a valid subclass", "a class path", "a dict with")


def find_configs(args: Sequence[str]) -> list[str]:
    """Replace names of installed configurations after ``--config`` by their paths.

    Raises:
        ConfigError: There is neither such a file nor such a name, or the file stands for too many values.
    """
    found = list(args)
    for place, (before, arg) in enumerate(pairwise(["", *args])):
        name, given, value = arg.partition("=")
        if given and name in _CONFIG:
            found[place] = f"{name}={_checked(config_file(in_home(value)))}"
        elif before in _CONFIG:
            found[place] = str(_checked(config_file(in_home(arg))))
    return found


def _checked(path: Path) -> Path:
    """Refuse a YAML file whose aliases expand to more values than memory holds, or to themselves."""
    sizes: dict[int, float] = {}

    def size(node: Any) -> float:
        if id(node) not in sizes:
            sizes[id(node)] = math.inf  # for a node that contains itself
            if isinstance(node, yaml.MappingNode):
                try:
                    check_yaml_keys(node)
                except ValueError as error:
                    raise ConfigError(f"{path}: {error}") from error
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            flat = (part for item in parts for part in (item if isinstance(item, tuple) else (item,)))
            sizes[id(node)] = 1 + sum(map(size, flat))
        return sizes[id(node)]

    try:
        total = size(yaml.compose(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValueError, OSError):  # the parser reports what is wrong
        return path
    except RecursionError:
        total = math.inf
    if total > _MOST:
        raise ConfigError(f"{path}: its aliases or nested values stand for more than {_MOST} values: write fewer")
    return path


def one_line(message: str, classes: Sequence[str] = ()) -> str:
    """Shorten a parser's multi-line message to one line about the wrong value.

    Args:
        message: The parser's message.
        classes: Names of classes that can be given without their module.
    """
    union = _UNION.search(message)
    if union is None:
        return _as_list(_in_words(" ".join(message.split())[:400], classes))
    reasons = [" ".join(text.split()) for text in re.split(r"(?:^|\n)\s*- ", union["reasons"])]
    telling = [_GOT.sub("", _in_words(text, classes)) for text in reasons if text and not text.startswith(_IDLE)]
    given = _GIVEN.search(message)
    # the reasons name an option below the key; the parser's representation of the value adds nothing
    nested = given is None or given[1].startswith(("NestedArg(", "Namespace("))
    value = "" if given is None or nested else f" is {' '.join(given[1].split())[:100]}"
    return _as_list(f"{union['key']}{value}: {'; or '.join(telling)}")[:400]


def _as_list(message: str) -> str:
    """Offer words, where a list is expected, as a list."""
    return _WORDS_ALONE.sub(r"\1\2\3'[\2]'", message)


def _in_words(message: str, classes: Sequence[str]) -> str:
    """Replace names of Python types by words for the expected value."""
    message = _KEY.sub(r"\1 is \3: \2", message)
    message = _CHOICE.sub(lambda found: f"choose one of: {found[1].replace(chr(39), '')}", message)
    message = _TUPLE.sub(r"give a list of \1", message)
    message = _CLASS.sub(lambda found: _other_class(found[1], classes), message)
    message = _NO_VALUE.sub(r"option '\1' needs a value: give --\1 VALUE (--help lists the options)", message)
    message = _MISSING.sub(lambda found: f"missing: {_VERB.sub('', found[1])} (--help lists the options)", message)
    return _TYPE.sub(lambda found: _WORDS.get(found[1].rpartition(".")[2], f"a {found[1]} is expected"), message)


def _other_class(given: str, classes: Sequence[str]) -> str:
    """Offer the classes that may take the place of one."""
    if given in classes:  # the class of the model in place of that of the data, or the reverse
        others = [name for name in classes if name.endswith("DataModule") != given.endswith("DataModule")]
        return f"not a class for this option; choose one of: {', '.join(sorted(others))}"
    return f"no class of that name; {nearest(given, classes)}"


def in_home(value: Any) -> Any:
    """Replace ``~/`` at the beginning of texts by the home folder, which no shell does in ``--out=~/results``.

    Args:
        value: A text, or nested lists, mappings and namespaces of options, whose other values stay unchanged.
    """
    if isinstance(value, str):
        return os.path.expanduser(value) if value.startswith("~/") else value  # noqa: PTH111 (keeps the text)
    if isinstance(value, Namespace):
        for key, part in vars(value).items():
            setattr(value, key, in_home(part))
        return value
    if isinstance(value, dict):
        return {key: in_home(part) for key, part in value.items()}
    return [in_home(part) for part in value] if isinstance(value, list) else value


def _own_cause(error: BaseException | None) -> AlanError | None:
    """Find an error of this package behind another one."""
    while error is not None and not isinstance(error, AlanError):
        error = error.__cause__ or error.__context__
    return error


def _class_paths(value: Any) -> Iterator[str]:
    """Yield the classes that a configuration names."""
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            yield value["class_path"]
        for part in value.values():
            yield from _class_paths(part)
    elif isinstance(value, list):
        for part in value:
            yield from _class_paths(part)


def _names_in(args: Sequence[str]) -> Iterator[str]:
    """Yield the classes that a command line and its configurations may name."""
    for arg in args:
        value = arg.partition("=")[2] or arg
        if Path(value).suffix in {".yaml", ".yml", ".json"} and Path(value).is_file():
            yield from _class_paths(yaml.safe_load(Path(value).read_text(encoding="utf-8")))
        elif re.fullmatch(r"([a-z_]\w*\.)*[A-Z]\w*", value):
            yield value


def _option_names(target: Any, seen: set[Any]) -> Iterator[str]:
    """Yield the parameters of a function or class, and of this package's classes in its bases and annotations."""
    if target in seen:
        return
    seen.add(target)
    try:
        yield from inspect.signature(target).parameters
        function = target.__init__ if inspect.isclass(target) else inspect.unwrap(target)
        hints = typing.get_type_hints(function)
    except (NameError, TypeError, ValueError, AttributeError):  # compiled code, or names for type checkers only
        return
    parts = [*hints.values(), *getattr(target, "__bases__", ())]
    while parts:
        part = parts.pop()
        parts += typing.get_args(part)
        if inspect.isclass(part) and part.__module__.startswith("alan."):
            yield from _option_names(part, seen)


class Parser(ArgumentParser):
    """A parser that raises :class:`ConfigError` in one line, with the nearest right key for a misspelt one.

    Attributes:
        functions: Functions and classes whose parameters are the options.
        classes: Public classes that can be given by their bare name.
        names: Further names of options and groups.
        seen: The arguments that are being parsed.
    """

    functions: Sequence[Callable[..., Any]] = ()
    classes: typing.ClassVar[dict[str, type]] = {}
    names: Sequence[str] = ("class_path", "init_args")
    seen: Sequence[str] = ()

    def __init__(self, *args: Any, **options: Any) -> None:
        _, _, described = (options.get("description") or "").partition("Help for --")
        if described:  # the options of a class
            options |= {"usage": SUPPRESS, "description": f"Options of {described.partition('=')[2]}"}
        super().__init__(*args, **{"formatter_class": HelpFormatter, **options})
        self.described = described

    def format_help(self, *args: Any) -> str:
        """Format the help, with the bounds of the options of a class."""
        option, _, path = self.described.partition("=")  # model.help=alan.parcels.RaptorModule
        if (found := self._class(path)) is not None:
            remember(self._actions, found.__init__, option.removesuffix("help"))
        return super().format_help(*args)

    def parse_args(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        """Parse, with paths below ``~/``, and remember the arguments for the hints of :meth:`error`."""
        self.seen = [str(arg) for arg in args or []]
        return in_home(super().parse_args(args, *rest, **options))

    def instantiate_classes(self, *args: Any, **options: Any) -> Any:
        """Build the classes; an error of this package is raised as it is, not wrapped in the parser's."""
        try:
            return super().instantiate_classes(*args, **options)
        except Exception as error:
            own = _own_cause(error)
            if own is None:
                raise
            raise own from None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise :class:`ConfigError` instead of printing the usage."""
        if (found := _AMBIGUOUS.search(message)) is not None:  # an option, and its form with + that appends
            given, nearest_option = (name.lstrip("-") for name in found.groups())
            raise ConfigError(
                f"option {given!r} is not known: did you mean {nearest_option!r}? (--help lists the options)"
            ) from ex
        unknown = _UNKNOWN.search(message)
        if unknown is None:
            if "Problems parsing config" in message or message.startswith("Unexpected config"):
                files = [
                    arg.partition("=")[2] or after
                    for arg, after in pairwise([*self.seen, ""])
                    if arg.partition("=")[0] in _CONFIG
                ]
                message = f"{', '.join(files) or 'config'}: not a YAML file of options: {message}"
            raise ConfigError(one_line(message, [*self.classes])) from ex
        given = next(filter(None, unknown.groups()))
        name = given.lstrip("-").partition("=")[0]
        if unknown[3] and not given.startswith("-"):
            raise ConfigError(
                f"{given!r} is not an option: options are written --name value (--help lists them)"
            ) from ex
        known = self._known()
        wrong = next((part for part in name.split(".") if part not in known), "")
        word = "lr" if wrong == "learning_rate" else wrong
        kin = [option for option in known if word in option.split("_")]  # base_lr for lr
        hint = nearest(wrong, kin or known).partition("choose one of")[0].rstrip("? ")
        hint = hint or (f"did you mean {min(kin)!r}" if kin else "")
        raise ConfigError(
            f"option {name!r} is not known{': ' + hint + '?' if hint else ''} (--help lists the options)"
        ) from ex

    def _known(self) -> set[str]:
        """Return every name that a key of this command line may have."""
        targets = [*self.functions, *filter(None, map(self._class, _names_in(self.seen)))]
        seen: set[Any] = set()
        names = {name for target in targets for name in _option_names(target, seen)}
        keys = self.get_defaults(skip_validation=True).keys()  # options of the parser's own
        return {*self.names, *names} | {part for key in keys for part in key.split(".")}

    def _class(self, path: str) -> Any:
        module, _, name = path.rpartition(".")
        try:
            return getattr(importlib.import_module(module), name) if module else self.classes.get(name)
        except (ImportError, AttributeError):
            return None


def typed_values(target: type, values: Mapping[str, Any], *leave_out: str) -> dict[str, Any]:
    """Check values against the annotations of a constructor, as options of the command line are checked.

    Args:
        target: The class.
        values: Values by name, from a configuration.
        *leave_out: Parameters that are not options.

    Returns:
        All arguments of the constructor except those left out, with their defaults.

    Raises:
        AlanError: A name is unknown or missing, or a value is of the wrong type.
    """
    parser = Parser()
    parser.add_class_arguments(target, skip={*leave_out}, fail_untyped=False)
    found: dict[str, Any] = vars(parser.instantiate_classes(parser.parse_object(dict(values))))
    return found


def function_parser(function: Callable[..., Any], verb: str, epilog: str) -> Parser:
    """Make a parser of the options of one function.

    Args:
        function: Its signature is the options, its docstring the help.
        verb: Name of the verb.
        epilog: Text below the options.
    """
    summary = (function.__doc__ or "").partition("\n")[0]
    parser = Parser(prog=f"alan {verb}", description=summary, epilog=epilog)
    parser.add_argument("--config", action="config", help="YAML file, or name of an installed one")
    parser.add_function_arguments(function, as_group=False)
    parser.functions = [function]
    remember(parser._actions, function)
    return parser
