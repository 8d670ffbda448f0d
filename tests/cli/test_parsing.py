"""Messages of jsonargparse in one line of plain words, for the oldest allowed version and the installed one.

``python tests/cli/test_parsing.py`` prints the messages of the installed version; ``messages.json`` holds those of
the oldest one.
"""

import json
import re
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import pytest
from jsonargparse import ArgumentParser

from alan.cli.main import main
from alan.cli.parsing import Parser, find_configs, function_parser, one_line
from alan.cli.prepare import reader_options
from alan.errors import ConfigError, ParameterError
from alan.parcels.guided import GuidedFilter
from alan.shipped import shipped_configs

RECORDED = Path(__file__).parent / "messages.json"
#: Arguments to the expected message.
CASES = {
    ("--kind=a", "--size=big"): "size is big: give a whole number",
    ("--kind=a", "--size=null"): "size is None: give a whole number",
    ("--kind=a", "--ratio=x"): "ratio is x: give a number",
    ("--kind=a", "--flag=maybe"): "flag is maybe: give true or false",
    ("--kind=a", "--views=A4C"): "views is A4C: give a list, such as '[A4C]'",
    ("--kind=a", "--frames=few"): "frames is few: choose one of: all, annotated; or give a whole number",
    ("--kind=a", "--how=z"): "how is z: choose one of: x, y",
    ("--kind=a", "--names=[a]"): "names is ['a']: give names and values, such as '{name: value}'",
    ("--kind=a", "--inner.store=s", "--inner.flag=7"): "inner: flag is 7: give true or false",
    ("--kind=a", '--inner={"store": "s", "mode": "c"}'): (
        "inner is {'store': 's', 'mode': 'c'}: mode is c: choose one of: a, b"
    ),
    ("--kind=a", "--inner.flag=true"): "inner: missing: store (--help lists the options)",
    (
        "--kind=a",
        "--shape=Squar",
    ): "shape is Squar: no class of that name; did you mean 'Square'? choose one of: Square",
    ("--kind=a", "--shape=Square", "--shape.side=x"): "shape: side is x: give a whole number",
    (): "missing: kind (--help lists the options)",
}


@dataclass
class Inner:
    """Settings below an option."""

    store: str
    flag: bool = False
    mode: Literal["a", "b"] = "a"


class Shape:
    """Base of a class that an option names."""


class Square(Shape):
    """A class that an option names."""

    def __init__(self, side: int = 2, colour: str = "red") -> None:
        self.side, self.colour = side, colour


def work(  # noqa: PLR0917 (options)
    kind: str,
    size: int = 3,
    ratio: float = 0.5,
    flag: bool = False,
    views: list[str] | None = None,
    frames: Literal["all", "annotated"] | int = "all",
    how: Literal["x", "y"] = "x",
    names: dict[str, int] | None = None,
    inner: Inner | None = None,
    shape: Shape | None = None,
) -> None:
    """Take options of every type."""


def messages():
    """The messages of the installed version for every case."""

    class Raising(ArgumentParser):
        def error(self, message, ex=None):
            raise ValueError(message) from ex

    found = []
    for args in CASES:
        parser = Raising(prog="alan work")
        parser.add_function_arguments(work)
        try:
            parser.parse_args(list(args))
        except ValueError as error:
            found.append(str(error))
    return found


def recorded():
    return json.loads(RECORDED.read_text(encoding="utf-8"))


@pytest.mark.parametrize("place", range(len(CASES)), ids=[" ".join(args) for args in CASES])
@pytest.mark.parametrize("source", ["recorded", "installed"])
def test_parser_messages_are_plain(source, place):
    message = (recorded()["messages"] if source == "recorded" else messages())[place]
    assert one_line(message, ["Square"]) == list(CASES.values())[place]


def train(split: tuple[float, float], base_lr: float = 1.0, blur: float = 0.0) -> None:
    """Take options with names and values that are often confused."""


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--split=[1]"], r"^split is \[1\]: give a list of 2$"),
        (["--lr=1"], "^option 'lr' is not known: did you mean 'base_lr'"),
        (["--learning_rate=1"], "^option 'learning_rate' is not known: did you mean 'base_lr'"),
    ],
)
def test_values_and_options_that_are_often_confused(args, words):
    with pytest.raises(ConfigError, match=words):
        function_parser(train, "train", "").parse_args(args)


def test_a_class_of_the_data_is_not_offered_for_the_model():
    message = (
        'Parser key "model":\n  Expected a dot import path string: FrameDataModule. Got value: FrameDataModule'
    )
    words = one_line(message, ["DINOModule", "FrameDataModule", "RaptorModule"])
    assert words == (
        "model is FrameDataModule: not a class for this option; choose one of: DINOModule, RaptorModule"
    )


