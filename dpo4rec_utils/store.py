"""Stages, their artefacts and their records: every result is made once, under a key of all it depends on.

An artefact lives in `runs/<kind>/<name>-<key>/`. Its `record.json` is written last: a folder without one is unfinished
work, which the next run takes up from its last shard. Finished records are published in `results/<profile>/`, with the
table of single values (`values.parquet`) where a stage leaves one.
"""

import ctypes
import functools
import gc
import json
import math
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dpo4rec_utils.environment import environment
from dpo4rec_utils.files import (
    PARTIAL,
    MissingRecordError,
    StudyError,
    UnmadeStageError,
    atomic_path,
    file_identity,
    file_sha256,
    profile_of,
    read_json,
    require_free_disk,
    results_folder,
    sweep,
    system_sentence,
    write_json,
)
from dpo4rec_utils.keys import code_key, content_key, library_versions
from dpo4rec_utils.locks import alone, results_alone, stage_lock
from dpo4rec_utils.meter import measure

VALUES = "values.parquet"


@dataclass(frozen=True)
class Stage:
    """One step of the study: what it depends on, how it is built, how it is read back.

    depends: plain data that decides the result, arrays by fingerprint. build(folder) fills an artefact's folder, goes
    on from what an interruption left there, and returns the record's metrics. read(folder) gives the value of a
    finished one. The code of `build`'s module and the libraries it computes with are part of the key by themselves.
    """

    kind: str
    name: str
    depends: dict
    build: Callable[[Path], dict]
    read: Callable[[Path], Any] = lambda folder: folder

    @property
    def key(self) -> str:
        """16 hex digits of everything that decides the result."""
        return content_key({"depends": self.depends} | made_by(self.build.__module__))


def made_by(module: str) -> dict:
    """The part of a key that names the maker: a module's code and the versions of its libraries."""
    return {"code": code_key(module), "libraries": library_versions(module)}


def write_values(table: pd.DataFrame, folder: Path) -> None:
    """Leave a stage's table of single values in its folder: text columns as categories, the column `value` as float32.

    Encoded for size, since records are committed: numbers of few values by dictionary, `value` byte by byte.
    """
    texts = [name for name in table if table[name].dtype.kind in "OTU" or str(table[name].dtype) in ("str", "category")]
    table = table.astype(dict.fromkeys(texts, "category") | {"value": np.float32})
    with atomic_path(folder / VALUES) as temporary:
        table.to_parquet(
            temporary,
            compression="zstd",
            use_dictionary=[name for name in table if name != "value"],
            column_encoding={"value": "BYTE_STREAM_SPLIT"},
        )


