"""Tables as LaTeX: structure and escapes."""

import re

from alan.report.table import Cell, Column, Row, Section, Table, interval_cell, to_latex

COLUMNS = (Column("Method", number=False), Column("ED", "Dice, %"), Column("ES", "Dice, %"), Column("n"))
TABLE = Table(
    "Left & right_ventricle",
    COLUMNS,
    [
        Section(
            [
                Row("A_1", [Cell("80.0", "70.0 to 90.0"), Cell("−1.5"), Cell("3")], detail="new"),
                Row("B", [], note="none 5%"),
            ]
        ),
        Section([Row("P", [Cell("± 1"), Cell("–"), Cell("")])], title="Published", published=True),
    ],
)


def test_every_line_has_as_many_cells_as_columns():
    text = to_latex([TABLE, TABLE])
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    assert text.count(r"\begin{tabular}{lrrr}") == 2
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    for line in lines:
        spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
        assert len(re.split(r"(?<!\\)&", line)) - len(spans) + sum(spans) == len(COLUMNS)
    assert r" & \multicolumn{2}{c}{Dice, \%} &  \\" in text
    assert r"\cmidrule(lr){2-3}" in text
    assert r"Method & ED & ES & n \\" in text
    assert r"A\_1 (new) & 80.0 (70.0 to 90.0) & $-$1.5 & 3 \\" in text
    assert r"B & \multicolumn{3}{l}{none 5\%} \\" in text
    assert r"\multicolumn{4}{l}{Published} \\" in text
    assert r"\caption{Left \& right\_ventricle}" in text
    assert text.isascii()


def test_column_groups_do_not_merge_single_columns():
    assert [(group, len(columns)) for group, columns in TABLE.groups()] == [("", 1), ("Dice, %", 2), ("", 1)]


def test_intervals_are_written_in_each_style():
    value = {"mean": -0.25, "low": -0.5, "high": 0.125}
    assert interval_cell(value) == Cell("-25.0", "-50.0 to 12.5")
    assert interval_cell(value, "signed", strong=True) == Cell("−25.0", "−50.0 to +12.5", strong=True)
    assert interval_cell({"value": 1.25, "low": None, "high": None}, "number") == Cell("1.2")
    assert interval_cell(None) == interval_cell({"mean": None, "low": None, "high": None}) == Cell("–")
