"""White-box models as JSON that people read and edit: one line for each entry, list and parcel."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from alan.errors import DataError, ParameterError, nearest
from alan.files import read_json, write_text
from alan.shipped import shipped


def dump(value: Any, path: str | os.PathLike[str] | None = None) -> str:
    """Write JSON with lists of numbers, and objects within lists, on one line each.

    Args:
        value: what JSON can hold; NaN is not.
        path: also write it there, whole or not at all.

    Returns:
        The text.
    """
    text = _layout(value, "") + "\n"
    if path is not None:
        write_text(path, text)
    return text


def load(source: str | os.PathLike[str]) -> Any:
    """Read JSON from a path, by a shipped name (``alan-sim-small-lv``), or from a text that starts with a brace.

    Raises:
        DataError: the file is missing or is not JSON.
        ParameterError: the text is not JSON.
    """
    if not isinstance(source, str) or not source.lstrip().startswith("{"):
        if Path(source).is_file():
            return read_json(source)
        names = shipped(".json")
        path = names.get(os.fspath(source))
        if path is None and names and not Path(source).suffix:
            raise DataError(f"{source}: no such file and no shipped name: {nearest(os.fspath(source), names)}")
        return read_json(path or source)
    try:
        return json.loads(source)
    except json.JSONDecodeError as error:
        raise ParameterError(f"not JSON ({error}): check the last edit") from error


def check_schema(value: Any, schema: str) -> dict[str, Any]:
    """The value as a dictionary of the schema.

    Raises:
        ParameterError: it is none.
    """
    found = value.get("schema") if isinstance(value, dict) else type(value).__name__
    if not isinstance(value, dict) or found != schema:
        raise ParameterError(f"not a fitted model of this kind: schema is {found!r}, {schema!r} expected")
    return value


def _layout(value: Any, indent: str) -> str:
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        rows = [f"{deeper}{json.dumps(key)}: {_layout(item, deeper)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        rows = [deeper + json.dumps(item, ensure_ascii=False, allow_nan=False) for item in value]
        return "[\n" + ",\n".join(rows) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
