"""The notebooks, executed with papermill into `results/<profile>/notebooks/`."""

import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from dpo4rec_utils.config import Config
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.evidence.report import write_report
from dpo4rec_utils.files import StudyError, atomic_path, project_root, read_json, write_json, write_text
from dpo4rec_utils.settings import load_config
from dpo4rec_utils.store import measure

KERNEL = "dpo4rec"


def notebook_paths(only: str = "") -> list[Path]:
    """The study's notebooks in order; `StudyError` if none starts with `only`."""
    paths = sorted(p for p in (project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb") if p.name.startswith(only))
    if not paths:
        raise StudyError(f"No notebook starts with {only!r}; see the notebooks folder.")
    return paths


def run_notebooks(profile: str, only: str = "", overrides: dict | None = None) -> None:
    """Execute notebooks, each written only when it succeeded, then draw the report.

    A run of all of them lists its records anew once the first notebook has succeeded, so that none of an earlier
    configuration stays, and writes `tables/notebooks.csv` (notebook, seconds, peak_rss_mib).
    """
    config = load_config(profile, overrides)
    install_kernel()
    os.environ.setdefault("PYTHONHASHSEED", "0")
    results, began, rows = project_root() / "results" / config.profile, time.time(), []
    print(f"== results go to results/{config.profile}", flush=True)
    if not only:
        # In a process of its own, whose memory goes back before the run begins.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
            print("\n".join(apart.submit(_cost, config).result()), flush=True)
    for path in notebook_paths(only):
        print(f"== {path.stem}", flush=True)
        with measure() as cost:
            _execute(path, results / "notebooks" / path.name, {"PROFILE": profile, "OVERRIDES": overrides or {}})
        if not only and not rows:  # the walkthrough has used data, LLM and encoder and published nothing
            write_json(results / "manifest.json", {"profile": config.profile, "records": {}})
        rows.append(f"{path.stem},{cost.seconds:.1f},{cost.peak_rss_mib:.0f}\n")
        print(f"== {path.stem}: {cost.seconds:.0f} s, peak {cost.peak_rss_mib:.0f} MiB", flush=True)
    if not only:
        write_text(results / "tables" / "notebooks.csv", "notebook,seconds,peak_rss_mib\n" + "".join(rows))
        remove_older(results, began)
        _record_setup(results)
    if (results / "manifest.json").exists():
        write_report(Records(results))
        print(
            f"== read results/{config.profile}/report.html; texts and vectors: runs/knowledge/*/knowledge.parquet",
            flush=True,
        )


def _cost(config: Config) -> list[str]:
    from dpo4rec_utils.cost import cost_sentences
    from dpo4rec_utils.study import Study

    with tempfile.TemporaryDirectory() as folder:
        return cost_sentences(Study(config, Path(folder)))


def _execute(path: Path, target: Path, parameters: dict) -> None:
    """One notebook through papermill, told to make what is missing."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    with atomic_path(target) as temporary:
        try:
            papermill.execute_notebook(
                path,
                temporary,
                parameters=parameters | {"MAKE": True},
                kernel_name=KERNEL,
                progress_bar=False,
                log_output=True,
                stderr_file=sys.stderr,
                cwd=project_root(),
            )
        except PapermillExecutionError as error:
            if error.ename in ("StudyError", "UnmadeStageError", "MissingRecordError", "ConfigError"):
                raise StudyError(f"{path.stem}: {error.evalue}") from None
            raise
        tidy(temporary)


def _record_setup(results: Path) -> None:
    """Move the seconds of a first set-up, which the Makefile left in the environment, to `tables/setup.csv`."""
    left = Path(sys.prefix) / "setup_seconds"
    if left.exists():
        write_text(results / "tables" / "setup.csv", f"seconds\n{left.read_text().strip()}\n")
        left.unlink()


def remove_older(results: Path, began: float) -> None:
    """Delete records, tables and figures that were not written since `began` (seconds since the epoch)."""
    for folder in ("records", "tables", "figures"):
        for path in (results / folder).glob("*.*"):
            if path.stat().st_mtime < began:
                path.unlink()


def tidy(path: Path) -> None:
    """Take what papermill and progress bars left, and machine paths in printed text, out of an executed notebook."""
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
    book.metadata.pop("papermill", None)
    nbformat.write(book, path)


def install_kernel() -> None:
    """A kernel named dpo4rec in this environment, so notebooks run with the packages that are installed here."""
    from ipykernel.kernelspec import install

    install(kernel_name=KERNEL, display_name="Python (dpo4rec)", prefix=sys.prefix)


def show_pages_rendered() -> None:
    """Let JupyterLab of this environment open Markdown files rendered, so that its start page can be read and clicked."""
    path = Path(sys.prefix) / "share/jupyter/lab/settings/overrides.json"
    plugin = "@jupyterlab/docmanager-extension:plugin"
    settings = read_json(path) if path.exists() else {}
    write_json(path, settings | {plugin: {"defaultViewers": {"markdown": "Markdown Preview"}}})
