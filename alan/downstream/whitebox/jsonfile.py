"""White boxes as JSON that people read and edit: one line for each entry, list and parcel."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, Self

from alan.errors import DataError, ParameterError, damaged, nearest
from alan.files import check_schema, read_json, write_text
from alan.shipped import shipped


class JsonModel:
    """Base of the models that are written as JSON for people to read and edit.

    A subclass converts itself by ``to_dict`` and ``from_dict``.
    """

    def to_dict(self) -> dict[str, Any]:
        """Return the fitted model, JSON-able."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, value: Any) -> Self:
        """Build from the result of :meth:`to_dict`."""
        raise NotImplementedError

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Write the fitted model as JSON that people can read; its lists may be changed by hand.

        Args:
            path: File to write; None only returns the text.

        Returns:
            The text.
        """
        return dump(self.to_dict(), path)

    @classmethod
    def from_json(cls, source: str | os.PathLike[str]) -> Self:
        """Read a fitted model.

        Args:
            source: Path, name of a shipped white box (``alan-sim-lv``), or the text itself, which starts
                with a brace.

        Returns:
            The fitted model.

        Raises:
            DataError: The file is missing or is not JSON.
            ParameterError: The content is not a model of this class.
        """
        return cls.from_dict(load(source))


def dump(value: Any, path: str | os.PathLike[str] | None = None) -> str:
    """Write JSON with one line per list of numbers and per object within a list.

    Args:
        value: Plain values; NaN is not allowed.
        path: File to write, whole or not at all; None only returns the text.

    Returns:
        The text.
    """
    text = _layout(value, "") + "\n"
    if path is not None:
        write_text(path, text)
    return text


def load(source: str | os.PathLike[str]) -> Any:
    """Read JSON from a path, from a shipped name (``alan-sim-lv``), or from a text that starts with a brace.

    Raises:
        DataError: The file is missing or is not JSON.
        ParameterError: The text is not JSON.
    """
    if not isinstance(source, str) or not source.lstrip().startswith("{"):
        if Path(source).is_file():
            return read_json(source)
        if Path(source).is_dir():
            first = min(Path(source).glob("*.json"), default=Path(source, "NAME.json"))
            raise DataError(f"{source}: is a folder; give a file in it, such as {first}")
        names = {name: path for name, path in shipped(".json").items() if not name.endswith(".model")}
        path = names.get(os.fspath(source))
        if path is None and names and not Path(source).suffix:
            raise DataError(f"{source}: no such file and no shipped name: {nearest(os.fspath(source), names)}")
        return read_json(path or source)
    try:
        return json.loads(source)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ParameterError(f"not JSON ({error}): check the last edit") from error


def check_model(value: Any, schema: str) -> dict[str, Any]:
    """Return the value if it is the dictionary of a model of a schema.

    Raises:
        ParameterError: It is not.
    """
    return check_schema(
        value, schema, "not a fitted model of this kind: ", "fit and write it again", ParameterError
    )


def parsing(kind: str) -> contextlib.AbstractContextManager[None]:
    """Report the exceptions of a malformed dictionary as ``ParameterError``; ``kind`` names the file."""
    return damaged(ParameterError, f"the {kind} is incomplete or malformed", "write it again")


def _layout(value: Any, indent: str) -> str:
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        rows = [f"{deeper}{json.dumps(key)}: {_layout(item, deeper)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        rows = [deeper + json.dumps(item, ensure_ascii=False, allow_nan=False) for item in value]
        return "[\n" + ",\n".join(rows) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
