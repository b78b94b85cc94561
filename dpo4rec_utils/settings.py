"""Profiles: YAML files read into a `Config`, with one sentence for whatever is wrong with one.

A profile may extend another (`extends: name`). An unknown key, a wrong type or a value out of range raises
`ConfigError`, which names the key, the value and what is allowed.
"""

import ast
import contextlib
import hashlib
import json
import os
import re
import types
import typing
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from dpo4rec_utils.config import Config
from dpo4rec_utils.data_config import PROFILE_NAME
from dpo4rec_utils.files import on_one_line
from dpo4rec_utils.registries import EMBEDDED
from dpo4rec_utils.sections import NameIn, Section

PROFILES = Path(__file__).parent / "profiles"
MOST_PARENTS = 16


class ConfigError(ValueError):
    """A configuration problem, in one sentence a user can act on."""

    def __init__(self, sentence: str = ""):
        super().__init__(on_one_line(sentence))


def load_config(profile: str, overrides: dict | None = None) -> Config:
    """Read a profile by name, or by the path of a YAML file, and lay `overrides` (nested dict) over it.

    With overrides the profile has a name of its own, `<name>-<hash of the overrides>`, and so a results folder of its
    own: nothing that a profile has published is replaced by a trial.

    Raises `ConfigError` for an unknown profile, a malformed file, an unknown key, a wrong type or a value out of range.
    """
    settings = _merge(_read_profile(str(profile), ()), _mapping({} if overrides is None else overrides, "OVERRIDES"))
    try:
        return Config.model_validate(settings | {"profile": _path(str(profile)).stem + _suffix(overrides)})
    except ValidationError as error:
        raise ConfigError(_sentence(error.errors()[0], settings)) from None


def _suffix(overrides: dict | None) -> str:
    text = json.dumps(overrides or {}, sort_keys=True, default=str)
    return f"-{hashlib.sha256(text.encode()).hexdigest()[:6]}" if overrides else ""


MOST_YAML = 2**20  # characters of a file


def read_yaml(text: str) -> Any:
    """YAML as version 1.2 reads it: `1e-4` is a number, `1:30`, `0777`, `on` and dates are text.

    Raises `yaml.YAMLError`, also for a key that is given twice and for an alias.
    """
    if len(text) > MOST_YAML:
        raise yaml.YAMLError(f"it has {len(text)} characters; allowed: {MOST_YAML}")
    try:
        return yaml.load(text, _Loader)
    except (ValueError, RecursionError, TypeError) as error:
        raise yaml.YAMLError(f"a value cannot be read ({' '.join(str(error).split())[:80]})") from None


class _Loader(yaml.SafeLoader):
    """PyYAML takes the last of two equal keys and follows YAML 1.1."""

    yaml_implicit_resolvers = {}

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        if repeated:
            raise yaml.YAMLError(f"the key {repeated[0]} is given twice, line {node.start_mark.line + 1} on")
        return super().construct_mapping(node, deep)

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):  # a few lines of aliases of aliases make a billion values
            raise yaml.YAMLError(f"aliases are not read, line {self.peek_event().start_mark.line + 1}; write it out")
        return super().compose_node(parent, index)


# The core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), without octal and hexadecimal numbers.
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"0|[-+]?[1-9][0-9]*", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})$"), list(_first))


