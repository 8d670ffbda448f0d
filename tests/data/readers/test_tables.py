import logging

import pytest

from alan.data.readers.tables import parse_number, read_info, read_number, read_rows, read_text
from alan.errors import DataError

ROWS = [{"file": "a.png", "patient": "Müller, 1"}, {"file": "b.png", "patient": ""}]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
)
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings_separators_and_line_ends_are_recognised(tmp_path, encoding, separator, newline):
    cells = (("file", "patient"), ("a.png", '"Müller, 1"'), ("", ""), ("b.png",))
    text = newline.join(separator.join(row) for row in cells) + newline
    path = tmp_path / "t.csv"
    if encoding in ("utf-16-le", "utf-16-be"):  # without a mark, known by its zeros
        text = text.replace("ü", "u")
    path.write_bytes(text.encode(encoding))
    rows = read_rows(path, ("file", "patient"))
    assert [{**row, "patient": row["patient"].replace("Mu", "Mü")} for row in rows] == ROWS


def test_windows_1252_is_read_with_a_warning(tmp_path, caplog):
    (tmp_path / "t.csv").write_bytes("Müller".encode("cp1252"))
    with caplog.at_level(logging.INFO, "alan"):
        assert read_text(tmp_path / "t.csv") == "Müller"
    assert "t.csv: read as Windows-1252" in caplog.text


@pytest.mark.parametrize("data", [b"ab\0\0cd\xff", bytes(range(256)), b"\xff\xfea"])
def test_files_that_are_not_text_are_refused(tmp_path, data):
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(DataError, match=r"t\.csv: not a text file"):
        read_text(tmp_path / "t.csv")


def test_a_missing_column_is_refused_with_the_nearest_one(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("file;patent\n1;2\n")
    with pytest.raises(
        DataError,
        match=r"'patient' is missing; did you mean 'patent'\? its 2 columns, separated by a semicolon, are: ",
    ):
        read_rows(path, ("file", "patient"))
    with pytest.raises(DataError, match="no such file"):
        read_rows(tmp_path / "nowhere.csv", ())
    path.write_text("")
    with pytest.raises(DataError, match="column 'file' is missing"):
        read_rows(path, ("file",))


def test_known_columns_are_found_whatever_their_case(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("FILE,Split,Other\na,train,x\n")
    assert read_rows(path, ("file",), ("split",)) == [{"file": "a", "split": "train", "Other": "x"}]
    path.write_text("file,File\na,b\n")
    with pytest.raises(DataError, match="column 'file' occurs twice"):
        read_rows(path, ("file",))


def test_a_row_with_too_many_cells_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("file,EF\na,55\nb,55,5\n")
    with pytest.raises(DataError, match="line 3 has 3 cells but the header has 2: write decimal points"):
        read_rows(path, ("file",))
    path.write_text("sep=;\nfile;EF;\na;55,5;;\n")
    assert read_rows(path, ("file", "EF"))[0]["EF"] == "55,5"


@pytest.mark.parametrize("end", ["b.png", "b.png,2"])
def test_a_truncated_table_is_refused(tmp_path, end):
    path = tmp_path / "t.csv"
    path.write_text(f"file,patient,split\na.png,1,test\n{end}", encoding="utf-8")
    with pytest.raises(DataError, match=r"ends early, its last line has \d of 3 cells and no line end"):
        read_rows(path, ("file", "patient"))
    path.write_text(f"file,patient,split\na.png,1,test\n{end}\n  ", encoding="utf-8")
    assert len(read_rows(path, ("file", "patient"))) == 2


def test_numbers_are_read_in_every_notation():
    assert [parse_number(text) for text in ("55.5", "55,5", "-1", "1e-3", ".5", "", "NaN")] == [
        55.5, 55.5, -1, 0.001, 0.5, None, None,
    ]  # fmt: skip
    for text in ("1.234,5", "1_000", "12 ml", "one"):
        with pytest.raises(ValueError, match="is not a number"):
            parse_number(text)
    with pytest.raises(ValueError, match="is too large a number"):
        parse_number("1e999")


def test_cells_without_a_number_are_refused(tmp_path):
    row = {"EF": "high", "FPS": ""}
    with pytest.raises(DataError, match=r"t.csv: 0XA: column 'EF' must hold numbers, 'high' is not a number"):
        read_number(row, "EF", tmp_path / "t.csv", "0XA")
    assert read_number(row, "FPS", tmp_path, "0XA") is read_number(row, "ESV", tmp_path, "0XA") is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("sign", [": ", " = ", ":", "="])
def test_info_files_are_read(tmp_path, encoding, sign):
    text = f"ED{sign}1\r\nEF{sign}55,5\r\n\r\na comment\r\nName{sign}a:b=c\r\n"
    (tmp_path / "Info.cfg").write_bytes(text.encode(encoding))
    assert read_info(tmp_path / "Info.cfg") == {"ED": "1", "EF": "55,5", "Name": "a:b=c"}
    assert read_info(tmp_path / "nowhere.cfg") == {}


def test_blank_lines_before_the_header_are_skipped(tmp_path):
    (tmp_path / "a.csv").write_text("\n  \na,b\n1,2\n")
    assert read_rows(tmp_path / "a.csv", ["a", "b"]) == [{"a": "1", "b": "2"}]


def test_titles_above_the_header_are_ignored(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("# export of 2024;;\nClinic; x ;\nfile;patient;ef\na;b;50\n")
    assert read_rows(path, ("file", "patient")) == [{"file": "a", "patient": "b", "ef": "50"}]
    path.write_text("title\nfile;patient\na;b;c\n")
    with pytest.raises(DataError, match="line 3 has 3 cells"):
        read_rows(path, ("file", "patient"))


@pytest.mark.parametrize("cell", ["", "NA", "n/a", "#N/A", "#DIV/0!", "NULL", "-", "nan"])
def test_cells_without_a_value_are_missing_numbers(cell):
    assert parse_number(cell) is None
