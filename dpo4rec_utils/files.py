"""Files that are whole or absent, and the errors a user sees as one sentence."""

import hashlib
import json
import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import psutil


class StudyError(RuntimeError):
    """A problem with the input or the machine, in one sentence with a way out; shown without a traceback."""


class MissingRecordError(StudyError):
    """A record that nothing has made: not listed in the manifest of its profile."""


class UnmadeStageError(StudyError):
    """A stage that is not finished, where nothing is to be made."""


def project_root() -> Path:
    """The checkout: the nearest folder at or above the working directory, then above this file, with `notebooks/`."""
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "notebooks").is_dir() and (folder / "dpo4rec_utils").is_dir():
                return folder
    return Path.cwd()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_path(path: Path):
    """Yield a temporary path beside `path`, and rename it onto `path` only when the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content) -> None:
    """Write JSON atomically, keys in the order given; NumPy numbers and arrays become plain ones."""
    text = json.dumps(content, indent=1, default=lambda x: x.tolist(), ensure_ascii=False)
    # A list of numbers is one line, not a line a number: records stay readable and small.
    text = re.sub(r"\[\n\s*([-\d.eE+,\sNa]+?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)
    write_text(path, text + "\n")


def read_json(path: Path):
    """Read a JSON file; a damaged one raises `StudyError` naming the file to delete."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise StudyError(f"{path} is damaged; delete it and run again.") from None


def require_free_disk(folder: Path, gib: float) -> None:
    """Raise `StudyError` where `folder`'s disk has less than `gib` GiB free."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 2**30
    if free < gib:
        raise StudyError(f"{folder} has {free:.1f} GiB free, {gib:.1f} GiB are needed; free some or move the checkout.")


def require_free_memory(gib: float) -> None:
    """Raise `StudyError` where less than `gib` GiB of memory is available."""
    free = psutil.virtual_memory().available / 2**30
    if free < gib:
        raise StudyError(f"{free:.1f} GiB of memory are available, {gib:.1f} GiB are needed; close other programs.")