def profile_names() -> list[str]:
    """The built-in profiles."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def _path(profile: str) -> Path:
    """The file of a profile, checked by name."""
    file = Path(profile)
    is_file = file.suffix in (".yaml", ".yml")
    path = file if is_file else PROFILES / f"{profile}.yaml"
    names = profile_names()
    if not path.is_file() or not is_file and profile not in names:
        missing = "is a folder" if file.is_dir() else "does not exist"
        raise ConfigError(f"PROFILE = {profile!r} {missing}; allowed: {', '.join(names)}, or a YAML file's path.")
    if not PROFILE_NAME.fullmatch(path.stem):
        raise ConfigError(
            f"PROFILE = {profile!r}: a profile's file is named with a-z, 0-9 and -, and begins with no -."
        )
    if is_file and path.stem in names and path.resolve().parent != PROFILES.resolve():
        raise ConfigError(
            f"PROFILE = {profile!r} would replace the results of the built-in {path.stem}; rename the file."
        )
    return path


def _read_profile(profile: str, children: tuple[Path, ...]) -> dict:
    """The settings of a profile laid over those that it extends."""
    path = _path(profile)
    try:
        content = read_yaml(path.read_text(encoding="utf-8-sig"))
        settings = _mapping({} if content is None else content, path.name)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}.") from None
    parent = settings.pop("extends", None)
    if parent is None:
        return _resolved(settings, settings, path.parent)
    family = (*children, path.resolve())
    if not isinstance(parent, str) or len(family) > MOST_PARENTS:
        raise ConfigError(f"{path.name}: extends = {parent!r}; allowed: the name of another profile, in no circle.")
    if parent.endswith((".yaml", ".yml")):
        parent = str(path.parent / parent)
    try:
        if _path(parent).resolve() in family:
            raise ConfigError("it extends itself; allowed: the name of another profile, in no circle.")
        return _resolved(_merge(_read_profile(parent, family), settings), settings, path.parent)
    except ConfigError as error:
        if children:  # the first of the family says it, once
            raise
        raise ConfigError(f"{path.name} extends {parent}: {error}") from None


def _resolved(merged: dict, settings: dict, folder: Path) -> dict:
    """A profile with the paths that `settings`, its own file in `folder`, gives made whole.

    A table that is neither there nor in the folder that DPO4REC_ASSETS names is looked for nowhere else: where a
    command is given another shop's may lie. A domain or a model that is not there may be built in or on the Hub.
    """
    for section, name in path_settings(merged):
        file_section = settings.get(section)
        value = file_section.get(name) if isinstance(file_section, dict) else None
        is_there, is_table = is_path(section, name, value, folder), section == "data" and name != "domain"
        if is_there or is_table and _is_relative(value):
            place = folder if is_there else _assets_folder(value) or folder
            whole = os.path.abspath(place / value)  # links are not followed: a name's ending says how it is read
            merged = merged | {section: merged[section] | {name: whole}}
    return merged


def _is_relative(value) -> bool:
    return isinstance(value, str) and bool(value) and "://" not in value and not Path(value).is_absolute()


def _assets_folder(value: str) -> Path | None:
    """The folder that DPO4REC_ASSETS names, where it holds `value`."""
    assets = os.environ.get("DPO4REC_ASSETS")
    with contextlib.suppress(OSError, ValueError):
        return Path(assets) if assets and (Path(assets) / value).exists() else None
    return None


def path_settings(settings: dict) -> list[tuple[str, str]]:
    """(section, name) of the settings that may be paths: what stands beside an archive names a member of it."""
    data = settings.get("data")
    archive = data.get("archive") if isinstance(data, dict) else None
    tables = [] if archive else [("data", "interactions"), ("data", "items")]
    return [*tables, ("data", "archive"), ("data", "domain"), ("llm", "model"), ("encoder", "model")]


def is_path(section: str, name: str, value, folder: Path) -> bool:
    """Whether a setting names something in `folder`, seen from there: a table or archive, a domain's file, a
    model's folder."""
    if not _is_relative(value):
        return False
    with contextlib.suppress(OSError, ValueError):
        if name == "model":
            return value not in EMBEDDED[section] and (folder / value).is_dir()
        return (name != "domain" or value.endswith((".yaml", ".yml"))) and (folder / value).exists()
    return False


def _mapping(content, name: str) -> dict:
    keys = ", ".join(key for key in Config.model_fields if key != "profile")
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{name} must be a mapping of names; keys: {keys}.")
    if "profile" in content:
        raise ConfigError(f"Unknown key profile in {name}: a profile is called as its file; allowed here: {keys}.")
    return content


