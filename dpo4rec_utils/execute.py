"""The notebooks, executed with papermill into `results/<profile>/notebooks/`."""

import os
import re
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import chdir, contextmanager
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

from dpo4rec_utils.config import Config, as_dict
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.evidence.report import write_report
from dpo4rec_utils.files import (
    STAGED,
    StudyError,
    atomic_path,
    project_root,
    public_text,
    read_json,
    recover,
    remove,
    replace_folder,
    require_free_disk,
    require_free_memory,
    results_folder,
    staged_name,
    sweep,
    system_sentence,
    write_json,
    write_text,
)
from dpo4rec_utils.locks import HOLDS, left_unfinished, results_alone
from dpo4rec_utils.meter import measure
from dpo4rec_utils.registries import ENGINES
from dpo4rec_utils.settings import is_path, load_config, path_settings

KERNEL = "dpo4rec"
NOTEBOOK = re.compile(r"\d\d[a-z]?_\w+")
# What a notebook may end in with a sentence of ours, or of the system: no traceback.
EXPECTED = ("StudyError", "UnmadeStageError", "MissingRecordError", "ConfigError", "MemoryError")


def notebook_paths(only: str = "") -> list[Path]:
    """The study's notebooks in order; `StudyError` if none starts with `only`."""
    paths = (project_root() / "notebooks").glob("[0-9][0-9]*_*.ipynb")
    # "05_main_results-Copy1.ipynb" is what JupyterLab calls a duplicate.
    paths = sorted(path for path in paths if path.name.startswith(only) and NOTEBOOK.fullmatch(path.stem))
    if not paths:
        raise StudyError(f"No notebook starts with {only!r}; see the notebooks folder.")
    return paths


def run_notebooks(profile: str, only: str = "", overrides: dict | None = None) -> None:
    """Execute notebooks, each written only when it succeeded, then draw the report.

    A run of all of them publishes into a folder beside `results/<profile>`, which replaces it when the last notebook
    has succeeded: a run that fails leaves what was published as it was. It writes `tables/notebooks.csv` (notebook,
    seconds, peak_rss_mib), which counts what interrupted runs before it took. Raises `StudyError` where another process
    writes the same results.
    """
    root = project_root()
    profile, overrides = _from_root(root, profile, overrides or {})
    with chdir(root):  # as kernels do
        _run_profile(profile, only, overrides)


def _from_root(root: Path, profile: str, overrides: dict) -> tuple[str, dict]:
    """A profile and overrides whose paths, seen from where the command was given, are seen from `root` instead.

    Not as whole paths: an executed copy is no place for the path of a home.
    """
    merged = as_dict(load_config(profile, overrides))
    for section, name in path_settings(merged):
        values = overrides.get(section)
        value = values.get(name) if isinstance(values, dict) else None
        if is_path(section, name, value, Path.cwd()):
            overrides = overrides | {section: values | {name: _seen_from(root, value)}}
    return _seen_from(root, profile) if Path(profile).suffix in (".yaml", ".yml") else profile, overrides


def _seen_from(root: Path, path: str) -> str:
    try:
        return os.path.relpath(path, root)
    except ValueError:  # another drive of Windows
        return str(Path(path).resolve())


def _run_profile(profile: str, only: str, overrides: dict) -> None:
    config, root, paths = load_config(profile, overrides), project_root(), notebook_paths(only)
    _require_engine(config)
    install_kernel()
    with results_alone(root, config.profile), _variables(PYTHONHASHSEED="0", **{HOLDS: config.profile}):
        for folder in ("results", "runs"):
            sweep(root / folder)
        recover(root / "results" / config.profile)
        parameters = {"PROFILE": profile, "OVERRIDES": overrides}
        if only:
            results = results_folder(root, config.profile)
            _run(paths, results, parameters, None)
            _draw_report(results)
        else:
            _run_all(config, paths, parameters)
    line = f"== read results/{config.profile}/report.html; texts and vectors: runs/knowledge/*/knowledge.parquet"
    print(line, flush=True)


def _require_engine(config: Config) -> None:
    name, package = config.llm.engine, ENGINES[config.llm.engine].package
    if package and not find_spec(package):
        raise StudyError(
            f"llm.engine = {name!r} needs {package.replace('_', '-')}, which is not installed; install it, or say "
            "-p llm.engine=transformers."
        )


def _run_all(config: Config, paths: list[Path], parameters: dict) -> None:
    root = project_root()
    staged, published = root / "results" / staged_name(config.profile), root / "results" / config.profile
    print(f"== results go to results/{config.profile} when all notebooks have succeeded, until then to {staged.name}")
    # In a process of its own, whose memory goes back before the run begins.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        print("\n".join(apart.submit(_cost, config).result()), flush=True)
    require_free_disk(root / "runs", 2)
    require_free_memory(3)
    remove(staged)
    journals = root / "runs" / "notebooks" / config.profile
    with _variables(**{STAGED: str(staged)}):
        rows = _run(paths, staged, parameters, journals)
    write_text(staged / "tables" / "notebooks.csv", "notebook,seconds,peak_rss_mib\n" + "".join(rows))
    _record_setup(staged)
    _draw_report(staged)
    replace_folder(staged, published)
    remove(journals)


