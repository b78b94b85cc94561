"""Files that are whole or absent, and the errors a user sees as one sentence."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import traceback
import urllib.parse
import zipfile
import zlib
from pathlib import Path

import numpy as np
import psutil


def on_one_line(text: str) -> str:
    """A sentence that may quote what somebody wrote, without its line ends."""
    return re.sub(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+\s*", " ", text)


class StudyError(RuntimeError):
    """A problem with the input or the machine, in one sentence with a way out; shown without a traceback."""

    def __init__(self, sentence: str = ""):
        super().__init__(on_one_line(sentence))


class MissingRecordError(StudyError):
    """A record that nothing has made: not listed in the manifest of its profile."""


class NotAskedError(MissingRecordError):
    """What a table or figure shows is nothing that its profile asks for: no fault, and no more to do."""


class UnmadeStageError(StudyError):
    """A stage that is not finished, where nothing is to be made."""


def public_address(text: str) -> str:
    """An address without what is nobody's business: user, password, query and fragment; other texts as they are.

    Presigned addresses hold a key in their query.
    """
    if "://" not in text:
        return text
    try:
        parts = urllib.parse.urlsplit(text)
    except ValueError:
        return text.split("://")[0] + "://..."
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def public_text(text: str) -> str:
    """A text with every address in it as `public_address` gives it."""
    return re.sub(r"\w+://[^\s'\"]+", lambda match: public_address(match[0]), text)


def printable(text: str) -> str:
    """A text as a terminal may be sent it: control characters and escape sequences are shown, not obeyed."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )


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


def file_identity(path: Path, most: int) -> list:
    """[size, SHA-256] of a file; of one larger than `most` bytes [size, None]: its hash would take seconds."""
    size = path.stat().st_size
    return [size, file_sha256(path) if size <= most else None]


PARTIAL = (
    ".partial-"  # begins the name of a folder that holds a file while it is written; no pattern for results matches it
)


@contextlib.contextmanager
def partial_folder(parent: Path):
    """Yield a new folder in `parent` for what is not whole yet, and delete it; after a kill `sweep` does."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=f"{PARTIAL}{os.getpid()}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def atomic_path(path: Path):
    """Yield a temporary path of the same name, and rename it onto `path`, written to the disk, when the block
    succeeds."""
    path = Path(path)
    with partial_folder(path.parent) as folder:
        yield folder / path.name
        with open(folder / path.name, "rb") as written:
            os.fsync(written.fileno())
        os.replace(folder / path.name, path)


def sweep(folder: Path, least_age: float = 0.0) -> None:
    """Delete what processes of this machine that were killed left half-written anywhere in `folder`; least_age: in
    seconds, of a folder that other machines may write to."""
    for parent, names, _ in os.walk(folder):  # which goes on where another process removes a folder
        for path in (Path(parent, name) for name in names if name.startswith(PARTIAL)):
            with contextlib.suppress(FileNotFoundError):
                if not _lives(path) and time.time() - path.stat().st_mtime >= least_age:
                    shutil.rmtree(path, ignore_errors=True)


def _lives(partial: Path) -> bool:
    """Whether the process that made a half-written file still runs: one of its number that began later is another's, as
    in a container that was started anew."""
    pid = partial.name.removeprefix(PARTIAL).partition("-")[0]
    try:
        return pid.isdigit() and psutil.Process(int(pid)).create_time() <= partial.stat().st_mtime + 1
    except (psutil.Error, OSError, OverflowError):
        return False


def remove(path: Path) -> None:
    """Delete whatever is there: a folder with all in it, a file, a link, nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


STAGED = "DPO4REC_STAGED"  # the folder that a whole run publishes to until it has succeeded


def results_folder(root: Path, profile: str) -> Path:
    """Where the records of a profile are: `results/<profile>`, or what stands in for it while a whole run goes on."""
    staged = os.environ.get(STAGED)
    if staged and Path(staged).name == staged_name(profile):
        return Path(staged)
    return root / "results" / profile


def staged_name(profile: str) -> str:
    """The name of the folder that stands in for `results/<profile>`."""
    return f".{profile}.new"