def _merge(base: dict, over: dict) -> dict:
    return base | {
        k: _merge(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v for k, v in over.items()
    }


def _sentence(error: dict, settings: dict) -> str:
    """pydantic's first error as one sentence with key, value and what is allowed."""
    if error["type"] == "value_error" and "names something twice" not in error["msg"]:
        return error["msg"].removeprefix("Value error, ")
    path, model, value = [], Config, settings
    for part in error["loc"]:
        path.append(str(part))
        value = value.get(part) if isinstance(value, dict) else value
        field = model.model_fields.get(part)
        if field is None or not _section(field.annotation) or part == error["loc"][-1]:
            break
        model = _section(field.annotation)
    key = ".".join(path)
    fields = model.model_fields
    if error["type"] == "extra_forbidden":
        return (
            f"Unknown key {key} = {value!r}; allowed here: {', '.join(name for name in fields if name != 'profile')}."
        )
    field = fields[path[-1]]
    if section := _section(field.annotation):
        return f"{key} = {value!r}: a mapping is expected; keys: {', '.join(section.model_fields)}."
    if error["type"] == "missing":
        return f"{key} is missing; allowed: {allowed(field)}."
    wrong = "has the wrong type" if error["type"].endswith("_type") else "is out of range"
    return f"{key} = {value!r} {wrong}; allowed: {allowed(field)}."


def _section(annotation) -> type[Section] | None:
    """The section that a field holds, optional or not; None for a plain value."""
    kinds = typing.get_args(annotation) or (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def allowed(field) -> str:
    """Say in words what a field accepts."""
    kind, optional = field.annotation, ""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kind, optional = next(k for k in typing.get_args(kind) if k is not type(None)), ", or null"
    if typing.get_origin(kind) is tuple:
        empty = not any(getattr(part, "min_length", 0) for part in field.metadata)
        some = "a list, each once," if empty else "a list, not empty, each once,"
        names = _names(typing.get_args(kind)[0])
        return f"{some} of {', '.join(names) or 'names'}"
    for part in field.metadata:
        if isinstance(part, NameIn):
            return "one of " + ", ".join(part.registry)
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) is dict:
        return f"a mapping of {field.description}"
    if any(getattr(part, "pattern", None) for part in field.metadata):
        return field.description
    limits = {name: getattr(part, name) for part in field.metadata for name in ("ge", "le") if hasattr(part, name)}
    span = f" from {limits['ge']} to {limits['le']}" if limits else ""
    return f"{kind.__name__}{span}{optional}"


def _names(kind) -> tuple[str, ...]:
    """The names that an item of a list may be: words of a `Literal`, or entries of a registry."""
    if typing.get_origin(kind) is typing.Annotated:
        return tuple(name for part in kind.__metadata__ if isinstance(part, NameIn) for name in part.registry)
    return typing.get_args(kind)


def _assigned(namespace: dict) -> set[str]:
    """The names that the parameters cells have assigned: those before the first cell that asks for a study or
    records, and whichever sets PROFILE later. Not those of somebody's IPython start-up files, nor of the cells
    below."""
    cells = namespace.get("In")
    if not isinstance(cells, list):  # no notebook
        return {name for name in namespace if not name.startswith("_")}
    names, above = set(), True
    for cell in cells:
        above = above and "globals()" not in cell
        with contextlib.suppress(SyntaxError):
            assigned = {node.id for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Name) and _is_set(node)}
            names |= assigned if above or "PROFILE" in assigned else set()
    return {name for name in names & namespace.keys() if not name.startswith("_")}


def _is_set(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)


def notebook_parameters(namespace: dict, **beside: type) -> tuple[Config, bool]:
    """The configuration of a notebook and whether it makes what is missing, from its parameters cell.

    `namespace` is the notebook's `globals()` right after that cell, so any other plain value in it is a misspelt
    papermill parameter: an error, never a silent default. `beside`: the parameters that this notebook has beside these,
    and their types.
    """
    plain, parameters = (str, int, float, bool, list, dict, type(None)), ("PROFILE", "OVERRIDES", "MAKE", *beside)
    for name in sorted(_assigned(namespace)):
        value = namespace.get(name)
        if isinstance(value, plain) and name not in parameters:
            raise ConfigError(f"Unknown notebook parameter {name} = {value!r}; allowed: {', '.join(parameters)}.")
        if name in beside and type(value) is not beside[name]:
            raise ConfigError(f"{name} = {value!r} has the wrong type; allowed: {beside[name].__name__}.")
    making = namespace.get("MAKE", False)
    if not isinstance(making, bool):
        raise ConfigError(f"MAKE = {making!r} has the wrong type; allowed: True, False.")
    if "PROFILE" not in namespace:
        raise ConfigError(
            f"The parameters cell sets no PROFILE; allowed: {', '.join(profile_names())}, or a YAML file's path."
        )
    return load_config(namespace["PROFILE"], namespace.get("OVERRIDES")), making
