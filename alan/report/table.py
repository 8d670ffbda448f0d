"""Tables of a report: built once, shown as HTML and written as LaTeX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from alan.report.words import UNDEFINED, number, percent, signed


@dataclass(frozen=True)
class Column:
    """Column of a table.

    Attributes:
        title: Heading, with the unit.
        group: Heading that the column shares with its neighbours.
        number: Whether the cells are numbers, which are aligned right.
    """

    title: str
    group: str = ""
    number: bool = True


@dataclass(frozen=True)
class Cell:
    """Cell of a table.

    Attributes:
        text: Main text.
        detail: Smaller text, such as an interval.
        strong: Whether the main text is bold.
        badge: Kind of the badge that the text becomes: ``good``, ``doubtful`` or ``none``; empty for plain text.
    """

    text: str
    detail: str = ""
    strong: bool = False
    badge: str = ""


@dataclass(frozen=True)
class Row:
    """Row of a table.

    Attributes:
        name: Cell of the first column, which is the heading of the row.
        cells: Cells of the other columns; there may be fewer than columns.
        detail: Smaller text below the name.
        colour: Colour of the dot in front of the name; empty for none.
        highlight: Whether the row is highlighted.
        note: Text that fills the columns without a cell.
        link: Address to which the name leads; empty for none.
        below: Text below the row, in the width of the table; empty for none.
    """

    name: str
    cells: Sequence[Cell]
    detail: str = ""
    colour: str = ""
    highlight: bool = False
    note: str = ""
    link: str = ""
    below: str = ""


@dataclass(frozen=True)
class Section:
    """Rows that belong together.

    Attributes:
        rows: The rows.
        title: Heading above them; empty for none.
        published: Whether they are published results.
    """

    rows: Sequence[Row]
    title: str = ""
    published: bool = False


@dataclass(frozen=True)
class Table:
    """Table of a report.

    Attributes:
        title: Title, also the caption in LaTeX.
        columns: All columns; the first one holds the names of the rows.
        sections: Sections in order.
        small: Whether the table has small type, for many columns.
    """

    title: str
    columns: Sequence[Column]
    sections: Sequence[Section]
    small: bool = False

    @property
    def rows(self) -> list[Row]:
        """All rows."""
        return [row for section in self.sections for row in section.rows]

    def groups(self) -> Iterator[tuple[str, list[Column]]]:
        """Yield each shared heading with its columns; a column without one comes alone, with an empty heading."""
        for group, columns in groupby(self.columns, key=lambda column: column.group):
            if group:
                yield group, list(columns)
            else:
                yield from (("", [column]) for column in columns)


def interval_cell(
    value: Mapping[str, float | None] | None, style: str = "percent", *, strong: bool = False
) -> Cell:
    """Make a cell of a value with its interval.

    Args:
        value: ``mean`` or ``value``, ``low`` and ``high``, as in ``results.json``; None if nothing was measured.
        style: ``percent``, ``number`` or ``signed``.
        strong: Whether the text is bold.
    """
    show = {"percent": percent, "number": number, "signed": signed}[style]
    middle = None if value is None else value.get("mean", value.get("value"))
    if value is None or middle is None:
        return Cell(UNDEFINED)
    if value["low"] is None:
        return Cell(show(middle), strong=strong)
    return Cell(show(middle), f"{show(value['low'])} to {show(value['high'])}", strong)


#: Characters that LaTeX reads as commands, and those that its standard fonts lack.
_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "–": "--",
    "’": "'",
    "“": "``",
    "”": "''",
}


def latex(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)


def to_latex(tables: Sequence[Table]) -> str:
    """Write tables as LaTeX, for the package booktabs.

    Returns:
        One ``table`` environment for each table. Details, such as intervals, follow their values in brackets.
    """
    return "% Requires \\usepackage{booktabs}.\n" + "\n".join(_table(table) for table in tables)


def _table(table: Table) -> str:
    width = len(table.columns)
    groups, titles, rules, place = [], [], [], 1
    for group, columns in table.groups():
        groups.append(rf"\multicolumn{{{len(columns)}}}{{c}}{{{latex(group)}}}" if group else "")
        rules += [rf"\cmidrule(lr){{{place}-{place + len(columns) - 1}}}"] if group else []
        titles += [latex(column.title) for column in columns]
        place += len(columns)
    alignment = "".join("r" if column.number else "l" for column in table.columns)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(table.title)}}}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        *([" & ".join(groups) + r" \\", " ".join(rules)] if rules else []),
        " & ".join(titles) + r" \\",
    ]
    for section in table.sections:
        lines.append(r"\midrule")
        lines += [rf"\multicolumn{{{width}}}{{l}}{{{latex(section.title)}}} \\"] if section.title else []
        lines += [_row(row, width) + r" \\" for row in section.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _row(row: Row, width: int) -> str:
    name = f"{row.name} ({row.detail})" if row.detail else row.name
    cells = [name, *(f"{cell.text} ({cell.detail})" if cell.detail else cell.text for cell in row.cells)]
    texts = [latex(cell) for cell in cells]
    missing = width - len(texts)
    if missing:
        texts.append(rf"\multicolumn{{{missing}}}{{l}}{{{latex(row.note)}}}")
    return " & ".join(texts)
