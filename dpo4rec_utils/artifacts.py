"""Artefacts and records: atomic files, content keys, cost measurement, one record a result.

An artefact lives in `runs/<kind>/<name>-<key>/`, where the key hashes everything it depends on, so nothing is ever
reused for another configuration. Its `record.json` is written last: a folder without one is unfinished work, which the
next run takes up from its last shard.
"""

import ctypes
import gc
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import psutil

VERSIONED = ("torch", "transformers", "trl", "peft", "openvino-genai", "gguf", "numpy", "pandas", "papermill")


class StudyError(RuntimeError):
    """A problem with the input or the machine, in one sentence with a way out; shown without a traceback."""


def project_root() -> Path:
    """The checkout: the nearest folder at or above the working directory, then above this file, with `notebooks/`."""
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "notebooks").is_dir() and (folder / "dpo4rec_utils").is_dir():
                return folder
    return Path.cwd()


def content_key(content) -> str:
    """16 hex digits of the SHA-256 of `content` as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
    # A value a user is one line, not a line a number: records stay readable and small.
    text = re.sub(r"\[\s+([-\d.eE+,\sNa]+?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)
    write_text(path, text + "\n")


def read_json(path: Path):
    """Read a JSON file; a damaged one raises `StudyError` naming the file to delete."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError:
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


def release_memory() -> None:
    """Give freed memory back to the system: models hold reference cycles, and glibc keeps what they leave."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


@dataclass
class Cost:
    """Wall time in seconds and peak resident memory of this process and its children in MiB."""

    seconds: float = 0.0
    peak_rss_mib: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)

    def watch(self) -> None:
        process = psutil.Process()
        while True:
            total = 0
            for member in (process, *process.children(recursive=True)):
                try:
                    total += member.memory_info().rss
                except psutil.Error:
                    continue
            self.peak_rss_mib = max(self.peak_rss_mib, total / 2**20)
            if self._stop.wait(0.5):
                return


@contextmanager
def measure(journal: Path | None = None):
    """Measure a block as `Cost`; with `journal`, seconds spent before an interruption are kept there and added."""
    before = read_json(journal) if journal and journal.exists() else {"seconds": 0.0, "peak_rss_mib": 0.0}
    cost = Cost()
    thread = threading.Thread(target=cost.watch, daemon=True)
    thread.start()
    start = time.perf_counter()
    try:
        yield cost
    finally:
        cost._stop.set()
        thread.join()
        cost.seconds = time.perf_counter() - start + before["seconds"]
        cost.peak_rss_mib = max(cost.peak_rss_mib, before["peak_rss_mib"])
        if journal:
            write_json(journal, {"seconds": cost.seconds, "peak_rss_mib": cost.peak_rss_mib})


def _commit() -> str:
    """The checked-out commit, '-dirty' behind it where a tracked file outside results/ differs from it."""
    git = ["git", "-C", str(project_root())]
    try:
        asked = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        same = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ".", ":(exclude)results"], capture_output=True)
        return asked.stdout.strip() + ("-dirty" if same.returncode else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def environment() -> dict:
    """Versions, commit and machine, for records."""
    versions = {"python": platform.python_version()} | {name: metadata.version(name) for name in VERSIONED}
    cpu = platform.processor() or platform.machine()
    if sys.platform == "linux":
        told = Path("/proc/cpuinfo").read_text()
        lines = [x for x in told.splitlines() if x.startswith("model name")]
        cpu = lines[0].split(":", 1)[1].strip() if lines else cpu
        cpu += " with AVX-512" * (" avx512f " in told)  # twice the speed, and other arithmetic
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"versions": versions, "commit": _commit(), "device": f"{cpu}, {cores} cores"}


class Store:
    """The artefacts of all profiles (`runs/`) and the published records of one (`results/<profile>/records/`).

    `label` ends the name of every published record, so that the folds of one profile keep theirs apart.
    """

    def __init__(self, runs: Path, results: Path, config: dict, label: str = ""):
        self.runs, self.results, self.config, self.label = Path(runs), Path(results), config, label

    def folder(self, kind: str, name: str, depends: dict) -> Path:
        """The folder of an artefact: it exists, finished or not."""
        folder = self.runs / kind / f"{name}-{content_key(depends)}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def stage(self, kind: str, name: str, depends: dict, build) -> Path:
        """Make an artefact once. `build(folder) -> metrics` runs unless its record exists; either way it is published.

        The record holds metrics, resolved configuration, seed, versions, commit, device, wall time and peak memory.
        """
        folder = self.folder(kind, name, depends)
        done = folder / "record.json"
        if not done.exists():
            require_free_disk(folder, 0.5)
            release_memory()
            with measure(folder / "cost.json") as cost:
                metrics = build(folder)
            release_memory()
            record = {
                "kind": kind,
                "name": name,
                "key": folder.name.rsplit("-", 1)[1],
                "metrics": metrics,
                "seconds": round(cost.seconds, 2),
                "peak_rss_mib": round(cost.peak_rss_mib),
                "seed": self.config["seed"],
                "depends": depends,
                "config": self.config,
                **environment(),
            }
            write_json(done, record)
        self.publish(read_json(done))
        return folder

    def publish(self, record: dict) -> None:
        """Copy a record to the results with this store's label and list it in `manifest.json`."""
        record = record | {"label": self.label}
        name = f"{record['kind']}-{record['name']}{self.label}"
        path = self.results / "records" / f"{name}.json"
        write_json(path, record)
        listed = self._listed()
        listed[name] = {"file": f"records/{path.name}", "key": record["key"], "sha256": file_sha256(path)}
        write_json(
            self.results / "manifest.json", {"profile": self.config["profile"], "records": dict(sorted(listed.items()))}
        )

    def record(self, kind: str, name: str) -> dict:
        """A published record; one that is missing, unlisted or altered is an error."""
        return self._published(f"{kind}-{name}{self.label}")

    def records(self, kind: str) -> list[dict]:
        """The published records of a kind and of this store's label, by name."""
        return [r for r in self.all_records() if (r["kind"], r.get("label", "")) == (kind, self.label)]

    def all_records(self) -> list[dict]:
        """All published records, of every label, by name."""
        return [self._published(name) for name in self._listed()]

    def _listed(self) -> dict:
        manifest = self.results / "manifest.json"
        return read_json(manifest)["records"] if manifest.exists() else {}

    def _published(self, name: str) -> dict:
        entry = self._listed().get(name)
        if entry is None or not (self.results / entry["file"]).exists():
            raise StudyError(f"There is no record {name} in {self.results.name}; run the notebook that makes it.")
        path = self.results / entry["file"]
        if file_sha256(path) != entry["sha256"]:
            raise StudyError(f"{path.name} differs from the manifest; run the notebook that makes it again.")
        return read_json(path)
