"""Rows of a manifest, from JSON Lines, CSV, TSV or Parquet, as plain values that JSON can hold.

    file ──line by line, or batch by batch──> (number, row)     a good one: column -> value
                                          └─> (number, why)     a bad one, for quarantine: never the end of the others

Manifests come from crawlers, so every value is data and nothing more: it is neither decoded, executed nor unpickled.
"""

from __future__ import annotations

import base64
import csv
import datetime
import decimal
import json
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from operators.errors import UserError

Row = tuple[int, dict[str, Any] | str]
"""(line or row number from 1, column -> value or what is wrong with the line)"""

_MAX_LINE = 4 << 20
_MAX_DEPTH = 32


def read_rows(path: str, name: str) -> Iterator[Row]:
    """Yield every row of the manifest at the local `path`; `name` is what its user calls it, and its ending says its
    format.

    Raises UserError when it is not a manifest at all: unreadable, empty, or without a `uri` column.
    """
    try:
        _check_encoding(path, name)
        yield from _with_uri(_READERS[ending(name)](path, name), name)
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"cannot read the manifest {name} ({why}): fix the path or its permissions") from error


def _check_encoding(path: str, name: str) -> None:
    """Refuse UTF-16, which Windows programs write: each of its lines would be a bad one. Raises UserError, OSError."""
    if ending(name) == ".parquet":
        return
    with open(path, "rb") as file:
        head = file.read(64)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or head.count(0) > len(head) // 4:
        raise UserError(f"the manifest {name} is UTF-16: save it as UTF-8")


def ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def is_manifest(name: str) -> bool:
    return ending(name) in _READERS


def _with_uri(rows: Iterator[Row], name: str) -> Iterator[Row]:
    """Yield the rows, once one of them is seen to have a `uri`: rows before it wait, so that a wrong file is known
    from a bad line.
    """
    waiting: list[Row] = []
    columns: set[str] = set()
    array = False
    for row in rows:
        array |= isinstance(row[1], str) and row[0] == 1 and row[1].startswith(_ARRAY)
        waiting.append(row)
        if isinstance(row[1], dict):
            columns |= row[1].keys()
            if "uri" in row[1]:
                yield from waiting
                yield from rows
                return
    found = (
        f"has no column 'uri' (it has {', '.join(sorted(columns)[:8])})"
        if columns
        else "holds no rows that can be read"
    )
    if array:
        raise UserError(f"the manifest {name} is one JSON array: write an object a line instead (jq -c '.[]')")
    raise UserError(f"the manifest {name} {found}: every row needs 'uri', the path of its audio file")


def _read_jsonl(path: str, name: str) -> Iterator[Row]:
    with open(path, "rb") as file:
        for number, line in enumerate(_lines(file), start=1):
            if line is None:
                yield number, f"longer than {_MAX_LINE} bytes"
            elif line.strip():
                yield number, _parse_line(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Lines of a file; None for one that is too long to be held."""
    while line := file.readline(_MAX_LINE):
        if len(line) < _MAX_LINE or line.endswith(b"\n"):
            yield line
            continue
        while (rest := file.readline(_MAX_LINE)) and not rest.endswith(b"\n"):
            pass
        yield None


def _parse_line(line: bytes) -> dict[str, Any] | str:
    try:
        values = json.loads(line.decode("utf-8"))
        return (
            plain_row(values)
            if isinstance(values, dict)
            else _ARRAY
            if isinstance(values, list)
            else "not a JSON object"
        )
    except UnicodeDecodeError:
        return "not UTF-8"
    except RecursionError:
        return "nested too deeply"
    except ValueError as error:
        return f"{_ARRAY}: {error}" if line.lstrip().startswith(b"[") else f"not JSON: {error}"


_ARRAY = "not a JSON object but an array"


def _read_csv(path: str, name: str) -> Iterator[Row]:
    csv.field_size_limit(max(_MAX_LINE, csv.field_size_limit()))
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        # TSV knows no quotes (IANA text/tab-separated-values): one in a title would swallow the rows behind it.
        form: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if ending(name) == ".tsv" else {}
        reader = csv.reader(file, strict=True, **form)
        header: list[str] | None = None
        while True:
            first = reader.line_num + 1
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                last = f" to {reader.line_num}" if reader.line_num > first else ""
                yield first, f"not CSV{last}: {error}"
                continue
            if not values:
                continue
            if header is None:
                header = [column.strip() for column in values]
                if "uri" not in header or len(set(header)) != len(header):
                    problem = "repeats a column in" if "uri" in header else "has no column 'uri' in"
                    found = ", ".join(header[:8])[:200]
                    raise UserError(f"the manifest {name} {problem} its first line ({found}): fix the header")
            elif len(values) != len(header):
                yield first, f"{len(values)} fields where the header has {len(header)}"
            elif any(_has_surrogate(value) for value in values):
                yield first, "not UTF-8"
            else:
                yield first, plain_row(dict(zip(header, values)))


def _read_parquet(path: str, name: str) -> Iterator[Row]:
    try:
        with pq.ParquetFile(path) as file:
            if "uri" not in file.schema_arrow.names:
                found = ", ".join(file.schema_arrow.names[:8])
                raise UserError(f"the manifest {name} has no column 'uri' (it has {found}): every row needs it")
            number = 1
            for batch in file.iter_batches(batch_size=4096):
                yield from enumerate(_batch_rows(batch), start=number)
                number += batch.num_rows
    except pa.ArrowException as error:
        raise UserError(f"{name} is not a readable Parquet file: {str(error).splitlines()[0][:200]}") from error


def _batch_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    try:
        yield from [plain_row(row) for row in batch.to_pylist()]
    except (ValueError, OverflowError):  # one value that Python cannot hold, such as a date in the year 300,000
        for index in range(batch.num_rows):
            try:
                yield plain_row(batch.slice(index, 1).to_pylist()[0])
            except (ValueError, OverflowError) as error:
                yield f"a value cannot be read: {error}"


_READERS: dict[str, Callable[[str, str], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}


def plain_row(values: dict[Any, Any]) -> dict[str, Any]:
    """Return the row in values that JSON can hold. Raises ValueError when it is nested too deeply."""
    # The URI keeps its surrogates: they may be the bytes of a file name that is not UTF-8.
    return {
        text(str(key)): value if key == "uri" and isinstance(value, str) else plain(value)
        for key, value in values.items()
    }


def plain(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON can hold it: NaN becomes null, times ISO 8601, decimals text, bytes text or "base64:...".

    Raises ValueError when it is nested too deeply.
    """
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return "base64:" + base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {text(str(key)): plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, depth + 1) for inner in value]
    return text(str(value))


def text(value: str) -> str:
    """Return the text with every lone surrogate, which no UTF-8 file can hold, spelled out: a byte of a file name as
    `\\xe9`.
    """
    if not _has_surrogate(value):
        return value
    try:
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return value.encode("utf-8", "backslashreplace").decode("utf-8")


def _has_surrogate(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
