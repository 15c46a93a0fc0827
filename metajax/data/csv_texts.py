"""Your own texts: a CSV file, read strictly, its faults named all at once."""

import codecs
from collections.abc import Callable, Iterator
import csv
from functools import cache
import io
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from absl import logging

from metajax.data.class_arrays import ClassArrays
from metajax.data.files import check_regular
from metajax.data.text import Encode, from_ids

_DELIMITERS = ",;\t|"
_NAMED = 20  # So many bad rows at the most, in one message.


class _Row(NamedTuple):
    """A record: the line on which it begins, and its fields or what is wrong with it."""

    line: int
    fields: list[str]
    fault: str = ""


def from_csv(
    path: str | Path,
    *,
    encode: Encode,
    length: int | None = None,
    text_column: str = "text",
    label_column: str = "label",
    skip_bad_rows: bool = False,
) -> ClassArrays:
    """Texts from a CSV file whose first line names its columns.

    Args:
      path: the file, in UTF-8, or in UTF-16 with its mark; commas, semicolons, tabs or
        bars separate the columns, of which all but two are ignored. Of a folder all
        files `*.csv`, as one.
      encode: from a text to its ids, such as `words()` or `ngrams()`.
      length: ids kept of a text; as many as the longest has, if None.
      text_column: the name of the column of texts.
      label_column: the name of the column of labels.
      skip_bad_rows: whether to leave out, with a warning, rows that are no text with a
        label: of other columns than the first line, with quotes that do not end, of
        nothing in one of the two columns, or without a token. Else they are refused.

    Returns:
      The texts as ids by class, as from `from_texts`.

    Raises:
      ValueError: if the file is not there, lacks a column, or has bad rows; these are
        named by the lines on which they begin.
    """
    encode = cache(encode)

    def fault(values: tuple[str, ...]) -> str:
        return "" if len(encode(values[0])) else f", {values[0][:40]!r}, has no token"

    columns = text_column, label_column
    rows = read_columns(path, columns, fault=fault, skip_bad_rows=skip_bad_rows)
    ids, labels = [encode(text) for text, _ in rows], [label for _, label in rows]
    try:
        return from_ids(ids, labels, length=length)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_columns(
    path: str | Path,
    columns: tuple[str, ...],
    *,
    fault: Callable[[tuple[str, ...]], str] = lambda values: "",
    skip_bad_rows: bool = False,
) -> list[tuple[str, ...]]:
    """Some columns of a CSV file whose first line names them, as `from_csv` reads it.

    Args:
      path: the file, or a folder of some.
      columns: their names.
      fault: what is wrong with the values of a row, or nothing.
      skip_bad_rows: whether to leave out bad rows with a warning.

    Returns:
      The values of each row.

    Raises:
      ValueError: as `from_csv`.
    """
    if Path(path).is_dir():
        files = sorted(Path(path).glob("*.csv"))
        if not files:
            raise ValueError(f"{path} has no file *.csv.")
        options = {"fault": fault, "skip_bad_rows": skip_bad_rows}
        return [row for file in files for row in read_columns(file, columns, **options)]
    header, rows = _table(path, columns)
    kept, faults = [], []
    for row in rows:
        wrong = row.fault or _fault(row.fields, header, columns)
        values = ()
        if not wrong:
            values = tuple(row.fields[header.index(column)] for column in columns)
            wrong = fault(values)
        if wrong:
            faults.append(f"record {row.line}{wrong}")
        else:
            kept.append(values)
    if faults:
        _report(path, faults, skip_bad_rows)
    return kept


def _fault(fields: list[str], header: list[str], columns: tuple[str, ...]) -> str:
    if len(fields) != len(header):
        return f" has {len(fields)} fields, where the first line has {len(header)}"
    if not all(fields[header.index(column)].strip() for column in columns):
        missing = "no" if len(columns) == 1 else "not both"
        return f" has {missing} {' and '.join(columns)}"
    return ""


def _report(path: str | Path, faults: list[str], skip: bool) -> None:
    named = "; ".join(faults[:_NAMED])
    if len(faults) > _NAMED:
        named += f"; and {len(faults) - _NAMED} more"
    if not skip:
        raise ValueError(f"{path}: {named}: mend them, or set skip_bad_rows.")
    logging.warning("%s: %d bad rows are left out: %s.", path, len(faults), named)


def _table(
    path: str | Path, columns: tuple[str, ...]
) -> tuple[list[str], Iterator[_Row]]:
    """The names in the first line, by the delimiter that shows both, and the rows."""
    lines = _lines(path)
    for delimiter in _DELIMITERS:
        rows = _rows(lines, delimiter)
        names = [name.strip() for name in next(rows, _Row(1, [])).fields]
        if all(names.count(column) == 1 for column in columns):
            return names, rows
    raise ValueError(
        f"{path} must name columns {' and '.join(columns)} in its first line, each once; "
        "name others by text_column and label_column. The line is "
        f"{''.join(lines[:1])[:80]!r}."
    )


def _lines(path: str | Path) -> list[str]:
    check_regular(path)
    try:
        content = Path(path).read_bytes()
        marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read as CSV in UTF-8 or UTF-16: {error}"
        ) from error
    return list(io.StringIO(text, newline=""))


def _rows(lines: list[str], delimiter: str) -> Iterator[_Row]:
    """All records; a line with a quote that does not end takes no other line with it."""
    start = 0
    while start < len(lines):
        rest = islice(lines, start, None)
        reader = csv.reader(rest, delimiter=delimiter, strict=True)
        end = 0
        try:
            for fields in reader:
                if fields:
                    yield _Row(start + end + 1, fields)
                end = reader.line_num
            return
        except csv.Error as error:
            start += end + 1
            yield _Row(start, [], f" cannot be parsed, {error}")