def release_memory() -> None:
    """Give freed memory back to the system: models hold reference cycles, and glibc keeps what they leave."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


LISTED = "files.json"
SEAL = "seal"  # of a record in runs/: the hash of all else in it and of the list of its files
HASHED_BYTES = 2**22  # files up to this size are known by hash, larger ones by size


def list_files(folder: Path) -> None:
    """Leave in `folder` what its files are, so that a finished stage is checked and not trusted."""
    write_json(folder / LISTED, {name: file_identity(path, HASHED_BYTES) for name, path in _files(folder)})


def _files(folder: Path):
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        inside = name.startswith(("checkpoints/", PARTIAL)) or f"/{PARTIAL}" in name
        if path.is_file() and not inside and name not in (LISTED, "record.json", "cost.json"):
            yield name, path


def _seal(record: dict, listed: Path) -> str | None:
    return content_key([record, file_sha256(listed)]) if listed.is_file() else None


@functools.cache
def check_files(folder: Path) -> None:
    """Raise `StudyError` where a finished stage lacks a file or holds one that was changed since; once a process."""
    record, listed = read_json(folder / "record.json"), folder / LISTED
    sealed = record.pop(SEAL, None) if isinstance(record, dict) else None
    if not sealed or sealed != _seal(record, listed):
        raise StudyError(
            f"{folder / 'record.json'} or the list of its files was changed since it was made; delete {folder} and run again."
        )
    for name, identity in read_json(listed).items():
        path = folder / name
        if not path.is_file() or file_identity(path, HASHED_BYTES) != identity:
            state = "was changed" if path.exists() else "is gone"
            raise StudyError(f"{path} {state} since it was made; delete {folder} and run again.")


class Store:
    """The artefacts of all profiles (`runs/`) and the published records of one (`results/<profile>/records/`).

    With `making` off, a stage that is not finished is a `StudyError` instead of work.
    """

    def __init__(self, root: Path, config: dict, making: bool = True):
        self.root, self.config, self.making = Path(root), config, making
        self.runs, self.results = self.root / "runs", results_folder(self.root, config["profile"])
        self._published: set[tuple[str, str]] = set()  # names and keys, by this store: reading again writes nothing

    def folder(self, kind: str, name: str, key: str) -> Path:
        """The folder of an artefact: it exists, finished or not."""
        folder = self.runs / kind / f"{name}-{key}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def make(self, stage: Stage):
        """The value of a stage, built unless it is finished; its record is published, unless `making` is off.

        The record holds metrics, resolved configuration, seed, date, versions, commit, device, wall time and peak
        memory. Raises `UnmadeStageError` for an unfinished stage with `making` off.
        """
        done = self.runs / stage.kind / f"{stage.name}-{stage.key}" / "record.json"
        if not done.exists():
            if not self.making:
                raise UnmadeStageError(
                    f"{stage.kind} {stage.name} is not made for this configuration; set MAKE = True to make it, or read "
                    f"the executed notebook in results/{self.config['profile']}/notebooks."
                )
            self._build_alone(stage, done)
        check_files(done.parent)
        if self.making:
            self.publish(read_json(done), done.with_name(VALUES))
        return stage.read(done.parent)

    def _build_alone(self, stage: Stage, done: Path) -> None:
        """Build a stage unless another process, which is waited for, does."""
        lock = stage_lock(self.root, f"{stage.kind}-{stage.name}-{stage.key}")
        try:
            with alone(lock, f"{stage.kind} {stage.name}", wait=math.inf):
                if not done.exists():
                    sweep(self.folder(stage.kind, stage.name, stage.key))
                    self._build(stage, done.parent)
        except OSError as error:
            if error.errno is None or type(error).__module__ != "builtins":
                raise
            raise StudyError(f"{stage.kind} {stage.name}: {system_sentence(error)}") from None

    def _build(self, stage: Stage, folder: Path) -> None:
        require_free_disk(folder, 0.5)
        release_memory()
        with measure(folder / "cost.json") as cost:
            metrics = stage.build(folder)
        release_memory()
        record = {
            "kind": stage.kind,
            "name": stage.name,
            "key": stage.key,
            "metrics": metrics,
            "seconds": round(cost.seconds, 2),
            "peak_rss_mib": round(cost.peak_rss_mib),
            "seed": self.config["seed"],
            "depends": stage.depends | made_by(stage.build.__module__),
            "config": self.config,
            **environment(),
        }
        list_files(folder)
        record = json.loads(json.dumps(record, default=lambda x: x.tolist()))  # as it will be read
        write_json(folder / "record.json", record | {SEAL: _seal(record, folder / LISTED)})

    def publish(self, record: dict, values: Path) -> None:
        """Copy a record and its table, if there is one, to the results; list them in `manifest.json`."""
        # An artefact may have been made for another profile that agrees in all it depends on.
        record = {name: value for name, value in record.items() if name != SEAL}
        record |= {"config": self.config}
        name, key = f"{record['kind']}-{record['name']}", record["key"]
        if (name, key) in self._published and self._listed().get(name, {}).get("key") == key:
            return
        with results_alone(self.root, self.config["profile"], wait=30.0):
            self._publish(name, record, values)
        self._published.add((name, key))

    def _publish(self, name: str, record: dict, values: Path) -> None:
        path = self.results / "records" / f"{name}.json"
        write_json(path, record)
        listed = self._listed()
        listed[name] = {"file": f"records/{path.name}", "key": record["key"], "sha256": file_sha256(path)}
        if values.exists():
            table = path.with_suffix(".parquet")
            with atomic_path(table) as temporary:
                shutil.copyfile(values, temporary)
            listed[name]["values"] = {"file": f"records/{table.name}", "sha256": file_sha256(table)}
        write_json(
            self.results / "manifest.json", {"profile": self.config["profile"], "records": dict(sorted(listed.items()))}
        )

    def record(self, kind: str, name: str) -> dict:
        """A published record of this store; raises as `published_record`."""
        return published_record(self.results, f"{kind}-{name}")

    def _listed(self) -> dict:
        return dict(manifest_records(self.results / "manifest.json"))


def manifest_records(manifest: Path) -> dict[str, dict]:
    """The entries of a manifest by name, none where it is not there; `StudyError` for one of another shape."""
    content = read_json(manifest) if manifest.exists() else {"records": {}}
    listed = content.get("records") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not all(isinstance(entry, dict) for entry in listed.values()):
        raise StudyError(f"{manifest} is no manifest; restore it from the repository or run the study again.")
    return listed


def published_record(results: Path, name: str) -> dict:
    """A record that `results/manifest.json` lists.

    Raises `MissingRecordError` for one that is not listed, `StudyError` for one that is gone or altered.
    """
    entry = manifest_records(results / "manifest.json").get(name)
    if entry is None:
        raise MissingRecordError(f"There is no record {name} in {profile_of(results)}; run the notebook that makes it.")
    return read_json(_unaltered(results, entry))


def published_values(results: Path, name: str) -> pd.DataFrame:
    """The table of single values of a record that `results/manifest.json` lists; raises as `published_record`."""
    entry = manifest_records(results / "manifest.json").get(name, {}).get("values")
    if entry is None:
        raise MissingRecordError(
            f"There is no table of record {name} in {profile_of(results)}; run the notebook that makes it."
        )
    return pd.read_parquet(_unaltered(results, entry))


def _unaltered(results: Path, entry: dict) -> Path:
    path = results / str(entry.get("file"))
    if results.resolve() not in path.resolve().parents:
        raise StudyError(
            f"The manifest of {profile_of(results)} names {entry.get('file')!r}, outside its folder; restore it."
        )
    if not path.is_file():
        raise StudyError(f"{path.name} is listed in the manifest of {profile_of(results)} and gone; make it again.")
    if file_sha256(path) != entry.get("sha256"):
        raise StudyError(f"{path.name} differs from the manifest of {profile_of(results)}; make it again.")
    return path
