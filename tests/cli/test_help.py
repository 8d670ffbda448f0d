"""Help of the verbs: words in place of Python types, no markup, and the options of a class."""

import importlib
import shlex
from pathlib import Path
from typing import Annotated, Literal

import pytest
from annotated_types import Interval

from alan.cli import main as cli
from alan.cli.examples import EXAMPLES
from alan.cli.help import default_words, type_words
from alan.cli.parsing import find_configs, function_parser
from alan.shipped import config_file


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


def test_every_verb_has_an_example():
    assert [*EXAMPLES] == [*cli.VERBS, *cli.LIGHTNING]


def words_of_examples(verb):
    for line in EXAMPLES[verb].replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line)
        assert (program, words[: verb.count(" ") + 1]) == ("alan", verb.split())
        yield words[verb.count(" ") + 1 :]


@pytest.mark.parametrize("verb", cli.VERBS)
def test_examples_have_options_and_values_of_the_verb(verb, capsys):
    module, _, name = cli.VERBS[verb][0].partition(":")
    for words in words_of_examples(verb):
        parser = function_parser(getattr(importlib.import_module(module), name), verb, "")
        parser.parse_args(find_configs(cli.name_files(verb, words)))
    assert f"examples {' '.join(EXAMPLES[verb].split())} options of every verb" in show(
        capsys, *verb.split(), "-h"
    )


@pytest.mark.parametrize("verb", cli.LIGHTNING)
def test_examples_have_options_and_values_of_lightning(verb, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_module.yaml").write_bytes(config_file("supervised/unet_tiny_camus").read_bytes())
    for words in words_of_examples(verb):
        assert "class_path: alan." in show(capsys, verb, *words, "--print_config")
    assert cli.main([verb, "-h"]) == 0
    assert f"examples\n  {EXAMPLES[verb].splitlines()[0]}" in capsys.readouterr().out