def profile_of(results: Path) -> str:
    """The profile whose records a folder holds."""
    return results.name.removeprefix(".").removesuffix(".new")


def replace_folder(new: Path, old: Path) -> None:
    """`new` takes the place of `old`; `recover` mends what a kill between the two renames leaves."""
    aside = old.with_name(f".{old.name}.old")
    remove(aside)
    if old.exists():
        os.replace(old, aside)
    os.replace(new, old)
    remove(aside)


def recover(old: Path) -> None:
    """Put back what stood at `old`, where a run was killed while it replaced it."""
    aside = old.with_name(f".{old.name}.old")
    if aside.exists() and not old.exists():
        os.replace(aside, old)


def system_sentence(error: OSError) -> str:
    """What the system refuses, in one sentence with a way out."""
    where = error.filename2 or error.filename
    if error.errno == errno.ENOENT and where is None:  # what tempfile says
        return f"{error.strerror}: free some space, or set TMPDIR to a folder that can be written."
    where = where or "a file"
    way_out = {
        errno.ENOSPC: "the disk is full; free some space",
        errno.EDQUOT: "your quota of the disk is used up; free some space",
        errno.EACCES: "it cannot be read or written; change its permissions or move the checkout",
        errno.EPERM: "it cannot be read or written; change its permissions or move the checkout",
        errno.EROFS: "it is on a disk that cannot be written; move the checkout",
        errno.ENOTDIR: "a file is where a folder should be; move it away",
        errno.EEXIST: "a file or a dead link is where a folder should be; move it away",
        errno.EISDIR: "a folder is where a file should be; move it away",
        errno.ELOOP: "its links lead in a circle; remove them",
        errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
        errno.ENOENT: "it is gone; restore it",
    }.get(error.errno, f"{error.strerror or error}; look at it")
    return f"{where}: {way_out}, and run the same command to go on."


def unexpected_sentence(error: BaseException) -> str:
    """A fault of the program in one sentence; its traceback is added to `runs/errors.log`, or to a temporary file."""
    text = "".join(traceback.format_exception(error))
    what = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    log, line = project_root() / "runs" / "errors.log", 1
    try:
        log.parent.mkdir(exist_ok=True)
        if log.exists():
            line += len(log.read_text(encoding="utf-8", errors="replace").splitlines())
        with open(log, "a", encoding="utf-8", errors="replace") as file:
            file.write(text)
    except OSError:
        try:
            with tempfile.NamedTemporaryFile("w", suffix=".log", delete=False, encoding="utf-8") as file:
                file.write(text)
            log = Path(file.name)
        except OSError:
            return f"a fault of the program ({what}), and no place to write its traceback; free some disk space."
    return f"a fault of the program ({what}); its traceback begins in line {line} of {log}. What is finished is kept."


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content) -> None:
    """Write JSON atomically, keys in the order given; NumPy numbers and arrays become plain ones."""
    plain = {"default": lambda x: x.tolist(), "ensure_ascii": False, "separators": (",", ":")}
    text = json.dumps(content, indent=1, **plain)
    # A list of numbers is one line, not a line a number: records stay readable and small.
    text = re.sub(r"\[\n\s*([-\d.eE+,\sNa]+?)\s+\]", lambda m: "[" + re.sub(r"\s+", "", m[1]) + "]", text)
    # So is a short list or object of plain values, such as a step of a training log, and a short object of such lists.
    # Line ends stand between values alone.
    for flat in (
        r"\[\n\s*([^{}\[\]]{,700}?)\n\s*\]",
        r"\{\n\s*([^{}\[\]]{,700}?)\n\s*\}",
        r"\{\n\s*([^{}]{,160}?)\n\s*\}",
    ):
        text = re.sub(flat, lambda m: re.sub(r"\n\s*", "", m[0]), text)
    write_text(path, text + "\n")


def read_json(path: Path):
    """Read a JSON file; a damaged one raises `StudyError` naming the file to delete."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise StudyError(f"{path} is damaged; delete it and run again.") from None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file; a damaged one raises `StudyError` naming the file to delete."""
    try:
        with np.load(path) as saved:
            return dict(saved)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
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
