"""Domains: the words of a catalogue as data, one YAML file with Jinja2 templates, checked when it is read.

A domain says how users are asked, how an answer begins, how a templated profile and an item's text are written.
Adding one touches no Python: copy a file of `knowledge/domains/`, or name your own by path in `data.domain`.
"""

import functools
from pathlib import Path

import yaml
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dpo4rec_utils.files import StudyError

FOLDER = Path(__file__).parents[1] / "knowledge" / "domains"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class UserWords(_Part):
    """How a user is asked for: `question` (what the model reads) and `prefix` (how its answer begins)."""

    question: str
    prefix: str


class ItemWords(_Part):
    """How an item is asked for, how the answer begins, and the item's text without an LLM."""

    question: str
    prefix: str
    facts: str


class Domain(_Part):
    """The words of one kind of catalogue.

    attribute: the item attribute whose values are counted as liked and disliked, or null. system: the system turn, or
    null for the chat template's own. completion: the prompt of an LLM without a chat template; the prefix follows on
    a line of its own. user: question and prefix by name. profile: phrasings of a templated profile, which continue
    the prefix. Templates of users know `titles`, `liked` and `disliked` (name and count each), `decades`,
    `demographics`; those of profiles `titles`, `values`, `decades`, `avoided` (names); those of items `title`, `year`
    and every attribute (a list). An absent fact is an empty list, or None.
    """

    attribute: str | None = None
    system: str | None = None
    completion: str = "{% if system %}{{ system }}\n\n{% endif %}{{ question }}"
    user: dict[str, UserWords] = Field(min_length=1)
    item: ItemWords
    profile: list[str] = Field(min_length=1)


@functools.cache
def load_domain(name: str) -> Domain:
    """A domain by its file's name, or by a path; `StudyError` in one sentence for one that is not there or
    malformed."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
        raise StudyError(f"data.domain = {name!r} is no domain; allowed: {names}, or the path of a YAML file.")
    try:
        domain = Domain.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}.") from None
    except ValidationError as error:
        first = min(
            error.errors(), key=lambda problem: problem["type"] != "extra_forbidden"
        )  # a misspelt key explains most
        raise StudyError(f"{path.name}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}.") from None
    for template in (
        *(words.question for words in domain.user.values()),
        *domain.profile,
        domain.completion,
        *vars(domain.item).values(),
    ):
        try:
            _compiled(template)
        except StudyError as error:
            raise StudyError(f"{path.name}: {error}") from None
    return domain


def listed(names) -> str:
    """'a', 'a and b', 'a, b and c'; nothing for none."""
    names = list(names)
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


@functools.cache
def _environment() -> SandboxedEnvironment:
    environment = SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["listed"] = listed
    return environment


@functools.cache
def _compiled(template: str):
    try:
        return _environment().from_string(template)
    except TemplateError as error:
        raise StudyError(f"The template {template[:60]!r} is malformed: {error}.") from None


def render_words(template: str, facts: dict) -> str:
    """A template with facts; `StudyError` in one sentence for a fact that it names and nobody knows."""
    try:
        return _compiled(template).render(facts)
    except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        names = ", ".join(sorted(facts))
        raise StudyError(f"The template {template[:60]!r} cannot be written: {error}; known: {names}.") from None
