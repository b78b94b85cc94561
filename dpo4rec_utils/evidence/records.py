"""The published records of one profile, read where they lie: everything in a table or a figure comes from here."""

import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from dpo4rec_utils.arms import LOOPS, round_name
from dpo4rec_utils.config import Config, as_dict
from dpo4rec_utils.files import MissingRecordError, StudyError, profile_of, project_root, read_json, results_folder
from dpo4rec_utils.settings import load_config, notebook_parameters
from dpo4rec_utils.store import published_record, published_values


def open_records(source: dict | str) -> "Records":
    """The records of a profile's name, or of a notebook's `globals()`.

    Raises `StudyError` in one sentence where there are none, or where they are of other settings than a notebook asks
    for.
    """
    config, making = (load_config(source), False) if isinstance(source, str) else notebook_parameters(source)
    records = Records(results_folder(project_root(), config.profile))
    if not making or (records.folder / "manifest.json").exists():
        records.require(config)
    return records


# Settings in which the records of one profile may differ: they change no result.
APART = ("evaluation.workers", "alignment.checkpoint_steps", "encoder.batch_size")


def differing(made: dict, settings: dict) -> Iterator[tuple[str, object, object]]:
    """(key, value as made, value as asked) of every setting of a record that is asked for otherwise. A setting that an
    older record lacks stands there at its default; one that there is no longer is left out."""
    yield from _differing(made, settings, as_dict(Config(profile="")), "")


def _differing(made: dict, settings: dict, defaults: dict, prefix: str) -> Iterator[tuple[str, object, object]]:
    for key, default in defaults.items():
        value, setting = made.get(key, default), settings.get(key, default)
        if isinstance(default, dict) and default:
            yield from _differing(value, setting, default, f"{prefix}{key}.")
        elif setting != value and f"{prefix}{key}" not in APART:
            yield f"{prefix}{key}", value, setting


class Records:
    """Records by kind and name."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.profile = profile_of(self.folder)

    @property
    def listed(self) -> dict[str, dict]:
        """The manifest's records by name, as they are now: a notebook may add some."""
        manifest = self.folder / "manifest.json"
        if not manifest.is_file():
            raise MissingRecordError(
                f"results/{self.profile} holds no records; set MAKE = True, or run `study` with the settings that you want."
            )
        content = read_json(manifest)
        if not isinstance(content, dict) or not isinstance(content.get("records"), dict):
            raise StudyError(f"{manifest} is no manifest; restore it from the repository or run the study again.")
        if content.get("profile") != self.profile:
            raise StudyError(
                f"{manifest} is of profile {content.get('profile')!r}; one folder holds one profile's records."
            )
        for name, entry in content["records"].items():
            if not isinstance(entry, dict) or not {"file", "key", "sha256"} <= set(entry):
                raise StudyError(
                    f"{manifest} lists {name} without file, key and sha256; restore it from the repository."
                )
        return content["records"]

    def get(self, kind: str, name: str) -> dict:
        """A record; `MissingRecordError` where nothing made it, `StudyError` where it is gone, altered or of another
        profile."""
        return self._read(f"{kind}-{name}")

    def metrics(self, kind: str, name: str) -> dict:
        """The metrics of a record."""
        return self.get(kind, name)["metrics"]

    @functools.cache
    def values(self, kind: str, name: str) -> pd.DataFrame:
        """The table of a record's single values; raises as `get`."""
        return published_values(self.folder, f"{kind}-{name}")

    def kind(self, kind: str) -> list[dict]:
        """The records of a kind, by name."""
        return [record for record in self.all() if record["kind"] == kind]

    def all(self) -> list[dict]:
        """Every record, by name."""
        return [self._read(name) for name in self.listed]

    def _read(self, name: str) -> dict:
        return self._checked(name, self.listed.get(name, {}).get("sha256"))

    @functools.cache
    def _checked(self, name: str, _: str | None) -> dict:
        """A record, read once as long as the manifest names the same hash."""
        record = published_record(self.folder, name)
        fields = {"kind", "name", "metrics", "config", "commit", "device", "versions"}
        if not isinstance(record, dict) or not fields <= set(record) or not isinstance(record["config"], dict):
            raise StudyError(f"{name}.json of {self.profile} is no record: it needs {', '.join(sorted(fields))}.")
        if f"{record['kind']}-{record['name']}" != name:
            raise StudyError(f"{name}.json of {self.profile} is the record of {record['kind']} {record['name']}.")
        if record["config"].get("profile") != self.profile:
            other = record["config"].get("profile")
            raise StudyError(f"{name}.json in results/{self.profile} is of profile {other!r}; make it again.")
        return record

    # Settings, as the records hold them

    @functools.cached_property
    def config(self) -> dict:
        """The resolved configuration that the records were made with."""
        first = next(iter(self.all()), None)
        if first is None:
            raise MissingRecordError(f"results/{self.profile} lists no records; run the notebooks that make them.")
        return first["config"]

    def require(self, config: Config) -> None:
        """Raise `StudyError` where the records were made with other settings than `config`: the profile was changed
        since."""
        settings = as_dict(config)
        for record in self.all():
            for key, value, setting in differing(record["config"], settings):
                raise StudyError(
                    f"{record['kind']} {record['name']} of {self.profile} was made with {key} = {value}, not {setting}; make "
                    "all of the profile anew with `study`, or give the changed profile another name."
                )

    @property
    def seed(self) -> int:
        """The root seed."""
        return self.config["seed"]

    @property
    def backbones(self) -> list[str]:
        """The backbones of the main table."""
        return self.config["evaluation"]["backbones"]

    @property
    def start(self) -> str:
        """The name of the policy before round 1 of the headline's loop."""
        return LOOPS["dpo"].starts_at(self.config["alignment"]["warm_start"])

    @property
    def last(self) -> str:
        """The name of the last round's policy and arm."""
        return round_name(self.config["alignment"]["rounds"])

    @property
    def notes(self) -> list[str]:
        """Sentences that stand wherever a number of these records is shown, such as that the data's order is
        arbitrary."""
        return self.metrics("data", "cohort").get("notes", []) if "data-cohort" in self.listed else []

    def provenance(self) -> str:
        """Where the records come from: commit, date, machine and versions, most frequent first."""
        records, parts = self.all(), []
        for key, name in (("commit", "commit"), ("date", "date"), ("device", "machine")):
            counts = Counter(record.get(key, "unknown") for record in records)
            parts.append(f"{name} " + ", ".join(value for value, _ in counts.most_common()))
        versions = Counter(tuple(sorted(record["versions"].items())) for record in records).most_common(1)[0][0]
        notes = sorted({record["note"] for record in records if record.get("note")})
        text = f"{self.profile}: {len(records)} records | " + " | ".join(parts)
        return "\n".join([text, "versions " + ", ".join(f"{k} {v}" for k, v in versions), *self.notes, *notes])
