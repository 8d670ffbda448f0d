"""Types and bounds of options from a file."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal

import pytest

from alan.bounds import PositiveInt, Seed, bounded, check_types
from alan.errors import ParameterError


@bounded
class Reader:
    def __init__(
        self,
        *,
        flag: bool = False,
        n: PositiveInt | None = None,
        share: float = 0.5,
        word: str | None = None,
        path: str | PathLike[str] | None = None,
        names: Sequence[str] | Mapping[str, str] = (),
        mode: Literal["a", "b"] = "a",
        anything: Any = None,
        seed: Seed = 0,
    ) -> None: ...


@pytest.mark.parametrize(
    "values",
    [
        {"flag": True, "n": 3, "share": 1, "word": "x", "path": "x", "names": ["a"], "mode": "b", "anything": 3},
        {"n": None, "word": None, "path": None, "names": {"a": "b"}, "seed": 5},
    ],
)
def test_values_within_bounds_are_accepted(values):
    check_types(Reader.__init__, values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"flag": "maybe"}, "flag is 'maybe': give true or false"),
        ({"flag": 1}, "flag is 1: give true or false"),
        ({"n": True}, "n is True: give a whole number or null"),
        ({"n": 1.5}, "n is 1.5: give a whole number or null"),
        ({"n": 0}, "n is 0: give a whole number of at least 1"),
        ({"share": "half"}, "share is 'half': give a number"),
        ({"word": 5}, "word is 5: give a text or null"),
        ({"path": 5}, "path is 5: give a text or null"),
        ({"names": "lv"}, "names is 'lv': give a list or names and values"),
        ({"mode": 1}, "mode is 1: give a or b"),
        ({"mode": "c"}, "mode is 'c': choose one of: a, b"),
        ({"seed": -1}, "seed is -1: give a whole number from 0"),
    ],
)
def test_values_out_of_bounds_are_refused(values, message):
    with pytest.raises(ParameterError, match=message):
        check_types(Reader.__init__, values)
