"""Tables as people have them: CSV, TSV, Parquet, JSON lines, RecBole's atomic files, plain, gzipped or inside a zip archive.

What is read is text until a loader says otherwise, so that an identifier `007` stays one.
"""

import gzip
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pandas as pd

from dpo4rec_utils.files import StudyError

KINDS = (".csv", ".tsv", ".parquet", ".jsonl", ".json", ".inter", ".item", ".user")
SEPARATORS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t", ".user": "\t"}


def read_table(source: Path, member: str | None = None, **options) -> pd.DataFrame:
    """The table of a file, of every file of a folder (by name), or of `member` of a zip archive, as text.

    Missing cells are missing (None). `options` go to pandas' reader of separated text. Raises `StudyError` in one sentence
    with the file's name for one that is gone, empty, cut, of an unknown kind, not UTF-8 or malformed.
    """
    parts = [_read(name, opened, options) for name, opened in _sources(source, member)]
    table = pd.concat(parts, ignore_index=True)
    if table.empty:
        raise StudyError(f"{member or source.name} is empty: it has no rows.")
    return table


def _sources(source: Path, member: str | None) -> Iterator[tuple[str, BinaryIO]]:
    if member:
        try:
            with zipfile.ZipFile(source) as archive, archive.open(member) as file:
                yield member, io.BytesIO(file.read())
        except FileNotFoundError:
            raise StudyError(
                f"{source} does not exist; name the archive's path or its folder in DPO4REC_ASSETS."
            ) from None
        except KeyError:
            names = ", ".join(zipfile.ZipFile(source).namelist()[:8])
            raise StudyError(f"{source.name} holds no {member}; it holds {names}.") from None
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise StudyError(f"{source.name} is no whole zip archive ({error}); fetch it again.") from None
        return
    files = sorted(path for path in source.iterdir() if _kind(path.name)) if source.is_dir() else [source]
    if not files:
        raise StudyError(f"{source} holds no table; allowed: {', '.join(KINDS)}, also with .gz.")
    for path in files:
        try:
            with open(path, "rb") as file:
                yield path.name, file
        except OSError as error:
            raise StudyError(f"{path} could not be opened ({error.strerror}).") from None


def _kind(name: str) -> str | None:
    """The ending that says how a file is read, without .gz; None for another file."""
    ending = Path(name.removesuffix(".gz")).suffix.lower()
    return ending if ending in KINDS else None


def _read(name: str, file: BinaryIO, options: dict) -> pd.DataFrame:
    kind = _kind(name)
    if kind is None:
        raise StudyError(f"{name} is of an unknown kind; allowed: {', '.join(KINDS)}, also with .gz.")
    try:
        content = io.BytesIO(gzip.decompress(file.read()) if name.endswith(".gz") else file.read())
        if kind == ".parquet":
            table = pd.read_parquet(content)
            return table.astype(str).where(table.notna(), None)
        if kind in (".jsonl", ".json"):
            return pd.read_json(content, lines=True, dtype=False, convert_dates=False)
        text = {"sep": SEPARATORS[kind], "dtype": str, "keep_default_na": False, "na_values": [""]} | options
        table = pd.read_csv(content, **text)
        # RecBole writes a column's type behind its name: user_id:token.
        return table.rename(columns=lambda column: str(column).split(":")[0] if kind[1] in "iu" else column)
    except UnicodeDecodeError as error:
        raise StudyError(f"{name} is not UTF-8 (byte {error.start}); save it as UTF-8 or set data.encoding.") from None
    except pd.errors.EmptyDataError:
        raise StudyError(f"{name} is empty.") from None
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise StudyError(f"{name} is no whole gzip file ({error}); fetch it again.") from None
    except (pd.errors.ParserError, ValueError, KeyError) as error:
        raise StudyError(f"{name} is malformed: {' '.join(str(error).split())[:160]}.") from None
