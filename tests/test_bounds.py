"""Types and bounds of options from a file."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal

import pytest

from alan.bounds import PositiveInt, Seed, bounded
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
        cases: Literal["all"] | PositiveInt = "all",
    ) -> None: ...


@pytest.mark.parametrize(
    "values",
    [
        {"flag": True, "n": 3, "share": 1, "word": "x", "path": "x", "names": ["a"], "mode": "b", "anything": 3},
        {"n": None, "word": None, "path": None, "names": {"a": "b"}, "seed": 5, "cases": 1},
    ],
)
def test_values_within_bounds_are_accepted(values):
    Reader(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n": 1.5}, "n is 1.5: give a whole number"),
        ({"n": 0}, "n is 0: give a whole number of at least 1"),
        ({"mode": "c"}, "mode is 'c': choose one of: a, b"),
        ({"seed": -1}, "seed is -1: give a whole number from 0"),
        ({"cases": 0}, "cases is 0: give a whole number of at least 1"),
        ({"cases": "x"}, "cases is 'x': choose one of: all"),
    ],
)
def test_values_out_of_bounds_are_refused(values, message):
    with pytest.raises(ParameterError, match=message):
        Reader(**values)
