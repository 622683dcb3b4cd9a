"""Text that users write: byte order marks and Windows line ends are read, all that would be misread is one line."""

import codecs

import pytest

from vecset.common.errors import InputError
from vecset.common.user_files import read_json, read_rows, read_text

TEXT = '{\r\n "1": "Herz, größer",\r\n "2": [1, 2.5]\r\n}\r\n'
CONTENT = {"1": "Herz, größer", "2": [1, 2.5]}


def write(folder, content):
    path = folder / "file"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("text", [TEXT, TEXT.replace("\r\n", "\n"), TEXT.replace("\r\n", "\r")])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_json_of_any_editor(tmp_path, text, mark):
    assert read_json(write(tmp_path, mark + text.encode()), "a mapping") == CONTENT


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (TEXT.encode("utf-16"), "UTF-16.*save it as UTF-8"),
        (TEXT.encode("utf-16-le"), "null bytes.*save it as UTF-8"),
        (codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"), "save it as UTF-8"),
        (TEXT.encode("latin-1"), "byte 0xf6 in line 2, which is none; save it as UTF-8"),
        (b"PK\x03\x04rest", "a spreadsheet or another zip archive"),
        (b"", "found an empty file"),
        (codecs.BOM_UTF8 + b" \r\n", "found an empty file"),
        ('{"1": 2,\r\n "3": 4,\r\n}', "line [23], column [0-9]+: a comma before the closing bracket"),
        ('{"1": [2, ]}', "line 1, column [0-9]+: a comma before the closing bracket"),
        ('{"1": 2\n "3": 4}', "line 2, column 2: a comma is missing before it"),
        ('{"1": 2, // LV\n}', "line 1, column 10: JSON has no comments"),
        ("{'1': 2}", "straight double quotes"),
        ("{“1”: 2}", "straight double quotes"),
        ("{1: 2}", "a key between double quotes is missing"),
        ('{"1": 2', "the file ends too early"),
        ('{"1": 2}{"3": 4}', "the object has ended before it"),
        ('{"1": NaN}', "NaN is no number in JSON"),
        ('{"1": [-Infinity]}', "-Infinity is no number"),
        ('{"a": {"1": 2, "1": 3}}', '"1" is given twice \\(2 and 3\\); keep one of them'),
        ('{"1": 2, "1": 2}', '"1" is given twice'),
        ("[" * 100000, "too many brackets"),
    ],
)
def test_what_would_be_misread_is_one_line(tmp_path, content, told):
    with pytest.raises(InputError, match=told) as error:
        read_json(write(tmp_path, content), "a mapping")
    assert str(tmp_path / "file") in str(error.value)


def test_what_is_no_file(tmp_path):
    with pytest.raises(InputError, match="none.json: no such file; make it"):
        read_json(tmp_path / "none.json", "a mapping", "make it")
    with pytest.raises(InputError, match="expected a list, found a folder"):
        read_text(tmp_path, "a list")


ROWS = [{"case_id": "a", "file": "a;b.npz"}, {"case_id": " b", "file": "x,y.npz"}]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_rows_of_any_spreadsheet(tmp_path, end):
    text = end.join(["case_id, file,,", 'a,"a;b.npz",,', ",,,", ' b,"x,y.npz",,', ""])
    assert read_rows(write(tmp_path, codecs.BOM_UTF8 + text.encode()), ("case_id", "file"), "a CSV") == ROWS


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("case_id;file\na;a.npz\n", "found semicolons in its first line; save it with commas"),
        ("sep=;\ncase_id;file\na;a.npz\n", "semicolons"),
        ("case_id\tfile\na\ta.npz\n", "found tabs in its first line; save it with commas"),
        ("case_id|file\n", "found bars"),
        ("case_id,file\na,a.npz\n".encode("utf-16"), "UTF-16"),
        ("case_id,file\nä,a.npz\n".encode("cp1252"), "byte 0xe4 in line 2"),
        (b"PK\x03\x04", "a spreadsheet"),
        ("", "an empty file"),
        ("name,file\n", "a header with case_id and file, found name,file"),
        ("case_id,file,file\na,b,c\n", "the column file is there twice"),
        ("case_id,file,group\na,b\n", "3 values in row 2, as in its header, found 2"),
        ("case_id,file\na,b,c\n", "2 values in row 2, as in its header, found 3"),
        ('case_id,file\na,"b\n', "no CSV"),
    ],
)
def test_tables_that_would_be_misread(tmp_path, content, told):
    with pytest.raises(InputError, match=told):
        read_rows(write(tmp_path, content), ("case_id", "file"), "a CSV of cases")
