"""Your own texts: a CSV file, read strictly, its faults named all at once."""

import codecs
from collections.abc import Iterator
import csv
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
        bars separate the columns, of which all but two are ignored.
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
    columns = text_column, label_column
    header, rows = _table(path, columns)
    kept, labels, faults = [], [], []
    for row in rows:
        fault = row.fault or _fault(row.fields, header, columns)
        if not fault:
            text, label = (row.fields[header.index(column)] for column in columns)
            if len(ids := encode(text)):
                kept.append(ids)
                labels.append(label)
                continue
            fault = f", {text[:40]!r}, has no token"
        faults.append(f"record {row.line}{fault}")
    if faults:
        _report(path, faults, skip_bad_rows)
    try:
        return from_ids(kept, labels, length=length)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _fault(fields: list[str], header: list[str], columns: tuple[str, str]) -> str:
    if len(fields) != len(header):
        return f" has {len(fields)} fields, where the first line has {len(header)}"
    if not all(fields[header.index(column)].strip() for column in columns):
        return f" has not both {' and '.join(columns)}"
    return ""


def _report(path: str | Path, faults: list[str], skip: bool) -> None:
    named = "; ".join(faults[:_NAMED])
    if len(faults) > _NAMED:
        named += f"; and {len(faults) - _NAMED} more"
    if not skip:
        raise ValueError(f"{path}: {named}: mend them, or set skip_bad_rows.")
    logging.warning("%s: %d bad rows are left out: %s.", path, len(faults), named)


def _table(
    path: str | Path, columns: tuple[str, str]
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
