"""Domains: the words of a catalogue as data, one YAML file with Jinja2 templates, checked when it is read.

A domain says how users are asked, how an answer begins, how a templated profile and an item's text are written.
Adding one touches no Python: copy a file of `knowledge/domains/`, or name your own by path in `data.domain`.
"""

import functools
from pathlib import Path
from typing import Annotated

import yaml
from jinja2 import StrictUndefined, TemplateError, Undefined, nodes
from jinja2.sandbox import SandboxedEnvironment, SecurityError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from dpo4rec_utils.files import StudyError
from dpo4rec_utils.settings import read_yaml

FOLDER = Path(__file__).parents[1] / "knowledge" / "domains"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _is_no_template(text: str | None) -> str | None:
    if text and any(mark in text for mark in ("{{", "{%", "{#")):
        raise ValueError("is written as it stands and knows no facts; take the braces out")
    return text


Literally = Annotated[str, AfterValidator(_is_no_template)]


class UserWords(_Part):
    """How a user is asked for: `question` (what the model reads) and `prefix` (how its answer begins)."""

    question: str
    prefix: Literally


class ItemWords(_Part):
    """How an item is asked for, how the answer begins, and the item's text without an LLM."""

    question: str
    prefix: Literally
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
    system: Literally | None = None
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
        domain = Domain.model_validate(read_yaml(path.read_text(encoding="utf-8-sig")))
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


FILTERS = (
    "capitalize",
    "default",
    "first",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "sort",
    "title",
    "trim",
    "upper",
)
JOINED = "joined"  # the filter through which a part of `a ~ b` is written
MOST_CHARACTERS = 100_000  # that a template writes
MOST_NESTED = 2  # loops inside each other
LONG = (nodes.Macro, nodes.CallBlock, nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.ImportedName)


class _Sandbox(SandboxedEnvironment):
    """No calls, no products and few filters, so that no template takes the memory or the day."""

    intercepted_binops = frozenset(["*", "**", "%"])

    def call_binop(self, context, operator, left, right):
        raise SecurityError(f"{operator!r} is not allowed in a template")

    def call(self, context, called, *args, **kwargs):
        raise SecurityError("calls are not allowed in a template")


def _printable_value(value):
    """What a template writes must be text or a number: a method or a whole table would be printed as Python does."""
    if value is None:
        raise TypeError("it writes a fact that is missing; ask for it with {% if ... %}")
    if isinstance(value, Undefined) and not isinstance(value, StrictUndefined):
        return ""  # `{{ a if b }}` without an else
    if not isinstance(value, (str, int, float, StrictUndefined)):
        raise TypeError(f"it writes a {type(value).__name__}; write `names | listed`, or one of them")
    return value


@functools.cache
def _environment() -> SandboxedEnvironment:
    environment = _Sandbox(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_printable_value)
    environment.filters = {name: environment.filters[name] for name in FILTERS} | {"listed": listed}
    environment.filters[JOINED] = _printable_value
    environment.globals.clear()  # no `range`: a template repeats what it knows and nothing else
    return environment


@functools.cache
def _compiled(template: str):
    environment = _environment()
    try:
        parsed = environment.parse(template)
        _require_short(parsed)
        for joined in parsed.find_all(nodes.Concat):  # `a ~ b` would write a missing fact as "None"
            joined.nodes = [nodes.Filter(part, JOINED, [], [], None, None) for part in joined.nodes]
        return environment.from_string(parsed.set_environment(environment))
    except (TemplateError, RecursionError, ValueError) as error:
        raise StudyError(f"The template {template[:60]!r} is malformed: {error or type(error).__name__}.") from None


def _require_short(node: nodes.Node, loops: int = 0) -> None:
    """Raise `ValueError` for what could run without end: macros, includes, and loops more than two deep."""
    loops += isinstance(node, nodes.For)
    if loops > MOST_NESTED or isinstance(node, LONG):
        raise ValueError(
            f"it has macros, includes or more than {MOST_NESTED} loops inside each other; write it plainly"
        )
    for child in node.iter_child_nodes():
        _require_short(child, loops)


def render_words(template: str, facts: dict) -> str:
    """A template with facts; `StudyError` in one sentence for a fact that it names and nobody knows."""
    try:
        text = ""
        for part in _compiled(template).generate(facts):
            text += part
            if len(text) > MOST_CHARACTERS:
                raise ValueError(f"it writes more than {MOST_CHARACTERS} characters")
        return text
    except (
        TemplateError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        names = ", ".join(sorted(facts))
        raise StudyError(f"The template {template[:60]!r} cannot be written: {error}; known: {names}.") from None
