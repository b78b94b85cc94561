"""Command line: `study` runs the notebooks, `doctor` checks the machine, `assets` fetches what the default study needs.

A `StudyError` or `ConfigError` ends in one sentence and exit code 2, without a traceback.
"""

import argparse
import os
import re
import shutil
import sys
import time
from importlib import metadata
from pathlib import Path

import psutil

from dpo4rec_utils import assets
from dpo4rec_utils.artifacts import StudyError, atomic_path, measure, project_root, write_json, write_text
from dpo4rec_utils.config import ConfigError, load_config

KERNEL = "dpo4rec"
DISK_GIB, MEMORY_GIB = 5, 8


def main(arguments=None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dpo4rec_utils", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    study = commands.add_parser("study", help="execute the notebooks with papermill")
    study.add_argument("--profile", default="ml-100k")
    study.add_argument("--only", default="", help="notebooks whose name starts with this, e.g. 05")
    study.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"))
    commands.add_parser("doctor", help="print OK or FAIL for each package, asset, disk, memory and kernel")
    readme = commands.add_parser("readme", help="rewrite the README's result part from a profile's tables")
    readme.add_argument("--profile", default="ml-100k")
    commands.add_parser("assets", help="fetch the embedded data set, LLM and encoder")
    options = parser.parse_args(arguments)
    try:
        if options.command == "study":
            run_notebooks(options.profile, options.only, dict(options.parameter))
        elif options.command == "doctor":
            return doctor()
        elif options.command == "readme":
            from dpo4rec_utils.reports import update_readme
            from dpo4rec_utils.study import open_study

            update_readme(open_study(options.profile), project_root() / "README.md")
        else:
            for name in assets.ASSETS:
                print(f"{name}: {assets.fetch(name)}")
    except (StudyError, ConfigError) as error:
        print(f"dpo4rec: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dpo4rec: interrupted; what is finished is kept, run the same command to go on.", file=sys.stderr)
        return 130
    return 0


def overrides_of(parameters: dict[str, str]) -> dict:
    """Nested overrides from `section.key value` pairs; values are YAML. Keys are checked when the profile is read."""
    import yaml

    nested: dict = {}
    for key, value in parameters.items():
        inside = nested
        *sections, last = key.split(".")
        for section in sections:
            inside = inside.setdefault(section, {})
        inside[last] = yaml.safe_load(value)
    return nested


def notebook_paths(only: str = "") -> list[Path]:
    """The study's notebooks in order; `StudyError` if none starts with `only`."""
    paths = sorted(p for p in (project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb") if p.name.startswith(only))
    if not paths:
        raise StudyError(f"No notebook starts with {only!r}; see the notebooks folder.")
    return paths


def run_notebooks(profile: str, only: str = "", parameters: dict | None = None) -> None:
    """Execute notebooks with papermill into `results/<profile>/notebooks/`, each written only when it succeeded.

    A run of all of them lists its records anew, so that none of an earlier configuration stays, and writes
    `tables/notebooks.csv` (notebook, seconds, peak_rss_mib).
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from dpo4rec_utils.reports import write_report
    from dpo4rec_utils.study import Study

    overrides = overrides_of(parameters or {})
    config = load_config(profile, overrides)
    install_kernel()
    os.environ.setdefault("PYTHONHASHSEED", "0")
    results, began, rows = project_root() / "results" / config.profile, time.time(), []
    out = results / "notebooks"
    if not only:
        write_json(results / "manifest.json", {"profile": config.profile, "records": {}})
    for path in notebook_paths(only):
        start = time.perf_counter()
        print(f"== {path.stem}", flush=True)
        with measure() as cost, atomic_path(out / path.name) as temporary:
            try:
                papermill.execute_notebook(
                    path,
                    temporary,
                    parameters={"PROFILE": profile, "OVERRIDES": overrides},
                    kernel_name=KERNEL,
                    progress_bar=False,
                    log_output=True,
                    stderr_file=sys.stderr,
                    cwd=project_root(),
                )
            except PapermillExecutionError as error:
                if error.ename in ("StudyError", "ConfigError"):
                    raise StudyError(f"{path.stem}: {error.evalue}") from None
                raise
            tidy(temporary)
        seconds = time.perf_counter() - start
        rows.append(f"{path.stem},{seconds:.1f},{cost.peak_rss_mib:.0f}\n")
        print(f"== {path.stem}: {seconds:.0f} s, peak {cost.peak_rss_mib:.0f} MiB", flush=True)
    if not only:
        write_text(results / "tables" / "notebooks.csv", "notebook,seconds,peak_rss_mib\n" + "".join(rows))
        remove_older(results, began)
        write_report(Study(config))


def remove_older(results: Path, began: float) -> None:
    """Delete records, tables and figures that were not written since `began` (seconds since the epoch)."""
    for folder in ("records", "tables", "figures"):
        for path in (results / folder).glob("*.*"):
            if path.stat().st_mtime < began:
                path.unlink()


def tidy(path: Path) -> None:
    """Take machine paths, progress bars and host details out of an executed notebook, so copies can be shared."""
    import nbformat

    book = nbformat.read(path, as_version=4)
    home, root = str(Path.home()), str(project_root())
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        cell.metadata.pop("papermill", None)
        if cell.cell_type != "code":
            continue
        cell.outputs = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = output.text.replace(root, ".").replace(home, "~")
    for key in ("papermill",):
        book.metadata.pop(key, None)
    nbformat.write(book, path)


def install_kernel() -> None:
    """A kernel named dpo4rec in this environment, so notebooks run with the packages that are installed here."""
    from ipykernel.kernelspec import install

    install(kernel_name=KERNEL, display_name="Python (dpo4rec)", prefix=sys.prefix)


def doctor() -> int:
    """Print OK or FAIL per check; returns 1 if anything failed."""
    checks = [*_packages(), *_assets(), *_machine()]
    for good, name, detail in checks:
        print(f"{'OK  ' if good else 'FAIL'} {name}: {detail}")
    return 0 if all(good for good, _, _ in checks) else 1


def _packages():
    for line in (project_root() / "requirements.txt").read_text().splitlines():
        if line.startswith("# What those bring"):
            return
        if match := re.match(r"([\w.-]+)==(\S+)", line):
            name, wanted = match.groups()
            try:
                found = metadata.version(name).split("+")[0]
            except metadata.PackageNotFoundError:
                found = "missing"
            yield found == wanted, f"package {name}", found if found == wanted else f"{found}, wanted {wanted}"


def _assets():
    for name, asset in assets.ASSETS.items():
        try:
            yield True, f"asset {name}", str(assets.fetch(name, log=lambda _: None).name)
        except StudyError as error:
            yield False, f"asset {name} ({asset.requirement})", str(error)


def _machine():
    free = shutil.disk_usage(project_root()).free / 2**30
    yield free >= DISK_GIB, "disk", f"{free:.0f} GiB free, {DISK_GIB} needed"
    memory = psutil.virtual_memory().available / 2**30
    yield memory >= MEMORY_GIB, "memory", f"{memory:.1f} GiB available, {MEMORY_GIB} needed"
    spec = Path(sys.prefix) / "share/jupyter/kernels" / KERNEL / "kernel.json"
    yield spec.exists(), "kernel", f"'{KERNEL}'" if spec.exists() else "not installed; run make setup"