def test_allowed_versions_of_jsonargparse_are_tested():
    root = Path(__file__).parents[2]
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    (required,) = [
        one for one in tomllib.loads(text)["project"]["dependencies"] if one.startswith("jsonargparse[")
    ]
    low, high = re.search(r">=([\d.]+),<([\d.]+)$", required).groups()
    assert recorded()["version"] == f"{low}.0"
    constraints = (root / "constraints.txt").read_text(encoding="utf-8")
    major, minor = map(int, re.search(r"^jsonargparse==(\d+)\.(\d+)", constraints, re.MULTILINE).groups())
    assert [int(part) for part in high.split(".")] == [major, minor + 1]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--kindd=a"], "option 'kindd' is not known: did you mean 'kind'? (--help lists the options)"),
        (["--kind=a", "--inner.flg=true"], "did you mean 'flag'?"),
        (["--kind=a", '--inner={"store": "s", "flg": true}'], "did you mean 'flag'?"),
        (["--kind=a", f"--shape={__name__}.Square", "--shape.colur=red"], "did you mean 'colour'?"),
        (["--kind=a", "--xyzzy=1"], "option 'xyzzy' is not known (--help lists the options)"),
        (["a"], "'a' is not an option: options are written --name value (--help lists them)"),
        (["--kind=a", "--flag"], "option 'flag' needs a value: give --flag VALUE"),
        (["--kind=a", "--views=A4C,A2C"], "views is A4C,A2C: give a list, such as '[A4C,A2C]'"),
        (["--kind=a", "--views=A4C, A2C"], "views is A4C, A2C: give a list, such as '[A4C, A2C]'"),
    ],
)
def test_a_misspelt_option_offers_the_nearest(args, words):
    with pytest.raises(ConfigError) as error:
        function_parser(work, "work", "").parse_args(args)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: a\nvieuws: [b]\n", "did you mean 'views'?"),
        ("kind: a\ninner: {store: a, flg: true}\n", "did you mean 'flag'?"),
        ("# Notes\n\n**bold**\n", "not a YAML file of options"),
        ("- a\n", "not a YAML file of options"),
        ("kind: a\nsize: big\n", "size is big: give a whole number"),
    ],
)
def test_mistakes_in_a_configuration_are_explained(text, words, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        function_parser(work, "work", "").parse_args(["--config", str(path)])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_the_home_folder_is_found_where_no_shell_replaces_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.yaml").write_text("views: [~/b, a~/c, '~']\ninner: {store: ~/s.h5}\n", encoding="utf-8")
    args = find_configs(["--config=~/config.yaml", "--kind=~/a"])
    found = function_parser(work, "work", "").parse_args(args)
    assert (found.kind, found.inner.store) == (f"{tmp_path}/a", f"{tmp_path}/s.h5")
    assert found.views == [f"{tmp_path}/b", "a~/c", "~"]


def test_a_package_error_is_not_wrapped():
    class Refusing:
        def __init__(self, size: int = 0) -> None:
            raise ConfigError(f"size is {size}: give 1")

    parser = Parser()
    parser.add_class_arguments(Refusing, "thing")
    with pytest.raises(ConfigError, match=r"^size is 0: give 1$"):
        parser.instantiate_classes(parser.parse_args([]))


def test_a_package_error_is_not_wrapped_in_those_of_a_union():
    def refuse(filter: GuidedFilter | None = None) -> None:  # noqa: A002
        """Take settings or nothing."""

    parser = function_parser(refuse, "refuse", "")
    with pytest.raises(ParameterError, match=r"^radius is 0: give a whole number of at least 1$"):
        parser.instantiate_classes(parser.parse_args(["--filter.radius=0"]))


def test_names_of_installed_configurations_are_replaced(tmp_path):
    own = tmp_path / "own.yaml"
    own.touch()
    found = find_configs(
        ["--config", "sim/small", "--out", "sim/small", f"--config={own}", "-c", "dino/tiny_demo"]
    )
    small, demo = (str(shipped_configs()[name]) for name in ("sim/small", "dino/tiny_demo"))
    assert found == ["--config", small, "--out", "sim/small", f"--config={own}", "-c", demo]
    with pytest.raises(ConfigError, match="did you mean 'sim/small'"):
        find_configs(["--config=sim/smal"])


def test_a_split_reaches_the_reader_as_a_mapping():
    split = {"train": "1-8", "val": [9, 10]}
    assert reader_options("camus", split, ["A4C"], {}) == {"split": split, "views": ["A4C"]}


def test_options_are_printed_without_the_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["fit", "--config", "supervised/unet_tiny_camus", "--data.label_patients", "3", "--print_config"])
    assert "label_patients: 3" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"version": version("jsonargparse"), "messages": messages()}, indent=1) + "\n")
