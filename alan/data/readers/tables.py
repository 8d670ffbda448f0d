"""Tables and texts of archives, with their encodings, separators and decimal commas."""

from __future__ import annotations

import codecs
import csv
import io
import logging
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from alan.errors import DataError, nearest
from alan.files import parse_json, parse_yaml
from alan.words import plural

_log = logging.getLogger(__name__)

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16, and so comes before it
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
#: Number of lines in which the header is searched; those above it are titles.
_TITLES = 10
#: Cells without a value, as programs write them.
_EMPTY = re.compile(r"#?n/?a|#div/0!|null|none|-+", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?|nan", re.IGNORECASE)


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, UTF-16 or UTF-32 (with or without byte order mark) or Windows-1252.

    Raises:
        DataError: The file is missing, cannot be read, or is not a text file.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the spelling") from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); give its folder and its permissions"
        ) from error
    encoding = _encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({encoding} cannot decode it); save it as UTF-8") from error
    if "\0" in text:
        raise DataError(f"{path}: not a text file, it contains zero bytes; save it as UTF-8")
    if encoding == "cp1252":
        _log.info("%s: read as Windows-1252, because it is not UTF-8", path)
    return text


def read_structured(path: Path, what: str) -> Any:
    """Read a YAML or JSON file, by its suffix.

    Args:
        path: The file.
        what: Description of the expected content, such as ``a class list``, for the message.

    Raises:
        DataError: The file is missing or malformed.
    """
    try:
        text = read_text(path)
        return parse_json(text) if path.suffix.lower() == ".json" else parse_yaml(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{path}: not {what} ({' '.join(str(error).split())})") from error


def _encoding(data: bytes) -> str:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding
    if data and not len(data) % 2:  # Latin text in UTF-16 has a zero in every second byte
        if not any(data[1::2]):
            return "utf-16-le"
        if not any(data[::2]):
            return "utf-16-be"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def read_rows(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read a table with a header, separated by commas, semicolons, tabs or bars; titles above it are ignored.

    Args:
        path: The CSV file.
        required: Columns that must be there.
        optional: Further columns that are used. The names of required and optional columns are found whatever
            their case.

    Returns:
        One mapping of column to cell per row, without blank rows. Cells are stripped; missing cells are ``""``.

    Raises:
        DataError: The file is not a text file, a required column is missing or there twice, a row has more
            cells than the header, or the file ends within a row.
    """
    lines = list(io.StringIO(read_text(path), newline=""))
    n_lines = len(lines)
    while lines and not lines[0].strip():
        del lines[0]
    if lines and re.fullmatch(r"sep=.\s*", lines[0]):  # a hint that Excel writes for itself
        del lines[0]
    known = {name.lower(): name for name in (*optional, *required)}
    first = next((n for n in range(min(len(lines), _TITLES)) if {*required} <= {*_header(lines[n:], known)[0]}), 0)
    lines = lines[first:]  # without titles above the header
    header, separator = _header(lines, known)
    for name in required:
        if name not in header:
            table = f"its {plural(len(header), 'column')}, separated by a {_SEPARATORS[separator]}, are"
            columns = nearest(name, filter(None, header)).replace("choose one of", table)
            raise DataError(f"{path}: column {name!r} is missing; {columns}")
    twice = [name for name, n in Counter(header).items() if n > 1 and name in known.values()]
    if twice:
        raise DataError(f"{path}: column {twice[0]!r} occurs twice; keep one")
    rows = []
    try:
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        next(reader, None)
        for cells in reader:
            if len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
                line = n_lines - len(lines) + reader.line_num
                raise DataError(
                    f"{path}: line {line} has {len(cells)} cells but the header has {len(header)}: "
                    "write decimal points instead of decimal commas, or put texts with commas in quotes"
                )
            if not any(cell.strip() for cell in cells):
                continue
            is_cut = reader.line_num == len(lines) and not lines[-1].endswith(("\n", "\r"))
            if is_cut and len(cells) < len(header):
                raise DataError(
                    f"{path}: ends early, its last line has {len(cells)} of {len(header)} cells and no line end; "
                    "get the file again, or complete the line"
                )
            padded = [*cells, *[""] * (len(header) - len(cells))]
            rows.append({name: cell.strip() for name, cell in zip(header, padded, strict=False)})
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV file ({error}); export the table again") from error
    return rows


def _header(lines: list[str], known: dict[str, str]) -> tuple[list[str], str]:
    """Find the column names and the separator: the one that gives most known columns, then most columns."""
    best: tuple[int, int] = (-1, -1)
    found, separator = [""], ","
    for candidate in _SEPARATORS:
        try:
            cells = next(csv.reader(lines[:1], delimiter=candidate, skipinitialspace=True), [])
        except csv.Error:
            continue
        names = [known.get(cell.strip().lower(), cell.strip()) for cell in cells]
        score = (len(set(names) & set(known.values())), len(names))
        if score > best:
            best, found, separator = score, names, candidate
    return found, separator


def read_info(path: Path) -> dict[str, str]:
    """Read lines of ``key: value`` or ``key = value``; empty if the file does not exist."""
    if not path.is_file():
        return {}
    pairs = (re.split(r"\s*[:=]\s*", line.strip(), maxsplit=1) for line in read_text(path).splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def parse_number(text: str) -> float | None:
    """Read a number with a decimal point or a decimal comma; None for an empty text, ``NA``, ``-`` and the like.

    Raises:
        ValueError: The text is not a number, or too large for one.
    """
    if not text or _EMPTY.fullmatch(text):
        return None
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a number")
    value = float(text.replace(",", "."))
    if math.isinf(value):
        raise ValueError(f"{text!r} is too large a number")
    return None if value != value else value  # noqa: PLR0124 (NaN)


def info_number(info: Mapping[str, str], name: str) -> float | None:
    """Return a number of what :func:`read_info` read; None if it is missing, or is not a number."""
    try:
        return parse_number(info.get(name, ""))
    except ValueError:
        return None


def read_number(row: dict[str, str], column: str, path: Path, who: str) -> float | None:
    """Read a number from a row of a table; None for an empty cell or a missing column.

    Args:
        row: The row, as :func:`read_rows` returns it.
        column: Name of the column.
        path: The table, for the message.
        who: Subject of the row, for the message.

    Raises:
        DataError: The cell does not hold a number.
    """
    try:
        return parse_number(row.get(column, ""))
    except ValueError as error:
        raise DataError(f"{path}: {who}: column {column!r} must hold numbers, {error}") from error
