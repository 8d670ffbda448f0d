"""Help of the verbs: words in place of Python types, no markup, and the options of a class."""

from typing import Annotated, Literal

import pytest
from annotated_types import Interval

from alan.cli import main as cli
from alan.cli.help import default_words, type_words


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int, "int"),
        (Annotated[int, Interval(ge=1)], "int >= 1"),
        (list[Annotated[float, Interval(gt=0, le=1)]] | None, "list of float > 0, <= 1 | null"),
        (Annotated[int, Interval(ge=2, le=254)], "int 2 to 254"),
        (str | None, "str | null"),
        (list[str] | None, "list of str | null"),
        (tuple[float, float], "list of float"),
        (dict[str, float], "names and values"),
        (Literal["a", "b"] | int, "a | b | int"),
    ],
)
def test_types_are_written_in_words(kind, words):
    assert type_words(kind) == words


def test_defaults_are_written_as_in_yaml():
    assert [default_words(value) for value in (None, True, (1, 2), "", 3)] == ["null", "true", "[1, 2]", "''", "3"]


def show(capsys, *args):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*args])
    assert stopped.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_an_option_has_one_form_and_no_markup(capsys):
    out = show(capsys, "ensemble", "--help")
    assert "--views VIEWS Views to use; null for all. (type: list of str | null, default: null)" in out
    assert "--overwrite {true,false} Replace a run with another configuration. (default: false)" in out
    assert "--trials TRIALS Number of draws of the sampler. (type: int >= 1, default: 500)" in out
    assert "`" not in out


def test_options_of_a_group_state_their_bounds(capsys):
    assert "--loop.stop_iou STOP_IOU" in (out := show(capsys, "active", "run", "--help"))
    assert "(type: float > 0, <= 1 | null, default: null)" in out
    assert "--loop CONFIG Path to a configuration file. --loop.functions" in out


@pytest.mark.parametrize(
    "args", [("fit", "--model", "RaptorModule", "-h"), ("fit", "--model=RaptorModule", "--help", "--out", "x")]
)
def test_the_help_of_a_class_lists_its_options(args, capsys):
    out = show(capsys, *args)
    assert out.startswith("Options of alan.parcels.RaptorModule Train a RAPTOR head over a locked backbone")
    assert "--model.lr LR Learning rate of Adam. (type: float > 0, default: 0.005)" in out
