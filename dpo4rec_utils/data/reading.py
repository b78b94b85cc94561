"""Tables as people have them: CSV, TSV, Parquet, JSON lines, RecBole's atomic files, plain, gzipped or inside a zip
archive.

What is read is text until a loader says otherwise, so that an identifier `007` stays one. Files are read as streams,
a part at a time, so that one of many gigabytes needs no more memory than a small one; Parquet alone is taken in
whole, compressed.
"""

import gzip
import io
import json
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import pandas as pd
import pyarrow
import pyarrow.parquet

from dpo4rec_utils.files import StudyError

ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl", ".json", ".inter", ".item", ".user")
LOOSE = "loose"  # the mark of a table whose rows may lack what others have: JSON lines
SEPARATORS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t", ".user": "\t"}
PART = 20_000  # rows


def read_parts(source: Path, member: str | None = None, **options) -> Iterator[pd.DataFrame]:
    """The tables of a file, of every file of a folder (by name), or of `member` of a zip archive, in parts of 20,000
    rows.

    Cells are text (lists stay lists), missing ones None or NaN. `options` go to pandas' reader of separated text.
    Raises `StudyError` in one sentence with the file's name for one that is gone, empty, cut, of an unknown kind, in
    another encoding or malformed, with the line where the format tells it.
    """
    rows = 0
    for name, file in _sources(source, member):
        with _one_sentence(name):
            for part in _parts(name, file, options):
                rows += len(part)
                yield part
    if not rows:
        raise StudyError(f"{member or source.name} is empty: it has no rows.")


def _sources(source: Path, member: str | None) -> Iterator[tuple[str, BinaryIO]]:
    """Name and opened stream of each file to read."""
    if member:
        try:
            archive = zipfile.ZipFile(source)
        except FileNotFoundError:
            raise StudyError(
                f"{source} does not exist; name the archive's path or its folder in DPO4REC_ASSETS."
            ) from None
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise StudyError(f"{source.name} is no whole zip archive ({error}); fetch it again.") from None
        with archive:
            if member not in archive.namelist():
                names = ", ".join(archive.namelist()[:8])
                raise StudyError(f"{source.name} holds no {member}; it holds {names}.")
            with _one_sentence(member), archive.open(member) as file:
                yield member, file
        return
    files = _tables_of(source) if source.is_dir() else [source]
    if not files:
        raise StudyError(f"{source} holds no table; allowed: {', '.join(ENDINGS)}, also with .gz.")
    for path in files:
        try:
            file = open(path, "rb")  # noqa: SIM115 (closed below, after its rows are read)
        except OSError as error:
            raise StudyError(f"{path} could not be opened ({error.strerror}).") from None
        with file:
            yield path.name, file


def _tables_of(folder: Path) -> list[Path]:
    """The tables of a folder by name; `StudyError` for what would be passed over. Names that begin with a dot or a
    line below, which systems and engines leave behind, are nobody's tables."""
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith((".", "_")))
    for path in paths:
        if path.is_dir() or not _kind(path.name):
            raise StudyError(
                f"{folder} holds {path.name}, which is no table and would not be read; move it, or name one file."
            )
    return paths


def _kind(name: str) -> str | None:
    """The ending that says how a file is read, without .gz; None for another file."""
    ending = Path(name.lower().removesuffix(".gz")).suffix
    return ending if ending in ENDINGS else None


def _parts(name: str, file: BinaryIO, options: dict) -> Iterator[pd.DataFrame]:
    kind = _kind(name)
    if kind is None:
        raise StudyError(f"{name} is of an unknown kind; allowed: {', '.join(ENDINGS)}, also with .gz.")
    stream = gzip.GzipFile(fileobj=file) if name.lower().endswith(".gz") else file
    if kind == ".parquet":
        for batch in pyarrow.parquet.ParquetFile(io.BytesIO(stream.read())).iter_batches(PART):
            columns = {
                name: _arrow_cells(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)
            }
            _check_names(name, batch.schema.names)
            yield pd.DataFrame(columns, dtype=object)
    elif kind in (".jsonl", ".json"):
        yield from _json_parts(name, stream, options.get("encoding") or "utf-8-sig")
    else:
        for table in _text_parts(name, stream, {"sep": SEPARATORS[kind]} | options):
            yield _without_types(name, table) if kind in (".inter", ".item", ".user") else table


def _text_parts(name: str, stream: BinaryIO, options: dict) -> Iterator[pd.DataFrame]:
    """Separated text with its first line as names. pandas would number a second column of one name instead of saying
    so."""
    separator, names = options["sep"], None
    if len(separator.encode()) > 1 and separator != r"\s+":
        stream = io.BufferedReader(_OneSeparator(stream, separator.encode(options.get("encoding") or "utf-8")))
        options = options | {"sep": UNIT_SEPARATOR}
    text = {"dtype": str, "keep_default_na": False, "na_values": [""], "header": None, "index_col": False} | options
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # more cells than columns would be cut in silence
        for table in pd.read_csv(stream, chunksize=PART, **text):
            if names is None:
                first = table.iloc[0]
                names = [str(cell) if isinstance(cell, str) else f"Unnamed: {i}" for i, cell in enumerate(first)]
                _check_names(name, names)
                table = table.iloc[1:]
            table.columns = names
            _check_quotes(name, table, options["sep"])
            yield table


