"""Texts come from CSV files of many kinds whole, or their faults are named at once."""

import os

import numpy as np
import pytest

from metajax.data.csv_texts import from_csv
from metajax.data.text import words


def test_texts_come_from_the_columns_of_a_csv_file(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text(
        '\ufefflabel,id,text\nhi,1,"hello, there"\nbye,2,see you\nhi,3,"good\nday"\n'
    )
    data = from_csv(path, encode=words(), length=3)
    assert data.names == ("bye", "hi") and data.counts.tolist() == [1, 2]
    hello = [*words()("hello there"), 0]
    np.testing.assert_array_equal(np.asarray(data.inputs)[data.rows[1, 0]], hello)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,kind\nhello,a\n", "columns text and label"),
        ("text,label\nhello,a\n,b\n", "record 3 has not"),
        ("text,label\nhello,a\n!!,b\n", "has no token"),
        ("text,label\n", "one label an example"),
        (None, "cannot be read as CSV"),
    ],
)
def test_bad_csv_files_are_refused_by_name(tmp_path, content, message):
    path = tmp_path / "texts.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        from_csv(path, encode=words())
    assert "texts.csv" in str(error.value)


def _csv(tmp_path, content, encoding="utf-8", **options):
    path = tmp_path / "texts.csv"
    path.write_bytes(content.encode(encoding))
    return from_csv(path, encode=words(), **options)


def _texts(data):
    """The ids of each text without padding, by class."""
    ids = np.asarray(data.inputs)
    return {
        name: [[i for i in ids[example].tolist() if i] for example in row[:count]]
        for name, row, count in zip(data.names, data.rows, data.counts)
    }


EXPECTED = {"bye": [words()("see you")], "hi": [words()("hello, there; you")]}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_usual_csv_gives_the_same_texts(tmp_path, delimiter, encoding, end):
    rows = ["label,id, text", 'hi,"1","hello, there; you"', "", "bye,2,see you", ""]
    quoted = [row.replace("hello, there", "hello# there") for row in rows]
    content = end.join(row.replace(",", delimiter) for row in quoted)
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    data = _csv(tmp_path, mark + content.replace("#", ","), encoding)
    assert _texts(data) == EXPECTED


def test_columns_have_the_names_that_are_given(tmp_path):
    content = "text,intent,utterance\nx,bye ,see you\ny,hi,hello there you\n"
    names = {"text_column": "utterance", "label_column": "intent"}
    assert _texts(_csv(tmp_path, content, **names)) == EXPECTED
    with pytest.raises(
        ValueError, match="columns text and intent in its first line.*'t"
    ):
        _csv(tmp_path, content.replace("text", "t"), label_column="intent")
    with pytest.raises(ValueError, match="text and label in its first line, each once"):
        _csv(tmp_path, "text,label,text\na,b,c\n")


BAD = [
    ("Hello, play it,music\n", "3 fields, where the first line has 2"),
    ("alone\n", "1 fields, where the first line has 2"),
    ('"Hello,music\n', "cannot be parsed"),
    ('"Hello" you,music\n', "cannot be parsed"),
    ("\U0001f600,music\n", "'\U0001f600', has no token"),
    (",music\n", "has not both text and label"),
    ("play, \n", "has not both text and label"),
]


@pytest.mark.parametrize(
    "end, last",
    [("", []), ('"quoted, too",hi\n', ["quoted too"]), ('a "b" c,hi\n', ["a b c"])],
)
def test_all_bad_rows_are_named_at_once_or_skipped(tmp_path, caplog, end, last):
    """Among good rows, of which the first has two lines: bad rows begin at line 4."""
    content, line = 'text,label\n"good\nday",hi\n', 4
    named = []
    for row, fault in BAD:
        content += row + "see you,bye\n"
        named.append((line, fault))
        line += 2
    with pytest.raises(
        ValueError, match="texts.csv: record 4 .*skip_bad_rows"
    ) as error:
        _csv(tmp_path, content + end)
    data = _csv(tmp_path, content + end, skip_bad_rows=True)
    (record,) = caplog.records
    for message in (str(error.value), record.getMessage()):
        assert "\n" not in message and message.count("record ") == len(BAD)
        for line, fault in named:
            part = message.partition(f"record {line}")[2].partition(";")[0]
            assert fault in part
    assert "7 bad rows are left out" in record.getMessage()
    texts = _texts(data)
    assert texts.keys() == {"bye", "hi"}
    assert texts["bye"] == [words()("see you")] * len(BAD)
    assert texts["hi"] == [words()(text) for text in ["good day", *last]]


def test_what_is_no_file_or_no_text_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")  # To be waited for, for ever.
    for path in (tmp_path / "pipe.csv", tmp_path):  # Also as one of a folder.
        with pytest.raises(ValueError, match="pipe.csv is not a regular file"):
            from_csv(path, encode=words())
    with pytest.raises(ValueError, match="cannot be read as CSV in UTF-8 or UTF-16"):
        _csv(tmp_path, "text,label\ncaf\u00e9,a\n", "latin-1")


def test_of_very_many_bad_rows_some_are_named(tmp_path):
    content = "text,label\n" + "!,a\n" * 30
    with pytest.raises(ValueError, match="record 21, '!', has no token; and 10 more"):
        _csv(tmp_path, content)


def test_the_files_of_a_folder_are_read_as_one(tmp_path):
    for name, row in (("b", "see you,bye"), ("a", '"hello, there; you",hi')):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{row}\n")
    (tmp_path / "categories.json").write_text("[]")
    assert _texts(from_csv(tmp_path, encode=words())) == EXPECTED
    (tmp_path / "c.csv").write_text("one,two\n1,2\n")
    with pytest.raises(ValueError, match="c.csv must name columns text and label"):
        from_csv(tmp_path, encode=words())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has no file"):
        from_csv(tmp_path / "empty", encode=words())