def _run(paths: list[Path], results: Path, parameters: dict, journals: Path | None) -> list[str]:
    """Execute notebooks; a line of the table of notebooks for each. `journals`: where their seconds outlive an
    interruption."""
    rows = []
    for path in paths:
        print(f"== {path.stem}", flush=True)
        with measure(journals and journals / f"{path.stem}.json") as cost:
            _execute(path, results / "notebooks" / path.name, parameters)
        rows.append(f"{path.stem},{cost.seconds:.1f},{cost.peak_rss_mib:.0f}\n")
        print(f"== {path.stem}: {cost.seconds:.0f} s, peak {cost.peak_rss_mib:.0f} MiB", flush=True)
    return rows


def _draw_report(results: Path) -> None:
    if (results / "manifest.json").exists():
        write_report(Records(results))


@contextmanager
def _variables(**values: str):
    """Environment variables for a block, which kernels inherit."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _cost(config: Config) -> list[str]:
    from dpo4rec_utils.assets import EMBEDDED, fetch
    from dpo4rec_utils.cost import cost_sentences
    from dpo4rec_utils.store import Store
    from dpo4rec_utils.study import Study

    if config.encoder.model in EMBEDDED["encoder"]:
        fetch(EMBEDDED["encoder"][config.encoder.model])
    with tempfile.TemporaryDirectory() as folder:
        return cost_sentences(Study(config, Store(Path(folder), as_dict(config))))


def _execute(path: Path, target: Path, parameters: dict) -> None:
    """One notebook through papermill, told to make what is missing."""
    import papermill
    from nbclient.exceptions import DeadKernelError
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
            sentence = _sentence(error)
            if sentence is None:
                raise
            raise StudyError(f"{path.stem}: {sentence}") from None
        except DeadKernelError:
            making = left_unfinished(project_root())
            raise StudyError(
                f"{path.stem}: the system ended its kernel{f' while it made {making}' if making else ''}, most often for want of "
                "memory; close other programs and run the same command to go on."
            ) from None
        tidy(temporary)


def _sentence(error) -> str | None:
    """What a notebook's error says where it is one of ours or of the system's; None where it is a fault of the
    program."""
    refused = re.match(r"\[Errno (\d+)\] (.*?)(?:: '(.*)')?$", error.evalue)
    if error.ename in EXPECTED:
        return " ".join(error.evalue.split())
    if refused and error.ename.endswith("Error"):
        return system_sentence(OSError(int(refused[1]), refused[2], refused[3]))
    return None


def _record_setup(results: Path) -> None:
    """Move the seconds of a first set-up, which the Makefile left in the environment, to `tables/setup.csv`."""
    left = Path(sys.prefix) / "setup_seconds"
    if left.exists():
        write_text(results / "tables" / "setup.csv", f"seconds\n{left.read_text().strip()}\n")
        left.unlink()


def tidy(path: Path) -> None:
    """Take what papermill, progress bars and controls left, and machine paths in printed text, out of an executed
    notebook."""
    import nbformat

    book = nbformat.read(path, as_version=4)
    home, root = str(Path.home()), str(project_root())
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        cell.metadata.pop("papermill", None)
        if cell.cell_type != "code":
            continue
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = public_text(cell.source)
        cell.outputs = [output for output in cell.outputs if not _is_passing(output)]
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = output.text.replace(root, ".")
                output.text = output.text.replace(home, "~") if len(home) > 1 else output.text
            elif "text/html" in output.get("data", {}):
                output.data.pop("text/plain", None)  # the same table again, for terminals
                html = output.data["text/html"]  # of pandas, with a style sheet that Jupyter has
                output.data["text/html"] = re.sub(r"<style scoped>.*?</style>\s*", "", html, flags=re.DOTALL)
    book.metadata.pop("papermill", None)
    book.metadata.pop("widgets", None)
    book.metadata["language_info"] = {"name": "python"}
    nbformat.write(book, path)


def _is_passing(output) -> bool:
    """Whether an output is a progress bar's or a control's, which says nothing once its kernel has ended."""
    if output.output_type == "stream":
        return output.name == "stderr"
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def install_kernel() -> None:
    """A kernel named dpo4rec in this environment, so notebooks run with the packages that are installed here."""
    from ipykernel.kernelspec import install

    spec = Path(sys.prefix) / "share/jupyter/kernels" / KERNEL / "kernel.json"
    if spec.exists() and _is_of(sys.prefix, read_json(spec)):
        return  # another study may be starting a kernel by it, and the environment may be read-only
    install(kernel_name=KERNEL, display_name="Python (dpo4rec)", prefix=sys.prefix)


def _is_of(prefix: str, spec: dict) -> bool:
    """Whether a kernel's Python is that of an environment, by whatever path or link it is named."""
    try:
        return Path(spec["argv"][0]).parent.parent.samefile(prefix)
    except (OSError, LookupError, TypeError):
        return False


def show_pages_rendered() -> None:
    """Let JupyterLab of this environment open Markdown files rendered, so that its start page can be read and
    clicked."""
    path = Path(sys.prefix) / "share/jupyter/lab/settings/overrides.json"
    plugin = "@jupyterlab/docmanager-extension:plugin"
    settings = read_json(path) if path.exists() else {}
    write_json(path, settings | {plugin: {"defaultViewers": {"markdown": "Markdown Preview"}}})