MOST_ROWS_IN_A_CELL = 3  # a text of several lines may have a line that looks like a row
# What stands for a missing cell in dumps of databases and of pandas, beside an empty one.
MISSING = ("", "NULL", "\\N", "nan", "NaN", "<NA>")
UNIT_SEPARATOR = "\x1f"  # stands for a separator of several characters, which pandas' fast reader does not take


class _OneSeparator(io.RawIOBase):
    """Lines of a stream with a separator of several bytes replaced by one."""

    def __init__(self, stream: BinaryIO, separator: bytes):
        self.stream, self.separator, self.rest = stream, separator, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        if not self.rest:
            self.rest = self.stream.readline().replace(self.separator, UNIT_SEPARATOR.encode())
        part, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def _check_quotes(name: str, table: pd.DataFrame, separator: str) -> None:
    """Raise `StudyError` for a cell that holds whole rows: a quote was left open, and what follows it would be lost."""
    for place, column in enumerate(table):
        for cell in table[column][table[column].str.contains("\n", na=False)]:
            first, *others = cell.split("\n")
            rows = sum(line.count(separator) == len(table.columns) - 1 for line in others)
            # The quote of a later row closed it: the rest of this row, rows, the begin of that one and its quote.
            rests = (first.count(separator), others[-1].count(separator)) == (len(table.columns) - 1 - place, place)
            closed = rests and '"' in others[-1]
            if len(table.columns) > 1 and (closed or rows >= MOST_ROWS_IN_A_CELL):
                rows = len(others) if closed else rows
                raise StudyError(
                    f"{name}: the cell of {column!r} that begins {cell[:40]!r} holds {rows} more rows: a quote is left open; "
                    "close it, or set data.quoting: none where quotes are letters."
                )


def _without_types(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """RecBole writes a column's type behind its name: user_id:token; a token_seq's values stand apart by spaces."""
    for column in table:
        if str(column).endswith(":token_seq"):
            table[column] = [cell.split() if isinstance(cell, str) else None for cell in table[column]]
    table = table.rename(columns=lambda column: str(column).split(":")[0])
    _check_names(name, table.columns)
    return table


def _arrow_cells(column: pyarrow.Array) -> list:
    """A column's cells as text, lists as they are; an integer beside a missing one stays an integer."""
    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    nested = pyarrow.types.is_list(column.type) or pyarrow.types.is_large_list(column.type)
    try:
        cells = (column if nested else column.cast(pyarrow.string())).to_pylist()
    except (pyarrow.ArrowNotImplementedError, pyarrow.ArrowInvalid):  # a structure, which nobody may need
        cells = column.to_pylist()
    return [None if isinstance(cell, str) and cell in MISSING else cell for cell in cells]


def _check_names(name: str, columns) -> None:
    repeated = sorted({str(column) for column in columns if list(columns).count(column) > 1})
    if repeated:
        raise StudyError(f"{name} has two columns {repeated[0]}; rename one.")


def _json_parts(name: str, stream: BinaryIO, encoding: str) -> Iterator[pd.DataFrame]:
    lines = enumerate(io.TextIOWrapper(stream, encoding=encoding), 1)
    rows = (_json_row(name, number, line) for number, line in lines if line.strip())
    while part := list(islice(rows, PART)):
        table = pd.DataFrame(part, dtype=object)
        table.attrs[LOOSE] = True
        yield table


def _json_row(name: str, number: int, line: str) -> dict:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{name} is malformed: line {number} is no JSON ({str(error)[:80]}).") from None
    if not isinstance(row, dict):
        raise StudyError(f"{name} is malformed: line {number} is no JSON object; one a line is expected.")
    return {key: _json_cell(value) for key, value in row.items()}


def _json_cell(value):
    """Text, a list, or None for what is missing: null, NaN, an empty text. Half an emoji becomes a question mark."""
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, list):
        return [part.encode("utf-8", "replace").decode() if isinstance(part, str) else part for part in value]
    return str(value).encode("utf-8", "replace").decode()


@contextmanager
def _one_sentence(name: str) -> Iterator[None]:
    """Whatever a reader raises as a `StudyError` with the file's name."""
    try:
        yield
    except StudyError:
        raise
    except UnicodeDecodeError as error:
        near = error.object[max(0, error.start - 20) : error.start + 1]
        raise StudyError(
            f"{name} is not {error.encoding.upper()} (at {near!r}); save it as UTF-8 or set data.encoding."
        ) from None
    except pd.errors.EmptyDataError:
        raise StudyError(f"{name} is empty.") from None
    except zipfile.BadZipFile as error:
        raise StudyError(f"{name} is no whole member of its zip archive ({error}); fetch it again.") from None
    except (EOFError, OSError, zlib.error) as error:
        kind = "gzip file" if name.lower().endswith(".gz") else "file"
        raise StudyError(f"{name} is no whole {kind} ({error}); fetch it again.") from None
    # What readers raise for an encoding or separator that is none, an encrypted member, a compression they do not
    # know, ...
    except (
        pd.errors.ParserError,
        pd.errors.ParserWarning,
        ValueError,
        LookupError,
        RuntimeError,
        TypeError,
        re.error,
    ) as error:
        raise StudyError(f"{name} is malformed: {' '.join(str(error).split())[:160]}.") from None
