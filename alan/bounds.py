"""Bounds of parameters: declared once in the annotation, checked when the function is called.

A bound is metadata of :data:`typing.Annotated` in the vocabulary of ``annotated_types``, so that signatures, the
generated documentation and the check read the same text::

    @bounded
    def shrink(share: Share, steps: Annotated[int, Interval(ge=1, le=10)] = 3) -> None: ...
"""

from __future__ import annotations

import functools
import inspect
import numbers
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sized
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, GroupedMetadata, Gt, Interval, Le, Lt

from alan.errors import ParameterError, nearest

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
#: A share, a probability or a threshold on one.
Share = Annotated[float, Interval(ge=0, le=1)]
#: The coverage of an interval: above 0 and below 1.
Coverage = Annotated[float, Interval(gt=0, lt=1)]
#: Dropout, momentum: at least 0 and below 1.
Rate = Annotated[float, Interval(ge=0, lt=1)]
#: A seed that NumPy, torch and Lightning all accept.
Seed = Annotated[int, Interval(ge=0, le=2**32 - 1)]

_T = TypeVar("_T", bound=Callable[..., Any])


def bounded(target: _T) -> _T:
    """Check annotated bounds at each call of a function, or each time a class is built.

    Args:
        target: Function or class. For a class, ``__init__`` is wrapped; apply it above ``@dataclass``.

    Raises:
        ParameterError: When called, a value outside its bounds; the message names parameter, value and bounds.
    """
    if inspect.isclass(target):
        target.__init__ = bounded(target.__init__)  # type: ignore[method-assign]
        return target
    signature = inspect.signature(target)

    @functools.wraps(target)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            given = {}  # the call below has the better message
        check_bounds(target, given)
        return target(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


def check_ascending(name: str, values: tuple[float, float]) -> None:
    """Check that a range has its lower end first.

    Raises:
        ParameterError: ``values`` descend.
    """
    if values[0] > values[1]:
        raise ParameterError(f"{name} is {values}: give the lower end first")


def check_parameters(estimator: Any) -> None:
    """Check the attributes of an estimator against the bounds that its ``__init__`` declares.

    Raises:
        ParameterError: As :func:`bounded`; scikit-learn's estimators check when they are fitted.
    """
    check_bounds(type(estimator).__init__, vars(estimator))


def check_bounds(function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Check values against the bounds in a function's annotations.

    Args:
        function: Function whose annotations hold the bounds.
        values: Mapping from parameter to its value; other parameters are not checked.

    Raises:
        ParameterError: A value is outside its bounds.
    """
    for name, hint in _bounds(function).items():
        if name in values:
            _check(name, values[name], hint)


@functools.cache
def _bounds(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the parameters whose annotation holds a bound or a choice."""
    hints = get_type_hints(inspect.unwrap(function), include_extras=True)
    return {name: hint for name, hint in hints.items() if name != "return" and _is_bound(hint)}


def _is_bound(hint: Any) -> bool:
    if get_origin(hint) in (Annotated, Literal):
        return True
    return any(_is_bound(part) for part in get_args(hint) if part is not Ellipsis)


def _check(name: str, value: Any, hint: Any) -> None:
    origin, parts = get_origin(hint), get_args(hint)
    fixed = origin is tuple and parts[-1] is not Ellipsis
    if origin in (Union, types.UnionType):
        _check_union(name, value, parts)
    elif origin is Annotated:
        _check_number(name, value, parts[0], hint.__metadata__)
    elif origin is Literal:
        if value not in parts:
            raise ParameterError(f"{name} is {value!r}: {nearest(str(value), [str(part) for part in parts])}")
    elif fixed and not (isinstance(value, Sized) and len(value) == len(parts)):
        raise ParameterError(f"{name} is {value!r}: give {len(parts)} values")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check(f"{name}[{key}]", item, parts[-1])
    elif isinstance(origin, type) and issubclass(origin, Iterable):
        if not isinstance(value, Collection):
            raise ParameterError(f"{name} is {value!r}: give a list of values")
        hints = parts if fixed else [parts[0]] * len(value)
        for index, (item, part) in enumerate(zip(value, hints, strict=True)):
            _check(f"{name}[{index}]", item, part)


def _check_union(name: str, value: Any, parts: tuple[Any, ...]) -> None:
    """Accept what one member accepts; else report the member that bounds values of this type."""
    errors = {}
    for part in parts:
        try:
            _check(name, value, part)
        except ParameterError as error:
            errors[part] = error
        else:
            base = get_origin(part) or part
            if _is_bound(part) or (isinstance(base, type) and isinstance(value, base)):
                return
    for part, failed in errors.items():
        if (get_origin(part) is Annotated) == isinstance(value, numbers.Real):
            raise failed
    if errors:
        raise next(iter(errors.values()))


def _check_number(name: str, value: Any, base: Any, metadata: tuple[Any, ...]) -> None:
    kind = numbers.Integral if base is int else numbers.Real
    fits = isinstance(value, kind) and all(_fits(value, limit) for limit in _limits(metadata))
    if not fits:
        raise ParameterError(f"{name} is {value!r}: give {_in_words(base, metadata)}")


def _limits(metadata: tuple[Any, ...]) -> list[Any]:
    """Return single limits, also those of an interval."""
    return [limit for rule in metadata for limit in (rule if isinstance(rule, GroupedMetadata) else [rule])]


def bound_words(metadata: tuple[Any, ...]) -> str:
    """Write the bounds of a help line.

    Args:
        metadata: Metadata of :data:`typing.Annotated`.

    Examples:
        >>> bound_words((Interval(ge=2, le=254),))
        '2 to 254'
        >>> bound_words((Interval(ge=0, lt=1),))
        '>= 0, < 1'
    """
    return _closed(metadata) or ", ".join(_each(metadata, {Ge: ">=", Gt: ">", Le: "<=", Lt: "<"}))


def _fits(value: Any, limit: Any) -> bool:
    match limit:
        case Ge(ge=bound):
            return bool(value >= bound)
        case Gt(gt=bound):
            return bool(value > bound)
        case Le(le=bound):
            return bool(value <= bound)
        case Lt(lt=bound):
            return bool(value < bound)
    raise TypeError(f"{limit} is not a bound: use Ge, Gt, Le, Lt or Interval")


def _closed(metadata: tuple[Any, ...]) -> str:
    """Write an interval that contains both of its ends; empty if it does not."""
    ends = {type(limit): limit for limit in _limits(metadata)}
    return f"{ends[Ge].ge} to {ends[Le].le}" if {Ge, Le} <= ends.keys() else ""


def _each(metadata: tuple[Any, ...], words: Mapping[type, str]) -> list[str]:
    """Write the lower and the upper limit, each after the word of its kind."""
    return [
        f"{word} {getattr(limit, kind.__name__.lower())}"
        for kind, word in words.items()
        for limit in _limits(metadata)
        if isinstance(limit, kind)
    ]


def _in_words(base: Any, metadata: tuple[Any, ...]) -> str:
    """Describe the accepted values, such as ``a whole number from 2 to 254``."""
    noun = "a whole number" if base is int else "a number"
    if closed := _closed(metadata):
        return f"{noun} from {closed}"
    words = {Ge: "of at least", Gt: "above", Le: "of at most", Lt: "below"}
    return f"{noun} {' and '.join(_each(metadata, words))}".rstrip()
